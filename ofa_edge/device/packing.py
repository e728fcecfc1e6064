"""A runtime's packages as one file for a device: downloaded on the host, packed, and kept.

In: a Recipe. Out: a Packed site (tar.gz), the same bytes for the same wheels, in <home>/cache/sites, so that a second
device of the same kind downloads nothing. Rules kept: pip brings the files, so the user's index, certificates and
proxies are those they have set for it; each wheel is taken by its sha256 only; nothing of a wheel is run or imported;
members of a wheel with a name that leads out of it are refused here too.
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import io
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ofa_edge import strict_json
from ofa_edge.device.link import printable
from ofa_edge.device.sites import Recipe, Wheel
from ofa_edge.errors import BadFile, LockHeld, OfaEdgeError
from ofa_edge.files import held, write_whole

MANIFEST = "ofa-edge-site.json"
_DOWNLOAD_SECONDS = 1800.0
_LEVEL = 6  # 36 MB for ONNX Runtime and numpy; level 9 takes three times as long for 1 % less
_MOST_BYTES = 1 << 30

# Settings of pip that would change what it brings, turned off; where it brings it from stays as the user has it.
_PLAIN_PIP = {"PIP_CONSTRAINT": os.devnull, "PIP_NO_BINARY": ":none:", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}


@dataclass(frozen=True)
class Packed:
    """A packed site: its tar.gz, the sha256 of that, and the room it takes unpacked."""

    recipe: Recipe
    data: bytes
    sha256: str
    unpacked_bytes: int

    @property
    def name(self) -> str:
        return self.recipe.site(self.sha256)


def packed(recipe: Recipe, cache: Path, notify: Callable[[str], None] = lambda text: None) -> Packed:
    """The packed site of a recipe, out of the cache or built now.

    Args:
        cache: a folder; made where it is missing.
        notify: told one sentence when something is downloaded.

    Raises:
        OfaEdgeError: pip is missing, or does not bring a wheel.
        BadFile: a wheel is none.
        LockHeld: another process is building into the same cache.
    """
    file = cache / f"{recipe.key}.tar.gz"
    if found := _cached(recipe, file):
        return found
    cache.mkdir(parents=True, exist_ok=True)
    with _alone(cache):
        notify(f"downloading {', '.join(f'{wheel.package} {wheel.version}' for wheel in recipe.wheels)}")
        with tempfile.TemporaryDirectory(prefix="ofa-edge-wheels-") as folder:
            files = download(recipe.wheels, Path(folder))
            data, unpacked = pack(recipe, files)
        sha256 = hashlib.sha256(data).hexdigest()
        write_whole(file, data)
        sidecar = strict_json.dumps({"sha256": sha256, "unpacked_bytes": unpacked})
        write_whole(_sidecar(file), sidecar.encode())
    return Packed(recipe, data, sha256, unpacked)


@contextlib.contextmanager
def _alone(cache: Path) -> Iterator[None]:
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(held(cache))
        except LockHeld as error:
            raise LockHeld(
                f"another `devices setup` is packing into {cache}", hint="run this again when it is done"
            ) from error
        yield


def download(wheels: Sequence[Wheel], folder: Path) -> list[Path]:
    """Bring wheels by hash, in the order given.

    pip resolves nothing here: every file is named with its hash, so that the markers it would read for the host's own
    Python play no part.
    """
    requirements = folder / "requirements.txt"
    lines = [f"{wheel.package.replace('_', '-')}=={wheel.version} --hash=sha256:{wheel.sha256}" for wheel in wheels]
    requirements.write_text("\n".join(lines) + "\n")
    platforms = dict.fromkeys(platform for wheel in wheels for platform in wheel.platforms)
    version = wheels[0].python.removeprefix("cp3")
    argv = [sys.executable, "-m", "pip", "download", "--quiet", "--no-input", "--no-deps", "--only-binary=:all:"]
    argv += ["--require-hashes", f"--python-version=3.{version}", "--implementation=cp", f"--abi={wheels[0].abi}"]
    argv += [f"--platform={platform}" for platform in platforms]
    argv += [f"--dest={folder}", f"--requirement={requirements}"]
    try:
        done = subprocess.run(
            argv,
            env={**os.environ, **_PLAIN_PIP},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_DOWNLOAD_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired:
        raise OfaEdgeError(f"pip brought nothing within {_DOWNLOAD_SECONDS / 60:.0f} minutes") from None
    if done.returncode:
        raise _no_wheels(printable(done.stderr[-20_000:]), wheels)
    found = {hashlib.sha256(path.read_bytes()).hexdigest(): path for path in sorted(folder.glob("*.whl"))}
    return [found[wheel.sha256] for wheel in wheels]


def pack(recipe: Recipe, files: Sequence[Path]) -> tuple[bytes, int]:
    """A tar.gz of what wheels hold: sorted names, no times or owners, plain files only; and its size unpacked.

    Tests, type stubs and headers of the packages stay behind; a device runs none of them.
    """
    contents: dict[str, tuple[Path, str]] = {}
    total = 0
    for file in files:
        for member, size in _members(file):
            name = _place(member)
            if name is None:
                continue
            total += size
            if name in contents or total > _MOST_BYTES:
                raise BadFile(
                    f"{file.name}: {member[:200]!r} is there twice, or the wheels are larger than any runtime"
                )
            contents[name] = (file, member)
    manifest = {
        "runtime": recipe.runtime,
        "version": recipe.version,
        "tag": recipe.tag,
        "wheels": {wheel.file: wheel.sha256 for wheel in recipe.wheels},
    }
    out = io.BytesIO()
    with gzip.GzipFile(filename="", mode="wb", fileobj=out, compresslevel=_LEVEL, mtime=0) as compressed:
        archives = {file: zipfile.ZipFile(file) for file in files}
        try:
            with tarfile.open(fileobj=compressed, mode="w", format=tarfile.USTAR_FORMAT) as archive:
                _add(archive, MANIFEST, strict_json.dumps(manifest).encode())
                for name, (file, member) in sorted(contents.items()):
                    _add(archive, name, archives[file].read(member))
        finally:
            for opened in archives.values():
                opened.close()
    return out.getvalue(), total


def _add(archive: tarfile.TarFile, name: str, data: bytes) -> None:
    info = tarfile.TarInfo(name)  # its defaults are mode 0644, owner 0, time 0
    info.size = len(data)
    archive.addfile(info, io.BytesIO(data))


def _members(file: Path) -> Iterator[tuple[str, int]]:
    try:
        with zipfile.ZipFile(file) as archive:
            for info in archive.infolist():
                if not info.is_dir():
                    yield info.filename, info.file_size
    except zipfile.BadZipFile as error:
        raise BadFile(f"{file.name} is no wheel: {error}") from error


def _place(member: str) -> str | None:
    """Where a wheel's member goes in a site; None for what is left out."""
    parts = member.split("/")
    if member.startswith("/") or any(part in ("", ".", "..") or "\\" in part or "\0" in part for part in parts):
        raise BadFile(f"a wheel holds a file called {member[:200]!r}")
    if parts[0].endswith(".data"):
        if len(parts) < 3 or parts[1] not in ("purelib", "platlib"):
            return None  # scripts, headers
        parts = parts[2:]
    if "tests" in parts[:-1] or parts[-1].endswith((".pyi", ".h")):
        return None
    return "/".join(parts)


