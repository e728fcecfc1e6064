"""doctor and spaces: their JSON keys, and that doctor tells what is wrong instead of breaking."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from ofa_edge.cli import app, doctor
from ofa_edge.space import codecs
from ofa_edge.space.spaces import OFA_LITE0, SPACES


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
    assert list(space) == ["name", "axes", "resolutions", "subnets", "all_subnets", "distinct_blocks", "rows"]
    assert space["subnets"] == SPACES["ofa-lite0"].count()
    assert space["all_subnets"] == space["subnets"] * 5
    assert (space["axes"]["width"], space["axes"]["stem_depth"]) == ([], [])
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


def test_the_counts_are_exact_however_large(capsys: Any) -> None:
    _, space = run(capsys, "spaces", "ofa-mbv3-w1.0")
    assert space["subnets"] == (81 + 729 + 6561) ** 5
    assert (space["distinct_blocks"], space["rows"]) == (1257, 2400)


def test_elastic_widths_are_shown(capsys: Any) -> None:
    _, space = run(capsys, "spaces", "ofa-resnet50d")
    assert space["axes"]["width"][:3] == [[24, 32], [40, 48, 64], [168, 208, 256]]
    assert space["axes"]["stem_depth"] == [0, 1]
    assert app.main(["spaces", "ofa-resnet50d"]) == 0
    text = capsys.readouterr().out
    assert "width of the stem            24 32 | 40 48 64" in text
    assert "128:224:4" in text


def test_a_printed_space_is_the_start_of_ones_own(tmp_path: Path, capsys: Any) -> None:
    assert app.main(["spaces", "ofa-mbv3-w1.0", "--toml"]) == 0
    path = tmp_path / "mine.toml"
    text = capsys.readouterr().out.replace("ofa-mbv3-w1.0", "mine").replace("classes = 1000", "classes = 7")
    path.write_text(text)
    code, space = run(capsys, "spaces", str(path))
    assert (code, space["name"], space["distinct_blocks"]) == (0, "mine", 1257)
    code, value = run(capsys, "spaces", str(path), "--toml")
    assert (code, value["name"], value["classes"]) == (0, "mine", 7)
    path.write_text(text.replace("stride = 2", "stride = 9", 1))
    code, answer = run(capsys, "spaces", str(path))
    assert code == 9
    assert answer["error"]["message"] == f"{path}: stages[0].stride: Input should be less than or equal to 2"


def test_toml_needs_one_space(capsys: Any) -> None:
    code, answer = run(capsys, "spaces", "--toml")
    assert (code, answer["error"]["kind"]) == (2, "usage")


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
    checks = {check["name"]: check for check in answer["checks"]}
    for name in ("device local", "runtimes local"):
        assert checks[name]["ok"], checks[name]["detail"]
    assert "onnxruntime" in checks["runtimes local"]["detail"]
    assert code == 0


def test_a_demo_on_an_emulated_device_is_refused_before_it_measures(capsys: Any, monkeypatch: Any) -> None:
    """Its default budget is a latency, and the times of such a device are held against none."""
    monkeypatch.setenv("OFA_EDGE_EMULATED", "1")
    code, answer = run(capsys, "demo", "--host", "local")
    assert (code, answer["error"]["code"]) == (9, 9)
    assert "emulated device" in answer["error"]["message"]


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


def test_packages_that_the_base_install_lacks_are_told_with_their_extra_and_are_no_failure(monkeypatch: Any) -> None:
    assert doctor.check_litert().ok
    found = importlib.util.find_spec
    absent = {"ai_edge_quantizer"}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in absent else found(name))
    if found("ai_edge_litert"):
        assert "ofa-edge[quantize]" in doctor.check_litert().hint
    absent.add("ai_edge_litert")
    check = doctor.check_litert()
    assert (check.ok, "ofa-edge[litert]" in check.hint) == (True, True)


def test_models_for_litert_need_its_extra_before_a_device_is_looked_for(
    tmp_path: Path, monkeypatch: Any, capsys: Any
) -> None:
    found = importlib.util.find_spec
    absent = {"ai_edge_litert", "ai_edge_quantizer"}
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name in absent else found(name))
    table = tmp_path / "t.jsonl"
    asked = ["profile", "--host", "nobody@127.0.0.1:1", "--runtime", "litert", "--out", str(table), "--json"]
    for precision, extras in (("fp32", "[litert]"), ("int8", "[litert,quantize]")):
        assert app.main([*asked, "--precision", precision]) == 2
        assert f"ofa-edge{extras}" in json.loads(capsys.readouterr().out)["error"]["hint"]
    arch = tmp_path / "arch.json"
    arch.write_text(json.dumps(codecs.encode(OFA_LITE0, OFA_LITE0.smallest())))
    assert app.main(["measure", *asked[1:5], "--arch", str(arch), "--json"]) == 2
    assert "ofa-edge[litert]" in json.loads(capsys.readouterr().out)["error"]["hint"]
    assert not table.exists()


def test_a_package_that_breaks_at_import_is_found(tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "broken_package.py").write_text("raise OSError('libstdc++.so.6: version not found')")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(doctor, "_BASE", ("broken_package",))
    check = doctor.check_packages()
    assert not check.ok
    assert "libstdc++" in check.detail
    assert "broken_package" not in sys.modules
