"""Spaces from TOML and JSON: what is written reads back, and every mistake is answered with its key."""

from __future__ import annotations

import copy
import json
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ofa_edge.errors import BadFile, UsageError
from ofa_edge.space import schema
from ofa_edge.space.spaces import OFA_MBV3_W10, SPACES, definition, from_definition, get_space, mobilenet_v3, proxyless

EXAMPLES = Path(__file__).resolve().parents[2] / "docs" / "examples"
MOBILE = definition(mobilenet_v3("mine", 1.0))
RESNET = definition(SPACES["ofa-resnet50d"]) | {"name": "mine"}


@pytest.mark.parametrize("space", SPACES.values(), ids=lambda space: space.name)
def test_built_in_spaces_read_back_from_json_and_toml(space, tmp_path):
    assert from_definition(json.loads(json.dumps(definition(space)))) == space
    path = tmp_path / "space.toml"
    path.write_text(schema.as_toml(space))
    assert get_space(str(path)) == space


@given(width=st.floats(0.3, 3), expand=st.floats(1.5, 6).map(lambda e: round(e, 2)))
@settings(max_examples=30)
def test_spaces_of_any_width_read_back(width, expand):
    value = definition(mobilenet_v3("mine", width)) | {"resolutions": [32]}
    value["stages"] = [stage | {"expands": [expand]} for stage in value["stages"]]
    space = schema.as_space(value, "file")
    assert schema.as_space(tomllib.loads(schema.as_toml(space)), "file") == space
    space.layers(space.sample(np.random.default_rng(0)))


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.toml")), ids=lambda path: path.stem)
def test_the_examples_are_spaces(path):
    space = get_space(str(path))
    assert space.name == path.stem
    assert space.layers(space.largest())


def test_the_example_of_half_width_is_that():
    half = mobilenet_v3("mbv3-w0.5", 0.5)
    found = get_space(str(EXAMPLES / "mbv3-w0.5.toml"))
    assert (found.stem, found.stages, found.head) == (half.stem, half.stages, half.head)


def test_whole_expand_ratios_are_integers_however_they_are_written():
    value = copy.deepcopy(MOBILE)
    value["stages"][0]["expands"] = [3.0, 4.0, 6.0]
    assert json.dumps(schema.as_space(value, "file").stages[0].expands) == "[3, 4, 6]"


def test_a_built_in_name_means_the_built_in_space():
    same = definition(OFA_MBV3_W10)
    assert from_definition(same | {"classes": 5}) == OFA_MBV3_W10.with_classes(5)
    other = definition(proxyless("ofa-mbv3-w1.0", 1.0))
    with pytest.raises(BadFile, match="built-in space") as caught:
        from_definition(other, "space.toml")
    assert "name of its own" in caught.value.hint


def _changed(base: dict[str, Any], change: Callable[[dict[str, Any]], object]) -> dict[str, Any]:
    value = copy.deepcopy(base)
    change(value)
    return value


# The message (after the file's name) -> a space, and the change that makes it wrong.
MISTAKES: dict[str, tuple[dict[str, Any], Callable[[dict[str, Any]], object]]] = {
    "classes: Field required": (MOBILE, lambda v: v.pop("classes")),
    "colour: there is no such key": (MOBILE, lambda v: v.update(colour=1)),
    "stages[1].colour: there is no such key": (MOBILE, lambda v: v["stages"][1].update(colour=1)),
    "stem.depths: there is no such key": (MOBILE, lambda v: v["stem"].update(depths=[0])),
    "name: String should match pattern '^[a-z0-9][a-z0-9._-]{0,63}$'": (MOBILE, lambda v: v.update(name="../mine")),
    "classes: Input should be a valid integer": (MOBILE, lambda v: v.update(classes="10")),
    "resolutions: values must rise, none of them twice": (MOBILE, lambda v: v.update(resolutions=[32, 32])),
    "resolutions[1]: Input should be greater than or equal to 8": (MOBILE, lambda v: v.update(resolutions=[32, 1])),
    "stages[0].activation: Input should be 'none', 'relu', 'relu6' or 'h_swish'": (
        MOBILE,
        lambda v: v["stages"][0].update(activation="swish"),
    ),
    "stages[2].kernels[1]: a kernel has an odd side": (MOBILE, lambda v: v["stages"][2].update(kernels=[3, 4])),
    "stages[0].expands[0]: Input should be greater than 0": (MOBILE, lambda v: v["stages"][0].update(expands=[0])),
    "stages[0].depths[0]: Input should be greater than or equal to 1": (
        MOBILE,
        lambda v: v["stages"][0].update(depths=[0, 1]),
    ),
    "stages[0].stride: Input should be less than or equal to 2": (MOBILE, lambda v: v["stages"][0].update(stride=3)),
    "stages[0].se: Input should be a valid boolean": (MOBILE, lambda v: v["stages"][0].update(se=1)),
    "stages: List should have at least 1 item after validation, not 0": (MOBILE, lambda v: v.update(stages=[])),
    "stages[0].widths: widths are elastic behind a resnet stem only": (
        MOBILE,
        lambda v: v["stages"][0].update(widths=[16, 24]),
    ),
    "preprocess.std[0]: Input should be greater than or equal to 0.001": (
        MOBILE,
        lambda v: v["preprocess"].update(std=[0, 1, 1]),
    ),
    "preprocess.mean: give one number, or three": (MOBILE, lambda v: v["preprocess"].update(mean=[1.0, 2.0])),
    "preprocess.crop: Input should be less than or equal to 1": (MOBILE, lambda v: v["preprocess"].update(crop=2)),
    "bn_eps: Input should be a finite number": (MOBILE, lambda v: v.update(bn_eps=float("nan"))),
    "stem: Input tag 'vgg' found using 'type' does not match any of the expected tags: 'mobile', 'resnet'": (
        MOBILE,
        lambda v: v["stem"].update(type="vgg"),
    ),
    "stem: Unable to extract tag using discriminator 'type'": (MOBILE, lambda v: v["stem"].pop("type")),
    "stem.mid_widths: values must not fall": (RESNET, lambda v: v["stem"].update(mid_widths=[32, 24, 24])),
    "stages[1]: out_channels must be the greatest of widths": (
        RESNET,
        lambda v: v["stages"][1].update(out_channels=500),
    ),
    "stages[3]: bottlenecks, behind a resnet stem, have kernels = [3] and no se": (
        RESNET,
        lambda v: v["stages"][3].update(kernels=[3, 5]),
    ),
}


