"""known_hosts, read and judged without a connection."""

from __future__ import annotations

import base64
import shutil
import subprocess
from pathlib import Path

import pytest

from ofa_edge.device import host_keys
from ofa_edge.device.host_keys import Verdict
from ofa_edge.errors import BadFile
from ofa_edge.limits import LIMITS
from tests.sshd import keygen

KEY, OTHER = b"\0\0\0\x0bssh-ed25519 one", b"\0\0\0\x0bssh-ed25519 two"


def text_of(key: bytes) -> str:
    return base64.b64encode(key).decode()


def verdict(tmp_path: Path, text: str, name: str, key: bytes = KEY) -> Verdict:
    file = tmp_path / "known_hosts"
    file.write_text(text)
    return host_keys.judge(host_keys.known_keys([tmp_path / "absent", file], name), key)


@pytest.mark.parametrize(
    ("patterns", "name", "known"),
    [
        ("pi", "pi", True),
        ("PI,10.0.0.7", "10.0.0.7", True),
        ("PI", "pi", True),
        ("*.lan", "pi.lan", True),
        ("*.lan,!pi.lan", "pi.lan", False),
        ("p?", "pi", True),
        ("p?", "pie", False),
        ("[pi]:2222", "[pi]:2222", True),
        ("[pi]:2222", "pi", False),
        ("pi", "[pi]:2222", False),
        ("p.", "pi", False),
        ("|1|bad|bad", "pi", False),
        ("|1|bad", "pi", False),
    ],
)
def test_patterns_mean_what_they_mean_to_ssh(tmp_path: Path, patterns: str, name: str, known: bool) -> None:
    found = verdict(tmp_path, f"{patterns} ssh-ed25519 {text_of(KEY)} comment\n", name)
    assert found is (Verdict.KNOWN if known else Verdict.UNKNOWN)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", Verdict.UNKNOWN),
        (f"pi ssh-ed25519 {text_of(OTHER)}\n", Verdict.CHANGED),
        (f"pi ssh-ed25519 {text_of(OTHER)}\npi ssh-ed25519 {text_of(KEY)}\n", Verdict.KNOWN),
        (f"pi ssh-ed25519 {text_of(KEY)}\n@revoked * ssh-ed25519 {text_of(KEY)}\n", Verdict.REVOKED),
        (f"@revoked * ssh-ed25519 {text_of(OTHER)}\n", Verdict.UNKNOWN),
        (f"@cert-authority * ssh-ed25519 {text_of(KEY)}\n", Verdict.UNKNOWN),
        ("pi ssh-ed25519\npi\n\n# pi ssh-ed25519 x\npi ssh-ed25519 not-base64!\n\xff\n", Verdict.UNKNOWN),
    ],
)
def test_the_verdict_on_a_shown_key(tmp_path: Path, text: str, expected: Verdict) -> None:
    assert verdict(tmp_path, text, "pi") is expected


def test_a_name_is_looked_up_with_its_port_where_it_is_not_22() -> None:
    assert host_keys.lookup_name("Pi.lan", 22) == "pi.lan"
    assert host_keys.lookup_name("::1", 2222) == "[::1]:2222"


@pytest.mark.parametrize("hashed", [False, True])
def test_what_is_recorded_is_found_again_by_us_and_by_ssh(tmp_path: Path, hashed: bool) -> None:
    if shutil.which("ssh-keygen") is None:
        pytest.skip("no ssh-keygen here")
    keygen(tmp_path / "key")
    kind, text = (tmp_path / "key.pub").read_text().split()[:2]
    key = base64.b64decode(text)
    file = tmp_path / "deep/.ssh/known_hosts"
    file.parent.mkdir(parents=True)
    file.write_text("# no newline at the end")
    host_keys.record(file, "[pi]:2222", kind, key, hashed=hashed)
    assert ("[pi]" in file.read_text()) is not hashed
    assert file.read_text().startswith("# no newline at the end\n")
    assert host_keys.judge(host_keys.known_keys([file], "[pi]:2222"), key) is Verdict.KNOWN
    found = subprocess.run(["ssh-keygen", "-F", "[pi]:2222", "-f", file], capture_output=True, text=True)
    assert text in found.stdout
    shown = subprocess.run(["ssh-keygen", "-lf", tmp_path / "key.pub"], capture_output=True, text=True, check=True)
    assert host_keys.fingerprint(key) in shown.stdout


def test_a_new_file_is_private_to_the_user(tmp_path: Path) -> None:
    file = tmp_path / ".ssh/known_hosts"
    host_keys.record(file, "pi", "ssh-ed25519", KEY, hashed=False)
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.parent.stat().st_mode & 0o777 == 0o700


def test_files_that_cannot_be_used_are_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(BadFile, match="cannot record"):
        host_keys.record(tmp_path / "file/known_hosts", "pi", "ssh-ed25519", KEY, hashed=False)
    with pytest.raises(BadFile, match="cannot read"):
        host_keys.known_keys([tmp_path], "pi")
    with (tmp_path / "huge").open("wb") as stream:
        stream.truncate(LIMITS.ssh_config_bytes + 1)
    with pytest.raises(BadFile, match="larger"):
        host_keys.known_keys([tmp_path / "huge"], "pi")
