"""The drawings of a subnet: equal rows for all subnets of a space, lengths that are what they say."""

from __future__ import annotations

import re

import numpy as np
import pytest

from ofa_edge.report import drawings
from ofa_edge.report.drawings import BlockTime
from ofa_edge.report.markup import Markup
from ofa_edge.report.style import KERNELS
from ofa_edge.space.arch import Space
from ofa_edge.space.spaces import OFA_LITE0, SPACES
from tests.report.test_markup import Seen


def numbers(markup: Markup, tag: str, name: str, class_: str = "") -> list[float]:
    elements = Seen.of(markup).elements
    return [float(a[name] or "") for found, a in elements if found == tag and class_ in (a.get("class") or "")]


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
def test_the_same_place_of_any_two_subnets_is_at_the_same_height(space: Space) -> None:
    rng = np.random.default_rng(0)
    rows: dict[str, float] = {}
    for arch in [space.smallest(), space.largest(), *(space.sample(rng) for _ in range(5))]:
        markup = drawings.subnet(space, arch, "x", "a subnet")
        blocks = re.findall(r'class="k k(\w+)" x="([\d.]+)" y="([\d.]+)" width="([\d.]+)"', markup)
        drawn = [(kernel, float(left), y, float(width)) for kernel, left, y, width in blocks if kernel != "f"]
        choices = [choice for stage in arch.stages for choice in stage]
        assert [kernel for kernel, *_ in drawn] == [str(c.kernel) if c.kernel in KERNELS else "x" for c in choices]
        places = (f"{s}.{i}" for s, stage in enumerate(arch.stages) for i in range(len(stage)))
        for place, (_, left, y, width) in zip(places, drawn, strict=True):
            assert rows.setdefault(place, float(y)) == float(y)
            assert left + width / 2 == pytest.approx(82, abs=0.02)  # the middle of the picture
            assert left >= 0
        empty = markup.count("stroke-dasharray")
        assert empty + len(drawn) == sum(stage.max_depth for stage in space.stages)
        assert rows.setdefault("height", height(markup)) == height(markup)
        for choice in choices:
            assert drawings.choice_name(choice) in markup


def height(markup: Markup) -> float:
    found = re.search(r'viewBox="0 0 [\d.]+ ([\d.]+)"', markup)
    assert found is not None
    return float(found[1])


def test_a_wider_input_is_a_wider_bar_and_its_size_is_written() -> None:
    widths = []
    for resolution in (96, 128, 160):
        markup = drawings.subnet(OFA_LITE0, OFA_LITE0.smallest(resolution), "x", "a subnet")
        widths.append(numbers(markup, "rect", "width")[0])
        assert f"input {resolution} px" in markup
    assert widths == sorted(set(widths))


def test_a_subnet_is_described_in_words() -> None:
    arch = OFA_LITE0.smallest(96)
    first = arch.stages[0]
    assert drawings.describe(arch).startswith(f"input 96 px; stage 1: {', '.join(map(drawings.choice_name, first))};")


def test_bars_are_as_long_as_their_times_and_hold_their_intervals() -> None:
    layers = OFA_LITE0.layers(OFA_LITE0.smallest(96))
    times = [0.5, 1.0, 2.0]
    found = [BlockTime(layers[i], None, ms, 0.9 * ms, 1.2 * ms, True) for i, ms in enumerate(times)]
    markup = drawings.bars(found, "x", "blocks")
    lengths = numbers(markup, "rect", "width")
    assert [length / lengths[0] for length in lengths] == pytest.approx([1, 2, 4], rel=0.01)
    starts = numbers(markup, "rect", "x")
    whiskers = re.findall(r'class="i" d="M([\d.]+) [\d.]+H([\d.]+)', markup)
    for (low, high), start, length in zip(whiskers, starts, lengths, strict=True):
        assert float(low) == pytest.approx(start + 0.9 * length, abs=0.1)
        assert float(high) == pytest.approx(start + 1.2 * length, abs=0.1)
        assert float(high) < 360 - 60  # off the written value


def test_what_was_not_measured_looks_otherwise() -> None:
    layer = OFA_LITE0.layers(OFA_LITE0.smallest(96))[0]
    markup = drawings.bars([BlockTime(layer, None, 1.0, None, None, False)], "x", "blocks")
    assert "stroke-dasharray" in markup
    assert ">~1.000<" in markup
    assert 'class="i"' not in markup
