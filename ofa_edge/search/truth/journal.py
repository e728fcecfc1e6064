"""What was measured of shortlisted subnets, kept as it is measured, so that an interrupted check goes on where it was.

In: which images a subnet got right, what a fresh process took. Out: the same, of this run and earlier ones. Rules kept:
a figure is used again only under the same circumstances (checkpoint, images and batch norm; or device, anchor and
effort), whose hash its row carries; rows of others stay and harm nothing; a kill costs the row being written.

    {"record":"header","schema":"truth","version":"1.0","space":"ofa-lite0"}
    {"record":"under","key":"ab12...","what":{"checkpoint":"...","images":"...","bn":"recalibrated",...}}
    {"record":"right","under":"ab12...","arch":{...},"correct":3612,"n":3791,"right":"ffe7..."}   bits, image by image
    {"record":"process","under":"cd34...","arch":{...},"median":5.91,"ratio":1.21,"anchor":4.88,"flags":[]}
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np

from ofa_edge import journal, strict_json
from ofa_edge.errors import BadFile, LockHeld, UsageError
from ofa_edge.latency import stats
from ofa_edge.latency.models.model import Estimate
from ofa_edge.latency.table import DISTURBING
from ofa_edge.latency.trials import ANCHOR_OFF
from ofa_edge.search.truth.posterior import Bools
from ofa_edge.space import codecs
from ofa_edge.space.arch import Arch, Space
from ofa_edge.space.spaces import own_definition

FORMAT = journal.Format("truth", (1, 0), frozenset({"under", "right", "process"}))

# Undisturbed processes that are enough to leave the others out: the median of three bears a bad one.
_ENOUGH = 3

_HINT = "remove it, and what it holds is measured again"


@dataclass(frozen=True, slots=True)
class Process:
    """What one fresh process took in ms: its median, and its ratio to the anchor; None where there was no anchor."""

    median: float
    ratio: float | None = None
    anchor: float | None = None
    flags: tuple[str, ...] = ()

    @property
    def disturbed(self) -> bool:
        return ANCHOR_OFF in self.flags or not DISTURBING.isdisjoint(self.flags)


def undisturbed(processes: Sequence[Process]) -> Sequence[Process] | None:
    """Those that were not disturbed; None where these are too few to go by."""
    quiet = [process for process in processes if not process.disturbed]
    return quiet if len(quiet) >= _ENOUGH or 2 * len(quiet) >= len(processes) > 0 else None


def latency_of(processes: Sequence[Process], reference_ms: float | None) -> Estimate:
    """The median over processes, in ms: of ratios times the anchor's reference, raw where there is none.

    Disturbed processes are left out where enough others are there. With fewer than six processes the interval is from
    the least to the greatest (it covers 94 % for five); unknown for one.
    """
    used = undisturbed(processes) or processes
    ratios = [process.ratio for process in used if process.ratio is not None]
    if reference_ms is not None and len(ratios) == len(used):
        values = [ratio * reference_ms for ratio in ratios]
    else:
        values = [process.median for process in used]
    low, high = stats.median_interval(values) or (min(values), max(values))
    return Estimate(float(np.median(values)), *((low, high) if len(values) > 1 else (None, None)))


class TruthJournal:
    """The journal of one space; made by `open`, used as a context manager."""

    def __init__(self, space: Space, path: Path, writer: journal.Writer, rows: Sequence[Mapping[str, Any]]):
        self.path = path
        self._space = space
        self._writer = writer
        self._known: set[str] = set()
        self._right: dict[tuple[str, Arch], Bools] = {}
        self._processes: defaultdict[tuple[str, Arch], list[Process]] = defaultdict(list)
        for row in rows:
            self._take(row)

    @classmethod
    def open(cls, path: Path, space: Space) -> TruthJournal:
        """Go on with a journal, or begin it.

        Raises:
            BadFile: it is damaged, or of another space.
            LockHeld: another process is writing it.
        """
        header = {"space": space.name, "definition": own_definition(space)}

        def accept(contents: journal.Contents) -> None:
            if any(contents.header.get(key) != value for key, value in header.items()):
                raise BadFile(f"{path} is of space {contents.header.get('space')}, not of {space.name}", hint=_HINT)

        try:
            contents, writer = journal.Writer.resume(path, FORMAT, header, accept)
        except LockHeld as error:
            error.hint = "wait until the other `ofa-edge select` has measured"
            raise
        try:
            return cls(space, path, writer, contents.rows)
        except (KeyError, TypeError, ValueError, OverflowError, UsageError, BadFile) as error:
            writer.close()
            raise BadFile(f"{path} holds a row that is none: {error}"[:300], hint=_HINT) from error
        except BaseException:
            writer.close()
            raise

    def under(self, **what: Any) -> str:
        """The key of these circumstances, which are written down once."""
        key = strict_json.sha256(what)[:16]
        if key not in self._known:
            self._append("under", {"key": key, "what": what})
        return key

    @property
    def measured(self) -> int:
        """How many measurements it holds."""
        return len(self._right) + sum(map(len, self._processes.values()))

    def right(self, under: str, arch: Arch) -> Bools | None:
        """(n,) which images it got right, None where that is not known."""
        return self._right.get((under, arch))

    def add_right(self, under: str, arch: Arch, right: Bools) -> None:
        self._append(
            "right",
            {
                "under": under,
                "arch": codecs.encode(self._space, arch),
                "correct": int(right.sum()),
                "n": len(right),
                "right": np.packbits(right).tobytes().hex(),
            },
        )

    def processes(self, under: str, arch: Arch) -> Sequence[Process]:
        return self._processes.get((under, arch), ())

    def add_process(self, under: str, arch: Arch, process: Process) -> None:
        figures = {"median": process.median, "ratio": process.ratio, "anchor": process.anchor}
        row = {"under": under, "arch": codecs.encode(self._space, arch), **figures, "flags": list(process.flags)}
        self._append("process", row)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._writer.close()

    def _append(self, record: str, row: Mapping[str, Any]) -> None:
        self._writer.append(record, row)
        self._take({"record": record, **row})

    def _take(self, row: Mapping[str, Any]) -> None:
        """Raises KeyError, TypeError, ValueError or UsageError where the row is none."""
        if row["record"] == "under":
            self._known.add(row["key"])
            return
        key = row["under"], codecs.decode(self._space, row["arch"])
        if row["record"] == "right":
            n = int(row["n"])
            packed = np.frombuffer(bytes.fromhex(row["right"]), np.uint8)
            if n < 1 or len(packed) != -(-n // 8):
                raise ValueError(f"it does not hold {n} images")
            right = np.unpackbits(packed, count=n).astype(bool)
            if right.sum() != row["correct"]:
                raise ValueError(f"it does not hold {row['correct']} right of {n}")
            self._right[key] = right
        else:
            ratio, anchor = (None if row[name] is None else _positive(row[name]) for name in ("ratio", "anchor"))
            flags = tuple(map(str, row["flags"]))
            self._processes[key].append(Process(_positive(row["median"]), ratio, anchor, flags))


def _positive(value: Any) -> float:
    if not float(value) > 0:
        raise ValueError(f"{value} ms is no time")
    return float(value)
