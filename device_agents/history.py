"""What an app's journal says: which release runs, which ran before, and whether a deployment is half done.

In: the records of journal.jsonl, oldest first. Out: a History; pure, no IO. A deployment is written as

    begin      the release to come, and `from`, the one that was current
    trial      it is about to be tried: a device that dies now has a failed trial in its journal
    switching  the trial passed, `current` is about to move
    committed  `current` was checked: the deployment is over, `from` has become the previous release
    rolled-back | (instead of committed) `from` is current again, with the reason

`refused` stands alone; `mode` and `signed` may stand anywhere: the mode of the current release was changed, the
signature of a release came or became another. Rules kept:
- `current` may differ from the last committed release only between switching and the end of a deployment.
- A deployment without an end was interrupted: whoever comes next ends it (slots.recover) before it begins.
- Trials of a release count until it is committed: the third that failed is the last (the loop guard). One
  that the host itself gave up ("blame": false) says nothing about the release and does not count.
- A name in a journal is a name: it never holds a path.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any

# Apps, releases and files: lower case, so that no two of them meet on a case-blind file system.
NAME = r"[a-z0-9][a-z0-9._-]{0,63}"

BEGIN, TRIAL, SWITCHING = "begin", "trial", "switching"
COMMITTED, ROLLED_BACK, REFUSED = "committed", "rolled-back", "refused"
MODE, SIGNED = "mode", "signed"
EVENTS = (BEGIN, TRIAL, SWITCHING, COMMITTED, ROLLED_BACK, REFUSED, MODE, SIGNED)
MODES_KEPT = 50  # in a journal that is shortened: a device may change its mode every minute

Record = dict[str, Any]


@dataclass(frozen=True)
class Unfinished:
    """A deployment that has begun: `origin` was current then (None: nothing was), `step` is its last event."""

    release: str
    origin: str | None
    kind: str
    step: str

    def as_json(self) -> Record:
        return {"release": self.release, "from": self.origin, "kind": self.kind, "step": self.step}


@dataclass(frozen=True)
class History:
    """Attributes:
    committed: the record of the last commit, None before the first.
    previous: the release that was current before the committed one.
    unfinished: the deployment under way, if any.
    trials: trials of each release since its last commit.
    """

    committed: Record | None = None
    previous: str | None = None
    unfinished: Unfinished | None = None
    trials: dict[str, int] = field(default_factory=dict)

    def before(self, current: str | None) -> str | None:
        """What ran before `current`; where that was changed by hand, what was committed last."""
        if self.committed is None or self.committed["release"] == current:
            return self.previous
        return str(self.committed["release"])


def read(records: list[Record]) -> History:
    """Replay the records.

    Raises:
        ValueError: a record that no agent of this version writes, or a release in it that is not a plain name.
    """
    committed: Record | None = None
    unfinished: Unfinished | None = None
    trials: dict[str, int] = {}
    for record in records:
        event, release = record.get("event"), _name(record.get("release"))
        if event not in EVENTS:
            raise ValueError(f"unknown record {str(event)[:40]!r}")
        if event == BEGIN:
            unfinished = Unfinished(release, _name_or_none(record.get("from")), str(record.get("kind")), BEGIN)
        elif event in (TRIAL, SWITCHING) and unfinished is not None:
            unfinished = Unfinished(unfinished.release, unfinished.origin, unfinished.kind, event)
            if event == TRIAL:
                trials[release] = trials.get(release, 0) + 1
        elif event == COMMITTED:
            committed, unfinished = record, None
            trials.pop(release, None)
        elif event == ROLLED_BACK:
            if unfinished is not None and unfinished.step != BEGIN and record.get("blame") is False:
                trials[release] = max(0, trials.get(release, 0) - 1)
            unfinished = None
    previous = _name_or_none(committed.get("previous")) if committed else None
    return History(committed, previous, unfinished, trials)


def last(records: list[Record]) -> Record:
    """The newest record of a deployment; an empty one where there is none."""
    return next((record for record in reversed(records) if record["event"] not in (MODE, SIGNED)), {})


def compact(records: list[Record], keep: int) -> list[Record]:
    """The newest `keep` records, and before them the last commit where it is older; where a deployment has not
    ended, `keep` must be all.

    Of the changes of mode only the newest stay, so that they push no outcome of a deployment out.
    """
    modes = [number for number, record in enumerate(records) if record["event"] == MODE]
    gone = set(modes[:-MODES_KEPT])
    records = [record for number, record in enumerate(records) if number not in gone]
    tail = records[-keep:]
    if any(record["event"] == COMMITTED for record in tail):
        return tail
    older = [record for record in records[:-keep] if record["event"] == COMMITTED]
    return older[-1:] + tail


def _name(value: object) -> str:
    if not isinstance(value, str) or not re.fullmatch(NAME, value):
        raise ValueError(f"{str(value)[:40]!r} is not the name of a release")
    return value


def _name_or_none(value: object) -> str | None:
    return None if value is None else _name(value)
