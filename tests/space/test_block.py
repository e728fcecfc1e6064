"""Blocks: complete keys that read back, and keys that are refused."""

from __future__ import annotations

from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ofa_edge.errors import BadFile
from ofa_edge.space.block import ACTIVATIONS, TYPES, Block, make_divisible

CHANNELS = st.integers(0, 4096)
BLOCKS = st.builds(
    Block,
    type=st.sampled_from(TYPES),
    in_channels=CHANNELS,
    in_size=st.integers(0, 1024),
    out_channels=CHANNELS,
    mid_channels=CHANNELS,
    kernel=st.integers(1, 15),
    stride=st.integers(1, 4),
    skip=st.booleans(),
    se=st.booleans(),
    activation=st.sampled_from(ACTIVATIONS),
    bits=st.sampled_from((8, 16, 32)),
)
BLOCK = Block("expanded_conv", 24, 28, 40, mid_channels=72, kernel=5, stride=2, activation="relu6")
KEY = "b1:expanded_conv:in24x28:mid72:out40:k5:s2:skip0:se0:relu6:32bit"


@given(BLOCKS)
def test_keys_read_back(block):
    assert Block.from_key(block.key) == block


@given(BLOCKS, BLOCKS)
def test_keys_are_equal_only_for_equal_blocks(one, other):
    assert (one.key == other.key) == (one == other)


def test_the_key_is_frozen():
    assert BLOCK.key == KEY


@pytest.mark.parametrize("field", [field.name for field in fields(Block)])
def test_every_field_is_in_the_key(field):
    changed = {"type": "Conv", "skip": True, "se": True, "activation": "relu", "bits": 8}.get(field, 7)
    other = replace(BLOCK, **{field: changed})
    assert other.key != BLOCK.key
    assert (other.weights_key == BLOCK.weights_key) == (field == "in_size")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "b1",
        KEY + " ",
        KEY + "\n",
        "x" + KEY,
        KEY.replace("b1:", "b2:"),
        KEY.replace("expanded_conv", "Deconv"),
        KEY.replace("relu6", "gelu"),
        KEY.replace("skip0", "skip2"),
        KEY.replace("in24", "in-24"),
        KEY.replace("in24", "in024"),
        KEY.replace("in24", "in２４"),
        KEY.replace("in24", "in" + "9" * 5000),
        KEY.replace(":k5", ""),
        KEY.replace(":s2", ":s0"),
        KEY.replace("32bit", "32.0bit"),
        "../../etc/passwd",
    ],
)
def test_other_texts_are_refused(text):
    with pytest.raises(BadFile, match="is not a block key of this version") as caught:
        Block.from_key(text)
    assert caught.value.hint
    assert len(caught.value.message) < 300


@given(st.text(max_size=80))
def test_any_text_is_a_key_or_refused(text):
    try:
        block = Block.from_key(text)
    except BadFile:
        return
    assert block.key == text


@pytest.mark.parametrize(
    ("type_", "size", "stride", "expected"),
    [
        ("Conv", 224, 2, 112),
        ("Conv", 225, 2, 113),
        ("expanded_conv", 7, 2, 4),
        ("expanded_conv", 7, 1, 7),
        ("expanded_conv", 1, 2, 1),
        ("AvgPool2D", 7, 1, 1),
        ("Logits", 1, 1, 1),
    ],
)
def test_output_size(type_, size, stride, expected):
    assert Block(type_, 8, size, 8, stride=stride).out_size == expected


@given(st.floats(0.1, 5000), st.sampled_from((4, 8, 16)))
def test_make_divisible_keeps_nine_tenths(value, divisor):
    rounded = make_divisible(value, divisor)
    assert rounded % divisor == 0
    assert rounded >= divisor
    assert rounded >= 0.9 * value
    assert rounded <= max(divisor, value + divisor)


@pytest.mark.parametrize(
    ("value", "expected"), [(72, 72), (18, 24), (20, 24), (28, 32), (11.9, 16), (3, 8), (60.4, 64)]
)
def test_make_divisible_is_mobilenets(value, expected):
    # e.g. 11.9 rounds to 8, which is under 90 %, so 16; 28 is half way and goes up.
    assert make_divisible(value) == expected
