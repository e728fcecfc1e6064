"""Options that several commands share, as typer annotations, and the readers of their small languages.

In: what a person typed. Out: checked values. Rules kept: one spelling and one help text for an option
wherever it appears; a value that cannot be read is a UsageError that names it and says what would do.
Every option can also come from the environment (OFA_EDGE_<COMMAND>_<OPTION>) or from ofa-edge.toml.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ofa_edge import settings
from ofa_edge.errors import UsageError

if TYPE_CHECKING:
    from ofa_edge.latency.conditions import RunsOn

# A range longer than this is a typing error, not a plan: OFA's own has 25 resolutions.
_MOST_RESOLUTIONS = 1000


def _use_home(path: Path | None) -> Path | None:
    """--root counts for this process and every agent it starts on this machine."""
    if path is not None:
        settings.use_home(path)
    return path


def _plain_name(app: str | None) -> str | None:
    """An app is a folder on the device, so its name is refused here if the device would refuse it."""
    from ofa_edge.deploy.manifest import NAME

    if app is not None and not re.fullmatch(NAME, app):
        raise UsageError(f"{app[:80]!r} cannot be the name of an app", hint="use lower-case letters, digits, . _ -")
    return app


Json = Annotated[bool, typer.Option("--json", help="Print exactly one JSON value on stdout.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the plan and change nothing.")]
Host = Annotated[
    str, typer.Option("--host", metavar="HOST", help="local, [user@]host[:port], or a name from devices.toml.")
]
Hosts = Annotated[
    list[str],
    typer.Option("--host", metavar="HOST", help="local, [user@]host[:port], or a name from devices.toml; repeatable."),
]
Root = Annotated[
    Path | None,
    typer.Option(
        "--root",
        metavar="DIR",
        callback=_use_home,
        help=f"Where ofa-edge keeps its files, here and on the device; else each machine's {settings.HOME_VARIABLE}.",
    ),
]
RemotePython = Annotated[
    str | None, typer.Option("--python", metavar="PATH", help="Python interpreter on the device, 3.9 or later.")
]
AcceptNew = Annotated[
    bool,
    typer.Option("--accept-new", help="Record the key of an SSH host that was never seen; changed keys are refused."),
]
Identity = Annotated[
    Path | None, typer.Option("--identity", "-i", metavar="FILE", help="A private SSH key to try before the others.")
]
Seed = Annotated[int, typer.Option("--seed", min=0, max=(1 << 63) - 1, help="Seed of everything drawn at random.")]
Resume = Annotated[bool, typer.Option("--resume", help="Go on where an interrupted run stopped.")]
Out = Annotated[Path, typer.Option("--out", metavar="FILE", help="Where to write the result.")]
MaybeOut = Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Where to write the result.")]
SpaceName = Annotated[
    str | None,
    typer.Option("--space", metavar="SPACE", help="A named space or a TOML file; the checkpoint's where left out."),
]
MeasuredSpace = Annotated[
    str | None,
    typer.Option(
        "--space", metavar="SPACE", help="A named space or a TOML file; ofa-lite0, or --prior's, if left out."
    ),
]
ImportedSpace = Annotated[
    str | None,
    typer.Option("--space", metavar="SPACE", help="A named space or a TOML file; told from the files if left out."),
]
Supernet = Annotated[
    str, typer.Option("--supernet", metavar="CKPT", help="A safetensors checkpoint, or 'embedded' for the shipped one.")
]
RandomWeights = Annotated[
    int | None,
    typer.Option("--random-weights", metavar="SEED", min=0, help="Random weights instead of --supernet's."),
]
ArchFile = Annotated[
    str, typer.Option("--arch", metavar="ARCH", help="JSON file of one arch or a list in OFA's form; '-' for stdin.")
]
MaybeArchFile = Annotated[
    str | None,
    typer.Option("--arch", metavar="ARCH", help="JSON file of one arch or a list in OFA's form; '-' for stdin."),
]
Resolutions = Annotated[
    str | None,
    typer.Option("--resolutions", metavar="A:B:STEP", help="Input sizes in pixels, both ends included; or 96,128."),
]
Runtime = Annotated[
    str, typer.Option("--runtime", metavar="NAME", help="Inference runtime on the device: onnxruntime or litert.")
]
MaybeRuntime = Annotated[
    str | None,
    typer.Option("--runtime", metavar="NAME", help="Inference runtime on the device: onnxruntime or litert."),
]
MaybeThreads = Annotated[
    int | None, typer.Option("--threads", min=1, max=256, help="Threads the runtime may use; one where left out.")
]
Precision = Annotated[str, typer.Option("--precision", metavar="fp32|int8", help="Numbers that models compute with.")]
FilePrecision = Annotated[
    str | None,
    typer.Option("--precision", metavar="fp32|fp16|int8", help="fp16: weights only; int8: calibrated on --data."),
]
CalibrationData = Annotated[
    Path | None, typer.Option("--data", metavar="PATH", help="Images that int8 is calibrated on.")
]
Threads = Annotated[int, typer.Option("--threads", min=1, max=256, help="Threads the runtime may use.")]
Cores = Annotated[
    str | None, typer.Option("--cores", metavar="MASK", help="Cores to run on, such as 0-3 or 4,5; all where left out.")
]
Confidence = Annotated[
    float, typer.Option("--confidence", min=0.5, max=0.999, help="Two-sided confidence of intervals.")
]
BudgetText = Annotated[
    str | None,
    typer.Option(
        "--budget", metavar="BUDGET", help="20ms, or latency=20ms,p90=25ms,memory=8MB,size=5MB,macs=300M,energy=30mJ."
    ),
]
App = Annotated[
    str | None,
    typer.Option(
        "--app", metavar="NAME", callback=_plain_name, help="Name of the app on the device; the space's by default."
    ),
]
Data = Annotated[
    Path,
    typer.Option(
        "--data",
        metavar="PATH",
        help="Images: a folder of parquet files, of class folders or of idx files; or one file.",
    ),
]
LatencyTableFile = Annotated[
    Path | None, typer.Option("--table", metavar="FILE", help="Latency table; the newest that fits where left out.")
]
AcceptUnknown = Annotated[
    bool, typer.Option("--accept-unknown", help="Take conditions that an imported table does not tell as fitting.")
]
AccuracyTableFile = Annotated[
    Path | None, typer.Option("--accuracy-table", metavar="FILE", help="The supernet's own if left out.")
]

Trust = Annotated[
    list[Path] | None,
    typer.Option(
        "--trust",
        metavar="PUB",
        help="Take only bundles signed by this Ed25519 key (PEM); repeatable: by one of them.",
    ),
]
Sign = Annotated[
    Path | None, typer.Option("--sign", metavar="KEY", help="Sign the new bundle with this private key (PEM).")
]

PostSwitch = Annotated[
    str | None,
    typer.Option(
        "--post-switch", metavar="CMD", help="Run on the device after the switch, without a shell: opens the release."
    ),
]
Health = Annotated[
    str | None,
    typer.Option("--health", metavar="CMD", help="Run on the device before the commit: not 0 goes back."),
]
HookTimeout = Annotated[
    float,
    typer.Option("--hook-timeout", metavar="SECONDS", min=1, max=600, help="Of --post-switch and --health, each."),
]
Parallel = Annotated[int, typer.Option("--parallel", metavar="N", min=1, max=64, help="Devices at once, at most.")]

# Options that ofa-edge.toml may set once for every command, outside any command's section.
SHARED = frozenset(
    {
        "host",
        "app",
        "root",
        "python",
        "accept_new",
        "identity",
        "space",
        "supernet",
        "runtime",
        "precision",
        "threads",
        "cores",
        "seed",
        "trust",
        "sign",
    }
)


def resolutions(text: str | None, default: tuple[int, ...]) -> tuple[int, ...]:
    """Read '96:160:16' (both ends included), '96,128' or '128'; pixels, ascending, without repeats.

    Raises:
        UsageError: not a range or list of positive whole numbers, or more than a thousand of them.
    """
    if text is None:
        return default
    hint = "write a range such as 96:160:16, a list such as 96,128, or one size"
    parts: list[str] = text.split(":") if ":" in text else text.split(",")
    if not all(part.strip().isascii() and part.strip().isdigit() and len(part) < 7 for part in parts):
        raise UsageError(f"--resolutions {text!r} is not a range of input sizes", hint=hint)
    numbers = [int(part.strip()) for part in parts]  # int() alone takes fewer blanks off than strip()
    if ":" in text:
        if len(numbers) not in (2, 3) or (step := numbers[2] if len(numbers) == 3 else 1) < 1:
            raise UsageError(f"--resolutions {text!r} is not a range of input sizes", hint=hint)
        span = range(numbers[0], numbers[1] + 1, step)
        if len(span) > _MOST_RESOLUTIONS:
            raise UsageError(f"--resolutions {text!r} names {len(span)} sizes", hint="use a larger step")
        numbers = list(span)
    if not numbers or min(numbers) < 1:
        raise UsageError(f"--resolutions {text!r} names no input size", hint=hint)
    return tuple(sorted(set(numbers)))


def cores(text: str | None) -> list[int] | None:
    """Read a core mask '0-3', '4,5' or '0-1,4'; None where left out.

    Raises:
        UsageError: not a list of core numbers below 1024 (Linux's CPU_SETSIZE).
    """
    if text is None:
        return None
    found: set[int] = set()
    for part in text.split(","):
        ends = part.strip().split("-")
        if len(ends) > 2 or not all(end.isascii() and end.isdigit() and len(end) < 5 for end in ends):
            raise UsageError(f"--cores {text!r} is not a list of cores", hint="write 0-3, 4,5 or 0-1,4")
        found.update(range(int(ends[0]), int(ends[-1]) + 1))
    if not found or max(found) >= 1024:
        raise UsageError(f"--cores {text!r} is not a list of cores", hint="write 0-3, 4,5 or 0-1,4")
    return sorted(found)


def runs_on(
    runtime: str, threads: int, mask: str | None, precision: str = "fp32", *, precisions: Sequence[str] | None = None
) -> RunsOn:
    """How models run, from --runtime, --threads, --cores and --precision.

    Args:
        precisions: those that there are, where they are not the ones that can be measured.

    Raises:
        UsageError: as `cores`, or there is no such runtime or precision.
    """
    from ofa_edge.device.sites import RUNTIMES
    from ofa_edge.latency.conditions import PRECISIONS, RunsOn

    if runtime not in RUNTIMES:
        raise UsageError(f"there is no runtime {runtime!r}", hint=f"use {' or '.join(RUNTIMES)}")
    precisions = precisions or PRECISIONS
    if precision not in precisions:
        raise UsageError(f"there is no precision {precision!r}", hint=f"use {' or '.join(precisions)}")
    chosen = cores(mask)
    return RunsOn(runtime, threads, None if chosen is None else tuple(chosen), precision)


def require_writers(runs_on: RunsOn) -> None:
    """Models for a device are written here, so before it is asked: what a device has itself is of no use for that.

    Raises:
        UsageError: a package that writes models of this runtime and precision is absent; the hint names its extra.
    """
    if runs_on.runtime != "litert":
        return
    needed = {"ai_edge_litert": "litert"} | ({"ai_edge_quantizer": "quantize"} if runs_on.precision == "int8" else {})
    if missing := [name for name in needed if importlib.util.find_spec(name) is None]:
        raise UsageError(
            f"{runs_on.precision} models for {runs_on.runtime} are written here, by {' and '.join(missing)}, which "
            f"{'is' if len(missing) == 1 else 'are'} not installed",
            hint=f"pip install 'ofa-edge[{','.join(needed[name] for name in missing)}]'",
        )


def exactly_one(**options: Any) -> str:
    """The name of the one option that was given.

    Args:
        options: python name -> value; None, False and empty lists count as not given.
    Raises:
        UsageError: none or several were.
    """
    names = ["--" + name.replace("_", "-") for name in options]
    # By identity: a seed of 0 was given, although 0 == False.
    absent = [value is None or value is False or value == [] for value in options.values()]
    given = [name for name, missing in zip(names, absent, strict=True) if not missing]
    if len(given) != 1:
        said = " and ".join(given) + " cannot be used together" if given else "one option is missing"
        raise UsageError(said, hint=f"give exactly one of {', '.join(names)}")
    return given[0].removeprefix("--").replace("-", "_")
