"""The rows of a campaign, as it writes them: each in the file before the next result is waited for.

In: results of a device, in the order they come. Out: rows of latency/table.py; those of blocks and sentinels also stay
in memory, because later rounds are planned from them. Rules kept: a row says in which session it was measured and when;
a block keeps what went on beside it only where that raised a flag (there are thousands of them, and the sentinels
between them tell the rest); floats are rounded to a tenth of a nanosecond, which keeps their order and makes the file a
third smaller.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any

from device_agents import wire
from ofa_edge import journal

Row = dict[str, Any]


def begin_session(writer: journal.Writer, facts: wire.Facts) -> None:
    """The row that a session of measuring begins with."""
    writer.append("session", {"start": datetime.now(UTC).isoformat(timespec="seconds"), "facts": wire.to_wire(facts)})


class Rows:
    """What a campaign adds to its table.

    Attributes:
        blocks, sentinels: rows of the whole table, those of earlier sessions among them.
        round: that measurements are made in now.
    """

    def __init__(self, writer: journal.Writer, before: journal.Contents, clock: Callable[[], float]):
        self.blocks = before.of("block")
        self.sentinels = before.of("sentinel")
        self.round = 0
        self._writer = writer
        self._clock = clock
        self._session = len(before.of("session")) - 1
        self._began = clock()

    def begin_session(self, facts: wire.Facts) -> None:
        """From here on rows are of a new session."""
        self._session += 1
        self._began = self._clock()
        begin_session(self._writer, facts)

    def block(self, measured: wire.Measured) -> None:
        row = self._timed(measured)
        if not measured.flags:
            del row["noise"]
        self.blocks.append(row)
        self._writer.append("block", row)

    def sentinel(self, measured: wire.Measured) -> None:
        row = self._timed(measured)
        self.sentinels.append(row)
        self._writer.append("sentinel", row)

    def network(self, measured: wire.Measured, *, role: str, arch: Mapping[str, Any]) -> None:
        fields = wire.to_wire(measured)
        nested = {name: _rounded(fields.pop(name)) for name in ("figures", "anchor", "ratio", "noise")}
        row = {"key": fields.pop("key"), **self._when(), **nested, **(_rounded(fields) or {})}
        self._writer.append("network", {**row, "role": role, "arch": arch, "round": self.round})

    def failed(self, failed: wire.Failed) -> None:
        self._writer.append("failed", {"key": failed.key, **self._when(), "reason": failed.reason})

    def sustained(self, sample: Mapping[str, Any]) -> None:
        self._writer.append("sustained", {"session": self._session, **(_rounded(sample) or {})})

    def predicted(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Fields key, median, error, of blocks that are not measured."""
        for row in rows:
            self._writer.append("predicted", row)

    def _timed(self, measured: wire.Measured) -> Row:
        """Of a block: its figures are the row's own."""
        fields = wire.to_wire(measured)
        for name in ("anchor", "ratio", "peak_bytes"):
            del fields[name]
        figures, noise = _rounded(fields.pop("figures")) or {}, _rounded(fields.pop("noise"))
        row = {"key": fields.pop("key"), **self._when(), **figures, **(_rounded(fields) or {})}
        return {**row, "noise": noise, "round": self.round}

    def _when(self) -> Row:
        return {"session": self._session, "at": round(self._clock() - self._began, 3)}


def _rounded(value: Mapping[str, Any] | None) -> Row | None:
    if value is None:
        return None
    return {key: round(item, 7) if isinstance(item, float) else item for key, item in value.items()}
