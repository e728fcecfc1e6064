"""A family: one chosen subnet for each mode and device, or one that serves them all; and its file.

In: selections and what each is for, or a file. Out: a Family, or its file: an offline lock file like a selection's,
which `deploy --selection FILE --mode NAME` takes the device's member of. A mode is a name and a budget; a device is the
conditions its latency table was measured under. Rules kept: the same inputs give the same bytes; a file is read
strictly, and one of an unknown major version is refused.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from pydantic import ValidationError

from ofa_edge import strict_json
from ofa_edge.errors import BadFile, UsageError
from ofa_edge.files import read_bytes, write_result
from ofa_edge.latency.conditions import UNKNOWN, Conditions, mismatches, same_device
from ofa_edge.search import selection as selections
from ofa_edge.search.budget import Budget
from ofa_edge.search.selection import Selection
from ofa_edge.space.arch import Space

SCHEMA = "selection-family"
VERSION = (1, 0)
MAX_FILE_BYTES = 16 << 20
MAX_MEMBERS = 256
# Numbers, texts, lists and objects of a file, which take fifty times as much memory as their bytes: 256 members of a
# space of one's own have about half as many.
MAX_VALUES = 400_000
_MOST_CONDITIONS = 20_000  # characters

EXAMPLE = "a mode looks like full:20ms or low:latency=10ms,memory=6MB; its name is of letters, digits and '-'"
_NAME = re.compile(r"[A-Za-z0-9-]{1,32}")


@dataclass(frozen=True, slots=True)
class Mode:
    """A budget by a name; without one it is the only budget."""

    name: str | None
    budget: Budget

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read NAME:BUDGET.

        Raises:
            UsageError: with a message of its own for each kind of mistake.
        """
        name, colon, budget = text.partition(":")
        if not colon:
            raise UsageError(f"the mode {text[:80]!r} has no name or no budget", hint=EXAMPLE)
        _require_name(name)
        try:
            return cls(name, Budget.parse(budget))
        except UsageError as error:
            raise UsageError(f"mode {name}: {error.message}", hint=error.hint) from error


def parse_modes(texts: Sequence[str]) -> tuple[Mode, ...]:
    """Read several of NAME:BUDGET; raises UsageError as Mode.parse, and where a name comes twice."""
    modes = tuple(map(Mode.parse, texts))
    names = [mode.name for mode in modes]
    for name in names:
        if names.count(name) > 1:
            raise UsageError(f"there are two modes called {name}", hint="give each mode a name of its own")
    return modes


def _require_name(name: str) -> None:
    if not _NAME.fullmatch(name):
        what = f"{name[:80]!r} cannot be the name of a mode" if name else "a mode has no name"
        raise UsageError(what, hint=EXAMPLE)


# What a person would tell two devices of one model apart by, first; the other conditions come in their own order.
_TELLING = ("runtime", "threads", "precision", "cores", "governor")


def labels(devices: Sequence[Conditions]) -> list[str]:
    """Short names of devices: the model, and where models repeat the few conditions that tell them apart."""
    return [_label(device, [d for d in devices if d.device_model == device.device_model]) for device in devices]


def _label(device: Conditions, alike: Sequence[Conditions]) -> str:
    names = dict.fromkeys((*_TELLING, *Conditions.model_fields))
    told: list[str] = []
    for name in names:
        same = [d for d in alike if all(getattr(d, n) == getattr(device, n) for n in told)]
        if any(getattr(other, name) != getattr(device, name) for other in same):
            told.append(name)
    said = (f"{name.replace('_', ' ')} {getattr(device, name)}".removeprefix("runtime ") for name in told)
    return f"{device.device_model} ({', '.join(said)})" if told else device.device_model


# -- the family ---------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Member:
    """One selection of a family.

    Attributes:
        mode: None where the family has one budget only.
        conditions: of the latency table it was chosen with: the device it is for.
    """

    mode: str | None
    conditions: Conditions
    selection: Selection

    def as_json(self, selection: Mapping[str, Any] | None = None) -> dict[str, Any]:
        """As the file holds it; `selection` in place of the file's."""
        return {
            "mode": self.mode,
            "device": self.conditions.device_model,
            "conditions": self.conditions.model_dump(mode="json"),
            "selection": dict(selection or self.selection.as_json()),
        }


