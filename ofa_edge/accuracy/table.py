"""The accuracy table: how many images of one data set each measured subnet of one checkpoint gets right.

In: a journal (ofa_edge.journal) of schema `accuracy-table`, or rows as they are measured. Out: an
`AccuracyTable` with a DataFrame, or a journal that grows row by row and can be resumed.

    {"record":"header","schema":"accuracy-table",...,"space","checkpoint","data","bn","preprocess","seed"}
    {"record":"subnet","arch":{"r","d","ks","e"},"correct":934,"n":1000,"low":0.9169,"high":0.9478}
    {"record":"failed","arch":{...},"reason":"..."}
    {"record":"end",...}

Rules kept: low and high are the Wilson 95 % interval of correct of n, so they speak about other images of the
same kind; all rows share one checkpoint, data set, BN source and preprocessing, and a journal is only resumed
under the same; a subnet is measured once. A failed subnet is tried again when the table is resumed, and
counts as failed only while no `subnet` row follows. Unknown fields survive.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import NormalDist
from typing import Annotated, Any, Literal, Self

import pandas as pd
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from ofa_edge import journal
from ofa_edge.errors import BadFile, UsageError
from ofa_edge.space import codecs
from ofa_edge.space.arch import Arch, Space
from ofa_edge.space.spaces import named, own_definition

FORMAT = journal.Format("accuracy-table", (1, 0), frozenset({"subnet", "failed"}))

# What an imported table says of the checkpoint and the batch-norm statistics it was measured with.
UNKNOWN = "unknown"
COLUMNS = ("arch", "resolution", "correct", "n", "top1", "low", "high")

_Text = Annotated[str, Field(min_length=1, max_length=2000)]


def _per_channel(value: Any) -> Any:
    """One number, or a list of one for each of three channels (a union's error would name its branches)."""
    for number in value if isinstance(value, list) and len(value) == 3 else [value]:
        if not isinstance(number, (int, float)) or isinstance(number, bool):
            raise ValueError("must be a number, or a list of three")
    return value


PerChannel = Annotated[Any, BeforeValidator(_per_channel)]


class PreprocessFields(BaseModel):
    """`space.Preprocess` as the header writes it."""

    model_config = ConfigDict(frozen=True, extra="allow", strict=True)

    mean: PerChannel
    std: PerChannel
    crop: float


class AccuracyHeader(BaseModel):
    """What every row of a table has in common.

    Attributes:
        space: name of the Space.
        checkpoint: hex sha256 of the supernet's file; 'unknown' in an imported table.
        data: the images in words: set, split, how many, what was left out.
        bn: where the batch-norm statistics came from.
        preprocess: how images became inputs.
        seed: of the subnets and images drawn.
        definition: of a space that is none of the built-in ones.
    """

    model_config = ConfigDict(frozen=True, extra="allow", strict=True)

    space: _Text
    checkpoint: Annotated[str, Field(pattern="^([0-9a-f]{64}|unknown)$")]
    data: _Text
    bn: Literal["bank", "recalibrated", "running", "unknown"]
    preprocess: PreprocessFields
    seed: Annotated[int, Field(ge=0)]
    definition: dict[str, Any] | None = None

    @classmethod
    def of(cls, space: Space, *, checkpoint: str, data: str, bn: str, seed: int, **more: Any) -> AccuracyHeader:
        """The header of tables of this space; `more` are further JSON-able fields, kept as they are."""
        fields = {"space": space.name, "checkpoint": checkpoint, "data": data, "bn": bn, "seed": seed, **more}
        fields |= {"preprocess": space.preprocess.as_json(), "definition": own_definition(space)}
        return cls.model_validate(fields)

    def as_json(self) -> dict[str, Any]:
        """As the journal holds it."""
        return self.model_dump(mode="json", exclude_none=True)

    @property
    def conditions(self) -> dict[str, Any]:
        """What must be equal for rows to stand in one table: every field, further ones too, but `provenance`."""
        return {name: value for name, value in self.as_json().items() if name != "provenance"}

    def require_same(self, asked: AccuracyHeader, name: str) -> None:
        """Raises BadFile, naming the key and both values, where rows under `asked` may not stand in this table."""
        here, other = self.conditions, asked.conditions
        for key in sorted(here.keys() & other.keys()):
            if here[key] != other[key]:
                raise BadFile(
                    f"{name} was measured with {key} {here[key]!r}, not {other[key]!r}",
                    hint="run with the same settings, or write another file with --out",
                    details={"key": key, "file": str(here[key]), "asked": str(other[key])},
                )


@dataclass(frozen=True, slots=True, eq=False)
class AccuracyTable:
    """A table as read.

    Attributes:
        frame: one row per measured subnet with COLUMNS; `arch` holds Arch values, top1, low and high shares.
        failed: reason of each subnet that has none.
        complete: the file ends as `finish` leaves it.
        sha256: hex digest of the file.
    """

    header: AccuracyHeader
    space: Space
    frame: pd.DataFrame
    failed: Mapping[Arch, str]
    complete: bool
    sha256: str

    @classmethod
    def read(cls, path: Path | str, space: Space | None = None) -> AccuracyTable:
        """Read and check a table; `space` is looked up by the header's name where it is not given.

        Raises:
            UsageError: the file cannot be opened, or its space is unknown.
            BadFile: it is no accuracy table, was changed, is of another space, or holds an impossible row.
        """
        return cls.of(journal.read(path, FORMAT), str(path), space)

    @classmethod
    def of(cls, contents: journal.Contents, name: str, space: Space | None = None) -> AccuracyTable:
        """As `read`, for a journal that was read already; `name` is what errors call it."""
        header = _header(contents.header, name)
        space = space or named(header.space, header.definition, name)
        if space.name != header.space:
            raise BadFile(f"{name} is a table of space {header.space}, not of {space.name}", hint="give another table")
        measured: dict[Arch, tuple[Any, ...]] = {}
        failed: dict[Arch, str] = {}
        for number, row in enumerate(contents.rows, 2):
            try:
                arch = codecs.decode(space, _field(row, "arch", dict))
                if row["record"] == "subnet":
                    if arch in measured:
                        raise BadFile("this subnet was measured before")
                    measured[arch] = _row(arch, row)
                    failed.pop(arch, None)
                elif row["record"] == "failed":
                    failed[arch] = _field(row, "reason", str)
            except (UsageError, BadFile) as error:
                raise BadFile(
                    f"{name} line {number}: {error.message}", hint="restore the file or measure again"
                ) from error
        frame = pd.DataFrame(list(measured.values()), columns=list(COLUMNS))
        return cls(header, space, frame, failed, contents.complete, contents.sha256)


class AccuracyWriter:
    """Appends rows to a table's journal; made by `open`, used as a context manager.

    Leaving the context closes the file as it is, ready to be resumed; `finish` says that it is complete.
    """

    def __init__(self, space: Space, writer: journal.Writer, measured: set[Arch]):
        self._space = space
        self._writer = writer
        self._measured = measured

    @classmethod
    def open(cls, path: Path | str, space: Space, header: AccuracyHeader, *, resume: bool = False) -> AccuracyWriter:
        """Start a table, or with `resume` continue one where it exists.

        Raises:
            UsageError: the file exists and `resume` is False.
            BadFile: the file to resume is damaged or was made under other conditions.
            LockHeld: another process is writing it.
        """
        values = header.as_json()
        if not resume:
            return cls(space, journal.Writer.create(path, FORMAT, values), set())

        def read(found: journal.Contents) -> AccuracyTable:
            table = AccuracyTable.of(found, str(path), space)
            table.header.require_same(header, str(path))
            return table

        contents, writer = journal.Writer.resume(path, FORMAT, values, accept=read)
        return cls(space, writer, set(read(contents).frame["arch"]))

    def __contains__(self, arch: Arch) -> bool:
        """Whether this subnet is measured already; failed ones are not."""
        return arch in self._measured

    def __len__(self) -> int:
        """How many subnets are measured."""
        return len(self._measured)

    def add(self, arch: Arch, correct: int, n: int) -> None:
        """Append one measured subnet.

        Raises:
            ValueError: it is in the table already, or not 0 <= correct <= n (a mistake in the caller).
        """
        if arch in self._measured:
            raise ValueError(f"{arch} is in the table already")
        low, high = wilson(correct, n)
        row = {"arch": codecs.encode(self._space, arch), "correct": correct, "n": n, "low": low, "high": high}
        self._writer.append("subnet", row)
        self._measured.add(arch)

    def fail(self, arch: Arch, reason: str) -> None:
        """Append a subnet that could not be measured."""
        self._writer.append("failed", {"arch": codecs.encode(self._space, arch), "reason": reason[:1000]})

    def finish(self) -> None:
        """Write `end` and close."""
        self._writer.finish()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._writer.close()


def wilson(correct: int, n: int, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval of a share (JASA 22, 1927): (low, high) within 0..1.

    Raises:
        ValueError: not 0 <= correct <= n with n > 0.
    """
    if not 0 <= correct <= n or n == 0:
        raise ValueError(f"{correct} of {n} is not a share")
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share = correct / n
    centre = share + z * z / (2 * n)
    half = z * math.sqrt(share * (1 - share) / n + z * z / (4 * n * n))
    scale = 1 + z * z / n
    # The exact ends for none and all right; rounding would leave 1e-17 there.
    return (
        0.0 if correct == 0 else (centre - half) / scale,
        1.0 if correct == n else (centre + half) / scale,
    )


def _header(value: Mapping[str, Any], name: str) -> AccuracyHeader:
    try:
        return AccuracyHeader.model_validate(value)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BadFile(
            f"{name}: header field {where!r}: {first['msg']}", hint="restore the file or measure again"
        ) from None


def _field(row: Mapping[str, Any], key: str, kind: type) -> Any:
    value = row.get(key)
    if type(value) is not kind:  # not isinstance: true and false are ints
        raise BadFile(f"{key!r} must be {_NAMES[kind]}, not {value!r}"[:200])
    return value


_NAMES = {dict: "an object", str: "text", int: "a whole number", float: "a number with a point"}


def _row(arch: Arch, row: Mapping[str, Any]) -> tuple[Any, ...]:
    correct, n = _field(row, "correct", int), _field(row, "n", int)
    low, high = _field(row, "low", float), _field(row, "high", float)
    if not 0 <= correct <= n or n == 0:
        raise BadFile(f"{correct} right of {n} is impossible")
    top1 = correct / n
    if not 0 <= low <= top1 <= high <= 1:
        raise BadFile(f"top-1 {top1:.4f} lies outside its interval {low:.4f}..{high:.4f}")
    return arch, arch.resolution, correct, n, top1, low, high
