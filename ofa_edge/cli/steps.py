"""What a training command says of its steps."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from ofa_edge.cli.output import Output

if TYPE_CHECKING:
    from ofa_edge.train.progress import Progress

# A line is said every so many steps, and at the end of an epoch.
_EVERY = 20


class StepReport:
    """Shows a phase's epoch every few steps: loss, rate, time left in the phase."""

    def __init__(self, out: Output):
        self._out = out
        self._losses: list[float] = []
        self._since = time.monotonic()

    def __call__(self, progress: Progress) -> None:
        self._losses.append(progress.loss)
        if progress.step % _EVERY and progress.step != progress.steps:
            return
        seconds = time.monotonic() - self._since
        left = (progress.epochs - progress.epoch) * progress.steps - progress.step
        rate = len(self._losses) / max(seconds, 1e-9)
        self._out.say(
            f"{progress.phase}: epoch {progress.epoch + 1}/{progress.epochs} step {progress.step}/{progress.steps} "
            f"loss {sum(self._losses) / len(self._losses):.3f}, {rate * progress.batch_size:.0f} images/s, "
            f"{left / rate / 60:.0f} min left in this phase"
        )
        self._losses.clear()
        self._since = time.monotonic()