@pytest.mark.parametrize("message", MISTAKES)
def test_mistakes_are_named(message):
    value = _changed(*MISTAKES[message])
    with pytest.raises(BadFile) as caught:
        schema.as_space(value, "space.toml")
    assert caught.value.message == f"space.toml: {message}"
    assert caught.value.hint


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(list(MOBILE)), inner, max_size=3),
        max_leaves=10,
    ),
    st.sampled_from(list(MOBILE)),
)
@settings(max_examples=50)
def test_no_value_escapes_as_another_exception(value, key):
    for whole in (value, MOBILE | {key: value}):
        try:
            space = schema.as_space(whole, "file")
        except BadFile:
            continue
        space.layers(space.largest())


def test_a_file_whose_expand_ratios_round_to_one_width_is_refused(tmp_path):
    path = tmp_path / "space.toml"
    text = schema.as_toml(mobilenet_v3("mine", 1.0))
    path.write_text(text.replace("expands = [3, 4, 6]", "expands = [2, 2.01]", 1))
    with pytest.raises(BadFile, match=r"stages\[0\].expands: 2 and 2.01 both give 32 channels"):
        get_space(str(path))


def test_an_expansion_that_the_supernet_would_lack_is_refused():
    value = _changed(MOBILE, lambda v: v["stages"][0].update(expands=[0.5, 1]))
    with pytest.raises(BadFile, match=r"stages\[0\].expands: the greatest, 1, leaves"):
        schema.as_space(value, "file")


def test_spaces_too_large_to_list_are_refused():
    """A file of a few kilobytes can ask for 10^11 blocks, or a count of subnets of more digits than Python prints."""
    many = _changed(MOBILE, lambda v: v["stages"][0].update(depths=list(range(1, 33))))
    many["stages"] = [many["stages"][0]] * 17
    with pytest.raises(BadFile, match="up to 544 blocks, more than 512"):
        schema.as_space(many, "file")
    wide = _changed(RESNET, lambda v: None)
    wide["stages"][0]["widths"] = list(range(8, 512, 8))
    wide["stages"][0]["out_channels"] = 504
    wide["stages"][0]["expands"] = [i / 16 for i in range(1, 65)]
    wide["resolutions"] = list(range(8, 1032))
    with pytest.raises(BadFile, match="different blocks, more than 500,000"):
        schema.as_space(wide, "file")


def test_a_byte_order_mark_is_read_past(tmp_path):
    path = tmp_path / "space.toml"
    path.write_text(schema.as_toml(mobilenet_v3("mine", 1.0)), encoding="utf-8-sig")
    assert get_space(str(path)) == mobilenet_v3("mine", 1.0)


def test_a_key_that_a_terminal_would_obey_is_shown_as_text():
    with pytest.raises(BadFile) as caught:
        schema.as_space(MOBILE | {"a\x1b[31m\nerror: b": 1}, "file")
    assert caught.value.message == "file: 'a\\x1b[31m\\nerror: b': there is no such key"


@pytest.mark.parametrize("content", [b"a = ", b"\xff", b"[" * 8000, b"# " * (1 << 18), b"a." * 5000 + b"a = 1"])
def test_files_that_are_no_toml_are_refused(tmp_path, content):
    path = tmp_path / "space.toml"
    path.write_bytes(content)
    with pytest.raises(BadFile, match="space.toml") as caught:
        get_space(str(path))
    assert caught.value.hint


def test_files_that_cannot_be_read_are_the_users_to_fix(tmp_path):
    with pytest.raises(UsageError, match="cannot read"):
        get_space(str(tmp_path / "none.toml"))
    with pytest.raises(UsageError, match="no space 'mine'") as caught:
        get_space("mine")
    assert "toml" in caught.value.hint