def _sidecar(file: Path) -> Path:
    return file.with_name(f"{file.name}.json")


def _cached(recipe: Recipe, file: Path) -> Packed | None:
    """What was built before, if its bytes are still those; else it is built again."""
    try:
        known = strict_json.loads(_sidecar(file).read_bytes())
        data = file.read_bytes()
    except (OSError, ValueError):
        return None
    if not isinstance(known, dict) or not isinstance(known.get("unpacked_bytes"), int):
        return None
    sha256 = hashlib.sha256(data).hexdigest()
    return Packed(recipe, data, sha256, known["unpacked_bytes"]) if known.get("sha256") == sha256 else None


def _no_wheels(said: str, wheels: Sequence[Wheel]) -> OfaEdgeError:
    if "No module named pip" in said:
        return OfaEdgeError(
            f"{sys.executable} has no pip, which brings the packages for the device",
            hint=f"{sys.executable} -m ensurepip",
        )
    lines = [line.removeprefix("ERROR: ") for line in said.splitlines() if line.startswith("ERROR: ")]
    reason = re.sub(r"\s+", " ", lines[-1] if lines else said[-300:])
    return OfaEdgeError(
        f"pip cannot bring {' and '.join(f'{w.package} {w.version}' for w in wheels)}: {reason[:400]}",
        hint="it asks the index of your pip configuration (`pip config list`); PIP_INDEX_URL or PIP_FIND_LINKS name "
        "another, or a folder with these wheels: " + ", ".join(wheel.file for wheel in wheels),
    )
