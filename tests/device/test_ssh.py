"""The ssh link against a real OpenSSH server: trust, keys, jump hosts, transfers, and links that are cut."""

from __future__ import annotations

import contextlib
import getpass
import hashlib
import os
import shutil
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from device_agents import wire
from ofa_edge.device import ConnectOptions, host_keys, open_device
from ofa_edge.device.hosts import connect
from ofa_edge.device.ssh import SshLink, command_line
from ofa_edge.device.ssh_auth import is_encrypted
from ofa_edge.device.ssh_connection import notice_cuts
from ofa_edge.errors import DeviceLost, TrustError, UsageError
from ofa_edge.limits import LIMITS
from tests.cable import Cable
from tests.sshd import Sshd, free_port, keygen

Make = Callable[[str], Sshd]


def options(server: Sshd, **changes: Any) -> ConnectOptions:
    return replace(ConnectOptions(python=sys.executable, ssh_config=server.config), **changes)


def link_to(server: Sshd, **changes: Any) -> SshLink:
    link = connect(server.host, options=options(server, **changes))
    assert isinstance(link, SshLink)
    return link


# ------------------------------------------------------------------------------------------ the agent


def test_the_agent_works_over_ssh_as_it_does_locally(sshd: Sshd, tiny_onnx: bytes) -> None:
    model = hashlib.sha256(tiny_onnx).hexdigest()
    with open_device(sshd.host) as session, open_device("local") as here:
        assert session.root == str(sshd.root)
        assert session.facts == here.facts
        assert session.push({model: tiny_onnx}) > 0
        assert session.missing([model]) == []
        job = wire.MeasureJob("k", model, {"h": 16, "w": 16}, max_seconds=0.5)
        (result,) = session.measure([job], fresh=True)
    assert isinstance(result, wire.Measured)
    assert result.figures.median > 0


def test_a_python_that_is_not_there_is_named(sshd: Sshd) -> None:
    with pytest.raises(UsageError, match="has no /no/such/python") as caught:
        open_device(sshd.host, options=ConnectOptions(python="/no/such/python"))
    assert "--python" in caught.value.hint


def test_no_word_of_the_command_line_is_shell_text(sshd: Sshd) -> None:
    words = ["a b", "$HOME", "`id`", "'", '"', "\n", "*", "; false", "", "~"]
    link = link_to(sshd)
    with contextlib.closing(link):
        channel = link.start([sys.executable, "-c", "import sys; print(sys.argv[1:])", *words])
        assert channel.readline(10_000, 20).decode().strip() == repr(words)
        assert channel.close(5) == 0


def test_a_home_relative_program_is_found_by_the_shell() -> None:
    assert command_line(["~/venv/bin/py thon", "~", "x"]) == "~/'venv/bin/py thon' '~' x"


def test_stderr_and_the_exit_status_come_back(sshd: Sshd) -> None:
    link = link_to(sshd)
    with contextlib.closing(link):
        channel = link.start(["sh", "-c", "head -c 5000000 /dev/zero >&2; echo done; echo last words >&2; exit 3"])
        assert channel.readline(100, 20) == b"done\n"
        assert channel.readline(100, 20) == b""
        assert channel.close(5) == 3
        assert channel.stderr_tail().endswith("last words")


# --------------------------------------------------------------------------------------------- files


