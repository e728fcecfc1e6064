"""devices.toml: names for devices, and what is special about each.

    [kitchen]
    host = "pi@192.168.1.20"          # [user@]host[:port] or local
    python = "~/venv/bin/python"      # an interpreter with onnxruntime; optional
    root = "/data/ofa-edge"           # where our files go there; optional
    groups = ["lab"]                  # --host @lab means all of the group; optional

`port` and `user` may be keys of their own. In: the file. Out: Device values, and the file with an entry more or less.
An unknown key is an error: it would be a misspelt one. Every line and comment of the user's stays as it is: an entry is
added at the end, under a mark, and only one with the mark is taken out again.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ofa_edge.errors import BadFile, UsageError
from ofa_edge.files import write_whole
from ofa_edge.settings import devices_file

_KEYS = {"host": str, "user": str, "port": int, "python": str, "root": str, "groups": list}
_MAX_BYTES = 1 << 20
_MARK = "# by `ofa-edge devices add`"
_NAME = r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}"


@dataclass(frozen=True)
class Device:
    """`address` is [user@]host[:port] or `local`; None for what the file leaves to the defaults."""

    name: str
    address: str
    python: str | None = None
    root: str | None = None
    groups: tuple[str, ...] = ()


@dataclass(frozen=True)
class Inventory:
    """All devices of one file, in its order."""

    file: Path | None = None
    devices: tuple[Device, ...] = field(default=())

    @classmethod
    def load(cls, file: Path | None = None) -> Inventory:
        """Read an inventory; without a file the one settings names, which may be absent.

        Raises:
            BadFile: not TOML, or a key or value that is not described above.
        """
        path = file or devices_file()
        try:
            data = path.read_bytes()
        except FileNotFoundError:
            if file is None:
                return cls()
            raise BadFile(f"there is no {file}") from None
        except OSError as error:
            raise BadFile(f"cannot read {path}: {error.strerror}") from error
        try:
            if len(data) > _MAX_BYTES:
                raise ValueError("it is too large")
            tables = tomllib.loads(data.decode("utf-8"))
        except ValueError as error:
            raise BadFile(f"{path} is not TOML: {error}") from error
        return cls(path, tuple(_device(path, name, table) for name, table in tables.items()))

    def get(self, name: str) -> Device | None:
        return next((device for device in self.devices if device.name == name), None)

    def expand(self, hosts: Sequence[str]) -> list[str]:
        """Replace each @group by its devices' names; each host once, in order.

        Raises:
            UsageError: no device is in the group.
        """
        found: list[str] = []
        for host in hosts:
            if not host.startswith("@"):
                found.append(host)
                continue
            members = [device.name for device in self.devices if host[1:] in device.groups]
            if not members:
                groups = sorted({group for device in self.devices for group in device.groups})
                raise UsageError(
                    f"no device is in the group {host[:80]!r}",
                    hint=f"groups in {self.file or devices_file()}: {', '.join(groups) or 'none'}",
                )
            found += members
        return list(dict.fromkeys(found))


def _device(path: Path, name: str, table: Any) -> Device:
    where = f"{path}: [{name}]"
    if not isinstance(table, dict):
        raise BadFile(f"{path}: {name!r} is not a table", hint="a device is written as [name] with host = ...")
    for key, value in table.items():
        if key not in _KEYS:
            raise BadFile(f"{where} has an unknown key {key!r}", hint=f"keys are {', '.join(_KEYS)}")
        if not isinstance(value, _KEYS[key]) or isinstance(value, bool):
            raise BadFile(f"{where} {key} must be a {_KEYS[key].__name__}")
    groups = table.get("groups", [])
    if "host" not in table or not all(isinstance(group, str) for group in groups):
        raise BadFile(f"{where} needs a host, and its groups must be names", hint='host = "pi@192.168.1.20"')
    address = table["host"]
    if "user" in table:
        address = f"{table['user']}@{address.rpartition('@')[2]}"
    if "port" in table:
        address = f"{address}:{table['port']}"
    return Device(name, address, table.get("python"), table.get("root"), tuple(groups))


def require_free(name: str, file: Path | None = None) -> Inventory:
    """The inventory, where a device may be added to it under this name.

    Raises:
        UsageError: there is an entry of that name, or the name would be read as something else.
        BadFile: the file is damaged.
    """
    path = file or devices_file()
    if not re.fullmatch(_NAME, name) or name == "local":
        raise UsageError(
            f"{name[:80]!r} cannot be the name of a device", hint="use letters, digits, - and _, such as kitchen"
        )
    known = Inventory.load(path) if path.exists() else Inventory()
    if known.get(name):
        raise UsageError(
            f"{path} has a device {name} already",
            hint=f"choose another name, or take it out first: ofa-edge devices remove {name}",
        )
    return known


def add(device: Device, file: Path | None = None) -> Path:
    """Write a new entry at the end of devices.toml, which is made where it is missing; the file.

    Raises:
        UsageError, BadFile: as `require_free`.
        OSError: it cannot be written.
    """
    path = file or devices_file()
    known = require_free(device.name, path)
    lines = [f"[{device.name}]  {_MARK}", f"host = {_quoted(device.address)}"]
    lines += [f"{key} = {_quoted(text)}" for key in ("python", "root") if (text := getattr(device, key))]
    if device.groups:
        lines.append(f"groups = [{', '.join(map(_quoted, device.groups))}]")
    before = path.read_text("utf-8") if path.exists() else ""
    gap = "" if not before else "\n" if before.endswith("\n") else "\n\n"
    _replace(path, before + gap + "\n".join(lines) + "\n", (*known.devices, device))
    return path


def take_out(name: str, file: Path | None = None) -> bool:
    """Take out an entry that `add` wrote; False where there is none, or a person wrote it.

    Raises:
        BadFile: the file is damaged.
        OSError: it cannot be written.
    """
    path = file or devices_file()
    known = Inventory.load(path) if path.exists() else Inventory()
    if known.get(name) is None:
        return False
    lines = path.read_text("utf-8").splitlines(keepends=True)
    head = re.compile(rf"\[{re.escape(name)}\]\s*{re.escape(_MARK)}\s*")
    start = next((i for i, line in enumerate(lines) if head.fullmatch(line)), None)
    if start is None:
        return False
    # Up to the first line that `add` does not write: what a person put behind it, comments too, stays.
    keys = re.compile(r"(host|python|root|groups)\s*=")
    end = next((i for i in range(start + 1, len(lines)) if not keys.match(lines[i])), len(lines))
    while start and end == len(lines) and not lines[start - 1].strip():
        start -= 1  # the gap that `add` left
    rest = tuple(device for device in known.devices if device.name != name)
    _replace(path, "".join(lines[:start] + lines[end:]), rest)
    return True


def _replace(path: Path, text: str, expected: tuple[Device, ...]) -> None:
    """Write the file, if it then says what is meant; a file too unusual to edit is left alone."""
    try:
        tables = tomllib.loads(text)
        said = tuple(_device(path, name, table) for name, table in tables.items())
    except (ValueError, BadFile):
        said = ()
    if said != expected:
        raise BadFile(f"{path} is written in a way that cannot be edited safely", hint="edit it by hand")
    write_whole(path, text.encode())


def _quoted(text: str) -> str:
    """A TOML basic string: JSON's, but for DEL, which TOML wants escaped."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007F")
