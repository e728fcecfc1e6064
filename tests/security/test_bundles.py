"""Bundles that somebody made to do harm, or changed on their way: each is refused, and told apart from the others.

A table of attacks and what is said of them. Each goes through the command that a person would type (`deploy`, to a host
that nobody answers at, so a bundle that got past would end as device lost), and where it reaches the device through the
agent's own code.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import onnx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ofa_edge import stored_zip, strict_json
from ofa_edge.cli.app import main
from ofa_edge.deploy import bundle, run
from ofa_edge.deploy.bundle import MANIFEST, SIGNATURE, Bundle, Part, Tensors
from ofa_edge.deploy.manifest import parse_manifest, release_id
from ofa_edge.deploy.signature import MAX_BYTES, keygen, read_private, signer
from ofa_edge.errors import BadFile, OfaEdgeError
from ofa_edge.latency.conditions import RunsOn
from ofa_edge.space.spaces import OFA_LITE0
from tests.deploy.double import APP, Clock, Device, make_bundle, model

NOBODY = "nobody@127.0.0.1:1"

OURS = make_bundle()


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("keys")
    for name in ("ours", "theirs"):
        keygen(folder / name)
    return folder


class Place(NamedTuple):
    """Where an attack is made: `bundle` holds ours, signed by our key, and may be replaced."""

    bundle: Path
    keys: Path
    folder: Path

    def write(self, made: Bundle, key: str | None = "ours") -> None:
        shutil.rmtree(self.bundle)
        bundle.write(made if key is None else made.signed(read_private(self.keys / key)), self.bundle)

    def manifest(self, change: Callable[[dict[str, Any]], None]) -> None:
        """Change the manifest as its author could, with an id and a signature that fit it."""
        value = json.loads((self.bundle / MANIFEST).read_bytes())
        change(value)
        value["release"] = release_id(value)
        data = strict_json.dumps(value, indent=1).encode()
        (self.bundle / MANIFEST).write_bytes(data)
        signed = Bundle(OURS.manifest, {MANIFEST: data}).signed(read_private(self.keys / "ours"))
        (self.bundle / SIGNATURE).write_bytes(signed.signature or b"")

    def archive(self, data: bytes) -> None:
        shutil.rmtree(self.bundle)
        self.bundle.write_bytes(data)


# -- signatures -----------------------------------------------------------------------------------
def no_signature(at: Place) -> None:
    (at.bundle / SIGNATURE).unlink()


def foreign_signature(at: Place) -> None:
    at.write(OURS, "theirs")


def swapped_manifest(at: Place) -> None:
    """The manifest of another release of ours, signed by nobody, over our signed one."""
    bundle.write(make_bundle(2.0), at.folder / "other")
    shutil.copy(at.folder / "other" / MANIFEST, at.bundle / MANIFEST)


def swapped_manifest_and_files(at: Place) -> None:
    """A whole other release beside the signature of ours."""
    kept = (at.bundle / SIGNATURE).read_bytes()
    at.write(make_bundle(2.0), None)
    (at.bundle / SIGNATURE).write_bytes(kept)


def swapped_signed_manifest(at: Place) -> None:
    """The manifest of an older release of ours with its own, right signature, over newer files."""
    bundle.write(make_bundle(2.0).signed(read_private(at.keys / "ours")), at.folder / "other")
    for name in (MANIFEST, SIGNATURE):
        shutil.copy(at.folder / "other" / name, at.bundle / name)


def raised_promise(at: Place) -> None:
    """A promise made better by hand, the id left as it was."""
    text = (at.bundle / MANIFEST).read_text()
    (at.bundle / MANIFEST).write_text(text.replace('"latency_ms": 20.0', '"latency_ms": 10.0'))


def huge_signature(at: Place) -> None:
    (at.bundle / SIGNATURE).write_bytes(b" " * (MAX_BYTES + 1))


# -- files ----------------------------------------------------------------------------------------
def changed_model(at: Place) -> None:
    (at.bundle / "model.onnx").write_bytes(model(3.0))


def model_is_a_link(at: Place) -> None:
    (at.folder / "elsewhere").write_bytes((at.bundle / "model.onnx").read_bytes())
    (at.bundle / "model.onnx").unlink()
    (at.bundle / "model.onnx").symlink_to(at.folder / "elsewhere")


def bundle_is_a_link(at: Place) -> None:
    at.bundle.rename(at.folder / "elsewhere")
    at.bundle.symlink_to(at.folder / "elsewhere")


def huge_manifest(at: Place) -> None:
    with (at.bundle / MANIFEST).open("r+b") as file:
        file.truncate(1 << 30)


def huge_model(at: Place) -> None:
    with (at.bundle / "model.onnx").open("r+b") as file:
        file.truncate(1 << 40)  # sparse: a read without a cap would not end


def pipe(at: Place) -> None:
    (at.bundle / "model.onnx").unlink()
    os.mkfifo(at.bundle / "model.onnx")


# -- manifests ------------------------------------------------------------------------------------
def path_in_files(at: Place) -> None:
    at.manifest(lambda value: value["files"][0].update(name="../../.bashrc"))


def path_as_model(at: Place) -> None:
    at.manifest(lambda value: value["modes"][0].update(model="/etc/passwd"))


def manifest_as_model(at: Place) -> None:
    at.manifest(lambda value: value["modes"][0].update(model="manifest.json"))


def path_as_mode(at: Place) -> None:
    at.manifest(lambda value: value["modes"][0].update(name="../low"))


def path_as_app(at: Place) -> None:
    at.manifest(lambda value: value.update(app="../../tmp"))


def more_files(at: Place) -> None:
    at.manifest(lambda value: value["files"].append({"name": "run.sh", "sha256": "0" * 64, "size": 3}))


def huge_shape(at: Place) -> None:
    at.manifest(lambda value: value["modes"][0]["golden"].update(input_shape=[1 << 20] * 8))


def twice(at: Place) -> None:
    """One parser takes the first, another the last."""
    text = (at.bundle / MANIFEST).read_text()
    (at.bundle / MANIFEST).write_text(text.replace('"counter": 0,', '"counter": 0, "counter": 9,'))


# -- models ---------------------------------------------------------------------------------------
def _bundle(content: bytes, runtime: str) -> Bundle:
    """A bundle around a model that `build` would have refused."""
    zeros = np.zeros((1, 3, 4, 4), np.float32)
    made = bundle.build(
        app=APP,
        space=OFA_LITE0,
        parts=[Part(OFA_LITE0.smallest(), _sound(runtime), Tensors(zeros, zeros), RunsOn(runtime))],
        labels=(),
    )
    name = made.manifest.default.model
    files = {**made.files, name: content}
    value = json.loads(made.files[MANIFEST])
    entry = next(entry for entry in value["files"] if entry["name"] == name)
    entry.update(sha256=Bundle(made.manifest, files).sha256(name), size=len(content))
    value["release"] = release_id(value)
    data = strict_json.dumps(value, indent=1).encode()
    return Bundle(parse_manifest(data, "the attack"), {**files, MANIFEST: data})


def _sound(runtime: str) -> bytes:
    if runtime == "onnxruntime":
        return model(1.0)
    from tests.graph.test_check_tflite import tiny

    return tiny()


def external_data(at: Place) -> None:
    proto = onnx.load_model_from_string(model(1.0))
    tensor = proto.graph.initializer[0]
    tensor.ClearField("float_data")
    tensor.data_location = onnx.TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "../../../etc/passwd"
    at.write(_bundle(proto.SerializeToString(), "onnxruntime"))


def _tflite(change: str) -> Callable[[Place], None]:
    def attack(at: Place) -> None:
        pytest.importorskip("ai_edge_litert")
        from tests.graph import test_check_tflite as changes

        at.write(_bundle(changes.tiny(getattr(changes, change)), "litert"))

    return attack


def onnx_as_tflite(at: Place) -> None:
    pytest.importorskip("ai_edge_litert")
    at.write(_bundle(model(1.0), "litert"))


# -- one file -------------------------------------------------------------------------------------
def _files(at: Place) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in at.bundle.iterdir()}


def archive_with_a_path(at: Place) -> None:
    at.archive(stored_zip.pack({**_files(at), "../evil": b""}))


def archive_with_more(at: Place) -> None:
    at.archive(stored_zip.pack({**_files(at), "evil.so": b""}))


def archive_with_a_tail(at: Place) -> None:
    at.archive(stored_zip.pack(_files(at)) + b"#!/bin/sh")


def compressed_archive(at: Place) -> None:
    shutil.make_archive(str(at.folder / "made"), "zip", at.bundle)
    at.archive((at.folder / "made.zip").read_bytes())


def polyglot(at: Place) -> None:
    at.archive(b"\x7fELF" + stored_zip.pack(_files(at)))


ATTACKS: dict[Callable[[Place], None], str] = {
    no_signature: "is not signed, and --trust asks for a signature of",
    foreign_signature: "is signed by the key ",
    swapped_manifest: "is not the signature of this manifest",
    swapped_manifest_and_files: "is not the signature of this manifest",
    swapped_signed_manifest: "model.onnx is not the file its manifest names",
    raised_promise: "is not the signature of this manifest",
    huge_signature: f"{SIGNATURE} is larger than {MAX_BYTES} bytes",
    changed_model: "model.onnx is not the file its manifest names",
    model_is_a_link: "model.onnx as a file of a bundle: it is a link",
    bundle_is_a_link: "bundle is a link",
    huge_manifest: f"{MANIFEST} is larger than",
    huge_model: "model.onnx is larger than",
    pipe: "model.onnx is not a regular file",
    path_in_files: "files.0.name: String should match pattern",
    path_as_model: "modes.0.model: String should match pattern",
    manifest_as_model: "mode default names the files manifest.json",
    path_as_mode: "modes.0.name: String should match pattern",
    path_as_app: "app: String should match pattern",
    more_files: "which are not those of its modes",
    huge_shape: "golden-input.f32 has not the size of shape",
    twice: "is not the signature of this manifest",
    external_data: "model.onnx: the model keeps 'bias' in another file",
    _tflite("external_group"): "model.tflite: the TFLite model keeps weights in other files",
    _tflite("external_tensor"): "model.tflite: the TFLite model keeps a tensor in another file",
    _tflite("beyond_the_end"): "model.tflite: the TFLite model keeps weights beyond its end",
    _tflite("custom"): "model.tflite: the TFLite model has a custom operator 'RunShell'",
    onnx_as_tflite: "model.tflite: this is not a TFLite model",
    archive_with_a_path: "its member '../evil' is called like a path",
    archive_with_more: "holds 'evil.so', which its manifest does not name",
    archive_with_a_tail: "is cut off, or has something behind its end",
    compressed_archive: "is compressed",
    polyglot: "does not begin as a zip does",
}


@pytest.mark.parametrize("attack", ATTACKS, ids=lambda attack: attack.__qualname__)
def test_an_attack_is_refused_by_its_own_name(
    attack: Callable[[Place], None], keys: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    at = Place(tmp_path / "bundle", keys, tmp_path)
    bundle.write(OURS.signed(read_private(keys / "ours")), at.bundle)
    attack(at)
    words = ["deploy", "--host", NOBODY, "--bundle", str(at.bundle), "--trust", str(keys / "ours.pub"), "--json"]
    assert main(words) == 9
    error = json.loads(capsys.readouterr().out)["error"]
    assert ATTACKS[attack] in error["message"]
    assert error["hint"]


@pytest.mark.parametrize(
    ("attack", "words"),
    [
        (swapped_manifest, "model.onnx is not the file its manifest names"),
        (raised_promise, "was changed: its content is not that of release"),
        (twice, "duplicate key 'counter'"),
    ],
)
def test_a_changed_manifest_is_refused_without_a_signature_too(
    attack: Callable[[Place], None], words: str, keys: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    at = Place(tmp_path / "bundle", keys, tmp_path)
    bundle.write(OURS, at.bundle)
    attack(at)
    assert main(["deploy", "--host", NOBODY, "--bundle", str(at.bundle), "--json"]) == 9
    assert words in json.loads(capsys.readouterr().out)["error"]["message"]


def test_what_is_ours_gets_past(keys: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As far as the host, that is: the table above is no list of things that are refused anyway."""
    for name in ("bundle", "bundle.ofab"):
        bundle.write(OURS.signed(read_private(keys / "ours")), tmp_path / name)
        assert (
            main(["deploy", "--host", NOBODY, "--bundle", str(tmp_path / name), "--trust", str(keys / "ours.pub")]) == 5
        )


