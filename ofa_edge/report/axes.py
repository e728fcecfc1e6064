"""Axes: where a value stands on a figure, and which values are written beside it.

In: the range of the data, the pixels there are. Out: `Axis` and `Frame`. Rules kept: ticks are round numbers inside the
range; as many as their texts have room for, so that no two overlap; a range is never empty, so a table of one point
draws too; latencies that range over more than a factor of twenty are drawn on a logarithmic axis.
"""

from __future__ import annotations

import math
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from ofa_edge.report.markup import Markup, element, number

# Width of a character of the page's 12 px type, on average and rounded up; heights of a line.
CHARACTER = 6.8
LINE = 15.0

_STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)
_LOG_FROM = 20.0  # a ratio of the greatest to the least value
_PADDING = 0.05
_ABSURD = 1e15  # of whatever unit; keeps infinities and NaN out too
LEAST_RATIO = 1e-9  # of a value that a logarithmic axis shows to the greatest


def width_of(text: str) -> float:
    """Pixels that a text needs at most, at 12 px; characters of the East are twice as wide."""
    return CHARACTER * sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


@dataclass(frozen=True, slots=True)
class Axis:
    """A range of values with its ticks.

    Attributes:
        low, high: ends; low < high.
        ticks, texts: values that are written, rising, and how.
        label: what is measured, with its unit.
    """

    low: float
    high: float
    ticks: tuple[float, ...]
    texts: tuple[str, ...]
    label: str
    log: bool = False

    def share(self, value: float) -> float:
        """Where a value stands: 0 at the low end, 1 at the high one; values beyond them at the ends."""
        if self.log:
            value, low, high = math.log(max(value, self.low)), math.log(self.low), math.log(self.high)
        else:
            low, high = self.low, self.high
        return min(1.0, max(0.0, (value - low) / (high - low)))


def axis(values: Iterable[float], label: str, pixels: float, *, upright: bool = False) -> Axis:
    """An axis over these values.

    Args:
        pixels: its length.
        upright: its texts stand above each other, not side by side.
    """
    finite = [v for v in values if abs(v) < _ABSURD] or [0.0, 1.0]
    low, high = min(finite), max(finite)
    if low > 0 and high / low > _LOG_FROM and not upright:
        return _log_axis(low, high, label, pixels)
    room = (high - low) * _PADDING or abs(high) * _PADDING or 1.0
    low, high = low - room, high + room
    for most in range(_most(pixels, upright), 1, -1):
        ticks = nice_ticks(low, high, most)
        texts = tick_texts(ticks)
        if upright or _fit(texts, pixels / (high - low) * (ticks[1] - ticks[0] if len(ticks) > 1 else high - low)):
            break
    return Axis(low, high, ticks, texts, label)


def nice_ticks(low: float, high: float, most: int) -> tuple[float, ...]:
    """At most so many round values within low..high, evenly spaced; at least one."""
    rough = (high - low) / max(1, most)
    power = 10.0 ** math.floor(math.log10(rough))
    for step in (s * p for p in (power, power * 10) for s in _STEPS):
        first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
        if 1 <= last - first + 1 <= most:
            return tuple(float(f"{i * step:.12g}") for i in range(first, last + 1))
    return (float(f"{(low + high) / 2:.3g}"),)


def tick_texts(ticks: Sequence[float]) -> tuple[str, ...]:
    """As few decimals as tell all ticks apart, and the same number for all; thousands and millions by letter."""
    greatest = max((abs(t) for t in ticks), default=0.0)
    for least, divisor, unit in ((1e6, 1e6, "M"), (1e4, 1e3, "k"), (0.0, 1.0, "")):
        scaled = [t / divisor for t in ticks]
        if greatest >= least:
            for digits in range(4 if unit else 10):
                if all(abs(round(t, digits) - t) <= 1e-9 * max(1.0, abs(t)) for t in scaled):
                    return tuple(f"{t:.{digits}f}{unit}" for t in scaled)
    return tuple(f"{t:.9g}" for t in ticks)


def _most(pixels: float, upright: bool) -> int:
    return max(2, min(8, int(pixels / (2.3 * LINE if upright else 4 * CHARACTER))))


def _fit(texts: Sequence[str], apart: float) -> bool:
    return all(width_of(text) + CHARACTER <= apart for text in texts)


