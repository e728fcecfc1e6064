"""What speaks on the other end may do anything: each attack ends in one clear error that names the device, what came
before it is kept, and the host's memory and time have an end. Real processes, behind pipes and behind a real sshd."""

from __future__ import annotations

import json
import os
import re
import stat
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from device_agents import wire
from ofa_edge.device import ConnectOptions, Session, open_device, open_session
from ofa_edge.device.local import LocalLink
from ofa_edge.errors import DeviceLost, ProtocolError
from ofa_edge.latency.campaign import campaign
from ofa_edge.latency.table import LatencyTable
from ofa_edge.limits import LIMITS, Limits
from tests.reduced import TASK
from tests.sshd import Sshd

HERE = Path(__file__).parent
PATIENT = replace(LIMITS, close_seconds=0.2)
SHORT = replace(LIMITS, reply_seconds=30.0, load_seconds=0.2, close_seconds=0.2)
JOBS = [wire.MeasureJob(f"job {i}", "0" * 64, max_seconds=0.05) for i in range(4)]
Python = Callable[[str], str]


@pytest.fixture
def wild(tmp_path: Path) -> Python:
    """Makes a program that, started as a device's Python, is an agent with this attack."""

    def make(attack: str) -> str:
        program = tmp_path / f"python {attack}"
        program.write_text(
            f'#!/bin/sh\nOFA_EDGE_TEST_ATTACK="{attack}" PYTHONPATH="{os.getcwd()}" '
            f'exec "{sys.executable}" "{HERE / "wild_agent.py"}" "$@"\n'
        )
        program.chmod(program.stat().st_mode | stat.S_IXUSR)
        return str(program)

    return make


def attacked(python: str, limits: Limits = PATIENT) -> Session:
    return open_session(LocalLink(python=python, root="/nowhere"), limits=limits)


def results_before(session: Session) -> tuple[list[str], DeviceLost]:
    """Keys of the results that came, and the error that ended them."""
    came = []
    with pytest.raises(DeviceLost) as caught:
        came.extend(result.key for result in session.measure(JOBS, fresh=False))
    return came, caught.value


NO_PROTOCOL = [
    ("endless-output", "not JSON"),
    ("endless-line", "line of more than 1048576 bytes"),
    ("endless-rows", "result of 'job 2' where that of 'job 3' was due"),
    ("garbage", "not JSON"),
    ("not-a-number", "NaN is not a JSON number"),
    ("too-large", "1e999 does not fit a double"),
    ("many-digits", "an integer of 500000 digits"),
    ("negative", "'min' must be a number from 0"),
    ("deep", "not JSON|nested deeper"),
    ("other-request", "it answered request"),
    ("unknown-key", "result of 'never asked for' where that of 'job 2' was due"),
    ("repeated-key", "result of 'job 2' where that of 'job 3' was due"),
    ("repeated-field", "repeated"),
    ("early-end", "ended after 2 of 4 results"),
    ("escapes-in-key", "'key' must be printable"),
    ("escapes-in-reason", "'reason' must be printable"),
]


@pytest.mark.parametrize(("attack", "why"), NO_PROTOCOL)
def test_what_is_no_protocol_is_one_clear_error_and_results_before_it_stand(
    wild: Python, attack: str, why: str
) -> None:
    session = attacked(wild(f"{attack}:2"))
    came, error = results_before(session)
    assert came[:2] == ["job 0", "job 1"]
    assert isinstance(error, ProtocolError)
    assert error.message.startswith("local")
    assert re.search(why, error.message), error.message
    assert error.message.isprintable()
    with pytest.raises(DeviceLost, match="is over"):
        session.call("space", {})


def test_an_end_that_counts_wrong_is_a_protocol_error(wild: Python) -> None:
    came, error = results_before(attacked(wild("wrong-count")))
    assert len(came) == 4
    assert "counts 5 results, there were 4" in error.message


@pytest.mark.parametrize(
    ("attack", "why"),
    [("exits", "exit status 255"), ("killed", "stopped"), ("half-a-line", "stopped"), ("no-end", "stopped")],
)
def test_an_agent_that_goes_is_a_lost_device_and_no_breach_of_protocol(wild: Python, attack: str, why: str) -> None:
    came, error = results_before(attacked(wild(f"{attack}:2")))
    assert came[:2] == ["job 0", "job 1"]
    assert not isinstance(error, ProtocolError)
    assert why in error.message
    assert "--resume" in error.hint