# -- on the device --------------------------------------------------------------------------------
def staging(root: Path) -> Path:
    return root / APP / "releases" / f".staging-{OURS.release}"


@pytest.mark.parametrize("place", ["staging", "releases", "app", "release"])
def test_a_folder_on_the_device_that_is_a_link_is_not_followed(place: str, tmp_path: Path) -> None:
    root, outside = tmp_path / "root", tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("kept")
    run.deploy(Device(root), make_bundle(2.0), measure=Clock())
    link = {
        "staging": staging(root),
        "releases": root / APP / "releases",
        "app": root / APP,
        "release": root / APP / "releases" / OURS.release,
    }[place]
    if link.exists():
        link.rename(tmp_path / "moved")
    link.symlink_to(outside)
    with pytest.raises(OfaEdgeError, match="is a link") as refused:
        run.deploy(Device(root), OURS, measure=Clock())
    assert "nothing was followed" in refused.value.message
    assert sorted(path.name for path in outside.iterdir()) == ["kept"]


@pytest.mark.parametrize("where", ["folder", "file"])
def test_a_link_where_a_bundle_is_written_is_not_followed(where: str, tmp_path: Path) -> None:
    (tmp_path / "victim").write_text("kept")
    if where == "file":
        (tmp_path / "b.ofab.part").symlink_to(tmp_path / "victim")
        with pytest.raises(OfaEdgeError, match="cannot write"):
            bundle.write(OURS, tmp_path / "b.ofab")
    else:
        (tmp_path / "elsewhere").mkdir()
        (tmp_path / "b").symlink_to(tmp_path / "elsewhere")
        with pytest.raises(OfaEdgeError, match="b is a link"):
            bundle.write(OURS, tmp_path / "b")
        assert list((tmp_path / "elsewhere").iterdir()) == []
    assert (tmp_path / "victim").read_text() == "kept"


