"""The part of the page about accuracy alone: what was measured, and how well predictors do.

In: accuracy tables and predictors. Out: a `Section`. Rule kept: a prediction is never called an accuracy; what a
predictor reaches is what it reached on subnets left out of its fit.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ofa_edge.accuracy.family import Fitted
from ofa_edge.accuracy.table import AccuracyTable
from ofa_edge.report import figures
from ofa_edge.report.axes import Frame
from ofa_edge.report.choice_sections import Content, Section, lines_of
from ofa_edge.report.devices import percent
from ofa_edge.report.markup import Child, Markup, details, element, joined, paragraph, table
from ofa_edge.space.cost import block_macs

_PANEL = 380.0


def accuracy(content: Content) -> Section:
    """Top-1 against MACs of the measured subnets, and the predictors' left-out errors."""
    title = "Accuracy tables and predictors"
    tables = [(name, found) for name, found in content.sources.accuracy if not found.frame.empty]
    parts: list[Child] = []
    if tables:
        panels = [_panel(name, found, i) for i, (name, found) in enumerate(tables)]
        words = "Measured subnets: top-1 on the table's images, not a prediction, against MACs."
        parts += [paragraph(words, class_="quiet"), element("div", {"class": "grid"}, *panels)]
    if content.sources.predictors:
        parts.append(_predictors(content))
    if parts:
        return Section("accuracy", title, joined(parts))
    words = "Give accuracy tables (`ofa-edge evaluate`) or predictors (`ofa-edge predictor fit --out FILE`)."
    return Section("accuracy", title, None, (words,))


def _panel(name: str, found: AccuracyTable, series: int) -> Markup:
    macs = [sum(map(block_macs, found.space.blocks(arch))) / 1e6 for arch in found.frame["arch"]]
    top1 = (100 * found.frame["top1"]).tolist()
    frame = Frame.of(_PANEL, 280, macs, top1, ("MACs, millions", "measured top-1, %"))
    best = int(np.argmax(top1))
    said = [
        f"{found.space.name}; {len(top1)} rows of {len({arch.at(0) for arch in found.frame['arch']})} subnets",
        f"images: {found.header.data}; batch norm: {found.header.bn}",
        f"best {top1[best]:.1f} % at {macs[best]:.0f} M MACs",
    ]
    title = f"Measured top-1 against MACs: {name}"
    dots = figures.dots(frame, series, macs, top1)
    picture = figures.svg(f"accuracy{series}", (frame.width, frame.height), title, said[-1], frame.draw(), dots)
    caption = lines_of(element("strong", None, name), *said)
    return figures.figure(caption, picture, details("Data", _by_resolution(name, found)))


def _by_resolution(name: str, found: AccuracyTable) -> Markup:
    headers = ["input, px", "subnets", "images each", "least", "median", "greatest", "width of intervals"]
    rows: list[list[Child]] = []
    for resolution, group in found.frame.groupby("resolution", sort=True):
        width = float((group["high"] - group["low"]).median())
        shares = [percent(float(f(group["top1"]))) for f in (np.min, np.median, np.max)]
        images = sorted(set(group["n"].tolist()))
        said = str(images[0]) if len(images) == 1 else f"{images[0]} to {images[-1]}"
        rows.append([str(resolution), str(len(group)), said, *shares, f"{100 * width:.1f} points"])
    return table(f"{name}: measured top-1 by input size", headers, rows, right=headers)


def _predictors(content: Content) -> Markup:
    fitted_on = {found.sha256: name for name, found in content.sources.accuracy}
    headers = ["predictor", "kind", "space", "fitted on", "rows", "subnets", "left-out RMSE", "left-out Spearman"]
    rows = [_predictor_row(name, fitted, fitted_on.get(fitted.table)) for name, fitted in content.sources.predictors]
    right = headers[4:]
    words = paragraph("What predictors reached on subnets that were left out of their fit:")
    return joined([element("h3", None, "Predictors"), words, table("Predictors of top-1", headers, rows, right)])


def _predictor_row(name: str, fitted: Fitted, table_name: str | None) -> Sequence[Child]:
    return [
        name,
        fitted.predictor.kind,
        fitted.predictor.space.name,
        table_name or f"a table not given ({fitted.table[:12]})",
        str(fitted.rows),
        str(fitted.subnets),
        f"{100 * fitted.validation.rmse:.2f} points",
        f"{fitted.validation.spearman:.3f}",
    ]
