"""OFA's dicts: round trips, canonical writing, and one clear error for each malformed arch."""

from __future__ import annotations

import ast
import csv
import io
import json
import math
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ofa_edge.errors import BadFile, OfaEdgeError, UsageError
from ofa_edge.space.arch import Arch, BlockChoice, Space
from ofa_edge.space.codecs import decode, encode, read_archs
from ofa_edge.space.cost import cost
from ofa_edge.space.spaces import OFA_LITE0, SPACES, get_space, resnet_d
from ofa_edge.weights.layout import arch_shapes

CSV = Path(__file__).resolve().parents[3] / "shared/data/tables/ofa_mbv3_w1.0_imagenet_top1"
RESNET = SPACES["ofa-resnet50d"]
PLACES = sum(stage.max_depth for stage in OFA_LITE0.stages)
GOOD = encode(OFA_LITE0, OFA_LITE0.largest(128))


@st.composite
def archs(draw: st.DrawFn, space: Space = OFA_LITE0) -> Arch:
    stages = []
    for stage in space.stages:
        depth = draw(st.sampled_from(stage.depths))
        choice = st.builds(BlockChoice, st.sampled_from(stage.kernels), st.sampled_from(stage.expands))
        stages.append(tuple(draw(st.lists(choice, min_size=depth, max_size=depth))))
    widths = tuple(draw(st.sampled_from(choices)) for choices in space.width_choices)
    resolution = draw(st.sampled_from(space.resolutions))
    return Arch(resolution, tuple(stages), widths, draw(st.sampled_from(space.stem.depths)))


# One of each family, and one in which widths that round to one value, depths and a stem stand otherwise than in OFA's.
FAMILIES = [*SPACES.values(), resnet_d("narrow", (0.1, 0.12, 0.25, 0.26, 0.5))]
by_family = pytest.mark.parametrize("space", FAMILIES, ids=lambda space: space.name)


@by_family
@settings(max_examples=25)
@given(data=st.data())
def test_what_is_written_reads_back(space, data):
    arch = data.draw(archs(space))
    value = encode(space, arch)
    assert decode(space, value) == arch
    assert decode(space, json.loads(json.dumps(value))) == arch
    assert decode(space, value | {"r": [arch.resolution], "wid": None}) == arch


@by_family
@settings(max_examples=25)
@given(data=st.data())
def test_inactive_entries_do_not_matter(space, data):
    arch = data.draw(archs(space))
    value = {"ks": [3] * 99} | encode(space, arch)
    place = 0
    for stage, depth in zip(space.stages, arch.depths, strict=True):
        for i in range(stage.max_depth):
            if i >= depth:
                assert (value["ks"][place], value["e"][place]) == (min(stage.kernels), min(stage.expands))
                value["ks"][place] = data.draw(st.integers(-9, 9))
                value["e"][place] = data.draw(st.integers(-9, 9))
            place += 1
    value = {key: value[key] for key in encode(space, arch)}
    assert decode(space, value) == arch
    assert encode(space, decode(space, value)) == encode(space, arch)


def test_resnets_are_written_as_ofa_has_them():
    largest, smallest = RESNET.largest(128), RESNET.smallest(128)
    assert encode(RESNET, largest) == {"r": 128, "d": [2] * 5, "e": [0.35] * 18, "w": [2] * 6}
    assert encode(RESNET, smallest) == {"r": 128, "d": [0] * 5, "e": [0.2] * 18, "w": [0] * 6}
    assert (largest.depths, largest.stem_depth) == ((4, 4, 6, 4), 1)
    assert (smallest.depths, smallest.stem_depth) == ((2, 2, 4, 2), 0)


def test_of_equal_widths_the_first_is_written_and_every_one_is_read():
    value = encode(RESNET, RESNET.smallest(128))
    assert RESNET.width_choices[0] == (24, 32)
    for first in (0, 1):
        arch = decode(RESNET, value | {"w": [first, 0, 0, 0, 0, 0]})
        assert arch.widths[0] == 24
        assert encode(RESNET, arch)["w"][0] == 0


def test_any_stem_depth_but_the_greatest_leaves_the_convolution_out():
    value = encode(RESNET, RESNET.smallest(128))
    assert [decode(RESNET, value | {"d": [d, 0, 0, 0, 0]}).stem_depth for d in (0, 1, 2)] == [0, 0, 1]
    assert encode(RESNET, decode(RESNET, value | {"d": [1, 0, 0, 0, 0]}))["d"][0] == 0


def test_an_expand_ratio_is_written_as_the_space_has_it():
    value = encode(RESNET, RESNET.largest(128))
    assert decode(RESNET, value | {"e": [0.25, *value["e"][1:]]}).stages[0][0].expand == 0.25
    mixed = replace(OFA_LITE0, stages=(replace(OFA_LITE0.stages[0], expands=(2.5, 6)), *OFA_LITE0.stages[1:]))
    found = encode(mixed, decode(mixed, encode(mixed, mixed.largest(128)) | {"e": [6.0] * PLACES}))
    assert json.dumps(found["e"]) == json.dumps([6] * PLACES)


