"""Modes on the device: one rename, one journal record, and the same answer for the host, the agent and the application,
whatever lies in the mode file."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from device_agents import history, lock, modes
from device_agents.disk import Disk
from device_agents.releases import App
from device_agents.root import Root
from device_agents.slots import OPS
from device_agents.wire import AgentError
from ofa_edge.deploy import bundle, manifest, run
from ofa_edge.deploy.bundle import Bundle, Part, Tensors
from ofa_edge.latency.conditions import RunsOn
from ofa_edge.space.spaces import OFA_LITE0
from tests.deploy.double import APP, Clock, Device, model


def with_modes(*names: str, counter: int = 0) -> Bundle:
    """A release with these modes."""
    inputs = np.linspace(-1, 1, 48, dtype=np.float32).reshape(1, 3, 4, 4)
    parts = [
        Part(OFA_LITE0.smallest(), model(number), Tensors(inputs, inputs + np.float32(number)), RunsOn(), name=name)
        for number, name in enumerate(names, start=1)
    ]
    return bundle.build(app=APP, space=OFA_LITE0, parts=parts, labels=("a",)).counted(counter)


RELEASE = with_modes("full", "mid", "low", counter=7)


@pytest.fixture
def device(root: Path) -> Path:
    """The folder of a device on which RELEASE is current."""
    run.deploy(Device(root), RELEASE, measure=Clock())
    return root


def disk_of(root: Path) -> Disk:
    return Disk(str(root))


def op(root: Path, name: str, **args: Any) -> dict[str, Any]:
    return OPS[name](disk_of(root), {"app": APP, **args})


def journal(root: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (root / APP / "journal.jsonl").read_text().splitlines()]


def test_host_and_agent_agree_what_a_mode_is() -> None:
    assert (modes.NAME, modes.MAX_MODES) == (manifest.MODE_NAME, manifest.MAX_MODES)


def test_a_release_begins_in_its_first_mode_and_tells_its_counter(device: Path) -> None:
    for name in ("state", "status"):
        told = op(device, name)
        assert (told["mode"], told["counter"]) == ("full", 7)
    assert not (device / APP / "mode").exists()


def test_a_mode_is_one_line_of_text_and_one_record(device: Path) -> None:
    assert op(device, "mode", mode="low") == {"mode": "low", "previous": "full"}
    assert (device / APP / "mode").read_text() == "low\n"
    assert op(device, "state")["mode"] == "low"
    last = journal(device)[-1]
    assert (last["event"], last["release"], last["mode"], last["previous"]) == (
        "mode", RELEASE.release, "low", "full",
    )  # fmt: skip
    before = journal(device)
    assert op(device, "mode", mode="low") == {"mode": "low", "previous": "low"}
    assert journal(device) == before


def test_the_first_mode_can_be_asked_for_by_name_and_then_outlasts_a_release_that_has_another_first(
    device: Path,
) -> None:
    op(device, "mode", mode="full")
    assert (device / APP / "mode").read_text() == "full\n"
    run.deploy(Device(device), with_modes("low", "full", counter=8), measure=Clock())
    assert op(device, "state")["mode"] == "full"


def test_a_mode_that_the_current_release_lacks_is_refused_and_names_those_it_has(device: Path) -> None:
    with pytest.raises(AgentError, match="no mode 'turbo': it has full, mid, low") as caught:
        op(device, "mode", mode="turbo")
    assert caught.value.kind == "refused"
    assert not (device / APP / "mode").exists()


@pytest.mark.parametrize("name", ["../x", "", "A", "a" * 33, "a.b", "a\n", 7, None])
def test_only_a_plain_name_is_a_mode(device: Path, name: Any) -> None:
    with pytest.raises(AgentError) as caught:
        op(device, "mode", mode=name)
    assert caught.value.kind == "usage"


@pytest.mark.parametrize("content", [b"turbo\n", b"", b"\xff\xfe", b"low\nfull\n", b"../low", b"x" * 1000])
def test_whatever_lies_in_the_mode_file_a_mode_of_the_release_is_used(device: Path, content: bytes) -> None:
    (device / APP / "mode").write_bytes(content)
    assert op(device, "state")["mode"] == "full"


def test_a_link_or_a_pipe_as_the_mode_file_is_not_followed_or_waited_for(device: Path, tmp_path: Path) -> None:
    (tmp_path / "low").write_text("low\n")
    file = device / APP / "mode"
    for place in (lambda: file.symlink_to(tmp_path / "low"), lambda: os.mkfifo(file), lambda: file.mkdir()):
        place()
        assert op(device, "state")["mode"] == "full"
        (os.rmdir if file.is_dir() else os.unlink)(file)
    file.symlink_to(tmp_path / "low")
    op(device, "mode", mode="mid")
    assert (file.read_text(), file.is_symlink()) == ("mid\n", False)
    assert (tmp_path / "low").read_text() == "low\n"


def test_a_mode_stays_over_a_release_that_has_it_and_is_the_first_in_one_that_has_not(device: Path) -> None:
    op(device, "mode", mode="low")
    run.deploy(Device(device), with_modes("full", "low", counter=8), measure=Clock())
    assert op(device, "state")["mode"] == "low"
    run.deploy(Device(device), with_modes("default", counter=9), measure=Clock())
    assert op(device, "state")["mode"] == "default"
    run.rollback(Device(device), APP)
    assert op(device, "state")["mode"] == "low"


def test_without_a_release_there_is_no_mode(root: Path) -> None:
    Root(str(root)).prepare()
    told = op(root, "state")
    assert (told["mode"], told["counter"]) == (None, 0)
    with pytest.raises(AgentError, match="deploy one first"):
        op(root, "mode", mode="low")


@pytest.mark.parametrize(
    "value", [{}, [], {"modes": "all", "counter": -1}, {"modes": [{"name": "../x"}]}, {"modes": [1]}]
)
def test_a_manifest_without_modes_has_none(device: Path, value: Any) -> None:
    (device / APP / "releases" / RELEASE.release / "manifest.json").write_text(json.dumps(value))
    found = modes.read(App(disk_of(device), APP), RELEASE.release)
    assert (found.mode, found.counter) == (None, 0)
    with pytest.raises(AgentError, match="has no modes"):
        op(device, "mode", mode="low")


def test_a_mode_changed_in_the_middle_of_a_deployment_disturbs_nothing(device: Path) -> None:
    new = with_modes("full", "low", counter=8)
    changed = Device(device)

    def between(planned: Any) -> None:
        op(device, "mode", mode=["low", "full"][len(changed.log) % 2])

    assert run.deploy(changed, new, measure=Clock(), progress=between).state == "committed"
    for name in ("begin", "commit"):
        assert changed.log.count(name) == 1
    assert op(device, "state")["previous"] == RELEASE.release


def test_an_op_repeated_after_a_change_of_mode_changes_nothing(device: Path) -> None:
    device_disk = disk_of(device)
    OPS["lock"](device_disk, {"app": APP, "holder": "me"})
    args = {"app": APP, "release": RELEASE.release}
    OPS["begin"](device_disk, {**args, "kind": "deploy"})
    OPS["mode"](device_disk, {"app": APP, "mode": "low"})
    before = journal(device)
    OPS["begin"](device_disk, {**args, "kind": "deploy"})
    assert journal(device) == before


CHANGES = """
import sys
from device_agents import modes
from device_agents.disk import Disk
from device_agents.releases import App
app = App(Disk(sys.argv[1]), sys.argv[2])
for turn in range(40):
    modes.change(app, ["low", "full"][turn % 2], sys.argv[3])
