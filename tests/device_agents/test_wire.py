"""The wire: what is written comes back, and nothing else comes in."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from device_agents import wire

SHA = "0" * 64
FIGURES = wire.Figures(5, 1.0, 1.0, 2.0, 3.0, 1.5, 2.5, 2.0, 0.5)
NOISE = wire.Noise(0.0, 0.1, 3, 61.5, 1500.0, 5, "ondemand")
MEASURED = wire.Measured("k", FIGURES, None, None, 3, 0.5, 1.0, 0, ("load",), NOISE, 1 << 20)
ENERGY_JOB = wire.EnergyJob("k", "0" * 64, "rapl:package-0", {"h": 8}, cores=(0, 1))
ENERGY = wire.Energy("k", "rapl:package-0", 3.5, 9.0, 1.5, -0.5, 2.0, 400, 6)
JOB = wire.MeasureJob("k", SHA, {"h": 7, "w": 7}, cores=(0, 1), anchor=SHA, anchor_shape={"h": 9})
FACTS = wire.Facts(
    "Board", "soc", "aarch64", "Linux 6", "3.9.2", 4, (0, 1), "performance", 1 << 30, False, {"onnxruntime": "1"},
    "s", "b", "0.1.0",
)  # fmt: skip


def over_the_wire(value: Any) -> Any:
    return wire.loads(wire.dumps(wire.to_wire(value)))


@pytest.mark.parametrize("value", [FIGURES, NOISE, MEASURED, ENERGY_JOB, ENERGY, wire.Failed("k", "why"), FACTS])
def test_a_value_survives_the_wire(value: Any) -> None:
    assert type(value).parse(over_the_wire(value)) == value


def test_a_job_survives_the_wire() -> None:
    parsed = wire.MeasureJob.parse(over_the_wire(JOB))
    assert wire.to_wire(parsed) == wire.to_wire(JOB)


@pytest.mark.parametrize("value", [wire.Checked(0.1, 0.01, True, False), wire.Checked(None, None, False, False)])
def test_a_check_survives_the_wire(value: wire.Checked) -> None:
    assert wire.Checked.parse(over_the_wire(value)) == value


@pytest.mark.parametrize(
    "reply",
    [
        wire.Result(1, {"a": [1, 2.5, None, "ü"]}),
        wire.Refusal(2, "usage", "no"),
        wire.Row(3, wire.result_row(MEASURED)),
        wire.End(4, 17),
    ],
)
def test_a_reply_survives_the_wire(reply: wire.Reply) -> None:
    parsed = wire.parse_reply(wire.reply_line(reply))
    assert type(parsed) is type(reply)
    assert wire.reply_line(parsed) == wire.reply_line(reply)


@pytest.mark.parametrize(
    "text",
    [
        "", "{", "nul", "NaN", "[Infinity]", "-Infinity", "1e999", '{"a":1,"a":2}', "1" * 30, "[" * 100_000,
        b"\xff", b'"\xc3"', "{} {}",
    ],
)  # fmt: skip
def test_json_that_is_not_strict_is_refused(text: str | bytes) -> None:
    with pytest.raises(wire.WireError):
        wire.loads(text)


@pytest.mark.parametrize(
    "line",
    [
        b"[]", b"1", b'{"id":1}', b'{"id":-1,"ok":true,"result":{}}', b'{"id":true,"ok":true,"result":{}}',
        b'{"id":1,"ok":1,"result":{}}', b'{"id":1,"ok":true,"result":[]}', b'{"id":1,"ok":true,"result":{},"x":1}',
        b'{"id":1,"ok":false,"error":{"kind":"made-up","message":""}}', b'{"id":1,"ok":false,"error":{"kind":"usage"}}',
        b'{"id":1,"end":{"count":-1}}', b'{"id":1,"end":{"count":1.0}}', b'{"id":1,"end":{"count":99999999}}',
        b'{"id":1,"row":[]}', b'{"id":1,"row":{},"end":{"count":1}}',
        b'{"id":1,"ok":false,"error":{"kind":"usage","message":"\\u001b[31m"}}',
    ],
)  # fmt: skip
def test_a_line_that_is_no_reply_is_refused(line: bytes) -> None:
    with pytest.raises(wire.WireError):
        wire.parse_reply(line)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("n", 0), ("n", 1.5), ("n", True), ("median", "2"), ("median", None), ("median", -1.0), ("p10", 2.5),
        ("p90", 1.0), ("low", 2.1), ("high", 1.9), ("mean", [1]), ("std", True), ("min", 1.9),
    ],
)  # fmt: skip
def test_figures_that_contradict_themselves_are_refused(field: str, value: Any) -> None:
    with pytest.raises(wire.WireError):
        wire.Figures.parse({**wire.to_wire(FIGURES), field: value})


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model", "../../etc/passwd"), ("model", "0" * 63), ("shape", {"h": 0}), ("shape", {"h": True}), ("shape", []),
        ("shape", {"a/b": 1}), ("runtime", "os.system"), ("threads", 0), ("cores", [-1]), ("cores", ["0"]),
        ("target_rel", 0), ("max_seconds", 1e9), ("anchor", ""), ("key", "a\nb"), ("key", "x" * 401),
    ],
)  # fmt: skip
def test_a_job_with_a_wrong_field_is_refused(field: str, value: Any) -> None:
    with pytest.raises(wire.WireError):
        wire.MeasureJob.parse({**wire.to_wire(JOB), field: value})


@pytest.mark.parametrize("name", sorted(wire.to_wire(MEASURED)))
def test_every_field_of_a_result_is_needed(name: str) -> None:
    value = wire.to_wire(MEASURED)
    del value[name]
    with pytest.raises(wire.WireError, match=name):
        wire.Measured.parse(value)


def test_a_flag_nobody_defined_is_refused() -> None:
    with pytest.raises(wire.WireError, match="flag"):
        wire.Measured.parse({**wire.to_wire(MEASURED), "flags": ["fine"]})


def test_facts_with_control_characters_are_refused() -> None:
    with pytest.raises(wire.WireError, match="device_model"):
        wire.Facts.parse({**wire.to_wire(FACTS), "device_model": "Pi\x1b]0;owned\x07"})


def test_a_message_nobody_would_read_is_not_sent() -> None:
    with pytest.raises(wire.WireError, match="limit"):
        wire.request_line(1, "missing", {"sha256s": ["x" * wire.MAX_LINE]})
    with pytest.raises(wire.WireError):
        wire.reply_line(wire.Result(1, {"x": float("nan")}))


def test_an_error_message_is_cleaned_and_cut_before_it_is_sent() -> None:
    reply = wire.parse_reply(wire.reply_line(wire.Refusal(1, "failed", "a\x1b\n" + "b" * 10_000)))
    assert isinstance(reply, wire.Refusal)
    assert reply.message.startswith("a  b")
    assert len(reply.message) == wire.MAX_TEXT


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=20,
)
names = ["id", "ok", "result", "row", "end", "error", "count", "kind", "message", "measured", "figures"]
nearly_replies = st.dictionaries(
    st.sampled_from(names), json_values | st.dictionaries(st.sampled_from(names), json_values, max_size=4), max_size=5
)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_reply_or_a_wire_error(data: bytes) -> None:
    try:
        reply = wire.parse_reply(data)
    except wire.WireError:
        return
    assert wire.parse_reply(wire.reply_line(reply)) == reply


@given(nearly_replies)
def test_any_json_is_a_reply_or_a_wire_error(value: dict[str, Any]) -> None:
    line = json.dumps(value).encode()
    for parse in (wire.parse_reply, wire.parse_request):
        try:
            parse(line)
        except wire.WireError:
            continue


@given(json_values)
def test_any_json_is_a_value_or_a_wire_error(value: Any) -> None:
    for parse in (
        wire.Figures.parse, wire.MeasureJob.parse, wire.Measured.parse, wire.Failed.parse, wire.Checked.parse,
        wire.Facts.parse, lambda row: wire.parse_row(wire.Measured, row),
    ):  # fmt: skip
        try:
            parse(value)
        except wire.WireError:
            continue


@given(st.lists(st.floats(0.001, 1000), min_size=1, max_size=60))
def test_figures_of_any_samples_are_accepted(samples: list[float]) -> None:
    from device_agents import timing

    figures = timing.figures_of(sorted(samples))
    assert wire.Figures.parse(over_the_wire(figures)) == figures