def test_published_measurements_decode_and_count_as_published():
    """The table's parameters are those of training, as the reference counts them; its MACs are at 224 px."""
    if not CSV.is_dir():
        pytest.skip(f"needs the tables in {CSV}")
    space = get_space("ofa-mbv3-w1.0")
    seen = []
    for file in sorted(CSV.glob("*.csv")):
        with file.open(newline="") as lines:
            for row in csv.DictReader(lines):
                value = ast.literal_eval(row["Sub-network"])
                arch = decode(space, value)
                assert decode(space, encode(space, arch)) == arch
                assert sum(map(math.prod, arch_shapes(space, arch).values())) == int(row["Model Parameters"])
                assert cost(space.blocks(arch)).macs == int(row["MACs"])
                seen.append(arch)
    assert (len(seen), len(set(seen))) == (2373, 2162)


def test_the_written_form_is_frozen():
    arch = OFA_LITE0.smallest(96)
    assert encode(OFA_LITE0, arch) == {
        "r": 96,
        "d": [1, 1, 1, 1, 1, 1],
        "ks": [3] * PLACES,
        "e": [3] * PLACES,
    }
    assert (len(GOOD["ks"]), GOOD["d"]) == (15, [2, 2, 3, 3, 4, 1])
    assert GOOD["ks"] == [3, 3, 5, 5, 3, 3, 3, 5, 5, 5, 5, 5, 5, 5, 3]


def test_ofas_variations_are_read():
    arch = OFA_LITE0.largest(128)
    assert decode(OFA_LITE0, GOOD | {"r": [128]}) == arch
    assert decode(OFA_LITE0, GOOD | {"wid": None, "w": [1.0]}) == arch


def test_encoding_an_outsider_is_refused():
    with pytest.raises(UsageError, match="resolution 97"):
        encode(OFA_LITE0, Arch(97, OFA_LITE0.largest().stages))


def _changed(key: str, index: int, value: object) -> dict[str, object]:
    return GOOD | {key: [*GOOD[key][:index], value, *GOOD[key][index + 1 :]]}


MALFORMED = {
    "an arch must be a JSON object, not list": [GOOD],
    "an arch must be a JSON object, not NoneType": None,
    "an arch must be a JSON object, not str": "128",
    "unknown key 'kernel' in the arch": GOOD | {"kernel": []},
    "the arch has no 'r'": {key: value for key, value in GOOD.items() if key != "r"},
    "the arch has no 'd'": {"r": 128},
    "the arch has no 'e'": {key: value for key, value in GOOD.items() if key != "e"},
    "'r' must be a whole number, not '128'": GOOD | {"r": "128"},
    "'r' must be a whole number, not 128.0": GOOD | {"r": 128.0},
    "'r' must be a whole number, not True": GOOD | {"r": True},
    "'r' must be a whole number, not [128, 128]": GOOD | {"r": [128, 128]},
    "'r' must be a whole number, not None": GOOD | {"r": None},
    "resolution 100 is not in space ofa-lite0": GOOD | {"r": 100},
    "resolution -128 is not in space ofa-lite0": GOOD | {"r": -128},
    "'d' must be a list of whole numbers": GOOD | {"d": 2},
    "'ks' must be a list of whole numbers": _changed("ks", 3, 5.0),
    "'e' must be a list of whole numbers": _changed("e", 3, True),
    "'d' has 5 entries, the space has 6": GOOD | {"d": GOOD["d"][:5]},
    "'ks' has 14 entries, the space has 15": GOOD | {"ks": GOOD["ks"][1:]},
    "'e' has 16 entries, the space has 15": GOOD | {"e": [*GOOD["e"], 6]},
    "stage 0: depth 3 is not one of [1, 2]": _changed("d", 0, 3),
    "stage 4: depth 0 is not one of [1, 2, 3, 4]": _changed("d", 4, 0),
    "stage 5: depth -1 is not one of [1]": _changed("d", 5, -1),
    "stage 0 block 1: kernel 5 is not one of [3]": _changed("ks", 1, 5),
    "stage 1 block 0: kernel 7 is not one of [3, 5]": _changed("ks", 2, 7),
    "stage 5 block 0: expand 5 is not one of [3, 4, 6]": _changed("e", 14, 5),
}


@pytest.mark.parametrize("message", MALFORMED)
def test_malformed_archs_are_refused_by_name(message):
    with pytest.raises(UsageError) as caught:
        decode(OFA_LITE0, MALFORMED[message])
    assert caught.value.message == message


GOOD_RESNET = encode(RESNET, RESNET.largest(128))
# Numbers of 4,300 digits are read, and one more could not be printed.
HUGE = int("9" * 4300)