@dataclass(frozen=True, slots=True)
class Family:
    """Selections of one space.

    Attributes:
        common: all members are the same subnet, the best that keeps all budgets.

    Raises:
        ValueError: there is no member, or too many; they are of several spaces; some have a mode and some have none;
            two are for the same; or they differ although `common`.
    """

    members: tuple[Member, ...]
    common: bool = False

    def __post_init__(self) -> None:
        if not 0 < len(self.members) <= MAX_MEMBERS:
            raise ValueError(f"it has {len(self.members)} members")
        if len({member.selection.space for member in self.members}) > 1:
            raise ValueError("its members are of several spaces")
        if len({member.mode is None for member in self.members}) > 1:
            raise ValueError("some of its members have a mode and some have none")
        for i, member in enumerate(self.members):
            if any(_same(member, other) for other in self.members[:i]):
                raise ValueError(f"two of its members are for mode {member.mode} on {member.conditions.device_model}")
        if self.common and len({member.selection.arch for member in self.members}) > 1:
            raise ValueError("its members differ although it is a common one")

    @property
    def space(self) -> Space:
        return self.members[0].selection.space

    @property
    def modes(self) -> tuple[str, ...]:
        """Names, in the order of the members; none where there is one budget only."""
        return tuple(dict.fromkeys(member.mode for member in self.members if member.mode is not None))

    def as_json(self, selections: Sequence[Mapping[str, Any]] | None = None) -> dict[str, Any]:
        """The file's content; `selections` in place of the members' own."""
        each: list[Mapping[str, Any] | None] = [*selections] if selections else [None for _ in self.members]
        return {
            "schema": SCHEMA,
            "version": f"{VERSION[0]}.{VERSION[1]}",
            "space": self.space.name,
            "common": self.common,
            "members": [member.as_json(own) for member, own in zip(self.members, each, strict=True)],
        }

    def to_bytes(self) -> bytes:
        """The file: equal families are equal bytes."""
        return strict_json.dumps(self.as_json(), indent=2).encode() + b"\n"

    def write(self, path: Path | str) -> None:
        """Write the file in one step (temporary file, fsync, rename)."""
        write_result(Path(path), self.to_bytes())

    def member(self, mode: str | None, device: Conditions, name: str = "the family") -> Member:
        """The member for a mode on a device as it is now.

        Where the family knows the device under other conditions only, that member, first one that is run another way
        on the same device: whoever uses it is told by what holds conditions against each other.

        Args:
            name: what errors call the family.

        Raises:
            UsageError: the family has no such mode, or several and none is named.
            BadFile: it was made for other devices.
        """
        found = self.of_mode(mode, name)
        if len(found) == 1:
            return found[0]
        exact = [member for member in found if not mismatches(member.conditions, device)]
        same = [member for member in found if same_device(member.conditions, device)]
        alike = [member for member in found if member.conditions.device_model == device.device_model]
        for fitting in (exact, same, alike):
            if len(fitting) == 1:
                return fitting[0]
        there = "; ".join(labels([member.conditions for member in found]))
        raise BadFile(
            f"{name} was made for {there}, and none of these is {device.device_model} as it is now",
            hint="select again with this device's --latency-table, or name the member's own table with --table",
            details={"devices": [member.conditions.device_model for member in found]},
        )

    def of_mode(self, mode: str | None, name: str = "the family") -> list[Member]:
        """The members for a mode, one a device; raises UsageError as `member`."""
        known = ", ".join(self.modes)
        if mode is None and len(self.modes) > 1:
            raise UsageError(f"{name} has the modes {known}", hint="choose one with --mode NAME")
        if mode is not None and mode not in self.modes:
            said = f"it has: {known}" if known else "leave --mode out: it has one budget only"
            raise UsageError(f"{name} has no mode {mode[:80]!r}", hint=said)
        return [member for member in self.members if mode in (None, member.mode)]

    def member_of_table(self, mode: str | None, sha256: str, name: str = "the family") -> Member:
        """The member for a mode that was chosen with this latency table; raises as `member`, BadFile for none."""
        found = [m for m in self.members if m.selection.inputs.get("latency-table") == sha256]
        if not found:
            raise BadFile(
                f"no member of {name} was made with this latency table, or it changed since",
                hint="select again with this table, or name one it was made with",
            )
        return Family(tuple(found)).member(mode, found[0].conditions, name)

    # -- reading --------------------------------------------------------------------------------
    @classmethod
    def from_bytes(cls, data: bytes, name: str, space: Space | None = None) -> Self:
        """Read a file's bytes; `name` is what errors call them, `space` is looked up by name where it is not given.

        Raises:
            BadFile: it is no family of a version this ofa-edge reads.
        """
        try:
            if len(data) > MAX_FILE_BYTES:
                raise ValueError(f"larger than {MAX_FILE_BYTES} bytes")
            _require_few_values(data)
            return cls._parse(strict_json.loads(data), space)
        except (ValueError, UsageError, BadFile) as error:
            raise BadFile(
                f"{name} is not a family of selections of this version: {_said(error)}",
                hint="make one with `ofa-edge select --mode NAME:BUDGET ... --out FILE`",
            ) from error

    @classmethod
    def _parse(cls, value: Any, space: Space | None) -> Self:
        """Raises ValueError, UsageError or BadFile, naming what is wrong."""
        if not isinstance(value, dict) or value.get("schema") != SCHEMA:
            raise ValueError("it does not say that it is one")
        minor = selections.minor_version(value.get("version"), VERSION)
        kinds: dict[str, type] = {"schema": str, "version": str, "space": str, "common": bool, "members": list}
        fields = selections.typed(value, kinds, "", strict=minor <= VERSION[1])
        if len(fields["members"]) > MAX_MEMBERS:
            raise ValueError(f"it has {len(fields['members'])} members")
        members = []
        for number, one in enumerate(fields["members"]):
            try:
                members.append(_member(one, space))
            except (ValueError, UsageError, BadFile) as error:
                raise ValueError(f"members[{number}]: {_said(error)}") from error
        found = cls(tuple(members), fields["common"])
        if found.space.name != fields["space"]:
            raise ValueError(f"its members are of space {found.space.name}, not of {fields['space']}")
        return found


