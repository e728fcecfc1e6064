"""Figures as inline SVG: marks, lines, bands, points with a text of their own, and what holds them.

In: data and a Frame. Out: Markup. Rules kept: series differ in shape and dashes, not only in colour; a point that says
more than where it stands can be reached with the keyboard, shows its text then and speaks it; a figure has a title and
a description; a figure for wide screens and one for narrow ones are drawn apart, so that its text is legible on both,
and only one of them is on the page that is seen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from ofa_edge.report.axes import LINE, Frame, width_of
from ofa_edge.report.markup import Attributes, Child, Markup, element, joined, number
from ofa_edge.report.style import DASHES, SERIES

WIDE, NARROW = 820.0, 360.0

_MARK = 4.0
_BADGE = 8.5
_HIT = 10.0
_TIP_PADDING = 6.0
# Where a badge may stand, seen from its point, the nearest first.
_PLACES = tuple(
    (dx * reach, dy * reach)
    for reach in (16.0, 26.0, 38.0, 52.0, 70.0)
    for dx, dy in ((-0.7, -0.7), (0.7, 0.7), (0.7, -0.7), (-0.7, 0.7), (0.0, -1.0), (0.0, 1.0), (1.0, 0.0), (-1.0, 0.0))
)


@dataclass(frozen=True, slots=True)
class Point:
    """A point with its intervals.

    Attributes:
        x, y: in the units of the axes.
        series: its colour and shape.
        lines: what it says when it is looked at; without any it cannot be reached.
        x_range, y_range: its intervals; None where unknown.
        hollow: drawn as an outline: a second kind of points in a series.
    """

    x: float
    y: float
    series: int
    lines: tuple[str, ...] = ()
    x_range: tuple[float, float] | None = None
    y_range: tuple[float, float] | None = None
    hollow: bool = False


def figure(caption: Child, *children: Child) -> Markup:
    """A picture with its caption, which stands first: it says how to read what follows."""
    return element("figure", None, element("figcaption", None, caption), *children)


def both(draw: Callable[[float, str], Markup]) -> Markup:
    """What `draw` makes of (pixels, suffix of ids) for wide and for narrow screens."""
    return joined(
        element("div", {"class": name}, draw(pixels, name[0])) for name, pixels in (("wide", WIDE), ("narrow", NARROW))
    )


def svg(ident: str, size: tuple[float, float], title: str, description: str, *children: Child) -> Markup:
    """A picture that is named and described to those who do not see it; its points stay reachable."""
    width, height = size
    content = joined(children)
    return element(
        "svg",
        {
            "viewBox": f"0 0 {number(width)} {number(height)}",
            "role": "group" if 'tabindex="0"' in content else "img",
            "aria-labelledby": f"{ident}-t {ident}-d",
        },
        element("title", {"id": f"{ident}-t"}, title),
        element("desc", {"id": f"{ident}-d"}, description),
        content,
    )


def legend(entries: Sequence[tuple[int, str]], *more: tuple[Markup, str]) -> Markup:
    """What each series is: its line and point as drawn; `more` are other signs of 36 x 16 pixels."""
    signs = [(joined([line_sign(s), mark(s, 18, 8)]), s, text) for s, text in entries]
    found = [_legend_entry(sign, s, text) for sign, s, text in signs]
    found += [_legend_entry(sign, None, text) for sign, text in more]
    return element("ul", {"class": "legend"}, *found)


def _legend_entry(sign: Markup, series: int | None, text: str) -> Markup:
    attributes: Attributes = {"viewBox": "0 0 36 16", "aria-hidden": "true", "class": _series(series)}
    return element("li", None, element("svg", attributes, sign), text)


def line_sign(series: int) -> Markup:
    return element("path", {"class": "l", "d": "M1 8H35", "stroke-dasharray": DASHES[series % SERIES]})


# -- marks ----------------------------------------------------------------------------------------
def mark(series: int, x: float, y: float, *, hollow: bool = False, size: float = _MARK) -> Markup:
    """A point of a series, in pixels: circle, square, triangle, diamond, triangle upside down, pentagon."""
    shape = series % SERIES
    class_ = "o" if hollow else "f"
    if shape == 0:
        return element("circle", {"class": class_, "cx": x, "cy": y, "r": size})
    outlines = {
        1: ((-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)),
        2: ((0, -1.2), (1.1, 0.8), (-1.1, 0.8)),
        3: ((0, -1.3), (1.3, 0), (0, 1.3), (-1.3, 0)),
        4: ((0, 1.2), (1.1, -0.8), (-1.1, -0.8)),
        5: ((0, -1.2), (1.15, -0.35), (0.7, 1), (-0.7, 1), (-1.15, -0.35)),
    }
    corners = "L".join(f"{number(x + dx * size, 1)} {number(y + dy * size, 1)}" for dx, dy in outlines[shape])
    return element("path", {"class": class_, "d": f"M{corners}Z"})


def in_series(series: int, *children: Child) -> Markup:
    """Children in a series' colour."""
    return element("g", {"class": _series(series)}, *children)


