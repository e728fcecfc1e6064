"""The session against agents that lie, break off, talk too much or not at all, each a real process behind a pipe."""

from __future__ import annotations

import hashlib
import json
import stat
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from device_agents import wire
from ofa_edge.device import Session, open_session
from ofa_edge.device.local import LocalLink
from ofa_edge.errors import BadFile, DeviceLost, LockHeld, NoRoom, OfaEdgeError, ProtocolError, UsageError
from ofa_edge.limits import LIMITS
from tests.device import fake

SHA = "0" * 64
NOTHING = hashlib.sha256(b"").hexdigest()
Open = Callable[..., Session]


def line(value: dict[str, Any]) -> str:
    """A reply line with the id left open."""
    return wire.dumps({"id": "ID", **value}).replace('"ID"', "{id}") + "\n"


def ok(result: dict[str, Any]) -> str:
    return line({"ok": True, "result": result})


FACTS = ok(wire.to_wire(fake.FACTS))
ROW = line({"row": wire.result_row(fake.measured("a", 1.0))})
JOBS = [wire.MeasureJob("a", SHA), wire.MeasureJob("b", SHA)]


@pytest.fixture
def hostile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Open:
    """Opens a session with an agent that follows a script."""
    program = tmp_path / "python"
    agent = Path(__file__).with_name("hostile_agent.py")
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{agent}" "$@"\n')
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("OFA_EDGE_TEST_SCRIPT", str(tmp_path / "script.json"))

    def start(replies: dict[str, list[str]] | None = None, *, patience: float = 30.0, **script: Any) -> Session:
        everything = {"facts": [FACTS], **(replies or {})}
        (tmp_path / "script.json").write_text(json.dumps({"replies": everything, **script}))
        limits = replace(LIMITS, reply_seconds=patience, load_seconds=0.0, close_seconds=0.2)
        return open_session(LocalLink(python=str(program), root="/nowhere"), limits=limits)

    return start


def test_a_well_behaved_script_works(hostile: Open) -> None:
    with hostile({"ping": [ok({"x": 1})]}) as session:
        assert session.facts == fake.FACTS
        assert session.root == "/nowhere"
        assert session.call("ping", {}) == {"x": 1}


def test_what_a_login_shell_says_before_the_nonce_is_skipped(hostile: Open) -> None:
    noise = "Welcome!\n" * 1000 + '{"id": 1, "ok": true, "result": {}}\n' + "no newline at the end"
    with hostile(before=noise) as session:
        assert session.facts == fake.FACTS


def test_five_megabytes_of_stderr_do_not_stop_the_handshake(hostile: Open) -> None:
    with hostile(stderr="x" * 5_000_000) as session:
        assert session.facts == fake.FACTS


def test_endless_noise_is_not_read_for_ever(hostile: Open) -> None:
    with pytest.raises(ProtocolError):
        hostile(before="motd\n" * 300_000)
    with pytest.raises(ProtocolError, match="line of more than"):
        hostile(before="x" * 3_000_000)


@pytest.mark.parametrize(
    "hello",
    [
        "garbage", "[]", "{}", {"ready": {}}, {"ready": {"protocol": 99, "root": "/x"}}, {"ready": {"protocol": 2}},
        {"ready": {"protocol": 2, "root": "/x\x1b[2J"}}, {"absent": {}},
    ],
)  # fmt: skip
def test_a_hello_that_is_none_is_refused(hostile: Open, hello: Any) -> None:
    with pytest.raises(ProtocolError):
        hostile(hello=hello)


def test_a_device_that_refuses_says_why(hostile: Open) -> None:
    with pytest.raises(OfaEdgeError, match=r"Python 3\.7 is too old") as caught:
        hostile(hello={"refused": {"message": "Python 3.7 is too old"}})
    assert "--python" in caught.value.hint


@pytest.mark.parametrize(
    "reply",
    [
        "garbage\n",
        "x" * (LIMITS.line_bytes + 10) + "\n",
        ok({}).replace("{}", "NaN"),
        '{"id":4711,"ok":true,"result":{}}\n',
        '{"id":{id},"id":{id},"ok":true,"result":{}}\n',
        line({"ok": True}),
        line({"ok": True, "result": {}, "more": 1}),
        ROW,
        line({"end": {"count": 0}}),
    ],
)
def test_a_reply_that_is_none_ends_the_session(hostile: Open, reply: str) -> None:
    session = hostile({"ping": [reply]})
    with pytest.raises(ProtocolError):
        session.call("ping", {})
    with pytest.raises(DeviceLost, match="is over"):
        session.call("ping", {})


