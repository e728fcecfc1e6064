"""The geometry of figures: ticks are round and apart, points stand where their values are, badges do not hide each
other, colours can be seen."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from ofa_edge.report import figures, style
from ofa_edge.report.axes import LEAST_RATIO, Frame, axis, nice_ticks, tick_texts, width_of
from ofa_edge.report.figures import Point
from tests.report.test_markup import Seen

values = st.floats(-1e6, 1e6).filter(lambda value: value == 0 or abs(value) > 1e-4)
LABELS = ("latency, ms", "top-1, %")


# -- axes -----------------------------------------------------------------------------------------
@given(values, values, st.integers(2, 9))
def test_ticks_are_within_the_range_rising_and_no_more_than_asked(low: float, high: float, most: int) -> None:
    assume(high - low > 1e-6)
    ticks = nice_ticks(low, high, most)
    assert 1 <= len(ticks) <= most
    slack = 1e-8 * (high - low)
    assert all(low - slack <= t <= high + slack for t in ticks)
    assert all(a < b for a, b in itertools.pairwise(ticks))


@given(values, st.floats(1e-3, 1e6), st.integers(2, 9))
def test_every_tick_has_a_text_of_its_own(low: float, width: float, most: int) -> None:
    ticks = nice_ticks(low, low + width, most)
    assume(width > 1e-6 * abs(low))
    texts = tick_texts(ticks)
    assert len(set(texts)) == len(ticks)


@given(st.lists(values, min_size=1, max_size=20), st.floats(150, 900))
def test_texts_side_by_side_do_not_touch_and_all_data_is_on_the_axis(data: list[float], pixels: float) -> None:
    assume(max(data) - min(data) > 1e-4 or max(data) == min(data))
    found = axis(data, "x", pixels)
    assert found.low < found.high
    shown = max(min(data), max(data) * LEAST_RATIO) if found.log else min(data)
    assert found.low <= shown
    assert max(data) <= found.high
    ends = [(found.share(t) * pixels, width_of(text)) for t, text in zip(found.ticks, found.texts, strict=True)]
    for (a, a_width), (b, b_width) in itertools.pairwise(ends):
        assert a + a_width / 2 < b - b_width / 2


@given(st.lists(st.floats(1e-3, 1e5), min_size=2, max_size=20), st.floats(200, 900))
def test_latencies_far_apart_are_drawn_by_their_ratios(data: list[float], pixels: float) -> None:
    low, high = min(data), max(data)
    assume(high / low > 21)
    found = axis(data, "x", pixels)
    assert found.log
    assert found.share(np.sqrt(low * high)) == pytest.approx(0.5, abs=1e-6)
    assert found.ticks


def test_values_beyond_an_axis_stay_on_the_figure() -> None:
    found = axis([1.0, 2.0], "x", 300)
    assert (found.share(-50.0), found.share(50.0)) == (0.0, 1.0)


def test_one_value_has_an_axis_too() -> None:
    for value in (0.0, 3.0, -7.0):
        found = axis([value], "x", 300)
        assert found.low < value < found.high
        assert 0.4 < found.share(value) < 0.6


@given(st.lists(st.tuples(st.floats(1, 9), st.floats(1, 9)), min_size=2, max_size=9))
def test_points_stand_where_their_values_are(data: list[tuple[float, float]]) -> None:
    xs, ys = zip(*data, strict=True)
    frame = Frame.of(360, 300, xs, ys, LABELS)
    for (a, b), (c, d) in itertools.combinations(data, 2):
        assert (frame.px(a) - frame.px(c)) * (a - c) >= 0
        assert (frame.py(b) - frame.py(d)) * (b - d) <= 0  # up is more
    for x, y in data:
        assert frame.left <= frame.px(x) <= frame.width - frame.right
        assert frame.top <= frame.py(y) <= frame.height - frame.bottom


def test_names_that_do_not_fit_side_by_side_are_thinned_out() -> None:
    frame = Frame.of(360, 300, [0.0, 9.0], [1.0, 2.0], LABELS)
    names = [f"{i}.25 milliseconds" for i in range(9)]
    found = frame.with_names(names, "budget").x
    assert set(found.texts) < set(names)
    assert frame.with_names(["1 ms", "2 ms", "3 ms"], "budget").x.texts == ("1 ms", "2 ms", "3 ms")


# -- marks ----------------------------------------------------------------------------------------
def test_series_differ_in_shape_and_dashes_not_only_in_colour() -> None:
    shapes = {re.sub(r'class="[^"]*"', "", figures.mark(s, 50, 50)) for s in range(style.SERIES)}
    assert len(shapes) == style.SERIES
    assert len(set(style.DASHES)) == style.SERIES


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0, 100)), min_size=2, max_size=60))
def test_a_front_is_level_then_upright_and_ends_at_its_last_point(data: list[tuple[float, float]]) -> None:
    xs, ys = sorted(x for x, _ in data), sorted(y for _, y in data)
    frame = Frame.of(400, 300, xs, ys, LABELS)
    path = re.search(r' d="([^"]*)"', figures.steps(frame, 0, xs, ys))
    assert path is not None
    assert re.fullmatch(r"M[\d.]+ [\d.]+(H[\d.]+V[\d.]+)*", path[1])
    last = re.findall(r"[\d.]+", path[1])[-2:]
    assert [float(n) for n in last] == pytest.approx(frame.at(xs[-1], ys[-1]), abs=0.06)


def test_a_band_holds_its_line() -> None:
    frame = Frame.of(400, 300, [0.5, 4.5], [1, 3], LABELS)
    markup = figures.band(frame, 1, [(0.9, 1.1, 1), (1.8, 2.2, 2), (3.6, 4.4, 3)])
    path = re.search(r' d="M([^"]*)Z"', markup)
    assert path is not None
    corners = [tuple(map(float, corner.split())) for corner in path[1].split("L")]
    assert len(corners) == 6
    for (low, y), (high, same) in zip(corners[:3], reversed(corners[3:]), strict=True):
        assert (low < high, y) == (True, same)
    assert figures.band(frame, 1, [(0.9, 1.1, 1)]) == ""


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=7))
def test_badges_stay_inside_and_off_each_other(data: list[tuple[float, float]]) -> None:
    frame = Frame.of(360, 330, [0.0, 1.0], [0.0, 1.0], LABELS)
    centres = figures.place_badges([frame.at(x, y) for x, y in data], frame)
    for x, y in centres:
        assert 0 < x < frame.width
        assert 0 < y < frame.height
    for (a, b), (c, d) in itertools.combinations(centres, 2):
        assert ((a - c) ** 2 + (b - d) ** 2) ** 0.5 >= 17


def test_what_a_point_says_is_spoken_and_shown_inside_the_figure() -> None:
    frame = Frame.of(360, 300, [0.0, 10.0], [0.0, 10.0], LABELS)
    for x, y in itertools.product((0.0, 5.0, 10.0), repeat=2):
        lines = ("a device with a name", "1.23 ms (1.20 to 1.26)")
        seen = Seen.of(figures.stops(frame, [Point(x, y, 0, lines)]))
        (reached,) = [a for tag, a in seen.elements if a.get("tabindex") == "0"]
        assert reached["aria-label"] == "; ".join(lines)
        (box,) = [a for tag, a in seen.elements if tag == "rect"]
        left, top, width, height = (float(box[n] or "") for n in ("x", "y", "width", "height"))
        assert (left >= 0, left + width <= 360, top >= 0, top + height <= 300) == (True,) * 4
        assert width >= max(map(width_of, lines))


def test_points_without_a_text_are_no_stops_for_the_keyboard() -> None:
    frame = Frame.of(360, 300, [0.0, 1.0], [0.0, 1.0], LABELS)
    assert figures.stops(frame, [Point(0.5, 0.5, 0)]) == ""
    assert "tabindex" not in figures.points(frame, [Point(0.5, 0.5, 0, ("words",))])


# -- colours --------------------------------------------------------------------------------------
def luminance(colour: str) -> float:
    """Relative luminance (WCAG 2)."""
    parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(a: str, b: str) -> float:
    high, low = sorted((luminance(a), luminance(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("page", [0, 1], ids=["light", "dark"])
def test_text_and_lines_can_be_seen(page: int) -> None:
    grounds = [style.PALETTE[name][page] for name in ("page", "card")]
    for ground, name in itertools.product(grounds, ("ink", "quiet", "link")):
        assert contrast(style.PALETTE[name][page], ground) >= 4.5, name
    for series in range(style.SERIES):
        assert contrast(style.PALETTE[f"s{series}"][page], style.PALETTE["page"][page]) >= 3.0


def test_what_is_written_on_a_block_can_be_read() -> None:
    for fill in (*style.KERNELS.values(), style.OTHER_KERNEL, style.FIXED_BLOCK):
        assert contrast(fill, style.BLOCK_INK) >= 4.5


# How linear red, green and blue look to who lacks one kind of cone (Machado, Oliveira, Fernandes, IEEE TVCG 2009).
SIGHTS = {
    "usual": np.eye(3),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "tritanopia": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]
    ),
}


def lab(colour: str, sight: np.ndarray) -> np.ndarray:
    """CIE L*a*b* (D65) of a colour as it is seen."""
    srgb = np.array([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)])
    linear = np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)
    seen = np.clip(sight @ linear, 0, 1)
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ seen
    f = np.cbrt(xyz / np.array([0.9505, 1.0, 1.089]))
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("sight", SIGHTS)
def test_colours_differ_to_any_eye(sight: str) -> None:
    """By ten or more CIE76 units, of which two or three are just seen side by side."""
    groups = [[style.KERNELS[k] for k in (3, 5, 7)]]
    groups += [[style.PALETTE[f"s{s}"][page] for s in range(4)] for page in (0, 1)]
    for group in groups:
        for a, b in itertools.combinations(group, 2):
            assert np.linalg.norm(lab(a, SIGHTS[sight]) - lab(b, SIGHTS[sight])) >= 10, (a, b)
