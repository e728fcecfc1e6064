"""Commands on several devices: three folders of this machine, each with an agent of its own."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ofa_edge.cli.app import main
from ofa_edge.deploy import bundle as bundles
from ofa_edge.deploy import run
from ofa_edge.deploy.bundle import Bundle
from tests.deploy.double import Clock, Device, make_bundle, running

NAMES = ("one", "two", "three")
OLD, NEW = (make_bundle(number, modes=["full", "low"], budget_ms=1e6, at=None) for number in (1.0, 2.0))
Run = Callable[..., tuple[int, Any]]


@pytest.fixture
def lab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with devices.toml, and NEW as a bundle."""
    monkeypatch.chdir(tmp_path)
    entries = [f'[{name}]\nhost = "local"\nroot = "{tmp_path / name}"\ngroups = ["lab"]\n' for name in NAMES]
    (tmp_path / "devices.toml").write_text("\n".join(entries))
    bundles.write(NEW, tmp_path / "new.ofab")
    return tmp_path


@pytest.fixture
def ofa(lab: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    def runs(line: str) -> tuple[int, Any]:
        capsys.readouterr()
        code = main([*line.split(), "--json"])
        return code, json.loads(capsys.readouterr().out)

    return runs


def install(lab: Path, name: str, *made: Bundle) -> None:
    """Without its agent, which is quicker."""
    (lab / name).mkdir(exist_ok=True)
    for one in made:
        run.deploy(Device(lab / name), one, measure=Clock())


def test_only_those_that_lack_the_release_are_touched(lab: Path, ofa: Run) -> None:
    for name in NAMES:
        install(lab, name, *([OLD] if name == "three" else [OLD, NEW]))
    code, value = ofa("deploy --host @lab --bundle new.ofab --dry-run")
    assert code == 0
    assert [(one["host"], one["reason"]) for one in value[:2]] == [
        (name, f"release {NEW.release} is already current") for name in ("one", "two")
    ]
    assert value[2]["reason"] == "only planned, nothing was changed"
    assert len([step for step in value[2]["steps"] if step["step"] == "check latency"]) == 2
    assert running(lab / "three") == OLD.release


def test_a_canary_that_fails_leaves_the_others_alone(lab: Path, ofa: Run) -> None:
    for name in NAMES:
        install(lab, name, OLD)
    (lab / "one" / "camera" / "current").unlink()
    (lab / "one" / "camera" / "current").mkdir()
    code, value = ofa("deploy --host @lab --bundle new.ofab")
    assert code == 1
    assert [one["state"] for one in value] == ["needs-hands", "skipped", "skipped"]
    assert value[1]["reason"] == "one failed, and went first"
    assert {running(lab / name) for name in ("two", "three")} == {OLD.release}


def test_each_failure_among_several_says_what_to_type_next(lab: Path, capsys: Any) -> None:
    for name in NAMES[:2]:
        install(lab, name, OLD)
        (lab / name / "camera" / "current").unlink()
        (lab / name / "camera" / "current").mkdir()
    assert main(["deploy", "--host", "one", "--host", "two", "--bundle", "new.ofab"]) == 1
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("warning:")]
    assert [line.split()[1] for line in said] == ["one:", "two:"]
    assert all("; put it right on the device" in line for line in said)


def test_a_mode_is_set_on_all_and_shown(lab: Path, ofa: Run, capsys: Any) -> None:
    for name in NAMES:
        install(lab, name, NEW)
    code, value = ofa("mode set low --host @lab --app camera")
    assert code == 0
    assert [(one["host"], one["mode"], one["previous"]) for one in value] == [(name, "low", "full") for name in NAMES]
    assert ofa("mode show --host two --app camera")[1]["mode"] == "low"
    assert (lab / "two" / "camera" / "mode").read_text() == "low\n"
    status = ofa("status --host two --app camera")[1]
    assert (status["mode"], status["modes"]) == ("low", ["full", "low"])
    code, value = ofa("mode set night --host two --app camera")
    assert (code, value["error"]["hint"]) == (1, "it has full, low")
    capsys.readouterr()
    assert main(["releases", "--host", "two", "--app", "camera"]) == 0
    said = capsys.readouterr().out
    assert f"{NEW.release}  current, mode low of full, low" in said
    assert "  mode  " in said


def test_all_go_back_with_hooks_that_really_run(lab: Path, ofa: Run, capsys: Any) -> None:
    for name in NAMES:
        install(lab, name, OLD, NEW)
    script = lab / "hook.sh"
    script.write_text('#!/bin/sh\nreadlink "$OFA_EDGE_CURRENT" >> opened\necho "$OFA_EDGE_KIND of $OFA_EDGE_APP"\n')
    script.chmod(0o755)
    code, value = ofa(f"rollback --host @lab --app camera --post-switch {script} --health {script}")
    assert code == 0, value
    for name in NAMES:
        assert running(lab / name) == OLD.release
        assert (lab / name / "camera" / "opened").read_text() == f"releases/{OLD.release}\n" * 2
    failing = lab / "failing.sh"
    failing.write_text(f'#!/bin/sh\n"{script}"\ncase $OFA_EDGE_RELEASE in {NEW.release}) exit 4;; esac\n')
    failing.chmod(0o755)
    code, value = ofa(f"rollback --host two --app camera --post-switch {failing}")
    assert code == 7
    assert value["error"]["message"].startswith(
        "two: its post-switch command ended with status 4: post-switch of camera; release"
    )
    assert running(lab / "two") == OLD.release
    opened = (lab / "two" / "camera" / "opened").read_text().splitlines()
    assert opened[-2:] == [f"releases/{NEW.release}", f"releases/{OLD.release}"]
    capsys.readouterr()
    assert main(["status", "--host", "two", "--app", "camera"]) == 0
    assert "reason: its post-switch command ended with status 4" in capsys.readouterr().out


def test_what_is_said_says_of_whom(lab: Path, ofa: Run, capsys: Any) -> None:
    for name in NAMES:
        install(lab, name, OLD, NEW)
    assert main(["rollback", "--host", "@lab", "--app", "camera"]) == 0
    said = capsys.readouterr()
    lines = said.err.splitlines()
    assert all(line.partition(": ")[0] in NAMES for line in lines), lines
    assert {line for line in lines if "switch current" in line} == {
        f"{name}: switch current -> {OLD.release}" for name in NAMES
    }
    assert [line.split()[:2] for line in said.out.splitlines()] == [
        ["host", "state"],
        *([name, "committed"] for name in NAMES),
    ]
