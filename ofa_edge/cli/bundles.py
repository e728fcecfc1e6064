"""`ofa-edge bundle`: what a device is given, as a folder or one file: made, looked at, checked and signed offline."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ofa_edge.cli import options
from ofa_edge.cli.output import Output, fields, milliseconds, size
from ofa_edge.errors import BadFile, UsageError

if TYPE_CHECKING:
    from ofa_edge.deploy.bundle import Bundle
    from ofa_edge.deploy.manifest import Manifest, Mode
    from ofa_edge.deploy.proving import Proof

bundle = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode=None,
    help="Build, verify, show and sign bundles; an example that uses one.",
)

BundlePath = Annotated[Path, typer.Argument(metavar="BUNDLE", help="A folder with a manifest.json, or a file .ofab.")]

_MODES = "Which of a family's modes, the default first; repeatable; all of them where left out."


@bundle.command()
def build(
    out_path: Annotated[
        Path, typer.Option("--out", metavar="BUNDLE", help="A folder to write to; one file if it ends .ofab.")
    ],
    selection: Annotated[
        Path | None, typer.Option("--selection", metavar="FILE", help="What `ofa-edge select --out` wrote.")
    ] = None,
    budget: options.BudgetText = None,
    arch: options.MaybeArchFile = None,
    space: options.SpaceName = None,
    mode: Annotated[list[str] | None, typer.Option("--mode", metavar="NAME", help=_MODES)] = None,
    device: Annotated[
        str | None, typer.Option("--device", metavar="MODEL", help="Which of a family's devices it is for.")
    ] = None,
    table_file: options.LatencyTableFile = None,
    accuracy_table: options.AccuracyTableFile = None,
    supernet: options.Supernet = "embedded",
    app: options.App = None,
    runtime: options.MaybeRuntime = None,
    threads: options.MaybeThreads = None,
    cores: options.Cores = None,
    precision: options.FilePrecision = None,
    data: options.CalibrationData = None,
    counter: Annotated[
        int, typer.Option("--counter", min=0, help="Number of the release: devices refuse one below their own.")
    ] = 0,
    machine: Annotated[
        str | None, typer.Option("--machine", metavar="NAME", help="Refuse other processors, such as aarch64.")
    ] = None,
    sign: options.Sign = None,
    confidence: options.Confidence = 0.95,
    seed: options.Seed = 0,
    as_json: options.Json = False,
) -> None:
    """Compile what was selected into a bundle, without a device: `deploy --bundle` brings it to one.

    A family of modes becomes one release that holds them all. Of an --arch nothing is promised: no latency is held
    against anything when it is deployed.
    """
    from ofa_edge.cli import building, inputs
    from ofa_edge.cli.making import Asked, Making
    from ofa_edge.cli.signing import Signing
    from ofa_edge.deploy import bundle as bundles
    from ofa_edge.weights import checkpoint as checkpoints

    out = Output(as_json)
    options.exactly_one(selection=selection, budget=budget, arch=arch)
    if space is not None and arch is None:
        raise UsageError("--space is of --arch", hint="leave --space out, or give an arch")
    for name, given in (("mode", mode), ("device", device)):
        if given and selection is None:
            raise UsageError(f"--{name} is of --selection", hint=f"leave --{name} out, or give a selection's file")
    signing = Signing.read(sign, None)
    asked = Asked(runtime, threads, cores, precision)
    making = Making(checkpoints.load(supernet), app, asked, data, out)
    if arch is not None:
        inputs.weights(supernet, None, space)
        made = building.of_arch(arch, making, machine)
    elif selection is not None:
        made = building.of_selection(selection, mode or [], device, table_file, making, machine)
    else:
        made = building.of_budget(budget or "", table_file, accuracy_table, making, machine, confidence, seed)
    ready = signing.done(made.counted(counter, machine), str(out_path))
    bundles.write(ready, out_path)
    value = {"bundle": str(out_path), **_value(ready)}
    out.result(value, lambda: _text(ready))


@bundle.command()
def show(path: BundlePath, as_json: options.Json = False) -> None:
    """Print a bundle's manifest, after checking that its files are those it names."""
    from ofa_edge.deploy import bundle as bundles

    found = bundles.read(_followed(path))
    Output(as_json).result(_value(found), lambda: _text(found))


@bundle.command()
def verify(path: BundlePath, trust: options.Trust = None, as_json: options.Json = False) -> None:
    """Check a bundle as far as it can be without its device: hashes, id, models that hold all their data, signature,
    and the golden outputs, computed here where the runtime is installed.

    `current` of an app on this machine can be verified too. Exit 9 where anything is not as it should be.
    """
    from ofa_edge.cli.signing import Signing

    out = Output(as_json)
    found = Signing.read(None, trust, makes=False).read_bundle(_followed(path))
    proofs = _proofs(found)
    value = {**_value(found), "trusted": bool(trust), "modes": [proof.as_json() for proof in proofs]}
    if wrong := [proof.problem for proof in proofs if proof.problem]:
        raise BadFile(f"{path}: {'; '.join(wrong)}", hint="build it again with `ofa-edge bundle build`", details=value)
    for proof in proofs:
        if proof.not_run:
            out.warning(f"mode {proof.mode.name} was not run: {proof.not_run}")
    if found.signature is None:
        out.warning("it is not signed: its hashes say that it is whole, not who made it")
    elif not trust:
        out.warning("its signature is right, and whose key that is was not asked: give --trust PUB")
    out.result(value, lambda: _text(found, proofs))


