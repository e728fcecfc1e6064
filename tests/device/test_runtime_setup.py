"""A device that has a Python and nothing else, over a real sshd: a runtime is brought, proved, used, and taken away."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from ofa_edge import settings
from ofa_edge.cli import app
from ofa_edge.device import Inventory, connect, open_device, open_session, runtime_setup
from ofa_edge.device.interpreters import probe
from ofa_edge.device.local import LocalLink
from ofa_edge.errors import LockHeld, OfaEdgeError, ProtocolError, UsageError
from ofa_edge.latency.proof import proof
from tests.sshd import Sshd


@pytest.fixture(scope="module")
def bare_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An interpreter of this version without any package."""
    folder = tmp_path_factory.mktemp("bare")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    return folder / "bin/python"


@pytest.fixture
def device(sshd: Sshd, bare_python: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sshd]:
    """The sshd's machine, as it looks where no runtime is installed; pip asks the index that the user has set."""
    monkeypatch.setenv("OFA_EDGE_DEVICE_PYTHON", str(bare_python))
    users = Path(pwd.getpwuid(os.geteuid()).pw_dir, ".config/pip/pip.conf")
    if users.is_file():  # the tests' HOME is another
        monkeypatch.setenv("PIP_CONFIG_FILE", str(users))
    yield sshd
    shutil.rmtree(sshd.root, ignore_errors=True)


def run(capsys: Any, *arguments: str) -> tuple[int, Any]:
    code = app.main([*arguments, "--json"])
    value = json.loads(capsys.readouterr().out)
    error = value.get("error") if isinstance(value, dict) else None
    if error and error["message"].startswith("pip cannot bring"):
        pytest.skip(f"no package index here: {error['message']}")
    return code, value


@pytest.mark.slow
def test_a_device_without_a_runtime_gets_one_that_is_then_used(device: Sshd, capsys: Any) -> None:
    with open_device(device.host) as session:
        assert session.facts.runtimes == {}
    code, first = run(capsys, "devices", "setup", device.host)
    assert (code, first["state"], first["runtime"]) == (0, "installed", "onnxruntime"), first
    assert first["bytes_pushed"] > 10_000_000
    assert first["rel"] < runtime_setup.TOLERANCE
    assert first["runtimes"] == {"onnxruntime": first["version"]}
    folder = device.root / "sites" / first["site"]
    assert (folder / "ofa-edge-site.sha256").read_text().strip() == first["sha256"]
    assert not any(path.is_symlink() for path in folder.rglob("*"))

    code, again = run(capsys, "devices", "setup", device.host)
    assert (code, again["state"], again["bytes_pushed"]) == (0, "already there", 0)
    with open_device(device.host) as session:
        assert session.facts.runtimes == {"onnxruntime": first["version"]}

    shutil.rmtree(device.root / "sites")  # so that it must prove itself again
    right = proof("onnxruntime")
    wrong = replace(right, outputs=right.inputs)
    with closing(connect(device.host)) as link, pytest.raises(OfaEdgeError, match="its outputs are off by"):
        runtime_setup.setup(link, "onnxruntime", lambda: wrong, cache=settings.home() / "cache/sites")
    assert os.listdir(device.root / "sites") == []
    with open_device(device.host) as session:
        assert session.facts.runtimes == {}

    code, gone = run(capsys, "devices", "remove", device.host, "--all", "--yes")
    assert (code, gone["kept"]) == (0, [])
    assert not device.root.exists()


def test_a_runtime_that_the_device_has_is_left_alone(sshd: Sshd, capsys: Any) -> None:
    code, value = run(capsys, "devices", "setup", sshd.host)
    assert (code, value["state"], value["site"], value["bytes_pushed"]) == (0, "own", None, 0)
    assert not (sshd.root / "sites").exists()
    code, value = run(capsys, "devices", "remove", sshd.host, "--yes")
    assert (code, value["removed"]) == (0, [])


def test_nothing_is_removed_when_nobody_can_be_asked(sshd: Sshd, capsys: Any, monkeypatch: Any) -> None:
    with open(os.devnull) as nobody:
        monkeypatch.setattr("sys.stdin", nobody)
        code, value = run(capsys, "devices", "remove", sshd.host, "--all")
    assert (code, value["error"]["code"]) == (2, 2)
    assert "--yes" in value["error"]["hint"]


def test_a_deployment_that_goes_on_is_not_wiped_away(tmp_path: Path) -> None:
    link = LocalLink(root=str(tmp_path / "device"))
    with open_session(link) as deploying:
        deploying.call("lock", {"app": "shop", "holder": "ann"})
        with pytest.raises(LockHeld, match="ann is deploying shop"):
            runtime_setup.remove(link, everything=True)
    assert (tmp_path / "device/shop").is_dir()


# ------------------------------------------------------------------------------ the device's Python


def answering(tmp_path: Path, script: str) -> LocalLink:
    program = tmp_path / "python3"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    return LocalLink(python=str(program))


def test_a_device_without_python_is_told_what_to_install(sshd: Sshd, capsys: Any) -> None:
    code, value = run(capsys, "devices", "setup", sshd.host, "--python", "python3-is-not-here")
    assert (code, value["error"]["code"]) == (2, 2)
    assert "has no python3-is-not-here" in value["error"]["message"]
    assert "apt install python3" in value["error"]["hint"]


