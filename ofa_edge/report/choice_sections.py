"""The parts of the page about choosing: fronts, budgets, the chosen subnets.

In: what choices.py found. Out: `Section`s. Rules kept: a part that cannot be drawn says what to give; everything that a
figure shows stands in a table under it, and a table that is cut short says so.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from ofa_edge.accuracy.predictor import Top1
from ofa_edge.latency.conditions import same_device
from ofa_edge.report import drawings, figures
from ofa_edge.report.axes import Frame
from ofa_edge.report.choices import Accuracy, DeviceFront, Fronts, Pick, best, budget_name, on_other
from ofa_edge.report.devices import Device, fixed, milliseconds, percent, size
from ofa_edge.report.figures import Point
from ofa_edge.report.markup import Child, Markup, details, element, items, joined, paragraph, table
from ofa_edge.report.sources import Sources
from ofa_edge.report.style import SERIES
from ofa_edge.search.budget import Budget
from ofa_edge.search.candidate import Candidate
from ofa_edge.space import codecs
from ofa_edge.space.arch import Arch

# Points of a front that the keyboard reaches; its table has all that are shown.
_STOPS = 6
_MOST_DRAWN = 24


@dataclass(frozen=True)
class Content:
    """Everything the page shows; `budgets` to compare devices by, for each space."""

    sources: Sources
    devices: tuple[Device, ...]
    accuracies: tuple[Accuracy, ...]
    fronts: Fronts
    budgets: Mapping[str, tuple[Budget, ...]]
    picks: tuple[Pick, ...]
    confidence: float

    @property
    def interval(self) -> str:
        return f"{100 * self.confidence:g} % interval"


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the page.

    Attributes:
        ident: of its heading.
        body: None where there is nothing to draw.
        missing: sentences about what could not be drawn, and what to give.
    """

    ident: str
    title: str
    body: Markup | None
    missing: tuple[str, ...] = ()


# -- fronts ---------------------------------------------------------------------------------------
def fronts(content: Content) -> Section:
    """Accuracy against latency: a figure a space."""
    title = "Accuracy against latency"
    missing = list(content.fronts.left_out)
    if not content.devices:
        missing = ["Give latency tables: `ofa-edge profile --host HOST --out FILE`."]
    elif not content.accuracies:
        missing = ["Give an accuracy table (`ofa-edge evaluate`) or a predictor of kind additive (`predictor fit`)."]
    parts = [_front_figure(content, group, i) for i, group in enumerate(_by_space(content.fronts.found))]
    return Section("fronts", title, joined(parts) if parts else None, tuple(missing))


def _front_figure(content: Content, found: Sequence[DeviceFront], number: int) -> Markup:
    accuracy = found[0].accuracy
    chosen = [p for p in content.picks if p.space.name == accuracy.space.name and p.device in [f.device for f in found]]

    def draw(pixels: float, suffix: str) -> Markup:
        return _front_svg(content, found, chosen, pixels, f"front{number}{suffix}")

    sizes = ", ".join(map(str, found[0].resolutions))
    caption = (
        f"Space {accuracy.space.name} at {sizes} px. Lines: the best predicted top-1 within each predicted latency, "
        f"exact over all subnets. Bands: the {content.interval} of the latency. Small dots: some subnets of the "
        "accuracy table, their top-1 measured. Numbered: the chosen subnets, with the intervals of both."
    )
    if lossy := [f.device for f in found if f.device.table.conditions.lossy]:
        names, precision = ", ".join(device.name for device in lossy), lossy[0].table.conditions.precision
        caption += f" Of {names} top-1 is predicted as in float: what {precision} loses is not in the line."
    entries = [(f.device.series, _with_chosen(f, found, chosen if content.sources.selections else [])) for f in found]
    tables = [details(f"Front of {f.device.name}", _front_table(f)) for f in found]
    models = paragraph("Accuracy model: ", accuracy.model.describe(), class_="quiet")
    return joined([figures.figure(caption, figures.legend(entries), figures.both(draw), *tables), models])


def _with_chosen(front: DeviceFront, found: Sequence[DeviceFront], chosen: Sequence[Pick]) -> str:
    """A front's name; of a device that several ways to run are drawn of with the numbers of what was chosen there."""
    own = front.device.table.conditions
    several = sum(same_device(own, other.device.table.conditions) for other in found) > 1
    numbers = [str(pick.number) for pick in chosen if pick.device is front.device]
    return f"{front.device.name} (chosen: {', '.join(numbers)})" if several and numbers else front.device.name


