"""Bundles that were written once are read for ever: a frozen file of each version."""

from __future__ import annotations

from pathlib import Path

from ofa_edge import stored_zip
from ofa_edge.deploy import bundle
from ofa_edge.latency.conditions import RunsOn
from ofa_edge.space.spaces import OFA_LITE0
from tests.deploy.double import CONDITIONS, model

FROZEN = Path(__file__).parents[1] / "formats" / "bundle-2.ofab"
SIGNED_BY = "3dbabc8b01399678ab882474ad673eeb8f0ba0c9a08546de91974edccb17445c"


def test_a_frozen_bundle_of_version_2_is_read(tmp_path: Path) -> None:
    """Two modes, numbered, for one processor, signed by a key that nobody has any more."""
    found = bundle.read(FROZEN)
    manifest = found.manifest
    assert (manifest.release, manifest.app, manifest.counter, manifest.machine) == (
        *("08dcde4e0bf6e28c", "camera", 4, "aarch64"),
    )
    assert found.signed_by == SIGNED_BY
    assert manifest.labels == ("cat", "dog")
    full, low = manifest.modes
    assert (full.name, full.model, full.budget.latency_ms, full.conditions) == ("full", "model.onnx", 20.0, CONDITIONS)
    assert (low.name, low.model, low.budget.latency_ms, low.conditions) == ("low", "model-low.onnx", 10.0, None)
    assert (full.top1, full.predicted and full.predicted.high, full.golden.tolerance) == (91.5, 16.0, 1e-4)
    assert full.runs.runs_on() == RunsOn()
    assert full.runs.at_least == "1.12"
    assert full.arch.r == full.input.resolution == OFA_LITE0.smallest().resolution
    assert (full.input.mean, full.input.std, full.input.crop) == (127.0, 128.0, 0.875)
    assert (full.input.resize, full.input.reduce_to, full.input.layout) == ("bicubic", 224, "NCHW")
    assert found.files["model-low.onnx"] == model(2.0)
    # And written again it is the same bytes.
    bundle.write(found, tmp_path / "again.ofab")
    assert (tmp_path / "again.ofab").read_bytes() == FROZEN.read_bytes()
    assert set(stored_zip.unpack(FROZEN.read_bytes())) == {*found.files, "manifest.sig"}