def test_an_old_python_answers_and_is_named(tmp_path: Path) -> None:
    """What Python 2.7 would print; the question itself is in words it understands."""
    answer = '{"version": [2, 7, 18], "tag": "python27-armv7l", "libc": "glibc 2.28", "lacks": [], "numpy": ""}'
    link = answering(tmp_path, f"echo welcome; echo \"$3\" '{answer}'")
    with pytest.raises(UsageError, match=r"Python 2\.7\.18, which is too old: 3\.9"):
        runtime_setup.setup(link, "onnxruntime", lambda: proof("onnxruntime"), cache=tmp_path)


@pytest.mark.parametrize(
    "answer",
    [
        "{}",
        "[]",
        "not json",
        '{"version": [3, 11], "tag": "cp311-x86_64", "libc": "", "lacks": [], "numpy": ""}',
        '{"version": [3, 11, 1], "tag": "../../etc", "libc": "", "lacks": [], "numpy": ""}',
        '{"version": [3, 11, 1], "tag": "cp311-x86_64", "libc": "", "lacks": [], "numpy": "", "more": 1}',
    ],
)
def test_an_answer_that_is_none_is_a_protocol_error(tmp_path: Path, answer: str) -> None:
    with pytest.raises(ProtocolError, match="does not say what its Python is"):
        probe(answering(tmp_path, f"echo \"$3\" '{answer}'"))


def test_a_python_that_dies_is_said_with_its_last_words(tmp_path: Path) -> None:
    with pytest.raises(OfaEdgeError, match=r"does not answer \(exit status 3\): no such module"):
        probe(answering(tmp_path, "echo no such module >&2; exit 3"))


# ----------------------------------------------------------------------------------- devices.toml


def test_an_entry_is_added_listed_and_taken_out_and_comments_stay(
    tmp_path: Path, capsys: Any, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "devices.toml"
    before = '# mine\n[attic]   # the old one\nhost = "pi@attic"\n\n# the end'
    file.write_text(before)
    code, value = run(capsys, "devices", "add", "kitchen", "local", "--group", "lab", "--group", "warm")
    assert (code, value["file"]) == (0, str(file))
    assert "onnxruntime" in value["runtimes"]
    assert value["facts"]["cores"] >= 1
    assert file.read_text().startswith(before)
    assert Inventory.load(file).expand(["@lab"]) == ["kitchen"]
    assert run(capsys, "devices", "add", "kitchen", "local")[1]["error"]["code"] == 2

    code, rows = run(capsys, "devices", "list")
    assert [(row["name"], row["facts"]) for row in rows] == [("attic", None), ("kitchen", None)]
    assert rows[1]["tables"] == []  # its model is remembered, tables there are none

    assert run(capsys, "devices", "remove", "kitchen", "--forget")[1]["entry_removed"]
    assert file.read_text() == before + "\n"
    assert not run(capsys, "devices", "remove", "attic", "--forget")[1]["entry_removed"]  # a person wrote it
    code, value = run(capsys, "devices", "remove", "cellar", "--forget")
    assert (code, "no 'cellar'" in value["error"]["message"]) == (2, True)


def test_what_a_person_put_behind_an_added_entry_stays(tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    run(capsys, "devices", "add", "kitchen", "pi@kitchen:2222", "--no-connect", "--root", "/data/x")
    file = settings.devices_file()
    text = file.read_text()
    assert Inventory.load(file).get("kitchen").root == "/data/x"  # type: ignore[union-attr]
    file.write_text(f'{text}# about attic\n[attic]\nhost = "pi@attic"\n')
    assert run(capsys, "devices", "remove", "kitchen", "--forget")[1]["entry_removed"]
    assert file.read_text() == '# about attic\n[attic]\nhost = "pi@attic"\n'


@pytest.mark.parametrize(
    ("name", "host"),
    [("a b", "local"), ("local", "local"), ("x", "@lab"), ("x", "adb:1"), ("", "local"), ("x]", "local"), ("x", "")],
)
def test_names_and_hosts_that_would_be_read_as_something_else_are_refused(
    tmp_path: Path, capsys: Any, monkeypatch: Any, name: str, host: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(capsys, "devices", "add", "--no-connect", name, host)[0] == 2
    assert not settings.devices_file().exists()


def test_a_name_that_is_taken_is_refused_before_a_device_is_looked_for(
    tmp_path: Path, capsys: Any, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    run(capsys, "devices", "add", "kitchen", "local", "--no-connect")
    code, value = run(capsys, "devices", "add", "kitchen", "nobody@127.0.0.1:1")  # whom nothing could reach
    assert code == 2
    assert "devices remove kitchen" in value["error"]["hint"]


def test_a_device_that_is_gone_for_good_can_be_forgotten_and_the_error_says_how(
    tmp_path: Path, capsys: Any, monkeypatch: Any
) -> None:
    monkeypatch.chdir(tmp_path)
    run(capsys, "devices", "add", "gone", "nobody@127.0.0.1:1", "--no-connect")
    code, value = run(capsys, "devices", "remove", "gone", "--yes")
    assert code == 5
    assert "devices remove gone --forget" in value["error"]["hint"]
    assert run(capsys, "devices", "remove", "gone", "--forget")[1]["entry_removed"]


def test_a_device_that_does_not_answer_is_listed_so(tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "devices.toml").write_text('[here]\nhost = "local"\n[gone]\nhost = "nobody@127.0.0.1:1"\n')
    code, rows = run(capsys, "devices", "list", "--check")
    assert code == 1
    assert [row["error"] is None for row in rows] == [True, False]
    assert rows[0]["runtimes"]["onnxruntime"]