# -- any bytes ------------------------------------------------------------------------------------
TEXT = OURS.files[MANIFEST]
ARCHIVE = stored_zip.pack(OURS.files)


@st.composite
def damaged(draw: st.DrawFn, whole: bytes) -> bytes:
    """Bytes with a few places changed, taken out or put in."""
    data = bytearray(whole)
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(data)))
        data[at : at + draw(st.integers(0, 8))] = draw(st.binary(max_size=8))
    return bytes(data)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=10), inner, max_size=4),
    max_leaves=20,
)


@given(st.one_of(st.binary(max_size=200), damaged(TEXT)))
@settings(max_examples=300)
def test_bytes_in_place_of_a_manifest_give_a_bad_file_or_the_manifest(data: bytes) -> None:
    with contextlib.suppress(BadFile):
        assert parse_manifest(data, MANIFEST).release == OURS.release


@given(st.data())
@settings(max_examples=300)
def test_values_in_place_of_a_manifests_give_a_bad_file_or_a_manifest(data: st.DataObject) -> None:
    """Any value anywhere, under an id that fits: what gets past the hash must not get past the checks."""
    value = json.loads(TEXT)
    place: Any = value
    while True:
        key = data.draw(st.sampled_from(sorted(place) if isinstance(place, dict) else range(len(place))))
        if not isinstance(place[key], (dict, list)) or not place[key] or data.draw(st.booleans()):
            break
        place = place[key]
    place[key] = data.draw(JSON)
    try:
        value["release"] = release_id(value)
        text = json.dumps(value, allow_nan=False).encode()
    except ValueError:
        return
    try:
        found = parse_manifest(text, MANIFEST)
    except BadFile:
        return
    for mode in found.modes:
        assert not set("/\\") & set("".join(mode.files))


@given(data=st.one_of(st.binary(max_size=200), damaged(ARCHIVE)))
@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_bytes_in_place_of_a_file_give_a_bad_file_or_the_bundle(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "b.ofab"
    path.write_bytes(data)
    with contextlib.suppress(BadFile):
        assert bundle.read(path).files == OURS.files


@given(st.binary(max_size=300))
def test_bytes_in_place_of_a_signature_give_a_bad_file(data: bytes) -> None:
    with pytest.raises(BadFile):
        signer(TEXT, data, SIGNATURE)