"""


def test_many_processes_that_change_the_mode_leave_whole_records_and_a_mode(device: Path) -> None:
    repository = Path(__file__).resolve().parents[2]
    started = [
        subprocess.Popen([sys.executable, "-c", CHANGES, str(device), APP, str(number)], cwd=repository)
        for number in range(3)
    ]
    app = App(disk_of(device), APP)
    while any(child.poll() is None for child in started):
        assert (device / APP / "mode").read_text() if (device / APP / "mode").exists() else True
        assert modes.read(app, RELEASE.release).mode in ("low", "full")
    assert [child.wait() for child in started] == [0, 0, 0]
    records = app.records()
    assert {record["event"] for record in records} == {"begin", "trial", "switching", "committed", "mode"}
    assert sorted({record["reason"] for record in records if record["event"] == "mode"}) == ["0", "1", "2"]
    assert sorted(path.name for path in (device / APP).iterdir()) == [
        "current",
        "journal.jsonl",
        "lock",
        "mode",
        "releases",
    ]


def test_of_two_changes_at_once_the_journal_ends_with_the_one_that_stays(
    device: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process changes the mode as soon as the first lets go of the lock file."""
    exclusive, others = lock.exclusive, ["mid"]

    @contextlib.contextmanager
    def watched(path: Path) -> Iterator[int]:
        with exclusive(path) as descriptor:
            yield descriptor
        if others:
            op(device, "mode", mode=others.pop())

    monkeypatch.setattr(lock, "exclusive", watched)
    op(device, "mode", mode="low")
    assert (device / APP / "mode").read_text() == "mid\n"
    assert [(record["mode"], record["previous"]) for record in journal(device) if record["event"] == "mode"] == [
        ("low", "full"), ("mid", "low"),
    ]  # fmt: skip


