"""Runtimes from the host on the device's side: packed sites that are hostile, and what a worker's sys.path becomes."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import os
import sys
import tarfile
from collections.abc import Callable
from pathlib import Path

import hypothesis
import hypothesis.strategies as st
import pytest

from device_agents import site_path, sites
from device_agents.root import Root
from device_agents.wire import AgentError

STEM = f"onnxruntime-1.31.1-{site_path.tag()}"


@pytest.fixture
def root(tmp_path: Path) -> Root:
    made = Root(str(tmp_path / "root"))
    made.prepare()
    return made


def tar(*members: tarfile.TarInfo | tuple[str, bytes], form: int = tarfile.USTAR_FORMAT) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=form) as archive:
        for member in members:
            if isinstance(member, tarfile.TarInfo):
                archive.addfile(member)
                continue
            info = tarfile.TarInfo(member[0])
            info.size = len(member[1])
            archive.addfile(info, io.BytesIO(member[1]))
    return out.getvalue()


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


def give(root: Root, packed: bytes) -> dict[str, str]:
    """Put a packed site where the host's push leaves it; the arguments of `unpack`."""
    sha256 = hashlib.sha256(packed).hexdigest()
    Path(root.blob_path(sha256)).write_bytes(packed)
    return {"name": f"{STEM}-{sha256[:12]}", "sha256": sha256}


def install(root: Root, *members: tuple[str, bytes]) -> str:
    given = give(root, gzip.compress(tar(*members)))
    sites.unpack(root, given)
    return given["name"]


def everything(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


def test_a_packed_site_becomes_a_folder_and_its_blob_goes(root: Root) -> None:
    name = install(root, ("numpy/__init__.py", b"x = 1\n"), ("numpy/core/a.so", b"\x7fELF"))
    folder = Path(root.path, "sites", name)
    assert (folder / "numpy/core/a.so").read_bytes() == b"\x7fELF"
    assert (folder / "ofa-edge-site.sha256").read_text().startswith(name[-12:])
    assert os.listdir(Path(root.path, "blobs")) == []
    assert sites.listing(root, {}) == {"tag": site_path.tag(), "sites": [{"name": name, "current": False}]}


HOSTILE: dict[str, Callable[[], bytes]] = {
    "an absolute name": lambda: tar(("/tmp/x", b"x")),
    "a name that climbs": lambda: tar(("a/../../x", b"x")),
    "a name of dots": lambda: tar(("..", b"x")),
    "an empty part": lambda: tar(("a//x", b"x")),
    "a link out": lambda: tar(special("a", tarfile.SYMTYPE, "/etc"), ("a/x", b"x")),
    "a hard link": lambda: tar(special("a", tarfile.LNKTYPE, "/etc/passwd")),
    "a device": lambda: tar(special("a", tarfile.CHRTYPE)),
    "a pipe": lambda: tar(special("a", tarfile.FIFOTYPE)),
    "a folder": lambda: tar(special("a", tarfile.DIRTYPE)),
    "a name twice": lambda: tar(("a", b"x"), ("a", b"y")),
    "a file that is also a folder": lambda: tar(("a", b"x"), ("a/b", b"y")),
    "a header that changes the next": lambda: tar(("a" * 300, b"x"), form=tarfile.GNU_FORMAT),
    "a pax header": lambda: tar(("ä" * 60, b"x"), form=tarfile.PAX_FORMAT),
    "an end cut off": lambda: tar(("a", b"x" * 2000))[:1024],
    "no end at all": lambda: tar(("a", b""))[:512],
    "noise": lambda: b"\xff" * 512,
    "nothing": lambda: b"",
}


@pytest.mark.parametrize("what", HOSTILE)
def test_a_hostile_tar_is_refused_whole(root: Root, what: str) -> None:
    before = everything(Path(root.path).parent)
    with pytest.raises(AgentError) as caught:
        sites.unpack(root, give(root, gzip.compress(HOSTILE[what]())))
    assert caught.value.kind == "bad-file"
    left = set(everything(Path(root.path).parent)) - set(before)
    assert {name for name in left if not name.startswith("root/blobs/")} <= {"root/sites"}


def test_a_size_is_believed_only_up_to_a_cap(tmp_path: Path) -> None:
    huge = tarfile.TarInfo("a")
    huge.size = 1 << 40
    with pytest.raises(AgentError, match="larger than any runtime"):
        sites.extract(io.BytesIO(huge.tobuf(tarfile.GNU_FORMAT)), tmp_path)
    with pytest.raises(AgentError, match="larger than any runtime"):
        sites.extract(io.BytesIO(tar(("a", b"x" * 60), ("b", b"x" * 60))), tmp_path, max_bytes=100)


@hypothesis.given(st.binary(max_size=3000), st.integers(0, 2047))
@hypothesis.settings(max_examples=60, suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture])
def test_no_bytes_write_outside_the_folder(tmp_path: Path, noise: bytes, where: int) -> None:
    inside = tmp_path / "outer" / os.urandom(8).hex()
    inside.mkdir(parents=True)
    good = bytearray(tar(("a/b", b"x" * 600), ("c", b"y")))
    good[where : where + len(noise)] = noise
    with contextlib.suppress(AgentError):
        sites.extract(io.BytesIO(bytes(good)), inside)
    assert [path.name for path in tmp_path.iterdir()] == ["outer"]
    assert not any(path.is_symlink() for path in inside.rglob("*"))


