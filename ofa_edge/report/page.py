"""The page: one HTML file with everything in it.

In: `Sources`, what to compare by. Out: a `Page`, whose bytes are the file. Rules kept: the page asks nothing of any
network and runs no script; its content security policy allows its own style sheet, by hash, and nothing else; the same
inputs give the same bytes (no time, no path); a part without inputs says what to give.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ofa_edge import __version__
from ofa_edge.errors import UsageError
from ofa_edge.report import accuracy_sections, choice_sections, choices, latency_sections, style
from ofa_edge.report.choice_sections import Content, Section
from ofa_edge.report.devices import devices, milliseconds, percent
from ofa_edge.report.markup import Child, Markup, element, items, joined, paragraph, table
from ofa_edge.report.sources import Sources
from ofa_edge.search.budget import Budget

_SECTIONS = (
    choice_sections.fronts,
    choice_sections.budgets,
    choice_sections.subnets,
    latency_sections.blocks,
    latency_sections.predictions,
    latency_sections.macs,
    accuracy_sections.accuracy,
    latency_sections.health,
)


@dataclass(frozen=True, slots=True)
class Page:
    """A page.

    Attributes:
        content: the file.
        sections: of it, in their order.
    """

    content: bytes
    sections: tuple[Section, ...]

    @property
    def sha256(self) -> str:
        return hashlib.sha256(self.content).hexdigest()


def page(
    sources: Sources, *, confidence: float = 0.95, budgets: Sequence[Budget] = (), accept_unknown: bool = False
) -> Page:
    """The page of what was given.

    Args:
        confidence: two-sided, of the intervals of predictions.
        budgets: to compare devices by; five latencies along the fronts where there are none.
        accept_unknown: draw fronts of tables that do not say what they were measured on.

    Raises:
        UsageError: nothing of what was given can be drawn.
    """
    if not (sources.latency or sources.selections or any(len(table.frame) for _, table in sources.accuracy)):
        raise UsageError(
            "there is nothing to draw", hint="give latency tables, accuracy tables with rows, or selections"
        )
    # What absurd figures in a file overflow to is judged by the tables' health, not by warnings.
    with np.errstate(all="ignore"):
        return _page(sources, confidence, budgets, accept_unknown)


def _page(sources: Sources, confidence: float, budgets: Sequence[Budget], accept_unknown: bool) -> Page:
    found = devices(sources.latency)
    known = choices.accuracies(sources)
    fronts = choices.fronts(found, known, confidence, accept_unknown=accept_unknown)
    limits = choices.budgets_of(fronts, budgets, confidence)
    picks = choices.picks(sources, found, fronts, limits, confidence)
    content = Content(sources, tuple(found), tuple(known), fronts, limits, tuple(picks), confidence)
    sections = tuple(section(content) for section in _SECTIONS)
    return Page(_html(content, sections).encode(), sections)


def _html(content: Content, sections: Sequence[Section]) -> str:
    css = style.css()
    digest = base64.b64encode(hashlib.sha256(css.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none'; form-action 'none'"
    head = element(
        "head",
        None,
        element("meta", {"charset": "utf-8"}),
        element("meta", {"http-equiv": "Content-Security-Policy", "content": policy}),
        element("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}),
        element("meta", {"name": "referrer", "content": "no-referrer"}),
        element("meta", {"name": "color-scheme", "content": "light dark"}),
        element("link", {"rel": "icon", "href": "data:,"}),
        element("title", None, _title(content)),
        element("style", None, Markup(css)),
    )
    main = element("main", {"id": "main"}, _opening(content), _contents(sections), *map(_section, sections))
    skip = element("a", {"class": "skip", "href": "#main"}, "Skip to the figures")
    footer = element("footer", {"class": "quiet"}, _files(content), _made_by(content))
    body = element("body", None, skip, element("div", {"class": "wrap"}, main, footer))
    return f"<!DOCTYPE html>\n{element('html', {'lang': 'en'}, head, body)}\n"


def _title(content: Content) -> str:
    spaces = dict.fromkeys(
        [d.table.header.space for d in content.devices]
        + [table.space.name for _, table in content.sources.accuracy]
        + [choice.selection.space.name for choice in content.sources.selections]
    )
    return f"ofa-edge report: {', '.join(spaces)}"


def _opening(content: Content) -> Markup:
    """What the page holds, and the main thing it says: the best subnet of each device for the middle budget."""
    parts: list[Child] = [element("h1", None, _title(content))]
    if content.devices:
        names = "; ".join(device.name for device in content.devices)
        count = len(content.devices)
        parts.append(paragraph(f"{count} latency table{'' if count == 1 else 's'}: {names}."))
    emulated = [device.name for device in content.devices if device.table.conditions.emulated is True]
    if emulated:
        words = f"Emulated, so its times say nothing about a real device: {', '.join(emulated)}."
        parts.append(paragraph(words, class_="warn"))
    if content.picks:
        said = (
            f"{pick.number}: {pick.name}: top-1 {percent(pick.candidate.top1.value)}, "
            f"{milliseconds(pick.candidate.latency_ms)}, input {pick.arch.resolution} px"
            for pick in content.picks
        )
        parts += [paragraph("Chosen subnets:"), items(said)]
    words = f"Intervals of predictions are {100 * content.confidence:g} %. Top-1 is predicted unless it says measured."
    parts.append(paragraph(words, class_="quiet"))
    return element("header", None, *parts)


def _contents(sections: Sequence[Section]) -> Markup:
    links = (
        joined(
            [
                element("a", {"href": f"#{section.ident}"}, section.title),
                " (nothing given for it)" if section.body is None else None,
            ]
        )
        for section in sections
    )
    return element("nav", {"aria-label": "Contents"}, items(links, "ol"))


def _section(section: Section) -> Markup:
    heading = element("h2", {"id": section.ident}, section.title)
    missing = choice_sections.notes(section.missing)
    return element("section", {"aria-labelledby": section.ident}, heading, missing, section.body)


def _files(content: Content) -> Markup:
    headers = ["file", "kind", "of", "sha256"]
    rows: list[list[Child]] = [
        [source.name, source.kind, source.about, element("code", None, source.sha256)]
        for source in content.sources.files
    ]
    return joined(
        [element("h2", {"id": "files"}, "Made from"), table("Files that this page is made from", headers, rows)]
    )


def _made_by(content: Content) -> Markup:
    return paragraph(
        f"Made by ofa-edge {__version__}. The same files give the same page. It loads nothing from any network and "
        "runs no script."
    )
