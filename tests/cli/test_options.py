"""The small languages of options: what they accept, and that they name what they refuse."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ofa_edge.cli import options
from ofa_edge.errors import UsageError


@pytest.mark.parametrize(
    ("text", "sizes"),
    [
        (None, (7,)),
        ("128", (128,)),
        ("96:160:16", (96, 112, 128, 144, 160)),
        ("96:100", (96, 97, 98, 99, 100)),
        ("128:225:32", (128, 160, 192, 224)),
        ("160, 96,160", (96, 160)),
    ],
)
def test_resolutions(text: str | None, sizes: tuple[int, ...]) -> None:
    assert options.resolutions(text, (7,)) == sizes


@pytest.mark.parametrize(
    "text", ["", "0", "-1", "96:160:0", "160:96", "1:2:3:4", "1:999999", "x", "96:", "1.5", "9" * 9, "²"]
)
def test_wrong_resolutions_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--resolutions"):
        options.resolutions(text, (7,))


@pytest.mark.parametrize(
    ("text", "found"), [(None, None), ("0", [0]), ("0-3", [0, 1, 2, 3]), ("4,5", [4, 5]), ("0-1,4,1", [0, 1, 4])]
)
def test_cores(text: str | None, found: list[int] | None) -> None:
    assert options.cores(text) == found


@pytest.mark.parametrize("text", ["", "-", "3-1", "1-2-3", "a", "0x3", "1024", "0-9999", "1,,2"])
def test_wrong_cores_are_refused(text: str) -> None:
    with pytest.raises(UsageError, match="--cores"):
        options.cores(text)


@given(st.text(max_size=20))
def test_any_text_is_read_or_refused(text: str) -> None:
    for read in (options.cores, lambda t: options.resolutions(t, ())):
        try:
            numbers = read(text)
        except UsageError:
            continue
        assert numbers
        assert list(numbers) == sorted(set(numbers))


def test_exactly_one_names_the_option() -> None:
    assert options.exactly_one(budget=None, selection="file", bundle=None) == "selection"
    assert options.exactly_one(random_weights=0, supernet=None) == "random_weights"


def test_none_or_two_options_are_refused() -> None:
    with pytest.raises(UsageError, match="--budget and --bundle cannot"):
        options.exactly_one(budget="20ms", bundle="file")
    with pytest.raises(UsageError, match="missing"):
        options.exactly_one(budget=None, bundle=None)
