"""OFA's dicts: round trips, canonical writing, and one clear error for each malformed arch."""

from __future__ import annotations

import io
import json
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ofa_edge.errors import BadFile, OfaEdgeError, UsageError
from ofa_edge.space.arch import Arch, BlockChoice, Space
from ofa_edge.space.codecs import decode, encode, read_archs
from ofa_edge.space.spaces import OFA_LITE0

PLACES = sum(stage.max_depth for stage in OFA_LITE0.stages)
GOOD = encode(OFA_LITE0, OFA_LITE0.largest(128))


@st.composite
def archs(draw: st.DrawFn, space: Space = OFA_LITE0) -> Arch:
    stages = []
    for stage in space.stages:
        depth = draw(st.sampled_from(stage.depths))
        choice = st.builds(BlockChoice, st.sampled_from(stage.kernels), st.sampled_from(stage.expands))
        stages.append(tuple(draw(st.lists(choice, min_size=depth, max_size=depth))))
    return Arch(draw(st.sampled_from(space.resolutions)), tuple(stages))


@given(archs())
def test_what_is_written_reads_back(arch):
    value = encode(OFA_LITE0, arch)
    assert decode(OFA_LITE0, value) == arch
    assert decode(OFA_LITE0, json.loads(json.dumps(value))) == arch


@given(archs(), st.data())
def test_inactive_entries_do_not_matter(arch, data):
    value = encode(OFA_LITE0, arch)
    place = 0
    for stage, depth in zip(OFA_LITE0.stages, arch.depths, strict=True):
        for i in range(stage.max_depth):
            if i >= depth:
                assert (value["ks"][place], value["e"][place]) == (min(stage.kernels), min(stage.expands))
                value["ks"][place] = data.draw(st.integers(-9, 9))
                value["e"][place] = data.draw(st.integers(-9, 9))
            place += 1
    assert decode(OFA_LITE0, value) == arch
    assert encode(OFA_LITE0, decode(OFA_LITE0, value)) == encode(OFA_LITE0, arch)


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


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 300) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=15) | st.dictionaries(st.sampled_from(["r", "d", "ks", "e", "x"]), inner),
    max_leaves=40,
)


@given(JSON_VALUES | st.fixed_dictionaries(dict.fromkeys(GOOD, JSON_VALUES)))
def test_no_value_escapes_as_another_exception(value):
    try:
        arch = decode(OFA_LITE0, value)
    except UsageError:
        return
    OFA_LITE0.check(arch)


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