def _front_svg(
    content: Content, found: Sequence[DeviceFront], chosen: Sequence[Pick], pixels: float, ident: str
) -> Markup:
    xs = [ms for f in found for ms in f.latency_ms.tolist()]
    xs += [end for f in found for c in f.shown for end in (c.latency_ms.low, c.latency_ms.high) if end is not None]
    ys = [100 * top1 for f in found for top1 in f.top1.tolist()]
    numbered = [(str(p.number), _pick_point(content, p)) for p in chosen]
    xs += [end for _, p in numbered for end in (p.x, *(p.x_range or ()))]
    ys += [end for _, p in numbered for end in p.y_range or ()]
    ys += [100 * top1 for f in found for top1 in f.measured[:, 1].tolist()]
    frame = Frame.of(pixels, 420 if pixels > 500 else 330, xs, ys, ("predicted latency, ms", "top-1, %"))
    layers: list[Child] = [frame.draw()]
    layers += [figures.dots(frame, f.device.series, f.measured[:, 0], 100 * f.measured[:, 1]) for f in found]
    for f in found:
        edges = [
            (c.latency_ms.low, c.latency_ms.high, 100 * c.top1.value)
            for c in f.shown
            if c.latency_ms.low is not None and c.latency_ms.high is not None
        ]
        layers.append(figures.band(frame, f.device.series, edges))
        layers.append(figures.steps(frame, f.device.series, f.latency_ms.tolist(), (100 * f.top1).tolist()))
    reached = [p for f in found for p in _stops(f)]
    layers += [figures.points(frame, reached), figures.badges(frame, numbered)]
    layers.append(figures.stops(frame, [*reached, *(p for _, p in numbered)]))
    title = f"Top-1 against latency on {', '.join(f.device.name for f in found)}"
    ends = "; ".join(
        f"{f.device.name}: {percent(f.shown[0].top1.value)} at {milliseconds(f.shown[0].latency_ms)} to "
        f"{percent(f.shown[-1].top1.value)} at {milliseconds(f.shown[-1].latency_ms)}"
        for f in found
    )
    return figures.svg(ident, (frame.width, frame.height), title, ends, *layers)


def _stops(front: DeviceFront) -> list[Point]:
    """Some points of a front, that say what they are."""
    count = len(front.shown)
    rows = sorted({round(i * (count - 1) / (_STOPS - 1)) for i in range(_STOPS)})
    return [
        Point(
            c.latency_ms.value,
            100 * c.top1.value,
            front.device.series,
            (front.device.name, milliseconds(c.latency_ms), _top1_words(c.top1), f"input {c.arch.resolution} px"),
        )
        for c in (front.shown[i] for i in rows)
    ]


def _pick_point(content: Content, pick: Pick) -> Point:
    c = pick.candidate
    estimate = c.latency_ms
    known = estimate.low is not None and estimate.high is not None
    lines = (f"{pick.number}: {pick.name}", milliseconds(estimate), _top1_words(c.top1))
    return Point(
        estimate.value,
        100 * c.top1.value,
        0 if pick.device is None else pick.device.series,
        lines,
        x_range=(estimate.low or 0.0, estimate.high or 0.0) if known else None,
        y_range=(100 * c.top1.low, 100 * c.top1.high),
    )


def _front_table(front: DeviceFront) -> Markup:
    headers = ["latency, ms", "interval", "top-1", "interval of top-1", "input", "depths", "MACs", "weights"]
    rows = [
        [
            fixed(c.latency_ms.value),
            ends(c.latency_ms.low, c.latency_ms.high),
            percent(c.top1.value, 2),
            f"{100 * c.top1.low:.1f} to {100 * c.top1.high:.1f}",
            f"{c.arch.resolution} px",
            " ".join(map(str, c.arch.depths)),
            f"{c.cost.macs / 1e6:.1f} M",
            size(c.cost.weight_bytes),
        ]
        for c in front.shown
    ]
    total = len(front.front)
    caption = f"{front.device.name}: {len(rows)} of the front's {total:,} subnets"
    return table(caption, headers, rows, right=[headers[0], headers[2], headers[4], headers[6], headers[7]])


def ends(low: float | None, high: float | None) -> str:
    """An interval in words."""
    return "unknown" if low is None or high is None else f"{low:.4g} to {high:.4g}"


def _top1_words(top1: Top1) -> str:
    return f"top-1 {percent(top1.value)} ({100 * top1.low:.1f} to {100 * top1.high:.1f})"


