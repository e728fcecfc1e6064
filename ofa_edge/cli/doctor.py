"""`ofa-edge doctor`: what works on this machine and on a device, and what to type where it does not.

In: nothing, or hosts. Out: one Check per fact; none of them raises, so that a broken part never hides the
rest. Rule kept: a check does the thing (imports, writes, runs a block, starts an agent), it does not look
up whether the thing should work.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Annotated

import typer

from ofa_edge import settings
from ofa_edge.cli.output import size
from ofa_edge.cli.reaching import Reach, reaches
from ofa_edge.errors import OfaEdgeError

_BASE = (
    "numpy",
    "onnx",
    "onnxruntime",
    "pandas",
    "paramiko",
    "platformdirs",
    "pydantic",
    "pyyaml",
    "rich",
    "safetensors",
    "scipy",
)
_TRAINING = ("torch", "accelerate", "PIL", "pyarrow")
# Base packages that are imported under another name.
_MODULES = {"pyyaml": "yaml"}

# A demo writes a table, a model and one release.
_ROOM_BYTES = 200_000_000


@dataclass(frozen=True)
class Check:
    """One fact: `detail` says what was found, `hint` what to type where it is not good or could be better."""

    name: str
    ok: bool
    detail: str
    hint: str = ""


@reaches
def doctor(
    reach: Reach,
    host: Annotated[
        list[str] | None, typer.Option("--host", metavar="HOST", help="Also check this device; repeatable.")
    ] = None,
) -> None:
    """Check this machine, and devices where --host names some, and say what is missing."""
    checks = [probe() for probe in _HERE]
    for name in reach.expanded(host) if host else ():
        checks += check_device(name, reach)
    ok = all(check.ok for check in checks)
    reach.out.result(
        {"checks": [asdict(check) for check in checks], "ok": ok},
        lambda: "\n".join([*map(_line, checks), "everything works" if ok else "something is missing, see the hints"]),
    )
    if not ok:
        raise typer.Exit(1)


def check_python() -> Check:
    ok = sys.version_info >= (3, 11)
    return Check("python", ok, platform.python_version(), "" if ok else "install Python 3.11 or later")


def check_packages() -> Check:
    """Import what the base install needs."""
    found, broken = _import_all(_BASE)
    if broken:
        return Check("packages", False, "; ".join(broken), "pip install --force-reinstall ofa-edge")
    return Check("packages", True, ", ".join(found))


def check_runtime() -> Check:
    """Build a block, write it as ONNX and run it, which is what profiling does all day."""
    hint = "pip install --force-reinstall onnxruntime"
    try:
        import numpy as np
        import onnxruntime

        from ofa_edge.graph import build, onnx
        from ofa_edge.space.block import Layer
        from ofa_edge.space.spaces import OFA_LITE0
        from ofa_edge.weights.random import random_arrays

        first = OFA_LITE0.blocks(OFA_LITE0.smallest())[0]
        layers = [Layer("", first)]
        model = onnx.to_bytes(build.network(layers, random_arrays(layers, seed=0)))
        session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
        (result,) = session.run(None, {"input": np.zeros((1, 3, first.in_size, first.in_size), np.float32)})
        ok = bool(np.isfinite(result).all())
        return Check("runtime", ok, f"onnxruntime {onnxruntime.__version__} ran a block", "" if ok else hint)
    except Exception as error:
        return Check("runtime", False, f"onnxruntime cannot run a block: {error}", hint)


def check_supernet() -> Check:
    """The shipped weights can be read."""
    try:
        from ofa_edge.weights import checkpoint

        found = checkpoint.load("embedded")
    except (OfaEdgeError, OSError, ImportError) as error:
        return Check("supernet", False, f"the embedded supernet cannot be read: {error}", "reinstall ofa-edge")
    return Check("supernet", True, f"{found.space.name}, sha256 {found.sha256[:12]}")


def check_home() -> Check:
    """Our folder can be made and written, and the disk has room."""
    home = settings.home()
    try:
        home.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=home) as file:
            file.write(b"doctor")
        free = shutil.disk_usage(home).free
    except OSError as error:
        return Check("home", False, f"{home}: {error.strerror}", "choose another folder with --root or OFA_EDGE_HOME")
    hint = f"make room for {size(_ROOM_BYTES)}, or choose another folder with --root or OFA_EDGE_HOME"
    return Check("home", free >= _ROOM_BYTES, f"{home}, {size(free)} free", "" if free >= _ROOM_BYTES else hint)


def check_ssh() -> Check:
    """Never wrong: without OpenSSH's client, paramiko alone reads a smaller part of ~/.ssh/config."""
    if path := shutil.which("ssh"):
        return Check("ssh", True, path)
    return Check(
        "ssh", True, "no ssh client; Include and Match in ~/.ssh/config are not read", "apt install openssh-client"
    )


def check_training() -> Check:
    """Never wrong: only train, evaluate and finetune need it. Looks without importing, torch takes seconds."""
    if missing := [name for name in _TRAINING if importlib.util.find_spec(name) is None]:
        return Check("training", True, f"not installed: {', '.join(missing)}", "pip install 'ofa-edge[train]' to train")
    return Check("training", True, f"torch {importlib.metadata.version('torch')}")


def check_litert() -> Check:
    """Never wrong: only files for LiteRT need it, and a device may have it all the same."""
    if importlib.util.find_spec("ai_edge_litert") is None:
        hint = "pip install 'ofa-edge[litert]' to profile with --runtime litert"
        return Check("litert", True, "not installed: ai_edge_litert", hint)
    detail = f"ai-edge-litert {importlib.metadata.version('ai-edge-litert')}"
    if importlib.util.find_spec("ai_edge_quantizer") is None:
        hint = "pip install 'ofa-edge[quantize]' for --runtime litert --precision int8"
        return Check("litert", True, f"{detail}, no ai_edge_quantizer", hint)
    return Check("litert", True, f"{detail}, ai-edge-quantizer {importlib.metadata.version('ai-edge-quantizer')}")


def check_device(host: str, reach: Reach) -> list[Check]:
    """Connect, start an agent, ask what the device is and how fit it is to be measured; changes nothing there."""
    name = f"device {host}"
    try:
        from ofa_edge.device.advice import findings

        with reach.open(host) as session:
            facts, health = session.facts, session.health()
    except OfaEdgeError as error:
        return [Check(name, False, error.message, error.hint)]
    detail = f"{facts.device_model}, {facts.machine}, {facts.cores} cores, Python {facts.python}"
    found = findings(facts, health)
    return [Check(name, True, detail), *(Check(f"{f.name} {host}", f.ok, f.detail, f.hint) for f in found)]


_HERE: tuple[Callable[[], Check], ...] = (
    check_python,
    check_packages,
    check_runtime,
    check_supernet,
    check_home,
    check_ssh,
    check_litert,
    check_training,
)


def _import_all(names: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """'name version' of what can be imported, and 'name: why' of what cannot."""
    found, broken = [], []
    for name in names:
        try:
            importlib.import_module(_MODULES.get(name, name))
            found.append(f"{name} {importlib.metadata.version(name)}")
        except Exception as error:
            broken.append(f"{name}: {error}")
    return found, broken


def _line(check: Check) -> str:
    """A good one with a hint could be better."""
    mark = "FAIL" if not check.ok else "note" if check.hint else "ok  "
    hint = f"\n        {check.hint}" if check.hint else ""
    return f"{mark}  {check.name}: {check.detail}{hint}"