def test_a_blob_that_was_damaged_is_removed_and_nothing_is_made(root: Root) -> None:
    given = give(root, gzip.compress(tar(("a", b"x"))))
    Path(root.blob_path(given["sha256"])).write_bytes(b"other")
    with pytest.raises(AgentError, match="damaged"):
        sites.unpack(root, given)
    assert everything(Path(root.path, "blobs")) == []
    assert not Path(root.path, "sites").exists()


@pytest.mark.parametrize("name", ["..", "/etc", "a/b", "onnxruntime-1-cp311-x-zzz", "", "current-x"])
def test_a_name_that_is_no_sites_name_reaches_no_path(root: Root, name: str) -> None:
    for op, args in (
        ("site-unpack", {"sha256": "0" * 64}),
        ("site-use", {}),
        ("site-drop", {}),
        ("site-prove", {"check": {}}),
    ):
        with pytest.raises((AgentError, ValueError)):
            sites.OPS[op](root, {"name": name, **args})


def test_the_newest_choice_replaces_the_one_before(root: Root) -> None:
    old = install(root, ("a.py", b"1"))
    sites.choose(root, {"name": old})
    new = install(root, ("a.py", b"2"))
    with pytest.raises(AgentError, match="in use"):
        sites.drop(root, {"name": old})
    sites.choose(root, {"name": new})
    assert sites.listing(root, {})["sites"] == [{"name": new, "current": True}]


@pytest.fixture
def path(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setattr(sys, "path", ["agent.pyz", *sys.path])
    return sys.path


def test_a_site_serves_an_interpreter_without_a_runtime(
    root: Root, path: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    name = install(root, ("a.py", b"1"))
    site_path.use(root.path)
    monkeypatch.setattr(site_path, "MODULES", {"onnxruntime": ("no_such_module",)})
    before = list(path)
    site_path.use(root.path)
    assert path == before  # proved and chosen first
    sites.choose(root, {"name": name})
    site_path.use(root.path)
    assert path == ["agent.pyz", str(Path(root.path, "sites", name)), *before[1:]]


def test_an_interpreter_keeps_a_runtime_of_its_own(root: Root, path: list[str]) -> None:
    sites.choose(root, {"name": install(root, ("a.py", b"1"))})
    before = list(path)
    site_path.use(root.path)
    assert path == before


def test_a_site_of_another_python_or_a_link_that_leaves_is_not_used(
    root: Root, path: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(site_path, "MODULES", {"onnxruntime": ("no_such_module",)})
    name = install(root, ("a.py", b"1"))
    folder, before = Path(root.path, "sites"), list(path)
    (folder / "current-onnxruntime-cp27-x86_64").symlink_to(name)
    (folder / f"current-onnxruntime-{site_path.tag()}").symlink_to(tmp_path)
    site_path.use(root.path)
    assert path == before


def test_removing_takes_one_runtime_or_all_and_follows_nothing(root: Root, tmp_path: Path) -> None:
    name = install(root, ("a.py", b"1"))
    sites.choose(root, {"name": name})
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").write_text("mine")
    link = Path(root.path, "sites", f"{STEM}-{'0' * 12}")
    link.symlink_to(precious)
    assert sites.remove(root, {"runtime": "litert"}) == {"removed": []}
    assert sites.remove(root, {"runtime": ""}) == {"removed": [link.name, name]}
    assert (precious / "file").read_text() == "mine"
    assert not Path(root.path, "sites").exists()


def test_wiping_takes_what_is_ours_and_keeps_the_rest(root: Root, tmp_path: Path) -> None:
    install(root, ("a.py", b"1"))
    base = Path(root.path)
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").write_text("mine")
    (base / "agent").symlink_to(precious)
    (base / "app/releases").mkdir(parents=True)
    (base / "tables").mkdir()
    (base / "photos").mkdir()
    found = sites.wipe(root, {})
    assert found == {"removed": ["app", "blobs", "incoming", "sites", "work"], "kept": ["agent", "photos", "tables"]}
    assert (precious / "file").read_text() == "mine"


def test_wiping_a_root_of_ours_alone_leaves_nothing(root: Root) -> None:
    install(root, ("a.py", b"1"))
    assert sites.wipe(root, {})["kept"] == []
    assert not Path(root.path).exists()
