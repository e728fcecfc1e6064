"""doctor and spaces: their JSON keys, and that doctor tells what is wrong instead of breaking."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from ofa_edge.cli import app, doctor
from ofa_edge.space.spaces import SPACES


@pytest.fixture(autouse=True)
def own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("OFA_EDGE_HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "home"


def run(capsys: Any, *arguments: str) -> tuple[int, Any]:
    code = app.main([*arguments, "--json"])
    return code, json.loads(capsys.readouterr().out)


def test_one_space_has_the_promised_keys(capsys: Any) -> None:
    code, space = run(capsys, "spaces", "ofa-lite0")
    assert code == 0
    assert list(space) == ["name", "axes", "resolutions", "subnets", "distinct_blocks", "rows"]
    assert space["subnets"] == SPACES["ofa-lite0"].count()
    assert space["distinct_blocks"] <= space["rows"]


def test_no_name_lists_all_spaces(capsys: Any) -> None:
    code, spaces = run(capsys, "spaces")
    assert code == 0
    assert [space["name"] for space in spaces] == list(SPACES)


def test_fewer_resolutions_need_fewer_blocks(capsys: Any) -> None:
    _, whole = run(capsys, "spaces", "ofa-lite0")
    _, part = run(capsys, "spaces", "ofa-lite0", "--resolutions", "96,128")
    assert part["resolutions"] == [96, 128]
    assert part["rows"] * 5 == whole["rows"] * 2


def test_a_resolution_outside_the_space_is_refused(capsys: Any) -> None:
    code, answer = run(capsys, "spaces", "ofa-lite0", "--resolutions", "97")
    assert code == 2
    assert "97" in answer["error"]["message"]


def test_doctor_has_the_promised_keys_and_all_is_well_here(capsys: Any) -> None:
    code, answer = run(capsys, "doctor")
    assert list(answer) == ["checks", "ok"]
    assert all(list(check) == ["name", "ok", "detail", "hint"] for check in answer["checks"])
    assert [check for check in answer["checks"] if not check["ok"]] == []
    assert (code, answer["ok"]) == (0, True)


def test_doctor_asks_a_device(capsys: Any) -> None:
    code, answer = run(capsys, "doctor", "--host", "local")
    device = answer["checks"][-1]
    assert device["name"] == "device local"
    assert device["ok"], device["detail"]
    assert "onnxruntime" in device["detail"]
    assert code == 0


def test_doctor_reports_a_device_that_is_not_there(capsys: Any) -> None:
    code, answer = run(capsys, "doctor", "--host", "nobody@127.0.0.1:1")
    assert code == 1
    assert [check["name"] for check in answer["checks"] if not check["ok"]] == ["device nobody@127.0.0.1:1"]
    assert answer["checks"][-1]["detail"]


def test_a_home_that_cannot_be_written_is_found(tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("OFA_EDGE_HOME", str(tmp_path / "file" / "below"))
    check = doctor.check_home()
    assert not check.ok
    assert "OFA_EDGE_HOME" in check.hint


def test_a_package_that_breaks_at_import_is_found(tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "broken_package.py").write_text("raise OSError('libstdc++.so.6: version not found')")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(doctor, "_BASE", ("broken_package",))
    check = doctor.check_packages()
    assert not check.ok
    assert "libstdc++" in check.detail
    assert "broken_package" not in sys.modules