@pytest.mark.parametrize("reply", ["<eof>", '{"id":'])
def test_an_agent_that_stops_is_a_lost_device(hostile: Open, reply: str) -> None:
    session = hostile({"ping": [reply, "<eof>"]})
    with pytest.raises(DeviceLost, match="the agent stopped") as caught:
        session.call("ping", {})
    assert "--resume" in caught.value.hint
    assert caught.value.code == 5


def test_an_agent_that_says_nothing_is_not_waited_for_for_ever(hostile: Open) -> None:
    session = hostile(patience=0.3, replies={"ping": ["<silence>"]})
    with pytest.raises(DeviceLost, match="said nothing"):
        session.call("ping", {})


@pytest.mark.parametrize(
    ("kind", "error"), [("usage", UsageError), ("bad-file", BadFile), ("lock-held", LockHeld), ("failed", OfaEdgeError)]
)
def test_a_refusal_is_the_error_it_names_and_the_session_goes_on(
    hostile: Open, kind: str, error: type[OfaEdgeError]
) -> None:
    refusal = line({"ok": False, "error": {"kind": kind, "message": "because"}})
    with hostile({"ping": [refusal], "pong": [ok({})]}) as session:
        with pytest.raises(error, match="because"):
            session.call("ping", {})
        assert session.call("pong", {}) == {}


@pytest.mark.parametrize(("runtime", "package"), [("onnxruntime", "onnxruntime"), ("litert", "ai-edge-litert")])
def test_a_missing_runtime_comes_with_what_to_type(hostile: Open, runtime: str, package: str) -> None:
    refusal = line({"ok": False, "error": {"kind": "no-runtime", "message": f"{runtime} does not load"}})
    with hostile({"measure": [refusal]}) as session:
        with pytest.raises(UsageError, match="does not load") as caught:
            list(session.measure(JOBS, fresh=False))
        assert f"pip install {package}`" in caught.value.hint
        assert f"devices setup local --runtime {runtime}`" in caught.value.hint


def row(key: str, **changes: Any) -> str:
    measured = wire.to_wire(fake.measured(key, 1.0))
    return line({"row": {"measured": {**measured, **changes}}})


@pytest.mark.parametrize(
    "replies",
    [
        [row("a"), line({"end": {"count": 1}})],
        [row("a"), row("b"), line({"end": {"count": 3}})],
        [row("a"), row("b"), row("c"), line({"end": {"count": 3}})],
        [row("b"), row("a"), line({"end": {"count": 2}})],
        [row("a"), row("a"), line({"end": {"count": 2}})],
        [row("a", flags=["all good"]), row("b"), line({"end": {"count": 2}})],
        [row("a", seconds="0.1"), row("b"), line({"end": {"count": 2}})],
        [row("a"), ok({})],
        [row("a").replace("{id}", "99"), row("b"), line({"end": {"count": 2}})],
    ],
)
def test_a_stream_that_breaks_its_rules_ends_the_session(hostile: Open, replies: list[str]) -> None:
    session = hostile({"measure": replies})
    with pytest.raises(ProtocolError):
        list(session.measure(JOBS, fresh=False))
    with pytest.raises(DeviceLost):
        session.call("ping", {})


def test_a_stream_without_its_end_is_a_lost_device_and_its_rows_stand(hostile: Open) -> None:
    session = hostile({"measure": [row("a"), "<eof>"]})
    results = session.measure(JOBS, fresh=False)
    assert next(results).key == "a"
    with pytest.raises(DeviceLost):
        next(results)


def test_hashes_nobody_asked_for_are_not_believed(hostile: Open) -> None:
    session = hostile({"missing": [ok({"missing": ["1" * 64]})]})
    with pytest.raises(ProtocolError, match="nobody asked"):
        session.missing([SHA])


def test_a_transfer_the_device_has_no_room_for_is_not_begun(hostile: Open) -> None:
    with (
        hostile({"arrived": [ok({"bytes": 0, "sha256": NOTHING, "free_bytes": 10})]}) as session,
        pytest.raises(NoRoom, match="0 MiB free in .*, this transfer needs") as caught,
    ):
        session.push({SHA: b"x" * 100})
    assert "--root" in caught.value.hint


def test_a_python_that_is_not_there_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot start"):
        open_session(LocalLink(python=str(tmp_path / "no-python"), root=str(tmp_path)))


def test_a_program_that_is_no_python_gives_no_agent(tmp_path: Path) -> None:
    with pytest.raises(DeviceLost, match="no agent came up"):
        open_session(LocalLink(python="/bin/true", root=str(tmp_path)))
