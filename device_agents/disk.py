"""The device's disk as releases need it: names that are only names, and changes that survive a power cut.

In: the agent's Root and plain names. Out: folders, files and links that are either there completely or
not at all. Rules kept:

- Nothing is followed: a folder is a real folder and a file a regular file, so that with plain names nothing
  that is read or written lies outside the root.
- A file is written under a name nobody looks at, synced, and only then renamed; the folder is synced too.
- Every change goes through a method of Disk, and each announces itself to `Disk.effect` before it
  happens. On a device that does nothing; the fault tests stop the process or fill the disk there.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Callable

from device_agents.errors import AgentError
from device_agents.process import Process
from device_agents.root import Root, sync_folder

CHUNK = 1 << 20
_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC


def silent(change: str, path: Path) -> None:
    """The effect hook of a real device."""


@dataclass(frozen=True)
class Disk(Root):
    """The agent's Root with the changes that releases need.

    Attributes:
        path: `--root` or OFA_EDGE_HOME, `~/.ofa-edge` by default; absolute.
        effect: called as effect(change, path) before each change; may raise OSError.
        me: the process that holds the locks taken through this value.
        alive: tells whether a process, as a lock recorded it, still runs.
    """

    effect: Callable[[str, Path], None] = silent
    me: Process = field(default_factory=Process.current)
    alive: Callable[[Process], bool] = Process.alive

    @classmethod
    def of(cls, root: Root) -> Disk:
        return root if isinstance(root, cls) else cls(root.path)

    def blob(self, sha256: str) -> Path:
        return Path(self.blob_path(sha256))

    @staticmethod
    def temporary(path: Path) -> Path:
        """Where a file or a link is made that will replace `path`."""
        return path.with_name(f".{path.name}.new")

    def make_folder(self, path: Path) -> None:
        """Make a folder where it is missing; its parent must be there."""
        if not os.path.lexists(path):
            self.effect("mkdir", path)
            with contextlib.suppress(FileExistsError):
                os.mkdir(path, 0o755)
            sync_folder(path.parent)
        require_folder(path)

    def write(self, path: Path, chunks: Iterable[bytes]) -> None:
        """Write a new file and bring it to the disk; what was there under this name is an error."""
        self.effect("create", path)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        try:
            for chunk in chunks:
                self.effect("write", path)
                _write_all(descriptor, chunk)
            self.effect("sync", path)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def append(self, path: Path, line: bytes) -> None:
        """Add a line to a file, after dropping the torn line of a writer that was stopped; synced."""
        new = not os.path.lexists(path)
        self.effect("append", path)
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        try:
            whole = _end_of_last_line(descriptor)
            os.ftruncate(descriptor, whole)
            os.lseek(descriptor, whole, os.SEEK_SET)
            try:
                self.effect("write", path)
                _write_all(descriptor, line)
            except OSError:
                os.ftruncate(descriptor, whole)
                raise
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
        if new:
            sync_folder(path.parent)

    def rename(self, source: Path, target: Path) -> None:
        """Rename within one folder or between two of ours, replacing a file of the target's name; synced."""
        self.effect("rename", target)
        os.rename(source, target)
        sync_folder(target.parent)
        if source.parent != target.parent:
            sync_folder(source.parent)

    def point(self, link: Path, target: str) -> None:
        """Make `link` a symbolic link to `target` in one step: a reader sees the old link or the new one."""
        temporary = self.temporary(link)
        self.remove(temporary)
        self.effect("symlink", temporary)
        os.symlink(target, temporary)
        self.effect("switch", link)
        os.replace(temporary, link)
        sync_folder(link.parent)

    def remove(self, path: Path) -> None:
        """Remove a file, a link or a whole folder; nothing there is fine. A link's target stays."""
        try:
            kind = os.lstat(path).st_mode
        except FileNotFoundError:
            return
        self.effect("remove", path)
        if stat.S_ISDIR(kind):
            shutil.rmtree(path)
        else:
            os.unlink(path)
        sync_folder(path.parent)


def folder_exists(path: Path) -> bool:
    """Raises AgentError where something that is no folder, such as a link, has this name."""
    if not os.path.lexists(path):
        return False
    require_folder(path)
    return True


def require_folder(path: Path) -> None:
    """Raises AgentError unless `path` is a folder of its own, not a link to one."""
    if not stat.S_ISDIR(os.lstat(path).st_mode):
        raise AgentError("refused", f"{path} is a link or a file where a folder belongs; nothing was followed")


def chunks_of(path: Path, limit: int) -> Iterator[bytes]:
    """The bytes of a regular file, not through a link, at most `limit` of them.

    Raises:
        AgentError: it is missing, no regular file, or larger.
    """
    with contextlib.ExitStack() as stack:
        try:
            descriptor = os.open(path, _READ | os.O_NONBLOCK)
        except FileNotFoundError:
            raise AgentError("bad-file", f"{path} is missing") from None
        except OSError as error:
            if error.errno == errno.ELOOP:
                raise AgentError("refused", f"{path} is a link; it was not followed") from None
            raise
        stack.callback(os.close, descriptor)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise AgentError("refused", f"{path} is not a regular file")
        read = 0
        while True:
            chunk = os.read(descriptor, CHUNK)
            if not chunk:
                return
            read += len(chunk)
            if read > limit:
                raise AgentError("bad-file", f"{path} is larger than {limit} bytes")
            yield chunk


def hashed(chunks: Iterable[bytes], digest: hashlib._Hash) -> Iterator[bytes]:
    """Pass chunks on and hash them on the way."""
    for chunk in chunks:
        digest.update(chunk)
        yield chunk


def _write_all(descriptor: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def _end_of_last_line(descriptor: int) -> int:
    """Length of a file up to its last newline; what comes after it was torn."""
    end = os.lseek(descriptor, 0, os.SEEK_END)
    while end:
        start = max(0, end - CHUNK)
        block = os.pread(descriptor, end - start, start)
        found = block.rfind(b"\n")
        if found >= 0:
            return start + found + 1
        end = start
    return 0
