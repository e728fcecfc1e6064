"""A bundle is exactly its bytes: what was changed, added by a trick or points outside is refused."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from ofa_edge.deploy import bundle
from ofa_edge.deploy.bundle import MANIFEST, Bundle, Part, Promise, Tensors
from ofa_edge.deploy.manifest import FileNames, parse_manifest, release_id
from ofa_edge.errors import BadFile, UsageError
from ofa_edge.latency.conditions import RunsOn
from ofa_edge.limits import Limits
from ofa_edge.space.spaces import OFA_LITE0
from tests.deploy.double import make_bundle, model

BUNDLE = make_bundle()
FILES = FileNames("model.onnx", "golden-input.f32", "golden-output.f32")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    bundle.write(BUNDLE, tmp_path / "bundle")
    return tmp_path / "bundle"


def manifest_with(change: Callable[[dict[str, Any]], None], *, seal: bool = True) -> bytes:
    """The manifest after a change, under the id that fits it if `seal`."""
    value = json.loads(BUNDLE.files[MANIFEST])
    change(value)
    if seal:
        value["release"] = release_id(value)
    return json.dumps(value).encode()


def test_what_is_written_is_read_back(folder: Path) -> None:
    again = bundle.read(folder)
    assert again.manifest == BUNDLE.manifest
    assert again.files == BUNDLE.files
    assert sorted(path.name for path in folder.iterdir()) == sorted([*FILES, MANIFEST])


def test_equal_content_has_an_equal_release_and_nothing_else_has() -> None:
    assert make_bundle().release == BUNDLE.release
    assert make_bundle().files == BUNDLE.files
    others = [make_bundle(2.0), make_bundle(budget_ms=21.0), make_bundle(app="door"), make_bundle(at=None)]
    assert len({made.release for made in [BUNDLE, *others]}) == 5


@pytest.mark.parametrize("name", [*FILES, MANIFEST])
def test_a_changed_byte_is_noticed(folder: Path, name: str) -> None:
    data = bytearray((folder / name).read_bytes())
    place = len(data) // 2
    data[place] ^= 1
    (folder / name).write_bytes(data)
    with pytest.raises(BadFile, match=name):
        bundle.read(folder)


@pytest.mark.parametrize("name", [*FILES, MANIFEST])
def test_a_file_that_is_missing_longer_or_a_link_is_refused(folder: Path, name: str, tmp_path: Path) -> None:
    path = folder / name
    data = path.read_bytes()
    path.unlink()
    with pytest.raises(BadFile, match=name):
        bundle.read(folder)
    outside = tmp_path / "outside"
    outside.write_bytes(data)
    path.symlink_to(outside)
    with pytest.raises(BadFile, match=name):
        bundle.read(folder)
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(BadFile, match=name):
        bundle.read(folder)
    path.unlink()
    path.write_bytes(data + b" ")
    if name != MANIFEST:
        with pytest.raises(BadFile, match=name):
            bundle.read(folder)


def test_sizes_have_caps(folder: Path) -> None:
    with pytest.raises(BadFile, match=r"manifest\.json is larger than 100 bytes"):
        bundle.read(folder, Limits(manifest_bytes=100))
    with pytest.raises(BadFile, match=r"its files have \d+ bytes, the cap is 10"):
        bundle.read(folder, Limits(bundle_bytes=10))


def test_no_bundle_at_all_is_a_mistake_of_the_caller(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no bundle at"):
        bundle.read(tmp_path / "absent")


def test_a_swapped_manifest_is_noticed(folder: Path, tmp_path: Path) -> None:
    bundle.write(make_bundle(2.0), tmp_path / "other")
    shutil.copy(tmp_path / "other" / MANIFEST, folder / MANIFEST)
    with pytest.raises(BadFile, match="not the file its manifest names"):
        bundle.read(folder)


def _set(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def change(manifest: dict[str, Any]) -> None:
        *way, last = path.split(".")
        place: Any = manifest
        for key in way:
            place = place[int(key)] if key.isdigit() else place[key]
        place[last] = value

    return change


@pytest.mark.parametrize(
    "change",
    [
        _set("files.0.name", "../../etc/passwd"),
        _set("files.0.name", "/etc/passwd"),
        _set("files.0.name", "golden-input.f32"),
        _set("files.0.name", "weights.bin"),
        _set("files.0.sha256", "../x"),
        _set("files.0.size", -1),
        _set("files.1.size", 4),
        _set("files", []),
        _set("app", "../x"),
        _set("app", "Camera"),
        _set("app", "camera\n"),
        _set("version", 1),
        _set("version", 3),
        _set("version", True),
        _set("format", "zip"),
        _set("surprise", 1),
        _set("modes.0.golden.tolerance", 0.6),
        _set("modes.0.golden.input_shape", [1, -3]),
        _set("modes.0.golden.input_shape", [1 << 40]),
        _set("modes.0.budget.latency_ms", "20"),
        _set("modes.0.budget.latency_ms", -1),
        _set("modes.0.budget.watts", 3),
        _set("modes.0.runs.threads", 0),
        _set("modes.0.runs.runtime", "a; rm -rf /"),
        _set("modes.0.runs.runtime", "tensorrt"),
        _set("modes.0.runs.runtime", "litert"),
        _set("modes.0.input.layout", "NHWC"),
        _set("modes.0.input.resize", "nearest"),
        _set("modes.0.name", "../x"),
        _set("modes.0.model", "model-low.onnx"),
        _set("modes.0.golden.output", "golden-input.f32"),
        _set("modes", []),
        _set("counter", -1),
        _set("modes.0.top1", 120.0),
        _set("labels", ["x" * 300]),
        _set("modes.0.arch", {"r": 96}),
    ],
)
def test_a_manifest_out_of_range_is_refused(change: Callable[[dict[str, Any]], None]) -> None:
    with pytest.raises(BadFile, match=r"manifest\.json"):
        parse_manifest(manifest_with(change), MANIFEST)


def test_a_manifest_under_a_wrong_id_is_refused() -> None:
    with pytest.raises(BadFile, match="was changed"):
        parse_manifest(manifest_with(_set("modes.0.top1", 99.9), seal=False), MANIFEST)


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"{", b'{"a":NaN}', b'{"a":1e999}', b'{"a":1,"a":1}', b"\xff", b"[" * 100_000]
)
def test_what_is_no_json_object_is_refused(data: bytes) -> None:
    with pytest.raises(BadFile, match=r"manifest\.json is not a valid manifest"):
        parse_manifest(data, MANIFEST)


def test_numbers_keep_their_spelling_between_host_and_device() -> None:
    """The id is a hash of the JSON value: 20 and 20.0 are different text, so nobody may rewrite a manifest."""
    data = manifest_with(_set("modes.0.budget.latency_ms", 20))
    assert parse_manifest(data, MANIFEST).default.budget.latency_ms == 20.0
    assert parse_manifest(data, MANIFEST).release != BUNDLE.release


def build(**change: Any) -> Bundle:
    golden = Tensors(np.zeros((1, 3, 4, 4), np.float32), np.ones((1, 3, 4, 4), np.float32))
    part = {"arch": OFA_LITE0.smallest(), "model": model(1.0), "golden": golden, "runs_on": RunsOn()}
    of_part = {name: change.pop(name) for name in list(change) if name in Part.__dataclass_fields__}
    given: dict[str, Any] = {
        "app": "camera",
        "space": OFA_LITE0,
        "parts": [Part(**{**part, **of_part})],
        "labels": ("a",),
    }
    return bundle.build(**{**given, **change})


def test_external_data_is_refused() -> None:
    proto = onnx.load_model_from_string(model(1.0))
    tensor = proto.graph.initializer[0]
    tensor.ClearField("float_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "../../../etc/passwd"
    with pytest.raises(BadFile, match=r"model\.onnx: .*in another file"):
        build(model=proto.SerializeToString())


def test_what_is_no_model_is_refused() -> None:
    with pytest.raises(BadFile, match=r"model\.onnx"):
        build(model=b"not a model")


@pytest.mark.parametrize("app", ["", "../x", "My App", "x" * 65])
def test_an_app_has_a_plain_name(app: str) -> None:
    with pytest.raises(UsageError, match="name of an app"):
        build(app=app)


def test_a_manifest_that_is_too_long_is_never_written() -> None:
    with pytest.raises(BadFile, match="cap"):
        build(labels=("x" * 199,) * 2000)


def test_a_promise_that_is_no_number_is_never_written() -> None:
    with pytest.raises(BadFile):
        build(promise=Promise(top1=float("nan")))


def two_modes() -> Bundle:
    inputs = np.zeros((1, 3, 4, 4), np.float32)
    arch = OFA_LITE0.smallest()
    parts = [
        Part(arch, model(number), Tensors(inputs, inputs + np.float32(number)), RunsOn(), name=name)
        for number, name in enumerate(("full", "low"), 1)
    ]
    return bundle.build(app="camera", space=OFA_LITE0, parts=parts, labels=("a",))


def test_each_mode_has_its_own_files_and_the_default_is_found_without_knowing_modes(tmp_path: Path) -> None:
    made = two_modes()
    bundle.write(made, tmp_path)
    again = bundle.read(tmp_path)
    assert again.files == made.files
    manifest = again.manifest
    assert [mode.name for mode in manifest.modes] == ["full", "low"]
    assert manifest.default.files == FILES
    assert manifest.mode("low").files == ("model-low.onnx", "golden-input-low.f32", "golden-output-low.f32")
    assert again.files["model.onnx"] == model(1.0)
    assert again.files["model-low.onnx"] == model(2.0)
    with pytest.raises(UsageError, match="no mode 'turbo'"):
        manifest.mode("turbo")


def test_two_modes_of_one_name_are_refused() -> None:
    zeros = np.zeros((1, 3, 4, 4), np.float32)
    part = Part(OFA_LITE0.smallest(), model(1.0), Tensors(zeros, zeros), RunsOn(), name="full")
    with pytest.raises(BadFile, match="twice"):
        bundle.build(app="camera", space=OFA_LITE0, parts=[part, part], labels=("a",))
