"""Waiting until a device is quiet again, so that what was disturbed is not measured again in the same disturbance.

In: results of the campaign, a way to measure its sentinel, a clock and a way to pause. Out: whether it became quiet.
Rules kept: the device decides (the sentinel is back at its level, nothing is flagged, what was throttled is cooler),
a wait and all waits of a campaign together are bounded, and the looks in between are no rows of the table.
"""

from __future__ import annotations

import statistics
from collections import deque
from collections.abc import Callable

from device_agents import wire
from ofa_edge.latency.table import DISTURBING

# A quiet sentinel is within this of its level: the blocks' own +-2 %, and the drift of a quiet machine.
QUIET_LEVEL = 0.05
# And this much cooler than where it throttled: firmware lets go of its limits 2-5 C below them.
COOLER_C = 5.0
# Seconds that one wait may take (a passively cooled board loses most of its heat in one or two minutes), and all.
MOST_SECONDS = 90.0
MOST_TOGETHER = 300.0
# Pauses between two looks double from the first to the last of these.
_FIRST_PAUSE, _LAST_PAUSE = 1.0, 15.0
_LEVEL_OF = 15  # sentinels


class Quiet:
    """Knows from the results so far how a quiet device looks.

    Args:
        look: measures the sentinel.
        clock: monotonic seconds.
        pause: lets that many of them pass.
        together: seconds that all waits may take; 0 for a device that is to stay warm.

    Attributes:
        waited: seconds so far.
    """

    def __init__(
        self,
        look: Callable[[], wire.Measured | wire.Failed],
        clock: Callable[[], float],
        pause: Callable[[float], None],
        together: float = MOST_TOGETHER,
    ):
        self._look = look
        self._clock = clock
        self._pause = pause
        self._together = together
        self._level: deque[float] = deque(maxlen=_LEVEL_OF)
        self._hot: float | None = None
        self.waited = 0.0

    def saw(self, result: wire.Measured, *, sentinel: bool) -> None:
        """Learn from a row: undisturbed sentinels give the level, throttled results the temperature of it."""
        flags = set(result.flags)
        if sentinel and DISTURBING.isdisjoint(flags):
            self._level.append(result.figures.median)
        temperature = result.noise.temperature_c
        if "throttled" in flags and temperature is not None:
            self._hot = temperature if self._hot is None else min(self._hot, temperature)

    def wait(self, deadline: float | None = None) -> bool:
        """Look until it is quiet; False where the time was over before.

        Args:
            deadline: on the clock, beside the limits of this module.
        """
        began = self._clock()
        end = began + min(MOST_SECONDS, max(0.0, self._together - self.waited))
        end = end if deadline is None else min(end, deadline)
        if end <= began:
            return False
        pause = _FIRST_PAUSE
        quiet = self._is_quiet(self._look())
        while not quiet and (left := end - self._clock()) > 0:
            self._pause(min(pause, left))
            pause = min(2 * pause, _LAST_PAUSE)
            quiet = self._is_quiet(self._look())
        self.waited += self._clock() - began
        return quiet

    def _is_quiet(self, result: wire.Measured | wire.Failed) -> bool:
        if isinstance(result, wire.Failed) or not DISTURBING.isdisjoint(result.flags):
            return False
        if self._level and result.figures.median > (1 + QUIET_LEVEL) * statistics.median(self._level):
            return False
        temperature = result.noise.temperature_c
        return self._hot is None or temperature is None or temperature <= self._hot - COOLER_C
