"""HTML and SVG as values: text is escaped unless it was made here.

In: plain text and numbers, some of it from files of strangers. Out: `Markup`, which is safe to put on a page. Rules
kept: a plain string is text, always; control and formatting characters (which could reorder what is read) become
blanks; attributes are escaped and quoted; a number is written with the digits that can be seen, the same on every
machine.
"""

from __future__ import annotations

import html
import math
from collections.abc import Iterable, Mapping, Sequence

Attributes = Mapping[str, "str | float | None"]


class Markup(str):
    """Text that is markup already; joined and nested without escaping."""

    __slots__ = ()


Child = str | int | float | None


# Elements of HTML that have no end tag. SVG's end themselves.
_VOID = frozenset({"meta", "br", "hr", "link", "img"})


def text(value: str) -> Markup:
    """Plain text, escaped, without characters that cannot be seen."""
    seen = "".join(c if c.isprintable() or c == "\n" else " " for c in value)
    return Markup(html.escape(seen, quote=True))


def element(name: str, attributes: Attributes | None = None, *children: Child) -> Markup:
    """An element; attributes that are None are left out, children that are not Markup are escaped."""
    written = "".join(
        f' {key}="{text(value if isinstance(value, str) else number(value))}"'
        for key, value in (attributes or {}).items()
        if value is not None
    )
    if name in _VOID:
        return Markup(f"<{name}{written}>")
    return Markup(f"<{name}{written}>{joined(children)}</{name}>")


def joined(children: Iterable[Child], between: str = "") -> Markup:
    """Children side by side; None is nothing."""
    return Markup(between.join(_child(child) for child in children if child is not None))


def number(value: float, digits: int = 2) -> str:
    """A number with at most so many decimals, no exponent and no negative zero.

    Raises:
        ValueError: it is not finite (a mistake in the caller: a figure has no place for it).
    """
    if not math.isfinite(value):
        raise ValueError(f"{value} has no place in a figure")
    written = f"{value:.{digits}f}"
    if "." in written:
        written = written.rstrip("0").rstrip(".")
    return "0" if written == "-0" else written


def table(caption: str, headers: Sequence[str], rows: Sequence[Sequence[Child]], right: Sequence[str] = ()) -> Markup:
    """Rows under headers, in a region that a keyboard can scroll; columns named in `right` align right."""
    classes = ["n" if header in right else None for header in headers]

    def row(name: str, cells: Sequence[Child], scope: str | None = None) -> Markup:
        attributes = [{"scope": scope, "class": class_} for class_ in classes]
        return element("tr", None, *(element(name, a, cell) for a, cell in zip(attributes, cells, strict=True)))

    whole = element(
        "table",
        None,
        element("caption", None, caption),
        element("thead", None, row("th", headers, "col")),
        element("tbody", None, *(row("td", cells) for cells in rows)),
    )
    return element("div", {"class": "scroll", "tabindex": "0", "role": "region", "aria-label": caption}, whole)


def details(summary: str, *children: Child) -> Markup:
    """Children that a click on the summary shows."""
    return element("details", None, element("summary", None, summary), *children)


def definitions(pairs: Sequence[tuple[str, Child]]) -> Markup:
    """Names and values."""
    return element(
        "dl", None, *(element("div", None, element("dt", None, k), element("dd", None, v)) for k, v in pairs)
    )


def items(entries: Iterable[Child], kind: str = "ul", attributes: Attributes | None = None) -> Markup:
    """A list."""
    return element(kind, attributes, *(element("li", None, entry) for entry in entries))


def paragraph(*children: Child, class_: str | None = None) -> Markup:
    return element("p", {"class": class_}, *children)


def _child(child: Child) -> str:
    if isinstance(child, Markup):
        return child
    return text(child if isinstance(child, str) else number(child or 0))