def test_a_file_arrives_whole_or_not_at_all(sshd: Sshd, tmp_path: Path) -> None:
    data = os.urandom(3_000_000)
    link = link_to(sshd)
    with contextlib.closing(link):
        link.put(data, str(tmp_path / "file"))
        link.put(data[::-1], str(tmp_path / "file"))
        assert (tmp_path / "file").read_bytes() == data[::-1]
        with pytest.raises(DeviceLost, match="no folder"):
            link.put(data, str(tmp_path / "none/file"))
        (tmp_path / "folder").mkdir()
        with pytest.raises(DeviceLost, match="cannot write"):
            link.put(data, str(tmp_path / "folder"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_is_an_error_and_leaves_nothing(
    sshd: Sshd, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("secrets.token_hex", lambda n: "aaaa")
    (tmp_path / "file.aaaa.part").symlink_to("/dev/full")
    link = link_to(sshd)
    with contextlib.closing(link), pytest.raises(DeviceLost, match="cannot write") as caught:
        link.put(b"x" * 100_000, str(tmp_path / "file"))
    assert "disk" in caught.value.hint
    assert list(tmp_path.iterdir()) == []


# --------------------------------------------------------------------------------------------- trust


def test_an_unknown_host_is_refused_with_its_fingerprint(make_sshd: Make) -> None:
    server = make_sshd("a")
    server.known_hosts.unlink()
    with pytest.raises(TrustError, match="not a known host") as caught:
        link_to(server)
    shown = subprocess.run(
        ["ssh-keygen", "-lf", server.folder / "host_key.pub"], capture_output=True, text=True, check=True
    ).stdout.split()[1]
    assert shown in caught.value.message
    assert caught.value.details["fingerprint"] == shown
    assert "--accept-new" in caught.value.hint
    assert not server.known_hosts.exists()


def test_accept_new_records_the_key_and_says_so_once(make_sshd: Make) -> None:
    server = make_sshd("a")
    server.known_hosts.unlink()
    said: list[str] = []
    for _ in range(2):
        link_to(server, accept_new=True, notify=said.append).close()
    assert server.known_hosts.read_text() == server.host_key_line
    assert len(said) == 1
    assert "SHA256:" in said[0]
    link_to(server).close()  # strict from now on


def test_accept_new_may_also_come_from_the_ssh_config(make_sshd: Make) -> None:
    server = make_sshd("a")
    server.known_hosts.unlink()
    server.configure("Host *\n  StrictHostKeyChecking accept-new\n  HashKnownHosts yes\n")
    link_to(server).close()
    assert server.known_hosts.read_text().startswith("|1|")
    link_to(server).close()


@pytest.mark.parametrize("laxer", ["no", "off", "ask"])
def test_nothing_laxer_than_accept_new_is_honoured(make_sshd: Make, laxer: str) -> None:
    server = make_sshd("a")
    server.known_hosts.unlink()
    server.configure(f"Host *\n  StrictHostKeyChecking {laxer}\n")
    with pytest.raises(TrustError, match="not a known host"):
        link_to(server)


@pytest.mark.parametrize("accept_new", [False, True])
def test_a_changed_key_is_refused_and_the_hint_removes_exactly_it(make_sshd: Make, accept_new: bool) -> None:
    server = make_sshd("a")
    other = "other.example ssh-ed25519 AAAA\n"
    revoked = f"@revoked * ssh-ed25519 {server.host_key_line.split()[2][:-4]}AAAA\n"
    server.known_hosts.write_text(f"# mine\n{other}{server.host_key_line}{revoked}")
    server.change_host_key()
    with pytest.raises(TrustError, match="CHANGED") as caught:
        link_to(server, accept_new=accept_new)
    assert caught.value.code == 4
    assert caught.value.details["line"] == 3
    command = caught.value.hint.partition("ssh-keygen")[2]
    subprocess.run(f"ssh-keygen{command}", shell=True, check=True, capture_output=True)
    link_to(server, accept_new=True).close()
    lines = server.known_hosts.read_text().splitlines(keepends=True)
    assert lines == ["# mine\n", other, revoked, server.host_key_line]


def test_a_revoked_key_is_refused_even_when_it_is_known(make_sshd: Make) -> None:
    server = make_sshd("a")
    key = server.host_key_line.split()[2]
    server.known_hosts.write_text(f"{server.host_key_line}@revoked * ssh-ed25519 {key}\n")
    with pytest.raises(TrustError, match="@revoked"):
        link_to(server, accept_new=True)


def test_a_host_known_without_its_port_is_known(make_sshd: Make) -> None:
    server = make_sshd("a")
    kind, key = server.host_key_line.split()[1:]
    server.known_hosts.write_text(f"127.0.0.1 {kind} {key}\n")
    link_to(server).close()


def test_a_key_of_another_type_does_not_slip_in_as_new(make_sshd: Make, tmp_path: Path) -> None:
    server = make_sshd("a")
    keygen(tmp_path / "ecdsa", kind="ecdsa")
    kind, key = (tmp_path / "ecdsa.pub").read_text().split()[:2]
    server.known_hosts.write_text(f"[127.0.0.1]:{server.port} {kind} {key}\n")
    with pytest.raises(TrustError, match="CHANGED"):
        link_to(server, accept_new=True)


# ---------------------------------------------------------------------------------------------- keys


def test_a_device_that_does_not_know_us_says_what_was_tried(make_sshd: Make, tmp_path: Path) -> None:
    server = make_sshd("a")
    server.authorized_keys.write_text("")
    with pytest.raises(TrustError, match="accepts no key of ours") as caught:
        link_to(server)
    assert str(server.key) in caught.value.message
    assert caught.value.hint.startswith(f"ssh-copy-id -p {server.port}")


def locked_key(server: Sshd, folder: Path) -> Path:
    """Only a key with the passphrase 'open sesame' opens the server."""
    key = folder / "locked"
    keygen(key, passphrase="open sesame")
    shutil.copy(f"{key}.pub", server.authorized_keys)
    server.configure(identity=key)
    return key


def test_a_passphrase_is_asked_for_until_it_is_right(make_sshd: Make, tmp_path: Path) -> None:
    server = make_sshd("a")
    key = locked_key(server, tmp_path)
    answers = iter(["wrong", "open sesame"])
    asked: list[str] = []

    def ask(prompt: str) -> str:
        asked.append(prompt)
        return next(answers)

    link_to(server, ask=ask).close()
    assert asked == [f"Enter passphrase for key '{key}': "] * 2


def test_without_a_terminal_nobody_is_asked(make_sshd: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server = make_sshd("a")
    locked_key(server, tmp_path)
    monkeypatch.setattr("sys.stdin", open(os.devnull))  # noqa: SIM115
    monkeypatch.setattr("getpass.getpass", lambda *a, **k: pytest.fail("asked without a terminal"))
    with pytest.raises(TrustError, match="no terminal to ask") as caught, sys.stdin:
        link_to(server)
    assert "ssh-add" in caught.value.message


def test_an_identity_given_by_option_comes_first(make_sshd: Make, tmp_path: Path) -> None:
    server = make_sshd("a")
    keygen(tmp_path / "mine")
    shutil.copy(tmp_path / "mine.pub", server.authorized_keys)
    with pytest.raises(TrustError):
        link_to(server)
    link_to(server, identity=tmp_path / "mine").close()


@pytest.fixture
def ssh_agent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A running ssh-agent; SSH_AUTH_SOCK leads to it."""
    if not (shutil.which("ssh-agent") and shutil.which("ssh-add")):
        pytest.skip("no ssh-agent here")
    path = Path(os.path.relpath(tmp_path / "s"))
    process = subprocess.Popen(["ssh-agent", "-D", "-a", path], stdout=subprocess.DEVNULL)
    monkeypatch.setenv("SSH_AUTH_SOCK", str(path))
    for _ in range(500):
        if subprocess.run(["ssh-add", "-l"], capture_output=True).returncode != 2:
            break
    yield path
    process.terminate()
    process.wait(10)


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa", "rsa"])
def test_keys_in_the_ssh_agent_are_used(make_sshd: Make, ssh_agent: Path, tmp_path: Path, kind: str) -> None:
    server = make_sshd("a")
    keygen(tmp_path / "held", kind=kind)
    shutil.copy(tmp_path / "held.pub", server.authorized_keys)
    subprocess.run(["ssh-add", "-q", tmp_path / "held"], check=True, capture_output=True)
    (tmp_path / "held").unlink()  # only the agent has it now
    server.config.write_text(
        f"Host *\n  UserKnownHostsFile {server.known_hosts}\n  GlobalKnownHostsFile none\n  IdentityFile {server.key}\n"
    )
    link_to(server).close()
    server.configure()  # IdentitiesOnly: the agent's other keys are not offered
    with pytest.raises(TrustError):
        link_to(server)
    server.configure(identity=tmp_path / "held")  # named by its .pub: offered, through the agent
    link_to(server).close()
    server.configure("Host *\n  IdentityAgent none\n", identity=tmp_path / "held")
    with pytest.raises(TrustError):
        link_to(server)


def test_an_agent_that_is_gone_is_no_agent(sshd: Sshd, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("SSH_AUTH_SOCK", str(tmp_path / "gone"))
    link_to(sshd).close()


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa", "rsa"])
def test_a_key_file_of_any_kind_opens_the_door(make_sshd: Make, tmp_path: Path, kind: str) -> None:
    server = make_sshd("a")
    keygen(tmp_path / "key", kind=kind)
    keygen(tmp_path / "locked", kind=kind, passphrase="secret")
    assert not is_encrypted((tmp_path / "key").read_bytes())
    assert is_encrypted((tmp_path / "locked").read_bytes())
    server.authorized_keys.write_text((tmp_path / "key.pub").read_text() + (tmp_path / "locked.pub").read_text())
    link_to(server, identity=tmp_path / "key").close()
    link_to(server, identity=tmp_path / "locked", ask=lambda prompt: "secret").close()


# -------------------------------------------------------------------------------------- configuration


def test_an_alias_of_the_ssh_config_leads_to_the_device(make_sshd: Make) -> None:
    server = make_sshd("a")
    server.configure(f"Host board\n  HostName 127.0.0.1\n  Port {server.port}\n  User {getpass.getuser()}\n")
    link = connect("board", options=options(server))
    assert link.name == "board"
    link.close()


def test_without_an_ssh_program_the_alias_still_works(make_sshd: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    server = make_sshd("a")
    server.configure(f"Host board\n  HostName 127.0.0.1\n  Port {server.port}\n  User {getpass.getuser()}\n")
    monkeypatch.setattr("ofa_edge.device.ssh_config.shutil.which", lambda name: None)
    connect("board", options=options(server)).close()


def test_a_host_key_alias_is_what_known_hosts_is_asked_for(make_sshd: Make) -> None:
    server = make_sshd("a")
    kind, key = server.host_key_line.split()[1:]
    server.known_hosts.write_text(f"[the-board]:{server.port} {kind} {key}\n")
    server.configure("Host *\n  HostKeyAlias the-board\n")
    link_to(server).close()


def test_a_jump_host_is_passed_and_each_of_both_is_verified(make_sshd: Make) -> None:
    gate, board = make_sshd("gate"), make_sshd("board")
    board.known_hosts.write_text(board.host_key_line + gate.host_key_line)
    shutil.copy(board.key.with_suffix(".pub"), gate.authorized_keys)
    board.configure(f"Host 127.0.0.1\n  ProxyJump {getpass.getuser()}@localhost:{gate.port}\n")
    with pytest.raises(TrustError, match=rf"\[localhost\]:{gate.port}"):
        link_to(board)  # known as 127.0.0.1, not as localhost
    kind, key = gate.host_key_line.split()[1:]
    with board.known_hosts.open("a") as file:
        file.write(f"[localhost]:{gate.port} {kind} {key}\n")
    with open_device(board.host, options=options(board, root=str(board.root))) as session:
        assert session.facts.runtimes
    log = (gate.folder / "log").read_text()
    assert "Accepted publickey" in log
    gate.stop()
    with pytest.raises(DeviceLost, match=f"cannot reach localhost port {gate.port}"):
        link_to(board)
    gate.change_host_key()
    with pytest.raises(TrustError, match="CHANGED"):
        link_to(board)


def test_a_proxy_command_is_run(make_sshd: Make, tmp_path: Path) -> None:
    server = make_sshd("a")
    relay = tmp_path / "relay.py"
    relay.write_text(
        "import os, socket, sys, threading\n"
        "s = socket.create_connection((sys.argv[1], int(sys.argv[2])))\n"
        "def up():\n"
        "    while data := os.read(0, 65536): s.sendall(data)\n"
        "    os._exit(0)\n"
        "threading.Thread(target=up, daemon=True).start()\n"
        "while data := s.recv(65536): os.write(1, data)\n"
    )
    server.configure(f"Host *\n  ProxyCommand {sys.executable} {relay} %h %p\n")
    with contextlib.closing(link_to(server)) as link:
        assert link.start(["echo", "hello"]).readline(100, 20) == b"hello\n"


# ------------------------------------------------------------------------------------------ cut links


def test_nobody_there_is_a_lost_device_with_a_hint(own_home: Path) -> None:
    with pytest.raises(DeviceLost, match="cannot reach 127.0.0.1") as caught:
        connect(f"127.0.0.1:{free_port()}")
    assert caught.value.hint


def test_a_port_that_speaks_something_else_is_named(own_home: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            with listener.accept()[0] as peer:
                peer.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n" * 200)

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(DeviceLost, match="does not answer as an SSH server"):
            connect(f"127.0.0.1:{listener.getsockname()[1]}")
        thread.join()


def test_a_cut_link_ends_the_stream_and_keeps_what_came(make_sshd: Make, tiny_onnx: bytes) -> None:
    server = make_sshd("a")
    cable = Cable(server.port)
    with server.known_hosts.open("a") as file:
        file.write(server.host_key_line.replace(str(server.port), str(cable.port)))
    model = hashlib.sha256(tiny_onnx).hexdigest()
    host = f"{getpass.getuser()}@127.0.0.1:{cable.port}"
    with open_device(host, options=options(server)) as session:
        session.push({model: tiny_onnx})
        jobs = [wire.MeasureJob(str(i), model, {"h": 8, "w": 8}, max_seconds=0.2) for i in range(200)]
        results = session.measure(jobs, fresh=False)
        assert next(results).key == "0"
        cable.cut()
        with pytest.raises(DeviceLost) as caught:
            list(results)
        assert caught.value.code == 5
        with pytest.raises(DeviceLost):
            session.push({model: tiny_onnx})


def test_a_link_cut_in_a_transfer_leaves_no_file_under_its_name(make_sshd: Make, tmp_path: Path) -> None:
    server = make_sshd("a")
    cable = Cable(server.port)
    with server.known_hosts.open("a") as file:
        file.write(server.host_key_line.replace(str(server.port), str(cable.port)))
    link = connect(f"{getpass.getuser()}@127.0.0.1:{cable.port}", options=options(server))
    link.put(b"old", str(tmp_path / "file"))
    threading.Timer(0.05, cable.cut).start()

    def put_for_ever() -> None:
        while True:
            link.put(os.urandom(20_000_000), str(tmp_path / "other"))
            (tmp_path / "other").unlink()

    with pytest.raises(DeviceLost):
        put_for_ever()
    link.close()
    assert (tmp_path / "file").read_bytes() == b"old"
    assert not (tmp_path / "other").exists()


def test_a_server_that_goes_away_is_a_lost_device(make_sshd: Make) -> None:
    server = make_sshd("a")
    link = link_to(server)
    with contextlib.closing(link):
        link.connection.close()
        with pytest.raises(DeviceLost):
            link.start(["true"])
        with pytest.raises(DeviceLost):
            link.put(b"x", "/tmp/never")


def test_our_socket_sends_at_once_and_notices_a_dead_peer() -> None:
    with socket.socket() as connection:
        notice_cuts(connection, 15.0)
        assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert connection.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == 15_000
            assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 5


def test_the_connection_in_use_has_those_options(sshd: Sshd) -> None:
    with contextlib.closing(link_to(sshd)) as link:
        connection = link.connection.transport.sock
        assert connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert host_keys.lookup_name("127.0.0.1", sshd.port) in sshd.known_hosts.read_text()
        assert LIMITS.lost_seconds > 0