@pytest.mark.parametrize("attack", ["silence", "drip"])
def test_silence_and_single_bytes_end_at_the_deadline(wild: Python, attack: str) -> None:
    """Five minutes of it would fail the test by its timeout; the deadline of a result here is half a second."""
    with attacked(wild(f"{attack}:1"), replace(SHORT, load_seconds=5.0)) as session:
        session._limits = SHORT
        came, error = results_before(session)
    assert came == ["job 0"]
    assert "said nothing for" in error.message


def test_what_is_said_on_stderr_cannot_pose_as_lines_of_ours(wild: Python) -> None:
    _, error = results_before(attacked(wild("escapes-on-stderr")))
    assert "exit status 3" in error.message
    assert "owned" in error.message
    assert error.message.isprintable()


def test_a_loud_device_is_heard_out(wild: Python) -> None:
    with attacked(wild("loud")) as session:
        assert len(list(session.measure(JOBS, fresh=False))) == 4


@pytest.mark.parametrize("attack", ["escapes-in-facts", "huge-facts"])
def test_facts_that_are_none_open_no_session(wild: Python, attack: str) -> None:
    with pytest.raises(ProtocolError, match=r"local.*device_model") as caught:
        attacked(wild(attack))
    assert caught.value.message.isprintable()


def test_another_machine_in_the_middle_of_a_session_is_noticed_and_another_governor_is_told(wild: Python) -> None:
    session = attacked(wild("other-machine"))
    with pytest.raises(ProtocolError, match="local became another machine.*serial was '0001' and is '0002'"):
        session.ask_facts()
    with pytest.raises(DeviceLost, match="is over"):
        session.ask_facts()
    with attacked(wild("other-governor")) as session:
        assert session.ask_facts() == replace(session.facts, governor="powersave")


@pytest.mark.parametrize(
    ("attack", "why"), [("too-fast:12", "a call into a runtime alone"), ("garbage:12", "not JSON"), ("exits:12", "255")]
)
def test_a_campaign_that_was_cut_by_an_attack_keeps_its_rows_and_is_resumed(
    wild: Python, tmp_path: Path, attack: str, why: str
) -> None:
    path = tmp_path / "table.jsonl"
    with attacked(wild(attack)) as session, pytest.raises(DeviceLost, match=why):
        campaign.run(session, path, TASK)
    kept = LatencyTable.read(path)
    rows = len(kept.contents.of("block")) + len(kept.sentinels)
    assert rows == 12
    assert not kept.complete
    with attacked(wild("none")) as session:
        outcome = campaign.run(session, path, TASK, resume=True)
    assert outcome.finished


def test_hundreds_of_megabytes_leave_the_host_below_a_hundred_more(wild: Python) -> None:
    """A process of its own, so that its greatest resident set is the attacks' alone; the first one sends 270 MB."""
    attacks = [wild(name) for name in ("flood", "endless-line", "endless-output", "many-digits", "deep")]
    code = HERE / "attacked_host.py"
    found = subprocess.run(
        [sys.executable, code, *attacks], env={**os.environ, "PYTHONPATH": os.getcwd()}, capture_output=True, text=True
    )
    assert found.returncode == 0, found.stderr
    said = json.loads(found.stdout)
    assert said["results"] == [150, 0, 0, 0, 0]
    assert said["grown_mb"] < 100


@pytest.mark.parametrize(
    ("attack", "error", "why"),
    [
        ("endless-line:1", ProtocolError, "line of more than"),
        ("garbage:1", ProtocolError, "not JSON"),
        ("drip:1", DeviceLost, "said nothing for"),
        ("exits:1", DeviceLost, "exit status 255"),
    ],
)
def test_the_same_over_ssh(sshd: Sshd, wild: Python, attack: str, error: type[DeviceLost], why: str) -> None:
    options = ConnectOptions(python=wild(attack), root="/nowhere", limits=PATIENT)
    with open_device(sshd.host, options=options) as session:
        session._limits = SHORT
        came, caught = results_before(session)
    assert came == ["job 0"]
    assert type(caught) is error
    assert caught.message.startswith(sshd.host)
    assert why in caught.message


class Slow(LocalLink):
    """A link over which a file travels until the agent has heard that its host is alive."""

    def extend(self, data: bytes, remote_path: str, offset: int) -> None:
        while not Path(self.root or "", "alive").exists():
            time.sleep(0.01)


def test_an_agent_hears_that_its_host_is_alive_while_a_file_travels(wild: Python, tmp_path: Path) -> None:
    """The agent of a host that it does not hear of gives its lock up after three minutes."""
    link = Slow(python=wild("none"), root=str(tmp_path))
    with open_session(link, limits=replace(PATIENT, alive_seconds=0.05)) as session:
        assert session.push({"0" * 64: b"data"}) > 0
        assert len(list(session.measure(JOBS, fresh=False))) == 4
