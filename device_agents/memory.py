"""How much memory loading and running a model takes, as the process sees it.

In: two moments of this process. Out: bytes by which the peak of its resident memory grew between them, or None where
the system does not tell. Linux only; memory that the process holds unused and takes again is not seen, so a model is
weighed in a process that has loaded none.
"""

from __future__ import annotations

import re

_STATUS = "/proc/self/status"
_RESET = "/proc/self/clear_refs"


class Growth:
    """Starts when it is made."""

    def __init__(self) -> None:
        """Sets the peak to what is resident now, where the kernel allows it; imports may have needed more before."""
        try:
            with open(_RESET, "w", encoding="ascii") as stream:
                stream.write("5")  # proc(5): reset the peak resident set size
        except OSError:
            pass
        self._before = _peak()

    def bytes(self) -> int | None:
        """The peak since then over the peak then."""
        after = _peak()
        return None if self._before is None or after is None else max(0, after - self._before)


def _peak() -> int | None:
    try:
        with open(_STATUS, encoding="ascii", errors="replace") as stream:
            found = re.search(r"^VmHWM:\s+(\d+) kB$", stream.read(1 << 16), re.M)
    except OSError:
        return None
    return int(found[1]) * 1024 if found else None
