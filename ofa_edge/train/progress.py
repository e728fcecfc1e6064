"""News of a run in training, step by step."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ofa_edge.errors import OfaEdgeError


@dataclass(frozen=True, slots=True)
class Progress:
    """One step's news, for whoever shows it."""

    phase: str
    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float
    batch_size: int


def finite(news: Progress) -> Progress:
    """The same news.

    Raises:
        OfaEdgeError: the loss is not finite, so that going on would train nothing.
    """
    if not math.isfinite(news.loss):
        raise OfaEdgeError(
            f"training diverged: the loss is {news.loss} in phase {news.phase}, epoch {news.epoch + 1}, "
            f"step {news.step}",
            hint="start another run with a smaller learning rate",
        )
    return news
