"""A bundle is the same in a folder and in one file, whose bytes follow from its content."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from ofa_edge import stored_zip
from ofa_edge.deploy import bundle
from ofa_edge.deploy.bundle import MANIFEST, SIGNATURE
from ofa_edge.deploy.signature import read_private
from ofa_edge.errors import BadFile, UsageError
from ofa_edge.limits import Limits
from ofa_edge.space.spaces import OFA_LITE0
from tests.deploy.double import APP, make_bundle, make_part
from tests.deploy.test_bundle import two_modes

BUNDLE = make_bundle()


def test_a_file_and_a_folder_hold_the_same_bundle(tmp_path: Path) -> None:
    made = two_modes()
    bundle.write(made, tmp_path / "a.ofab")
    bundle.write(made, tmp_path / "folder")
    for path in (tmp_path / "a.ofab", tmp_path / "folder"):
        assert bundle.read(path).files == made.files


def test_equal_bundles_are_equal_files(tmp_path: Path) -> None:
    for name in ("one", "two"):
        bundle.write(make_bundle(), tmp_path / f"{name}.ofab")
    assert (tmp_path / "one.ofab").read_bytes() == (tmp_path / "two.ofab").read_bytes()


def test_an_unsigned_bundle_takes_the_place_of_a_signed_one(tmp_path: Path, keys: Path) -> None:
    bundle.write(BUNDLE.signed(read_private(keys / "ours")), tmp_path / "folder")
    assert bundle.read(tmp_path / "folder").signature is not None
    bundle.write(make_bundle(2.0), tmp_path / "folder")
    assert bundle.read(tmp_path / "folder").signature is None
    assert not (tmp_path / "folder" / SIGNATURE).exists()


def test_a_file_holds_what_its_manifest_names_and_no_more(tmp_path: Path) -> None:
    path = tmp_path / "a.ofab"
    path.write_bytes(stored_zip.pack({**BUNDLE.files, "run.sh": b"rm -rf"}))
    with pytest.raises(BadFile, match=r"holds 'run\.sh', which its manifest does not name"):
        bundle.read(path)
    path.write_bytes(stored_zip.pack({name: data for name, data in BUNDLE.files.items() if name != "model.onnx"}))
    with pytest.raises(BadFile, match=r"has no model\.onnx"):
        bundle.read(path)


def test_a_file_has_caps(tmp_path: Path) -> None:
    path = tmp_path / "a.ofab"
    bundle.write(BUNDLE, path)
    size = sum(entry.size for entry in BUNDLE.manifest.files)
    assert bundle.read(path, Limits(bundle_bytes=size)).release == BUNDLE.release
    with pytest.raises(BadFile, match=rf"a\.ofab: its files have {size} bytes, the cap is {size - 1}"):
        bundle.read(path, Limits(bundle_bytes=size - 1))
    path.write_bytes(bytes(size + (1 << 20) + 1))
    with pytest.raises(BadFile, match=r"a\.ofab is larger than"):
        bundle.read(path, Limits(bundle_bytes=size))
    bundle.write(BUNDLE, path)
    with pytest.raises(BadFile, match=rf"a\.ofab: {MANIFEST} is larger than 100 bytes"):
        bundle.read(path, Limits(manifest_bytes=100))


def test_what_is_neither_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(BadFile, match="not a bundle: it does not begin as a zip does"):
        bundle.read(tmp_path / "notes.txt")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(BadFile, match="not a regular file"):
        bundle.read(tmp_path / "pipe")
    with pytest.raises(UsageError, match="there is no bundle at"):
        bundle.read(tmp_path / "absent.ofab")


def test_releases_of_one_mode_become_one_of_several() -> None:
    one, two = make_bundle(1.0), make_bundle(2.0, at=None)
    parts = [make_part(1.0, name="full"), make_part(2.0, at=None, name="low")]
    both = bundle.build(app=APP, space=OFA_LITE0, parts=parts, labels=("cat", "dog"))
    assert [mode.name for mode in both.manifest.modes] == ["full", "low"]
    assert both.files["model.onnx"] == one.files["model.onnx"]
    assert both.files["model-low.onnx"] == two.files["model.onnx"]
    assert both.manifest.mode("low").predicted == two.manifest.default.predicted
    assert both.manifest.mode("low").conditions is None
    with pytest.raises(UsageError, match="name of a mode"):
        bundle.build(app=APP, space=OFA_LITE0, parts=[make_part(1.0, name="Full")], labels=("cat", "dog"))


def test_a_number_and_a_processor_make_another_release() -> None:
    assert BUNDLE.counted(0).release == BUNDLE.release
    counted = BUNDLE.counted(7, "aarch64")
    assert (counted.manifest.counter, counted.manifest.machine) == (7, "aarch64")
    assert counted.release != BUNDLE.release
