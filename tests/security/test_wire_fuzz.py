"""The wire's readers against anything: only a WireError comes out, in bounded time, and what parses survives the way
back. Arbitrary bytes, arbitrary JSON, and valid messages that were mutated."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from device_agents import strict_json, wire

SHA = "0123456789abcdef" * 4
FIGURES = wire.Figures(5, 1.0, 1.0, 2.0, 3.0, 1.5, 2.5, 2.0, 0.5)
NOISE = wire.Noise(0.0, 0.1, 3, 61.5, 1500.0, 5, "ondemand")
MEASURED = wire.Measured("k", FIGURES, FIGURES, FIGURES, 3, 0.5, 1.0, 0, ("load",), NOISE, 1 << 20)
JOB = wire.MeasureJob("k", SHA, {"h": 7, "w": 7}, cores=(0, 1), anchor=SHA, anchor_shape={"h": 9})
FACTS = wire.Facts(
    "Board", "soc", "aarch64", "Linux 6", "3.9.2", 4, (0, 1), "performance", 1 << 30, False, {"onnxruntime": "1"},
    "s", "b", "0.1.0", "glibc 2.36", ("rapl:package-0",),
)  # fmt: skip
VALUES: list[Any] = [
    FIGURES, NOISE, MEASURED, JOB, FACTS, wire.Failed("k", "why"), wire.Checked(0.1, 0.01, True, False),
    wire.EnergyJob("k", SHA, "rapl:package-0", {"h": 8}, cores=(0, 1)),
    wire.Energy("k", "rapl:package-0", 3.5, 9.0, 1.5, -0.5, 2.0, 400, 6),
]  # fmt: skip
REPLIES: list[wire.Reply] = [
    wire.Result(1, {"a": [1, 2.5, None, "ü"]}), wire.Refusal(2, "usage", "no"), wire.End(4, 17),
    wire.Row(3, wire.result_row(MEASURED)),
]  # fmt: skip

texts = st.text(max_size=20) | st.sampled_from(["\0", "\ud800", "\x1b[2J", "\u202e", "NaN", "a" * 5000, SHA, "../../x"])
numbers = (
    st.integers()
    | st.floats()
    | st.sampled_from([0, -1, 1 << 62, 1 << 64, 10**19, 1e308, -1e308, 5e-324, math.nan, math.inf, -math.inf])
)
scalars = st.none() | st.booleans() | numbers | texts
values = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=15,
)


def paths(value: Any, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Of everything inside a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path for key, item in inner for path in [(*at, key), *paths(item, (*at, key))]]


@st.composite
def mutated(draw: st.DrawFn, value: Any) -> Any:
    """One to three changes: a field dropped, renamed, replaced by another value, or put where another is."""
    value = json.loads(json.dumps(value))
    for _ in range(draw(st.integers(1, 3))):
        if not (found := paths(value)):
            return value
        *way, last = draw(st.sampled_from(found))
        holder = value
        for key in way:
            holder = holder[key]
        change = draw(st.sampled_from(["drop", "replace", "rename", "swap"]))
        if change == "drop" or isinstance(holder, list):
            holder.pop(last)
        elif change == "rename":
            holder[draw(texts)] = holder.pop(last)
        elif change == "swap":
            holder[last] = json.loads(json.dumps(value))
        else:
            holder[last] = draw(values)
    return value


def show(error: wire.WireError) -> None:
    """It is for a terminal."""
    assert str(error).isprintable()


def survives(parse: Callable[[Any], Any], value: Any) -> bool:
    """Whether it parses; then the way over the wire changes nothing."""
    try:
        parsed = parse(value)
    except wire.WireError as error:
        show(error)
        return False
    again = wire.loads(wire.dumps(wire.to_wire(parsed)))
    assert wire.to_wire(parse(again)) == wire.to_wire(parsed)
    return True


@pytest.mark.parametrize("value", VALUES, ids=lambda value: type(value).__name__)
def test_the_messages_that_are_mutated_are_valid(value: Any) -> None:
    assert survives(type(value).parse, wire.to_wire(value))


@given(st.data())
@settings(max_examples=400)
def test_a_mutated_value_parses_to_what_goes_back_unchanged_or_is_a_wire_error(data: st.DataObject) -> None:
    value = data.draw(st.sampled_from(VALUES))
    survives(type(value).parse, data.draw(mutated(wire.to_wire(value))))


@given(st.data())
@settings(max_examples=200)
def test_a_mutated_line_is_a_message_or_a_wire_error(data: st.DataObject) -> None:
    reply = data.draw(st.sampled_from(REPLIES))
    request = json.loads(wire.request_line(1, "measure", {"jobs": [wire.to_wire(JOB)], "fresh": True}))
    for original, parse in ((json.loads(wire.reply_line(reply)), wire.parse_reply), (request, wire.parse_request)):
        line = json.dumps(data.draw(mutated(original))).encode()
        try:
            parsed: Any = parse(line)
        except wire.WireError as error:
            show(error)
            continue
        if parse is wire.parse_reply:
            assert wire.parse_reply(wire.reply_line(parsed)) == parsed


@given(st.sampled_from(REPLIES), st.data())
@settings(max_examples=200)
def test_a_line_with_broken_bytes_is_a_message_or_a_wire_error(reply: wire.Reply, data: st.DataObject) -> None:
    line = bytearray(wire.reply_line(reply))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(line) - 1))
        line[place : place + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
        line = line or bytearray(b"x")
    for parse in (wire.parse_reply, wire.parse_request):
        try:
            parse(bytes(line))
        except wire.WireError as error:
            show(error)


@given(values)
@settings(max_examples=200)
def test_a_row_of_any_json_is_a_row_or_a_wire_error(value: Any) -> None:
    for row in (value, {"measured": value}, {"failed": value}, {"measured": value, "failed": value}):
        try:
            wire.parse_row(wire.Measured, row)
        except wire.WireError as error:
            show(error)


@given(values, st.text(max_size=8))
def test_fields_of_any_value_give_their_type_or_a_wire_error(value: Any, name: str) -> None:
    takes: list[Callable[[strict_json.Fields], Any]] = [
        lambda f: f.text(name), lambda f: f.whole(name), lambda f: f.number(name), lambda f: f.flag(name),
        lambda f: f.object(name), lambda f: f.sha256(name), lambda f: f.items(name, 3), lambda f: f.wholes(name, 3),
        lambda f: f.maybe(name), lambda f: f.done(),
    ]  # fmt: skip
    for holder in (value, {name: value}):
        for take in takes:
            try:
                taken = take(strict_json.Fields("it", holder))
            except wire.WireError as error:
                show(error)
                continue
            if isinstance(taken, float):
                assert math.isfinite(taken)


LONG = 1_000_000


@pytest.mark.parametrize(
    "text",
    [
        "1" * LONG, "-" + "1" * LONG, "0." + "1" * LONG, "1e" + "9" * LONG, "[" * LONG, '{"a":' * (LONG // 5),
        "[" * 65 + "]" * 65, '{"a":' * 65 + "1" + "}" * 65, "\ufeff{}", "\0", '"\0"', '{"a":1}\0', "NaN", "nan",
        "Infinity", "-Infinity", "+1", "01", "0x10", "1_000", "'a'", "{a:1}", "[1,]", "1 2", "tru", '"\\x41"',
        '{"a":1,"\\u0061":2}',
    ],
    ids=lambda text: text[:12].encode("unicode_escape").decode(),
)  # fmt: skip
def test_text_that_is_not_strict_is_refused_in_time_that_grows_with_its_length_only(text: str) -> None:
    """Quadratic work on a million characters would end in the test's timeout."""
    for data in (text, text.encode()):
        with pytest.raises(wire.WireError) as caught:
            wire.loads(data)
        assert str(caught.value).isprintable()
        assert len(str(caught.value)) < 5000