def is_one(start: bytes) -> bool:
    """Whether a file with these first bytes is meant to be a selection's or a family's."""
    return b"".join(start.split()).startswith(b'{"schema":"selection')


def read(path: Path | str, space: Space | None = None) -> Selection | Family:
    """Read a file that `select --out` wrote: a selection's or a family's.

    Raises:
        UsageError: it cannot be opened.
        BadFile: it is neither, of a version this ofa-edge reads.
    """
    data = read_bytes(path, MAX_FILE_BYTES + 1)
    try:
        _require_few_values(data)
        value = strict_json.loads(data)
    except ValueError:
        value = None
    if isinstance(value, dict) and value.get("schema") == SCHEMA:
        return Family.from_bytes(data, str(path), space)
    return Selection.from_bytes(data, str(path), space)


def _require_few_values(data: bytes) -> None:
    """Raises ValueError. A value is followed by a comma or an end; a comma within a text is one too many."""
    if (values := sum(map(data.count, (b",", b"]", b"}")))) > MAX_VALUES:
        raise ValueError(f"it holds {values:,} values, of {MAX_VALUES:,} at most")


def _member(value: Any, space: Space | None) -> Member:
    kinds: dict[str, type] = {"device": str, "conditions": dict, "selection": dict}
    if isinstance(value, dict) and value.get("mode") is not None:
        kinds["mode"] = str
    elif isinstance(value, dict):
        value = {name: item for name, item in value.items() if name != "mode"}
    fields = selections.typed(value, kinds, "")
    if "mode" in fields:
        _require_name(fields["mode"])
    if len(strict_json.dumps(fields["conditions"])) > _MOST_CONDITIONS:
        raise ValueError("its conditions are longer than any device's")
    conditions = Conditions.model_validate(fields["conditions"])
    if conditions.device_model != fields["device"]:
        raise ValueError("device is not the one of its conditions")
    return Member(fields.get("mode"), conditions, selections.parse(fields["selection"], space))


def _same(one: Member, other: Member) -> bool:
    """Whether two members are for the same; conditions that nobody knows are told apart by their table."""
    tables = {member.selection.inputs.get("latency-table") for member in (one, other)}
    known = UNKNOWN not in one.conditions.model_dump().values()
    return one.mode == other.mode and one.conditions == other.conditions and (known or len(tables) == 1)


def _said(error: Exception) -> str:
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_input=False)[0]
        return f"{'.'.join(map(str, first['loc']))}: {first['msg']}"
    return str(error)