def test_a_journal_full_of_modes_keeps_the_outcomes() -> None:
    outcome = {"event": "refused", "release": "a", "reason": "old"}
    flutter = [{"event": "mode", "release": "a", "mode": "low"}] * 5000
    kept = history.compact([outcome, *flutter, outcome, *flutter], 500)
    assert [record["event"] for record in kept].count("refused") == 2
    assert [record["event"] for record in kept].count("mode") == history.MODES_KEPT


def test_the_journal_is_changed_by_one_at_a_time(device: Path) -> None:
    app = App(disk_of(device), APP)
    with lock.exclusive(app.lock), pytest.raises(AgentError, match="busy"):
        app.write_journal(history.MODE, RELEASE.release)


# -- typed on the device itself -----------------------------------------------------------------------


def typed(pyz: Path, *words: str) -> tuple[int, str, str]:
    """Exit status, stdout and stderr of the shipped agent; nothing of this package is on its path."""
    done = subprocess.run([sys.executable, "-I", pyz, *words], capture_output=True, text=True, cwd="/", timeout=60)
    return done.returncode, done.stdout, done.stderr


def test_the_mode_is_said_and_changed_by_the_shipped_agent(device: Path, pyz: Path) -> None:
    where = ("--root", str(device), "--app", APP)
    assert typed(pyz, "mode", *where) == (0, "full\n", "")
    assert typed(pyz, "mode", *where, "low") == (0, "low\n", "")
    assert typed(pyz, "mode", f"--root={device}", f"--app={APP}") == (0, "low\n", "")
    assert journal(device)[-1]["reason"] == "set on the device"
    status, out, said = typed(pyz, "mode", *where, "turbo")
    assert (status, out) == (1, "")
    assert "it has full, mid, low" in said


@pytest.mark.parametrize(
    "words",
    [
        [], ["help"], ["mode"], ["mode", "--app"], ["mode", "--app", "../x"], ["mode", "--app", "blobs"],
        ["mode", "--app", APP, "a", "b"], ["mode", "--app", APP, "../x"], ["mode", "--app", APP, "--base", "/x"],
        ["policy", "--app", APP, "low"], ["mode", "--app", APP, "--app", APP], ["mode", "--verbose", "--app", APP],
    ],
)  # fmt: skip
def test_what_is_mistyped_is_a_usage_error(pyz: Path, words: list[str]) -> None:
    status, out, said = typed(pyz, *words)
    assert (status, out) == (2, "")
    assert said


def test_the_small_commands_load_neither_wire_nor_runtime(device: Path, pyz: Path) -> None:
    """A mode is to change in less than a tenth of a second, Python's start included (docs/deploying.md)."""
    found = subprocess.run(
        [sys.executable, "-I", "-X", "importtime", pyz, "mode", "--root", device, "--app", APP, "low"],
        capture_output=True, text=True, cwd="/", timeout=60, check=True,
    )  # fmt: skip
    loaded = {line.rpartition("|")[2].strip() for line in found.stderr.splitlines()}
    assert "device_agents.modes" in loaded
    assert not loaded & {"device_agents.wire", "device_agents.slots", "subprocess", "argparse", "ctypes", "numpy"}