MALFORMED_RESNET = {
    "'d' must be a list of whole numbers": GOOD_RESNET | {"d": [0, HUGE, 0, 0, 0]},
    "the arch has no 'w'": {key: value for key, value in GOOD_RESNET.items() if key != "w"},
    "unknown key 'ks' in the arch": GOOD_RESNET | {"ks": [3] * 18},
    "'d' has 4 entries, the space has 5": GOOD_RESNET | {"d": [2] * 4},
    "'e' must be a list of numbers": GOOD_RESNET | {"e": ["0.2"] * 18},
    "'e' has 20 entries, the space has 18": GOOD_RESNET | {"e": [0.2] * 20},
    "'w' must be a list of whole numbers": GOOD_RESNET | {"w": [1.0] * 6},
    "'w' has 5 entries, the space has 6": GOOD_RESNET | {"w": [2] * 5},
    "stem: depth 3 is not one of [0, 1, 2]": GOOD_RESNET | {"d": [3, 2, 2, 2, 2]},
    "stage 1: depth 5 is not one of [2, 3, 4]": GOOD_RESNET | {"d": [2, 2, 3, 2, 2]},
    "stage 2: depth 3 is not one of [4, 5, 6]": GOOD_RESNET | {"d": [2, 2, 2, -1, 2]},
    "stage 0 block 0: expand 0.3 is not one of [0.2, 0.25, 0.35]": GOOD_RESNET | {"e": [0.3] * 18},
    "width 0: number 3 is not one of [0, 1, 2]": GOOD_RESNET | {"w": [3] * 6},
    "width 5: number -1 is not one of [0, 1, 2]": GOOD_RESNET | {"w": [2, 2, 2, 2, 2, -1]},
}


@pytest.mark.parametrize("message", MALFORMED_RESNET)
def test_malformed_resnets_are_refused_by_name(message):
    with pytest.raises(UsageError) as caught:
        decode(RESNET, MALFORMED_RESNET[message])
    assert caught.value.message == message
    assert '"w":[...]' in caught.value.hint or caught.value.hint == ""


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 300) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=15) | st.dictionaries(st.sampled_from(["r", "d", "ks", "e", "x"]), inner),
    max_leaves=40,
)


def _values(good):
    lists = {key: JSON_VALUES | st.lists(st.sampled_from([*good[key], 7, 10**400]), min_size=len(good[key]),
                                         max_size=len(good[key])) for key in good if key != "r"}  # fmt: skip
    return JSON_VALUES | st.fixed_dictionaries({"r": st.just(128) | JSON_VALUES, **lists})


@pytest.mark.parametrize(("space", "good"), [(OFA_LITE0, GOOD), (RESNET, GOOD_RESNET)])
@settings(max_examples=50)
@given(data=st.data())
def test_no_value_escapes_as_another_exception(space, good, data):
    try:
        arch = decode(space, data.draw(_values(good)))
    except UsageError:
        return
    space.check(arch)


# -- files ------------------------------------------------------------------------------------------
def test_files_hold_one_arch_or_a_list(tmp_path):
    path = tmp_path / "arch.json"
    path.write_text(json.dumps(GOOD))
    assert read_archs(OFA_LITE0, str(path)) == [OFA_LITE0.largest(128)]
    other = encode(OFA_LITE0, OFA_LITE0.smallest(96))
    path.write_text(json.dumps([GOOD, other]))
    assert read_archs(OFA_LITE0, str(path)) == [OFA_LITE0.largest(128), OFA_LITE0.smallest(96)]


def test_a_dash_reads_standard_input(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(json.dumps(GOOD).encode())))
    assert read_archs(OFA_LITE0, "-") == [OFA_LITE0.largest(128)]


def test_a_missing_file_is_the_users_to_fix(tmp_path):
    for path in (tmp_path / "none.json", tmp_path):
        with pytest.raises(UsageError, match="cannot read"):
            read_archs(OFA_LITE0, str(path))


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"\xff\xfe{}",
        b'{"r": NaN}',
        b'{"r": 1e999}',
        b'{"r": 128, "r": 96}',
        b"[" * 100_000,
        b"9" * 5000,
    ],
    ids=["empty", "cut", "not UTF-8", "NaN", "infinite", "duplicate key", "deep", "long number"],
)
def test_files_that_are_not_strict_json_are_refused(tmp_path, monkeypatch, content):
    path = tmp_path / "arch.json"
    path.write_bytes(content)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(content), encoding="utf-8"))
    for source in (str(path), "-"):
        with pytest.raises(BadFile, match="not JSON") as caught:
            read_archs(OFA_LITE0, source)
        assert caught.value.hint


def test_an_empty_list_is_no_arch(tmp_path):
    path = tmp_path / "arch.json"
    path.write_text("[]")
    with pytest.raises(OfaEdgeError, match="holds no arch"):
        read_archs(OFA_LITE0, str(path))