@pytest.mark.parametrize("data", [b"\xff", b'"\xc3"', b'"\xed\xa0\x80"', b'"\xf8\x88\x80\x80\x80"', b'"\xc0\x80"'])
def test_bytes_that_are_not_utf8_are_refused(data: bytes) -> None:
    with pytest.raises(wire.WireError):
        wire.loads(data)


@pytest.mark.parametrize(
    "text", ["[" + "{}," * 349_000 + "{}]", json.dumps({str(i): i for i in range(70_000)}), " " * LONG + "1"]
)
def test_a_line_of_a_megabyte_is_read(text: str) -> None:
    assert wire.loads(text) is not None


def test_depth_is_a_limit_of_ours_and_not_of_the_interpreter() -> None:
    deepest = "[" * strict_json.MAX_DEPTH + "]" * strict_json.MAX_DEPTH
    assert wire.dumps(wire.loads(deepest)) == deepest


@pytest.mark.parametrize("what", ["\x1b[31m", "\u202e", "\u2066", "\u200b", "\x9b", "\r", "\u2028", "\ud800", "\0"])
def test_no_text_of_a_message_holds_what_moves_or_turns_a_terminals_text(what: str) -> None:
    for value in (FACTS, MEASURED, wire.Failed("k", "why"), NOISE):
        message = wire.to_wire(value)
        for name, old in message.items():
            if isinstance(old, str):
                with pytest.raises(wire.WireError, match=name):
                    type(value).parse({**message, name: old + what})
    assert what not in wire.clean(f"a{what}b")