def _log_axis(low: float, high: float, label: str, pixels: float) -> Axis:
    low = max(low, high * LEAST_RATIO)
    room = (high / low) ** _PADDING
    low, high = low / room, high * room
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    shown: list[tuple[float, str]] = []
    for steps in ((1, 2, 5), (1, 3), (1,)):
        ticks = [float(f"{s}e{d}") for d in decades for s in steps if low <= float(f"{s}e{d}") <= high]
        shown = _apart([(t, f"{t:g}" if 1e-4 < t < 1e6 else f"{t:.0e}") for t in ticks], low, high, pixels)
        if len(shown) == len(ticks):
            break
    return Axis(low, high, tuple(t for t, _ in shown), tuple(text for _, text in shown), label, log=True)


def _apart(ticks: Sequence[tuple[float, str]], low: float, high: float, pixels: float) -> list[tuple[float, str]]:
    """Of ticks on a logarithmic axis those whose texts do not touch the one before."""
    shown: list[tuple[float, str]] = []
    for tick, text in ticks:
        if shown:
            before, its_text = shown[-1]
            gap = pixels * math.log(tick / before) / math.log(high / low)
            if gap < (width_of(text) + width_of(its_text)) / 2 + CHARACTER:
                continue
        shown.append((tick, text))
    return shown


@dataclass(frozen=True, slots=True)
class Frame:
    """A figure's plane: its size in pixels, the margins around the data, an axis each way."""

    width: float
    height: float
    left: float
    right: float
    top: float
    bottom: float
    x: Axis
    y: Axis

    @classmethod
    def of(
        cls,
        width: float,
        height: float,
        xs: Iterable[float],
        ys: Iterable[float],
        labels: tuple[str, str],
        *,
        zero: bool = False,
    ) -> Frame:
        """A frame around data: its left margin is as wide as the texts there are long.

        Args:
            labels: of the x and y axis.
            zero: the y axis holds 0.
        """
        top, bottom, right = 24.0, 40.0, 12.0
        y = axis([*ys, 0.0] if zero else ys, labels[1], height - top - bottom, upright=True)
        left = max(map(width_of, y.texts), default=0.0) + 10.0
        x = axis(xs, labels[0], width - left - right)
        return cls(width, height, left, right, top, bottom, x, y)

    def with_names(self, names: Sequence[str], label: str) -> Frame:
        """The same frame with names in the middles of equal parts of its x axis, every other one where all would not
        fit side by side, and so on."""
        pixels = (self.width - self.left - self.right) / len(names)
        every = 1
        while every < len(names) and max(map(width_of, names)) + CHARACTER > pixels * every:
            every *= 2
        shown = range(0, len(names), every)
        ticks = tuple(i + 0.5 for i in shown)
        x = Axis(0.0, float(len(names)), ticks, tuple(names[i] for i in shown), label)
        return replace(self, x=x)

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Pixels of a point, from the figure's upper left corner."""
        return self.px(x), self.py(y)

    def px(self, x: float) -> float:
        return self.left + (self.width - self.left - self.right) * self.x.share(x)

    def py(self, y: float) -> float:
        return self.height - self.bottom - (self.height - self.top - self.bottom) * self.y.share(y)

    def draw(self) -> Markup:
        """Grid, ticks and labels."""
        bottom, right = self.height - self.bottom, self.width - self.right
        grid = "".join(f"M{number(self.left)} {number(self.py(t))}H{number(right)}" for t in self.y.ticks)
        marks = "".join(f"M{number(self.px(t))} {number(bottom)}v4" for t in self.x.ticks)
        parts = [
            element("path", {"class": "g", "d": grid}),
            element("path", {"class": "a", "d": f"M{number(self.left)} {number(bottom)}H{number(right)}{marks}"}),
            element("text", {"class": "t", "x": 0, "y": 11}, self.y.label),
            element("text", {"class": "t e", "x": right, "y": self.height - 4}, self.x.label),
        ]
        parts += [
            element("text", {"class": "t e", "x": self.left - 6, "y": self.py(t) + 4}, text)
            for t, text in zip(self.y.ticks, self.y.texts, strict=True)
        ]
        parts += [
            element("text", {"class": "t m", "x": self.px(t), "y": bottom + 17}, text)
            for t, text in zip(self.x.ticks, self.x.texts, strict=True)
        ]
        return element("g", {"aria-hidden": "true"}, *parts)