# -- budgets --------------------------------------------------------------------------------------
def budgets(content: Content) -> Section:
    """The best subnet of every device for a handful of budgets, and what it costs on the other devices."""
    title = "Devices and budgets"
    if not content.fronts.found:
        words = "Give latency tables and an accuracy table of the same space; --budget B names budgets of your own."
        return Section("budgets", title, None, (words,))
    return Section(
        "budgets", title, joined(_budgets(content, group, i) for i, group in enumerate(_by_space(content.fronts.found)))
    )


@dataclass(frozen=True)
class _Comparison:
    """The best subnet of every device of one space for each budget; in words why, where there is none."""

    space: str
    fronts: list[DeviceFront]
    budgets: tuple[Budget, ...]
    rows: list[list[Candidate | str]]


def _budgets(content: Content, found: list[DeviceFront], number: int) -> Markup:
    space = found[0].accuracy.space.name
    limits = content.budgets[space]
    rows = [[best(f, budget, content.confidence) for f in found] for budget in limits]
    compared = _Comparison(space, found, limits, rows)

    def draw(pixels: float, suffix: str) -> Markup:
        return _budget_svg(compared, pixels, f"budgets{number}{suffix}")

    caption = (
        f"Space {space}. The highest predicted top-1 within each budget, with its {content.interval}. A budget limits "
        "the upper bound of the latency."
    )
    entries = [(f.device.series, f.device.name) for f in found]
    picture = figures.figure(caption, figures.legend(entries), figures.both(draw))
    return joined([picture, _budget_table(compared), _elsewhere(content, compared)])


def _budget_svg(compared: _Comparison, pixels: float, ident: str) -> Markup:
    found = [(b, d, c) for b, row in enumerate(compared.rows) for d, c in enumerate(row) if not isinstance(c, str)]
    ys = [100 * end for *_, c in found for end in (c.top1.low, c.top1.high)]
    devices = len(compared.fronts)
    frame = Frame.of(pixels, 300, [0.0, float(len(compared.budgets))], ys, ("", "top-1, %"))
    frame = frame.with_names([budget_name(b, short=True) for b in compared.budgets], "budget")
    points = []
    for b, d, c in found:
        device = compared.fronts[d].device
        x = b + 0.5 + (d - (devices - 1) / 2) * min(0.2, 0.7 / devices)
        within = f"within {budget_name(compared.budgets[b])}"
        lines = (device.name, within, _top1_words(c.top1), milliseconds(c.latency_ms))
        y_range = (100 * c.top1.low, 100 * c.top1.high)
        points.append(Point(x, 100 * c.top1.value, device.series, lines, y_range=y_range))
    said = "; ".join(f"{p.lines[0]} {p.lines[1]}: {p.lines[2]}" for p in points) or "no subnet fits any budget"
    title = "Best top-1 for each budget and device"
    layers = [frame.draw(), figures.points(frame, points), figures.stops(frame, points)]
    return figures.svg(ident, (frame.width, frame.height), title, said, *layers)


def _budget_table(compared: _Comparison) -> Markup:
    headers = ["budget", *(f.device.name for f in compared.fronts)]
    rows: list[list[Child]] = []
    for budget, row in zip(compared.budgets, compared.rows, strict=True):
        rows.append([budget_name(budget), *map(_budget_cell, row)])
    return table("Best subnet for each budget and device", headers, rows)


def _budget_cell(found: Candidate | str) -> Child:
    if isinstance(found, str):
        return found
    about = f"{found.arch.resolution} px, {found.cost.macs / 1e6:.0f} M MACs"
    return lines_of(_top1_words(found.top1), milliseconds(found.latency_ms), about)


def _elsewhere(content: Content, compared: _Comparison) -> Markup | None:
    """What a subnet that was chosen for one device takes on the others."""
    found, middle = compared.fronts, len(compared.budgets) // 2
    if len(found) < 2:
        return None
    budget = compared.budgets[middle]
    headers = ["chosen for", *(f"on {f.device.name}" for f in found)]
    rows: list[list[Child]] = []
    for of, chosen in zip(found, compared.rows[middle], strict=True):
        rows.append([of.device.name, *(_cell_on(content, chosen, of, f, budget) for f in found)])
    caption = f"Latency of the subnets chosen for {budget_name(budget)}, on each device"
    words = paragraph("A subnet that is the best for one device need not be so for another, nor fit its budget there.")
    return joined([element("h3", None, "On the other device"), words, table(caption, headers, rows)])