def _series(series: int | None) -> str | None:
    return None if series is None else f"s{series % SERIES}"


def whiskers(frame: Frame, point: Point) -> Markup | None:
    """A point's intervals."""
    x, y = frame.at(point.x, point.y)
    path = ""
    if point.x_range is not None:
        path += f"M{number(frame.px(point.x_range[0]), 1)} {number(y, 1)}H{number(frame.px(point.x_range[1]), 1)}"
    if point.y_range is not None:
        path += f"M{number(x, 1)} {number(frame.py(point.y_range[0]), 1)}V{number(frame.py(point.y_range[1]), 1)}"
    return in_series(point.series, element("path", {"class": "w", "d": path})) if path else None


def points(frame: Frame, found: Iterable[Point]) -> Markup:
    """Points with their whiskers; `stops` makes them reachable."""
    found = list(found)
    drawn = [whiskers(frame, point) for point in found]
    drawn += [in_series(p.series, mark(p.series, *frame.at(p.x, p.y), hollow=p.hollow)) for p in found]
    return joined(drawn)


def stops(frame: Frame, found: Iterable[Point]) -> Markup:
    """What of these points can be reached: the last thing in a figure, so that nothing covers what they say."""
    return joined(reachable(frame, frame.at(p.x, p.y), p.lines) for p in found if p.lines)


def reachable(frame: Frame, at: tuple[float, float], lines: Sequence[str]) -> Markup:
    """A place that the keyboard and the pointer reach, and what it says then."""
    x, y = at
    width = min(frame.width, max(map(width_of, lines)) + 2 * _TIP_PADDING)
    height = LINE * len(lines) + _TIP_PADDING
    left = min(max(0.0, x - width / 2), frame.width - width)
    top = y - height - 12 if y - height - 12 >= 0 else min(y + 12, frame.height - height)
    texts = [
        element("text", {"x": left + _TIP_PADDING, "y": top + LINE * (i + 1) - 1}, line) for i, line in enumerate(lines)
    ]
    box = element("rect", {"x": left, "y": top, "width": width, "height": height, "rx": 3})
    return element(
        "g",
        {"class": "p", "tabindex": "0", "role": "img", "aria-label": "; ".join(lines)},
        element("circle", {"class": "h", "cx": x, "cy": y, "r": _HIT}),
        element("g", {"class": "tip", "aria-hidden": "true"}, box, *texts),
    )


# -- lines ----------------------------------------------------------------------------------------
def steps(frame: Frame, series: int, xs: Sequence[float], ys: Sequence[float]) -> Markup:
    """A front: the best y within each x, so level up to the next point and then upright. Points that would not be seen
    apart are left out."""
    if len(xs) == 0:
        return Markup("")
    last = frame.at(xs[0], ys[0])
    path = f"M{number(last[0], 1)} {number(last[1], 1)}"
    for i in range(1, len(xs)):
        here = frame.at(xs[i], ys[i])
        if i < len(xs) - 1 and max(abs(here[0] - last[0]), abs(here[1] - last[1])) < 1:
            continue
        path += f"H{number(here[0], 1)}V{number(here[1], 1)}"
        last = here
    line = element("path", {"class": "l", "d": path, "stroke-dasharray": DASHES[series % SERIES]})
    return in_series(series, line)