@bundle.command("sign")
def sign_(
    path: BundlePath,
    key: Annotated[Path, typer.Option("--key", metavar="KEY", help="A private Ed25519 key (PEM).")],
    out_path: Annotated[
        Path | None, typer.Option("--out", metavar="BUNDLE", help="Where to write it; in place where left out.")
    ] = None,
    as_json: options.Json = False,
) -> None:
    """Sign a bundle that was checked; a signature that it has is replaced."""
    from ofa_edge.cli.signing import Signing
    from ofa_edge.deploy import bundle as bundles

    signing = Signing.read(key, None)
    ready = signing.done(bundles.read(path), str(path))
    bundles.write(ready, out_path or path, one_file=out_path is None and path.is_file())
    value = {"bundle": str(out_path or path), **_value(ready)}
    Output(as_json).result(value, lambda: f"signed by {ready.signed_by}")


@bundle.command()
def keygen(
    path: Annotated[Path, typer.Argument(metavar="KEY", help="The private key; the public one goes to KEY.pub.")],
    as_json: options.Json = False,
) -> None:
    """Make a pair of Ed25519 keys: keep KEY to yourself, give KEY.pub to whoever deploys."""
    from ofa_edge.deploy.signature import keygen as make

    public = make(path)
    value = {"private": str(path), "public": f"{path}.pub", "public_key": public}
    Output(as_json).result(value)


@bundle.command()
def example(
    out_path: Annotated[Path, typer.Option("--out", metavar="DIR", help="The folder to write to.")],
    as_json: options.Json = False,
) -> None:
    """Write an application that classifies images with whatever release is `current`: a start for your own.

    It needs Python 3.9, numpy, Pillow and the runtime; nothing of ofa-edge.
    """
    from ofa_edge import shipped
    from ofa_edge.files import write_result

    written = []
    for file in (shipped.examples() / "classify.py", shipped.preprocess()):
        target, content = out_path / file.name, file.read_bytes()
        if target.exists() and target.read_bytes() != content:
            raise UsageError(f"{target} is there already, and is not the example", hint="name another folder")
        write_result(target, content)
        written.append(str(target))
    call = f"python3 {written[0]} ROOT/APP IMAGE..."
    Output(as_json).result({"files": written}, lambda: "\n".join([*written, f"run it with: {call}"]))


# -- what they share ------------------------------------------------------------------------------
def _followed(path: Path) -> Path:
    """What a link leads to: `current` is one, and only looking at it needs no other care."""
    return Path(os.path.realpath(path)) if path.is_symlink() else path


def _proofs(found: Bundle) -> list[Proof]:
    from ofa_edge.deploy.proving import prove
    from ofa_edge.device import open_session
    from ofa_edge.device.local import LocalLink

    with (
        tempfile.TemporaryDirectory(prefix="ofa-edge-verify-") as root,
        open_session(LocalLink(root=root), owns_link=True) as session,
    ):
        return prove(session, found)


def _value(found: Bundle) -> dict[str, Any]:
    return {
        "release": found.release,
        "bytes": sum(map(len, found.files.values())),
        "signed_by": found.signed_by,
        "manifest": found.manifest.as_json(),
    }


def _text(found: Bundle, proofs: Sequence[Proof] = ()) -> str:
    manifest = found.manifest
    by_mode = {proof.mode.name: proof for proof in proofs}
    parts = [_head(manifest, _value(found))]
    parts += [_mode(mode, by_mode.get(mode.name)) for mode in manifest.modes]
    return "\n\n".join(parts)


def _head(manifest: Manifest, value: Mapping[str, Any]) -> str:
    return fields(
        {
            "release": f"{manifest.release} of app {manifest.app}, number {manifest.counter}",
            "size": size(value["bytes"]),
            "signed by": value["signed_by"] or "nobody",
            "space": f"{manifest.space}, {len(manifest.labels)} classes",
            "made for": manifest.machine or "any processor",
            "checkpoint": (manifest.sources.checkpoint or "-")[:16],
        }
    )


def _mode(mode: Mode, proof: Proof | None) -> str:
    runs, predicted = mode.runs, mode.predicted
    lines = {
        "mode": mode.name,
        "model": mode.model,
        "input": f"{mode.input.resolution} px, {mode.input.layout}, {mode.input.resize}, crop {mode.input.crop:g}",
        "runs on": f"{runs.runtime} {runs.at_least or 'of any version'} or later, {runs.precision}, "
        f"{runs.threads} thread{'s' if runs.threads > 1 else ''}",
        "predicted": milliseconds(predicted.value, predicted.low, predicted.high) if predicted else "-",
        "promised": milliseconds(mode.budget.latency_ms),
        "top-1": "-" if mode.top1 is None else f"{mode.top1:.1f} %, predicted",
        "table of": mode.conditions.device_model if mode.conditions else "-",
    }
    if proof is not None:
        lines["outputs"] = f"not run: {proof.not_run}" if proof.not_run else f"equal to {proof.rel:.1e}"
    return fields(lines)