def _cell_on(content: Content, chosen: Candidate | str, of: DeviceFront, on: DeviceFront, budget: Budget) -> str:
    if isinstance(chosen, str):
        return "-"
    found = chosen.latency_ms if on is of else on_other(chosen, on, content.confidence)
    if found is None:
        return "not in its table"
    upper = found.value if found.high is None else found.high
    breaks = budget.latency_ms is not None and upper > budget.latency_ms
    return milliseconds(found) + (", beyond the budget" if breaks else "")


# -- chosen subnets -------------------------------------------------------------------------------
def subnets(content: Content) -> Section:
    """The chosen subnets, block by block."""
    title = "Chosen subnets, block by block"
    if not content.picks:
        words = "Give selections: `ofa-edge select --budget BUDGET --latency-table FILE --out FILE`."
        return Section("subnets", title, None, (words,))
    missing = []
    if not content.sources.selections:
        missing.append("No selection was given, so these are the best of each front for the middle budget.")
    caption = (
        "From the input at the top to the classifier. Blocks of one stage stand together; a place that a subnet leaves "
        "out is a dotted line, so the same place of two subnets is at the same height. What was chosen more than once "
        "is drawn once."
    )
    body: list[Child] = [paragraph(caption, class_="quiet")]
    by_space = groupby(sorted(content.picks, key=lambda p: p.space.name), key=lambda p: p.space.name)
    for _, group in by_space:
        body.append(_columns(sorted(group, key=lambda p: p.number)))
    rows = [_pick_row(pick) for pick in content.picks]
    headers = ["", "subnet", "from", "arch"]
    body.append(details("The chosen subnets as archs", table("As `--arch` takes them", headers, rows)))
    return Section("subnets", title, joined(body), tuple(missing))


def _columns(chosen: Sequence[Pick]) -> Markup:
    same: dict[Arch, list[Pick]] = {}
    for pick in chosen:
        same.setdefault(pick.arch, []).append(pick)
    drawn: list[Child] = [_column(picks) for picks in list(same.values())[:_MOST_DRAWN]]
    more = len(same) - len(drawn)
    rest = paragraph(f"{more} more are in the table only.", class_="quiet") if more > 0 else None
    legend = figures.legend([], *drawings.kernel_signs(chosen[0].space))
    return joined([legend, element("div", {"class": "columns"}, *drawn), rest])


def _column(picks: Sequence[Pick]) -> Markup:
    """One subnet, and all that it was chosen for."""
    title = f"Subnet {', '.join(str(pick.number) for pick in picks)}: {'; '.join(pick.name for pick in picks[:4])}"
    picture = drawings.subnet(picks[0].space, picks[0].arch, f"subnet{picks[0].number}", title)
    captions = joined(map(_pick_caption, picks), between=element("br"))
    return element("figure", None, element("figcaption", None, captions), picture)


def _pick_caption(pick: Pick) -> Markup:
    c, measured = pick.candidate, pick.measured
    lines: list[Child] = [element("strong", None, f"{pick.number} · {pick.name}"), pick.origin]
    lines += [_top1_words(c.top1), milliseconds(c.latency_ms)]
    lines += [f"{c.cost.macs / 1e6:.0f} M MACs, {size(c.cost.weight_bytes)}"]
    if c.energy_mj is not None:
        lines.append(f"{c.energy_mj.value:.3g} mJ a run")
    if measured is not None and measured.top1 is not None:
        lines.append(f"measured: top-1 {percent(measured.top1.value)} of {measured.n} images")
    if measured is not None and measured.latency_ms is not None:
        lines.append(f"measured: {milliseconds(measured.latency_ms)}")
    return lines_of(*lines)


def _pick_row(pick: Pick) -> list[Child]:
    arch = json.dumps(codecs.encode(pick.space, pick.arch), separators=(",", ":"))
    return [str(pick.number), pick.name, pick.origin, element("code", None, arch)]


def lines_of(*lines: Child) -> Markup:
    """One under the other."""
    return joined(lines, between=element("br"))


def _by_space(found: Sequence[DeviceFront]) -> list[list[DeviceFront]]:
    """Fronts of one space, as many as there are series, for a figure each."""
    groups = [list(group) for _, group in groupby(sorted(found, key=_space), key=_space)]
    return [group[i : i + SERIES] for group in groups for i in range(0, len(group), SERIES)]


def _space(front: DeviceFront) -> str:
    return front.accuracy.space.name


def notes(entries: Sequence[str]) -> Markup | None:
    """What could not be drawn."""
    if not entries:
        return None
    if len(entries) == 1:
        return paragraph(entries[0], class_="missing")
    return items(entries, attributes={"class": "missing"})
