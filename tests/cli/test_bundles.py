"""`ofa-edge bundle`, and deploy's --trust and --sign: what they print, and what they refuse.

Tables and weights are drawn (tests/reduced.py); nothing is deployed, golden outputs run here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from ofa_edge import settings
from ofa_edge.cli.app import main
from ofa_edge.deploy import bundle as bundles
from ofa_edge.deploy.bundle import MANIFEST, SIGNATURE
from ofa_edge.space import codecs
from tests.deploy.double import make_bundle
from tests.deploy.test_on_devices import tiny
from tests.reduced import REDUCED

Run = Callable[..., tuple[int, Any]]

SELECT = "select --accuracy-table {accuracy} --latency-table {table}"
BUILD = "bundle build --supernet {ckpt} --selection {out}"


@pytest.fixture
def selected(run_boards: Run) -> None:
    """A selection at {out}."""
    assert run_boards(SELECT + " --budget 1s --out {out}")[0] == 0


@pytest.fixture
def family(run_boards: Run) -> None:
    """A family of two modes on two boards at {out}."""
    modes = "--latency-table {other} --mode full:1s --mode low:latency=1s,macs=2M"
    assert run_boards(f"{SELECT} {modes} --out {{out}}")[0] == 0


@pytest.fixture
def keys(run_boards: Run, tmp_path: Path) -> Path:
    for name in ("ours", "theirs"):
        assert run_boards(f"bundle keygen {tmp_path / name}")[0] == 0
    return tmp_path


def test_what_was_selected_becomes_the_same_bundle_in_a_folder_and_in_a_file(
    run_boards: Run, selected: None, tmp_path: Path
) -> None:
    values = []
    for place in ("folder", "file.ofab"):
        code, value = run_boards(f"{BUILD} --table {{table}} --out {tmp_path / place}")
        assert code == 0, value
        values.append(value)
    assert bundles.read(tmp_path / "folder").files == bundles.read(tmp_path / "file.ofab").files
    assert values[0]["manifest"] == values[1]["manifest"]
    mode = values[0]["manifest"]["modes"][0]
    assert mode["conditions"]["device_model"] == "Simulated Board"
    assert (mode["runs"]["at_least"], mode["input"]["reduce_to"]) == ("1.12", 224)
    assert values[0]["signed_by"] is None
    code, shown = run_boards(f"bundle show {tmp_path / 'folder'}")
    assert (code, shown["manifest"], shown["release"]) == (0, values[0]["manifest"], values[0]["release"])


def test_a_selections_table_is_found_by_its_hash_or_missed_aloud(
    run_boards: Run, selected: None, boards: dict[str, Path], tmp_path: Path, capsys: Any
) -> None:
    code, value = run_boards(f"{BUILD} --out {tmp_path / 'a'}")
    assert (code, value["manifest"]["modes"][0]["conditions"]) == (0, None)
    home = settings.tables_dir("Simulated Board")
    home.mkdir(parents=True)
    (home / "t.jsonl").write_bytes(boards["table"].read_bytes())
    code, value = run_boards(f"{BUILD} --out {tmp_path / 'b'}")
    assert value["manifest"]["modes"][0]["conditions"]["device_model"] == "Simulated Board"
    code, value = run_boards(f"{BUILD} --table {{other}} --out {tmp_path / 'c'}")
    assert (code, "is another latency table" in value["error"]["message"]) == (9, True)


def test_a_family_becomes_one_release_of_its_modes(run_boards: Run, family: None, tmp_path: Path) -> None:
    out = f"--out {tmp_path / 'b.ofab'}"
    code, value = run_boards(f"{BUILD} {out}")
    assert (code, "is for several devices" in value["error"]["message"]) == (2, True)
    assert "Other Board" in value["error"]["hint"]
    code, value = run_boards(f"{BUILD} --table {{other}} {out}")
    assert code == 0, value
    modes = value["manifest"]["modes"]
    assert [mode["name"] for mode in modes] == ["full", "low"]
    assert [mode["model"] for mode in modes] == ["model.onnx", "model-low.onnx"]
    assert {mode["conditions"]["device_model"] for mode in modes} == {"Other Board"}
    code, value = run_boards(f"{BUILD} --table {{table}} --mode low --counter 7 --machine aarch64 {out}")
    manifest = value["manifest"]
    assert [mode["name"] for mode in manifest["modes"]] == ["low"]
    assert (manifest["counter"], manifest["machine"]) == (7, "aarch64")
    code, value = run_boards(f"{BUILD} --table {{table}} --mode high {out}")
    assert (code, value["error"]["hint"]) == (2, "it has: full, low")


def test_a_familys_device_is_named_by_its_model(
    family: None, boards: dict[str, Path], tmp_path: Path, capsys: Any
) -> None:
    capsys.readouterr()
    words = ["bundle", "build", "--supernet", str(boards["ckpt"]), "--selection", str(tmp_path / "out"), "--json"]
    assert main([*words, "--device", "Other Board", "--out", str(tmp_path / "b")]) == 0
    value = json.loads(capsys.readouterr().out)
    assert {mode["conditions"]["device_model"] for mode in value["manifest"]["modes"]} == {"Other Board"}
    assert main([*words, "--device", "No Board", "--out", str(tmp_path / "b")]) == 2
    assert "has none for No Board" in json.loads(capsys.readouterr().out)["error"]["message"]


def test_a_budget_is_enough_where_there_are_tables(run_boards: Run, tmp_path: Path) -> None:
    tables = "--table {table} --accuracy-table {accuracy}"
    code, value = run_boards(f"bundle build --budget 1s {tables} --supernet {{ckpt}} --out {tmp_path / 'b'}")
    assert code == 0, value
    assert value["manifest"]["modes"][0]["budget"]["latency_ms"] == 1000.0
    assert value["manifest"]["sources"]["latency_table"] is not None


@pytest.fixture
def unpromised(run_boards: Run, tmp_path: Path) -> Mapping[str, Any]:
    """What `bundle build --arch` says; the bundle is in b."""
    (tmp_path / "arch").write_text(json.dumps(codecs.encode(REDUCED, REDUCED.smallest(32))))
    line = f"bundle build --arch {tmp_path / 'arch'} --supernet {{ckpt}} --precision fp16 --out {tmp_path / 'b'}"
    code, value = run_boards(line)
    assert code == 0, value
    return value


def test_of_an_arch_nothing_is_promised_and_its_manifest_says_so(unpromised: Mapping[str, Any]) -> None:
    (mode,) = unpromised["manifest"]["modes"]
    assert set(mode["budget"].values()) <= {None}
    assert (mode["predicted"], mode["top1"], mode["conditions"], mode["runs"]["precision"]) == (
        None,
        None,
        None,
        "fp16",
    )


@pytest.mark.slow
@pytest.mark.usefixtures("unpromised")
def test_what_promises_nothing_is_measured_all_the_same(run_boards: Run, tmp_path: Path) -> None:
    code, value = run_boards(f"deploy --host local --root {tmp_path / 'board'} --bundle {tmp_path / 'b'}")
    assert (code, value["state"], value["promise"]) == (0, "committed", "not-checkable"), value
    assert value["measured_ms"] > 0


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("bundle build --out x", "one option is missing"),
        ("bundle build --out x --budget 1s --space reduced", "--space is of --arch"),
        ("bundle build --out x --budget 1s --arch -", "cannot be used together"),
        ("bundle build --out x --budget 1s --mode low", "--mode is of --selection"),
        ("bundle build --out x --budget 1s --device Pi", "--device is of --selection"),
        ("bundle build --out x --budget 1s --selection {junk}", "cannot be used together"),
        ("bundle show absent", "there is no bundle at absent"),
        ("bundle sign absent --key absent", "cannot read absent"),
        ("bundle verify absent --trust absent", "cannot read absent"),
    ],
)
def test_mistakes_of_the_caller_end_in_2(run_boards: Run, line: str, message: str) -> None:
    code, value = run_boards(line)
    assert (code, message in value["error"]["message"]) == (2, True), value
    assert value["error"]["hint"]


def test_one_selection_has_neither_modes_nor_devices(run_boards: Run, selected: None, tmp_path: Path) -> None:
    for name in ("mode", "device"):
        code, value = run_boards(f"{BUILD} --{name} x --out {tmp_path / 'b'}")
        assert (code, value["error"]["hint"]) == (2, f"leave --{name} out")


# -- verify ---------------------------------------------------------------------------------------
def test_verify_runs_the_models_and_says_who_signed(
    run_boards: Run, family: None, keys: Path, tmp_path: Path, capsys: Any
) -> None:
    path = tmp_path / "b.ofab"
    code, made = run_boards(f"{BUILD} --table {{table}} --sign {keys / 'ours'} --out {path}")
    assert code == 0
    code, value = run_boards(f"bundle verify {path} --trust {keys / 'theirs.pub'} --trust {keys / 'ours.pub'}")
    assert (code, value["trusted"], value["signed_by"]) == (0, True, made["signed_by"])
    assert [one["mode"] for one in value["modes"]] == ["full", "low"]
    assert all(0 <= one["rel"] < one["tolerance"] and one["problem"] is None for one in value["modes"])
    code, value = run_boards(f"bundle verify {path} --trust {keys / 'theirs.pub'}")
    assert (code, "is signed by the key" in value["error"]["message"]) == (9, True)
    code, value = run_boards(f"bundle verify {path}")
    assert (code, value["trusted"]) == (0, False)


def test_verify_finds_a_model_that_computes_something_else(run_boards: Run, tmp_path: Path) -> None:
    bundles.write(tiny(3.0, golden_error=0.01), tmp_path / "b")
    code, value = run_boards(f"bundle verify {tmp_path / 'b'}")
    assert code == 9
    assert "outputs of model.onnx differ from the golden ones" in value["error"]["message"]
    assert value["error"]["details"]["modes"][0]["rel"] > 1e-4


def test_verify_says_what_it_could_not_run(run_boards: Run, tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    from ofa_edge.deploy import proving

    bundles.write(make_bundle(), tmp_path / "b")
    real = proving.prove
    monkeypatch.setattr(proving, "prove", lambda device, found: real(_Without(device), found))
    assert main(["bundle", "verify", str(tmp_path / "b"), "--json"]) == 0
    said = capsys.readouterr()
    (mode,) = json.loads(said.out)["modes"]
    assert (mode["rel"], mode["not_run"]) == (None, "onnxruntime is not installed here")
    assert "was not run" in said.err


class _Without:
    """A session with a machine that has no runtime."""

    def __init__(self, device: Any):
        from dataclasses import replace

        self.facts = replace(device.facts, runtimes={})
        self.missing, self.push, self.check = device.missing, device.push, device.check


def test_verify_follows_current_and_sign_does_not(run_boards: Run, keys: Path, tmp_path: Path) -> None:
    bundles.write(make_bundle(), tmp_path / "releases")
    (tmp_path / "current").symlink_to("releases")
    assert run_boards(f"bundle verify {tmp_path / 'current'}")[0] == 0
    code, value = run_boards(f"bundle sign {tmp_path / 'current'} --key {keys / 'ours'}")
    assert (code, value["error"]["hint"]) == (9, f"name what it leads to: {tmp_path / 'releases'}")


# -- keys -----------------------------------------------------------------------------------------
def test_a_bundle_is_signed_in_place_or_elsewhere(run_boards: Run, keys: Path, tmp_path: Path) -> None:
    bundles.write(make_bundle(), tmp_path / "b")
    before = (tmp_path / "b" / MANIFEST).read_bytes()
    code, value = run_boards(f"bundle sign {tmp_path / 'b'} --key {keys / 'ours'} --out {tmp_path / 'c.ofab'}")
    assert (code, value["bundle"]) == (0, str(tmp_path / "c.ofab"))
    assert not (tmp_path / "b" / SIGNATURE).exists()
    assert run_boards(f"bundle sign {tmp_path / 'b'} --key {keys / 'theirs'}")[0] == 0
    assert run_boards(f"bundle sign {tmp_path / 'b'} --key {keys / 'ours'}")[1]["signed_by"] == value["signed_by"]
    assert (tmp_path / "b" / MANIFEST).read_bytes() == before
    (tmp_path / "c.ofab").rename(tmp_path / "named-otherwise")
    assert run_boards(f"bundle sign {tmp_path / 'named-otherwise'} --key {keys / 'theirs'}")[0] == 0
    assert bundles.read(tmp_path / "named-otherwise").signed_by not in (None, value["signed_by"])


def test_keys_are_named_and_never_written_over(run_boards: Run, keys: Path) -> None:
    code, value = run_boards(f"bundle keygen {keys / 'ours'}")
    assert (code, "never written over" in value["error"]["message"]) == (2, True)
    code, value = run_boards(f"bundle keygen {keys / 'more'}")
    assert (value["private"], value["public"]) == (str(keys / "more"), str(keys / "more.pub"))


# -- deploy ---------------------------------------------------------------------------------------
DEPLOY = "deploy --host nobody@127.0.0.1:1 --bundle"


def test_deploy_takes_a_folder_or_a_file_and_only_what_is_trusted(run_boards: Run, keys: Path, tmp_path: Path) -> None:
    for name in ("b", "b.ofab"):
        path = tmp_path / name
        bundles.write(make_bundle(), path)
        assert run_boards(f"{DEPLOY} {path}")[0] == 5, "as far as the host"
        code, value = run_boards(f"{DEPLOY} {path} --trust {keys / 'ours.pub'}")
        assert (code, "is not signed" in value["error"]["message"]) == (9, True)
        assert run_boards(f"bundle sign {path} --key {keys / 'theirs'}")[0] == 0
        code, value = run_boards(f"{DEPLOY} {path} --trust {keys / 'ours.pub'}")
        assert (code, "is signed by the key" in value["error"]["message"]) == (9, True)
        assert run_boards(f"{DEPLOY} {path} --trust {keys / 'ours.pub'} --trust {keys / 'theirs.pub'}")[0] == 5


def test_trust_may_stand_in_the_environment_or_in_the_settings_file(
    run_boards: Run, keys: Path, tmp_path: Path, monkeypatch: Any
) -> None:
    bundles.write(make_bundle(), tmp_path / "b")
    with monkeypatch.context() as patch:
        patch.setenv("OFA_EDGE_DEPLOY_TRUST", str(keys / "ours.pub"))
        assert run_boards(f"{DEPLOY} {tmp_path / 'b'}")[0] == 9
    (tmp_path / "ofa-edge.toml").write_text(f'trust = "{keys / "ours.pub"}"\n')
    assert run_boards(f"{DEPLOY} {tmp_path / 'b'}")[0] == 9
    assert run_boards(f"bundle verify {tmp_path / 'b'}")[0] == 9


def test_a_bundle_that_is_there_is_not_signed_by_the_way(run_boards: Run, keys: Path, tmp_path: Path) -> None:
    bundles.write(make_bundle(), tmp_path / "b")
    code, value = run_boards(f"{DEPLOY} {tmp_path / 'b'} --sign {keys / 'ours'}")
    assert (code, "for bundles that are made here" in value["error"]["message"]) == (2, True)
    assert f"bundle sign BUNDLE --key {keys / 'ours'}" in value["error"]["hint"]


def test_deploy_signs_what_it_makes(run_boards: Run, selected: None, keys: Path, tmp_path: Path) -> None:
    line = f"deploy --host local --supernet {{ckpt}} --selection {{out}} --dry-run --keep-bundle {tmp_path / 'kept'}"
    code, value = run_boards(f"{line} --trust {keys / 'ours.pub'}")
    assert (code, "the new bundle is not signed" in value["error"]["message"]) == (9, True)
    code, value = run_boards(f"{line} --trust {keys / 'ours.pub'} --sign {keys / 'ours'}")
    assert code == 0, value
    assert run_boards(f"bundle verify {tmp_path / 'kept'} --trust {keys / 'ours.pub'}")[0] == 0


def test_options_that_a_selection_answers_itself_are_passed_over_aloud(
    run_boards: Run, selected: None, boards: dict[str, Path], tmp_path: Path, capsys: Any
) -> None:
    capsys.readouterr()
    words = BUILD.format(out=tmp_path / "out", **boards).split()
    assert main([*words, "--table", str(boards["table"]), "--threads", "7", "--out", str(tmp_path / "a")]) == 0
    assert "says how its subnets run: --threads passed over" in capsys.readouterr().err
    assert bundles.read(tmp_path / "a").manifest.default.runs.threads == 1


def test_what_no_trusted_key_would_sign_is_refused_before_any_device_is_asked(
    run_boards: Run, selected: None, keys: Path
) -> None:
    line = f"deploy --host nobody.invalid --supernet {{ckpt}} --selection {{out}} --trust {keys / 'theirs.pub'}"
    for end, message in (("", "is not signed"), (f" --sign {keys / 'ours'}", "signed by the key")):
        code, value = run_boards(line + end)
        assert (code, message in value["error"]["message"]) == (9, True), value
