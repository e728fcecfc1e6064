"""Packages for a device: taken by hash from where pip is told to look, packed the same way every time, and kept."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

from ofa_edge.device import packing
from ofa_edge.device.sites import Recipe, Wheel
from ofa_edge.errors import BadFile, LockHeld, OfaEdgeError
from ofa_edge.files import held

FILE = "thing-1.0-cp39-cp39-manylinux_2_17_aarch64.manylinux2014_aarch64.whl"
METADATA = {
    "thing-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: thing\nVersion: 1.0\nRequires-Dist: not-there\n",
    "thing-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: false\nTag: cp39-cp39-manylinux_2_17_aarch64\n",
    "thing-1.0.dist-info/RECORD": "",
}


def wheel(folder: Path, extra: dict[str, str] | None = None) -> Wheel:
    """A wheel for a Python and a machine that are not this one's."""
    folder.mkdir(exist_ok=True)
    with zipfile.ZipFile(folder / FILE, "w") as archive:
        for name, text in {"thing/__init__.py": "x = 1\n", **METADATA, **(extra or {})}.items():
            archive.writestr(zipfile.ZipInfo(name), text)
    return Wheel(FILE, hashlib.sha256((folder / FILE).read_bytes()).hexdigest())


def recipe(*wheels: Wheel) -> Recipe:
    return Recipe("onnxruntime", "1.0", "cp39-aarch64", wheels)


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The only place where pip looks."""
    for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "wheels"))
    return tmp_path / "wheels"


needs_pip = pytest.mark.skipif(
    subprocess.run([sys.executable, "-m", "pip", "--version"], capture_output=True).returncode != 0,
    reason="this Python has no pip",
)


def names(packed: packing.Packed) -> dict[str, tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(packed.data))) as archive:
        return {info.name: info for info in archive}


@needs_pip
def test_wheels_of_another_machine_are_taken_by_hash_and_kept(wheels: Path, tmp_path: Path) -> None:
    one = recipe(wheel(wheels))
    said: list[str] = []
    first = packing.packed(one, tmp_path / "cache", said.append)
    assert said == ["downloading thing 1.0"]
    (wheels / FILE).unlink()
    again = packing.packed(one, tmp_path / "cache", said.append)
    assert (again, len(said)) == (first, 1)
    assert first.name == f"onnxruntime-1.0-cp39-aarch64-{hashlib.sha256(first.data).hexdigest()[:12]}"
    assert {"thing/__init__.py", packing.MANIFEST} <= names(first).keys()


@needs_pip
def test_a_wheel_with_other_bytes_is_not_taken(wheels: Path, tmp_path: Path) -> None:
    right = wheel(wheels)
    wheel(wheels, {"thing/evil.py": ""})
    with pytest.raises(OfaEdgeError, match="pip cannot bring thing 1.0") as caught:
        packing.packed(recipe(right), tmp_path / "cache")
    assert "PIP_FIND_LINKS" in caught.value.hint
    assert FILE in caught.value.hint
    assert not list((tmp_path / "cache").glob("*.gz"))


@needs_pip
def test_a_packed_site_that_was_damaged_is_built_again(wheels: Path, tmp_path: Path) -> None:
    one = recipe(wheel(wheels))
    first = packing.packed(one, tmp_path / "cache")
    (file,) = (tmp_path / "cache").glob("*.gz")
    file.write_bytes(first.data[:-1])
    assert packing.packed(one, tmp_path / "cache").data == first.data == file.read_bytes()


def test_two_that_pack_at_once_are_told_apart(tmp_path: Path) -> None:
    with held(tmp_path), pytest.raises(LockHeld, match="another `devices setup`") as caught:
        packing.packed(recipe(Wheel(FILE, "0" * 64)), tmp_path)
    assert "again" in caught.value.hint


def test_packing_depends_on_the_wheels_alone(tmp_path: Path) -> None:
    one = recipe(wheel(tmp_path / "a", {"thing/z.py": "", "thing/a.py": ""}))
    wheel(tmp_path / "b", {"thing/a.py": "", "thing/z.py": ""})
    data, size = packing.pack(one, [tmp_path / "a" / FILE])
    assert packing.pack(one, [tmp_path / "b" / FILE]) == (data, size)
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(data))) as archive:
        infos = list(archive)
        manifest = archive.extractfile(packing.MANIFEST)
        assert manifest is not None
        assert json.loads(manifest.read())["wheels"] == {FILE: one.wheels[0].sha256}
    assert {(info.mtime, info.uid, info.mode, info.uname) for info in infos} == {(0, 0, 0o644, "")}
    assert [info.name for info in infos[1:]] == sorted(info.name for info in infos[1:])


def test_what_a_device_does_not_run_stays_behind(tmp_path: Path) -> None:
    extra = {
        "thing/tests/test_it.py": "",
        "thing/it.pyi": "",
        "thing/include/it.h": "",
        "thing-1.0.data/scripts/it": "",
        "thing-1.0.data/platlib/thing/deep.so": "",
        "thing/tests.py": "",
    }
    data, _ = packing.pack(recipe(wheel(tmp_path, extra)), [tmp_path / FILE])
    with tarfile.open(fileobj=io.BytesIO(gzip.decompress(data))) as archive:
        found = set(archive.getnames())
    assert found == {packing.MANIFEST, "thing/__init__.py", "thing/deep.so", "thing/tests.py", *METADATA}


@pytest.mark.parametrize("name", ["../x.py", "/x.py", "a/../x.py", "a//x.py", "a\\..\\x.py"])
def test_a_wheel_that_leads_out_of_itself_is_refused(tmp_path: Path, name: str) -> None:
    one = recipe(wheel(tmp_path, {name: ""}))
    with pytest.raises(BadFile, match="a wheel holds a file called"):
        packing.pack(one, [tmp_path / FILE])


def test_a_file_that_is_no_wheel_is_named(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text("<html>404</html>")
    with pytest.raises(BadFile, match="is no wheel"):
        packing.pack(recipe(), [tmp_path / FILE])
