"""What a script may rely on: exit codes, the error object, what is on stdout, and a quick --help."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer

from ofa_edge import errors
from ofa_edge.cli import app, options
from ofa_edge.cli.output import Output

REPOSITORY = Path(__file__).resolve().parents[2]
HEAVY = (
    "torch",
    "pandas",
    "onnx",
    "onnxruntime",
    "paramiko",
    "scipy",
    "numpy",
    "pydantic",
    "rich",
    "yaml",
    "ai_edge_litert",
)


def subclasses(kind: type) -> Iterator[type]:
    yield kind
    for child in kind.__subclasses__():
        yield from subclasses(child)


ERRORS = [kind for kind in subclasses(errors.OfaEdgeError) if kind.__module__ == "ofa_edge.errors"]
CODES = {
    "OfaEdgeError": 1,
    "LockHeld": 1,
    "NoRoom": 1,
    "DeploymentRefused": 1,
    "UsageError": 2,
    "InfeasibleBudget": 3,
    "TrustError": 4,
    "DeviceLost": 5,
    "ProtocolError": 5,
    "NotTrustworthy": 6,
    "RolledBack": 7,
    "NeedsHands": 8,
    "BadFile": 9,
    "Interrupted": 130,
}


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OFA_EDGE_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("OFA_EDGE_DEBUG", raising=False)
    monkeypatch.delenv("OFA_EDGE_CONFIG", raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[..., Any]], None]:
    """Make a function the command `test`, loaded as every other is."""

    def install(function: Any) -> None:
        module = type(sys)("ofa_edge.cli.test")
        module.run = function  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "ofa_edge.cli.test", module)
        monkeypatch.setitem(app.COMMANDS, "test", app.Entry("test", "run", "Only here."))

    return install


# -- errors -------------------------------------------------------------------------------------------------
def test_every_error_class_has_its_code_here() -> None:
    assert {kind.__name__: kind.code for kind in ERRORS} == CODES


@pytest.mark.parametrize("kind", ERRORS)
def test_an_error_becomes_its_exit_code_a_sentence_and_a_hint(kind: Any, command: Any, capsys: Any) -> None:
    def run(as_json: options.Json = False) -> None:
        raise kind("it broke", hint="mend it")

    command(run)
    assert app.main(["test"]) == CODES[kind.__name__]
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err == "error: it broke\nhint: mend it\n"


@pytest.mark.parametrize("kind", ERRORS)
def test_with_json_an_error_is_one_object_on_stdout(kind: Any, command: Any, capsys: Any) -> None:
    def run(as_json: options.Json = False) -> None:
        raise kind("it broke", hint="mend it", details={"ms": 20.5})

    command(run)
    assert app.main(["test", "--json"]) == CODES[kind.__name__]
    expected = {"code": kind.code, "kind": kind.kind, "message": "it broke", "hint": "mend it", "details": {"ms": 20.5}}
    assert json.loads(capsys.readouterr().out) == {"error": expected}


@pytest.mark.parametrize(
    "arguments", [["nope"], ["--nope"], ["spaces", "--nope"], ["spaces", "a", "b"], ["spaces", "--resolutions"]]
)
def test_wrong_arguments_are_2_and_an_error_object(arguments: list[str], capsys: Any) -> None:
    assert app.main([*arguments, "--json"]) == 2
    error = json.loads(capsys.readouterr().out)["error"]
    assert (error["code"], error["kind"]) == (2, "usage")
    assert "help" in error["hint"] or "--resolutions" in error["message"]


def test_a_mistyped_command_is_guessed(capsys: Any) -> None:
    assert app.main(["spacs"]) == 2
    assert "did you mean spaces?" in capsys.readouterr().err


def test_json_after_the_double_dash_is_an_argument(command: Any, capsys: Any) -> None:
    def run(words: list[str], as_json: options.Json = False) -> None:
        raise errors.UsageError(" ".join(words))

    command(run)
    assert app.main(["test", "--", "--json"]) == 2
    assert capsys.readouterr().out == ""


def test_ctrl_c_is_130_and_silent_on_stdout(command: Any, capsys: Any) -> None:
    def run() -> None:
        raise KeyboardInterrupt

    command(run)
    assert app.main(["test"]) == 130
    assert capsys.readouterr() == ("", "interrupted\n")


def test_ctrl_c_with_json_still_gives_a_script_its_one_value(command: Any, capsys: Any) -> None:
    def run(late: bool = False, as_json: options.Json = False) -> None:
        if late:
            Output(as_json).result({"done": True})
        raise KeyboardInterrupt

    command(run)
    assert app.main(["test", "--json"]) == 130
    assert json.loads(capsys.readouterr().out)["error"]["code"] == 130
    assert app.main(["test", "--late", "--json"]) == 130
    assert json.loads(capsys.readouterr().out) == {"done": True}


def test_a_command_may_end_with_a_code_after_its_result(command: Any, capsys: Any) -> None:
    def run(as_json: options.Json = False) -> None:
        Output(as_json).result({"ok": False})
        raise typer.Exit(1)

    command(run)
    assert app.main(["test", "--json"]) == 1
    assert json.loads(capsys.readouterr().out) == {"ok": False}


def test_an_error_after_the_result_adds_nothing_to_stdout(command: Any, capsys: Any) -> None:
    def run(as_json: options.Json = False) -> None:
        Output(as_json).result({"state": "rolled-back"})
        raise errors.RolledBack("too slow")

    command(run)
    assert app.main(["test", "--json"]) == 7
    said = capsys.readouterr()
    assert json.loads(said.out) == {"state": "rolled-back"}
    assert "too slow" in said.err


def test_an_unexpected_exception_is_one_sentence(command: Any, capsys: Any) -> None:
    def run() -> None:
        raise ValueError("boom\nsecond line")

    command(run)
    assert app.main(["test"]) == 1
    said = capsys.readouterr().err
    assert said.startswith("error: internal error: ValueError: boom\n")
    assert "OFA_EDGE_DEBUG=1" in said
    assert "Traceback" not in said


@pytest.mark.parametrize("error", [ValueError("boom"), errors.BadFile("torn")])
def test_debug_shows_the_traceback(error: Exception, command: Any, capsys: Any, monkeypatch: Any) -> None:
    def run() -> None:
        raise error

    monkeypatch.setenv("OFA_EDGE_DEBUG", "1")
    command(run)
    assert app.main(["test"]) == getattr(error, "code", 1)
    assert "Traceback" in capsys.readouterr().err


def test_a_missing_extra_names_what_to_install(command: Any, capsys: Any) -> None:
    def run() -> None:
        raise ModuleNotFoundError("No module named 'torch.nn'", name="torch.nn")

    command(run)
    assert app.main(["test"]) == 1
    assert "hint: pip install 'ofa-edge[train]'" in capsys.readouterr().err


def test_every_extra_that_is_named_exists() -> None:
    import tomllib

    extras = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(app.EXTRAS.values()) <= set(extras)


def test_a_full_disk_names_the_file(command: Any, capsys: Any) -> None:
    def run() -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "table.jsonl")

    command(run)
    assert app.main(["test"]) == 1
    assert capsys.readouterr().err.startswith("error: table.jsonl: No space left on device\n")


# -- options, environment, file ---------------------------------------------------------------------------------
@pytest.fixture
def threads(command: Any) -> list[Any]:
    """A command that notes what it was given."""
    seen: list[Any] = []

    def run(
        threads: options.Threads = 1,
        host: Annotated[list[str] | None, typer.Option("--host")] = None,
        dry_run: options.DryRun = False,
    ) -> None:
        seen.append((threads, host, dry_run))

    command(run)
    return seen


def test_options_before_environment_before_file(threads: list[Any], tmp_path: Path, monkeypatch: Any) -> None:
    assert app.main(["test"]) == 0
    (tmp_path / "ofa-edge.toml").write_text("threads = 2\n")
    assert app.main(["test"]) == 0
    (tmp_path / "ofa-edge.toml").write_text("threads = 2\n[test]\nthreads = 3\n")
    assert app.main(["test"]) == 0
    monkeypatch.setenv("OFA_EDGE_TEST_THREADS", "4")
    assert app.main(["test"]) == 0
    assert app.main(["test", "--threads", "5"]) == 0
    assert [given[0] for given in threads] == [1, 2, 3, 4, 5]


def test_the_file_takes_dashes_flags_and_single_hosts(threads: list[Any], tmp_path: Path) -> None:
    (tmp_path / "ofa-edge.toml").write_text('host = "pi4"\n[test]\ndry-run = true\n')
    assert app.main(["test"]) == 0
    assert threads == [(1, ["pi4"], True)]


@pytest.mark.parametrize(
    ("text", "code", "message"),
    [
        ("threads = ", 9, "is not TOML"),
        ("thread = 2", 9, "unknown option 'thread'"),
        ("[tset]\n", 9, "unknown section [tset]"),
        ("[test]\nthread = 2", 9, "unknown option 'thread' in [test]"),
        ("[test]\nas_json = true", 9, "unknown option"),
        ('threads = "many"', 2, "--threads"),
        ("threads = 0", 2, "--threads"),
    ],
)
def test_a_wrong_file_is_refused_by_name(
    threads: list[Any], tmp_path: Path, capsys: Any, text: str, code: int, message: str
) -> None:
    (tmp_path / "ofa-edge.toml").write_text(text)
    assert app.main(["test"]) == code
    assert message in capsys.readouterr().err
    assert threads == []


def test_a_wrong_file_does_not_stop_help(tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "ofa-edge.toml").write_text("[")
    assert app.main(["--help"]) == 0
    assert "spaces" in capsys.readouterr().out


def test_the_variable_names_another_file(threads: list[Any], tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.setenv("OFA_EDGE_CONFIG", str(tmp_path / "other.toml"))
    assert app.main(["test"]) == 2
    assert "other.toml" in capsys.readouterr().err
    (tmp_path / "other.toml").write_text("threads = 6")
    assert app.main(["test"]) == 0
    assert threads[-1][0] == 6


def test_groups_have_sections_of_their_own(monkeypatch: Any, tmp_path: Path) -> None:
    seen: list[int] = []
    group = typer.Typer()

    @group.command()
    def one(seed: options.Seed = 0) -> None:
        seen.append(seed)

    @group.command()
    def two(seed: options.Seed = 0) -> None:
        seen.append(seed)

    module = type(sys)("ofa_edge.cli.test")
    module.group = group  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "ofa_edge.cli.test", module)
    monkeypatch.setitem(app.COMMANDS, "test", app.Entry("test", "group", "Only here."))
    (tmp_path / "ofa-edge.toml").write_text("seed = 1\n[test.two]\nseed = 2\n")
    assert [app.main(["test", "one"]), app.main(["test", "two"])] == [0, 0]
    assert seen == [1, 2]


def test_root_moves_the_home(command: Any, tmp_path: Path, monkeypatch: Any) -> None:
    from ofa_edge import settings

    seen = []

    def run(root: options.Root = None) -> None:
        seen.append(settings.home())

    command(run)
    assert app.main(["test"]) == 0
    assert app.main(["test", "--root", str(tmp_path / "elsewhere")]) == 0
    assert seen == [tmp_path / "home", tmp_path / "elsewhere"]


# -- loading ----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", app.COMMANDS)
def test_every_command_loads_and_explains_itself(name: str, capsys: Any) -> None:
    assert app.main([name, "--help"]) == 0
    said = capsys.readouterr().out
    assert f"ofa-edge {name}" in said
    assert "--install-completion" not in said


def test_help_goes_to_stdout_and_lists_every_command(capsys: Any) -> None:
    assert app.main([]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    assert [name for name in app.COMMANDS if f"\n  {name} " not in said.out] == []


def loaded(*arguments: str) -> set[str]:
    """Top-level packages that a run of the command line imports."""
    run = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "ofa_edge.cli.app", *arguments],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        check=True,
    )
    names = [line.rpartition("|")[2].strip() for line in run.stderr.splitlines() if line.startswith("import time:")]
    assert "ofa_edge.cli.output" in names
    return {name.partition(".")[0] for name in names}


@pytest.mark.parametrize("arguments", [("--help",), ("--version",)])
def test_help_loads_nothing_heavy(arguments: tuple[str, ...]) -> None:
    assert loaded(*arguments) & set(HEAVY) == set()


def test_a_small_command_loads_only_what_it_needs() -> None:
    # pydantic is how newer versions of typer read options.
    assert loaded("spaces") & set(HEAVY) <= {"numpy", "pydantic"}


def test_the_console_script_is_this_main() -> None:
    import tomllib

    scripts = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts == {"ofa-edge": f"{app.__name__}:{app.main.__name__}"}


def test_a_reader_that_leaves_early_is_no_error() -> None:
    code = "import sys; from ofa_edge.cli.app import main; sys.stdin.read(); sys.exit(main(['spaces', '--json']))"
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    process.stdin.close()
    assert process.wait(60) == 0
    assert process.stderr.read() == b""
    process.stderr.close()