def band(frame: Frame, series: int, edges: Sequence[tuple[float, float, float]]) -> Markup:
    """The area between two lines: (x low, x high, y) of each of their points."""
    if len(edges) < 2:
        return Markup("")
    around = [(low, y) for low, _, y in edges] + [(high, y) for _, high, y in reversed(edges)]
    corners = "L".join(f"{number(frame.px(x), 1)} {number(frame.py(y), 1)}" for x, y in around)
    return in_series(series, element("path", {"class": "b", "d": f"M{corners}Z"}))


def dots(frame: Frame, series: int, xs: Iterable[float], ys: Iterable[float]) -> Markup:
    """Many small points as one path; of those that would be drawn over each other one."""
    places = dict.fromkeys((round(frame.px(x)), round(frame.py(y))) for x, y in zip(xs, ys, strict=True))
    path = "".join(f"M{x} {y}h0" for x, y in places)
    return in_series(series, element("path", {"class": "d", "d": path})) if path else Markup("")


def level(frame: Frame, y: float) -> Markup:
    """A line at one y."""
    left, right = number(frame.left), number(frame.width - frame.right)
    return element("path", {"class": "a", "d": f"M{left} {number(frame.py(y))}H{right}"})


def join(frame: Frame, a: Point, b: Point) -> Markup:
    """A line from one point to another."""
    (x, y), (to_x, to_y) = frame.at(a.x, a.y), frame.at(b.x, b.y)
    path = f"M{number(x, 1)} {number(y, 1)}L{number(to_x, 1)} {number(to_y, 1)}"
    return element("path", {"class": "i", "d": path})


# -- badges ---------------------------------------------------------------------------------------
def badges(frame: Frame, found: Sequence[tuple[str, Point]]) -> Markup:
    """Numbered points: each with its intervals and a line to its number."""
    places = [frame.at(p.x, p.y) for _, p in found]
    centres = place_badges(places, frame)
    drawn: list[Child] = [whiskers(frame, p) for _, p in found]
    for (x, y), (cx, cy) in zip(places, centres, strict=True):
        path = f"M{number(x, 1)} {number(y, 1)}L{number(cx, 1)} {number(cy, 1)}"
        drawn.append(element("path", {"class": "a", "d": path}))
    for (name, point), (x, y), (cx, cy) in zip(found, places, centres, strict=True):
        drawn.append(in_series(point.series, mark(point.series, x, y, size=5.5)))
        drawn.append(badge(name, cx, cy))
    return joined(drawn)


def badge(name: str, x: float, y: float) -> Markup:
    """A number in a ring."""
    ring = element("circle", {"class": "no", "cx": x, "cy": y, "r": _BADGE})
    return joined([ring, element("text", {"class": "m u", "x": x, "y": y + 4}, name)])


def place_badges(places: Sequence[tuple[float, float]], frame: Frame) -> list[tuple[float, float]]:
    """A centre for the badge of each place: inside the figure, off the other badges and off all places, where there is
    room for that."""
    taken: list[tuple[float, float]] = []
    for x, y in places:
        options = [(x + dx, y + dy) for dx, dy in _PLACES]
        inside = [
            (a, b) for a, b in options if frame.left < a < frame.width - _BADGE and _BADGE < b < frame.height - 20
        ] or options

        def crowding(centre: tuple[float, float]) -> int:
            others = sum(_apart(centre, other) < 2 * _BADGE + 2 for other in taken)
            return 2 * others + sum(_apart(centre, place) < _BADGE + 5 for place in places)

        taken.append(min(inside, key=crowding))  # of equals the first, which is the nearest
    return taken


def _apart(a: tuple[float, float], b: tuple[float, float]) -> float:
    return float(((a[0] - b[0]) ** 2 + (a[1] - b[1]) ** 2) ** 0.5)
