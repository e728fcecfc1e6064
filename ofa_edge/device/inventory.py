"""devices.toml: names for devices, and what is special about each.

    [kitchen]
    host = "pi@192.168.1.20"          # [user@]host[:port] or local
    python = "~/venv/bin/python"      # an interpreter with onnxruntime; optional
    root = "/data/ofa-edge"           # where our files go there; optional
    groups = ["lab"]                  # --host @lab means all of the group; optional

`port` and `user` may be keys of their own. In: the file. Out: Device values. An unknown key is an error: it
would be a misspelt one.
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ofa_edge.errors import BadFile, UsageError
from ofa_edge.settings import devices_file

_KEYS = {"host": str, "user": str, "port": int, "python": str, "root": str, "groups": list}
_MAX_BYTES = 1 << 20


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
