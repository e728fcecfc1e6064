"""Escaping: whatever a file holds is text on the page."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ofa_edge.report.markup import Markup, element, joined, number, table, text


class Seen(HTMLParser):
    """Elements, attributes and text, as a parser of HTML sees them."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.data = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.data += data

    @classmethod
    def of(cls, markup: str) -> Seen:
        found = cls()
        found.feed(markup)
        found.close()
        return found


@given(st.text(), st.text())
def test_any_text_is_one_text_and_any_attribute_one_attribute(child: str, attribute: str) -> None:
    seen = Seen.of(element("p", {"title": attribute}, child))
    assert [tag for tag, _ in seen.elements] == ["p"]
    assert list(seen.elements[0][1]) == ["title"]
    assert seen.data.split() == "".join(c if c.isprintable() or c == "\n" else " " for c in child).split()


@given(st.lists(st.lists(st.text(), min_size=2, max_size=2), max_size=4))
def test_a_table_has_a_cell_for_each_text_whatever_it_holds(rows: list[list[str]]) -> None:
    seen = Seen.of(table("caption", ["<a>", "b"], rows, right=["b"]))
    assert [tag for tag, _ in seen.elements].count("td") == 2 * len(rows)
    assert {tag for tag, _ in seen.elements} <= {"div", "table", "caption", "thead", "tbody", "tr", "th", "td"}


def test_markup_is_not_escaped_twice_and_text_beside_it_is() -> None:
    inner = element("b", None, "1 < 2")
    assert element("p", None, inner, "<i>") == "<p><b>1 &lt; 2</b>&lt;i&gt;</p>"
    assert isinstance(joined([inner, "&"]), Markup)
    assert joined([inner, "&", None]) == f"{inner}&amp;"


def test_characters_that_reorder_or_hide_text_do_not_reach_the_page() -> None:
    assert text("a\u202eb\u200bc\x00d\x1be") == "a b c d e"


@pytest.mark.parametrize(
    ("value", "written"), [(0.0, "0"), (-0.001, "0"), (1.0, "1"), (1.5, "1.5"), (-2.25, "-2.25"), (1e6, "1000000")]
)
def test_numbers_have_no_digits_that_say_nothing(value: float, written: str) -> None:
    assert number(value) == written


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_figure_has_no_place_for_what_is_no_number(value: float) -> None:
    with pytest.raises(ValueError, match="no place"):
        number(value)
