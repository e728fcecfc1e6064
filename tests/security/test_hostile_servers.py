"""SSH servers that are hostile below the agent: in the greeting, in packets, in windows, in SFTP. Sockets and a real
SSH server of paramiko's on loopback; the client is the product's."""

from __future__ import annotations

import contextlib
import getpass
import itertools
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import paramiko
import pytest
from paramiko.common import cMSG_CHANNEL_DATA

from ofa_edge.device import ConnectOptions
from ofa_edge.device.hosts import connect
from ofa_edge.device.ssh import SshLink
from ofa_edge.errors import DeviceLost, ProtocolError
from ofa_edge.limits import LIMITS

ESCAPES = "\x1b]0;owned\x07\u202eevil"
Serve = Callable[[Callable[[socket.socket], None]], int]


@pytest.fixture
def serve() -> Iterator[Serve]:
    """Starts a server that treats its one client so; gives the port."""
    with contextlib.ExitStack() as stack:

        def start(treat: Callable[[socket.socket], None]) -> int:
            listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))

            def run() -> None:
                with contextlib.suppress(OSError):
                    client = stack.enter_context(listener.accept()[0])
                    treat(client)

            threading.Thread(target=run, daemon=True).start()
            return int(listener.getsockname()[1])

        yield start


def link_to(port: int, home: Path, **limits: float) -> SshLink:
    config = home.parent / "ssh_config"
    options = ConnectOptions(ssh_config=config, accept_new=True, limits=replace(LIMITS, **limits))  # type: ignore[arg-type]
    link = connect(f"{getpass.getuser()}@127.0.0.1:{port}", options=options)
    assert isinstance(link, SshLink)
    return link


# --------------------------------------------------------------------------------------- the greeting


def endless_banner(client: socket.socket) -> None:
    for _ in itertools.count():
        client.sendall(b"z" * 4096)


def dripping_banner(client: socket.socket) -> None:
    for _ in range(3000):
        client.sendall(b"z")
        time.sleep(0.1)


def escaping_banner(client: socket.socket) -> None:
    client.sendall(b"".join(f"{i} {ESCAPES}\r\n".encode() for i in range(200)))
    time.sleep(1)


def huge_packet(client: socket.socket) -> None:
    client.sendall(b"SSH-2.0-Wild\r\n" + struct.pack(">I", 0x7FFFFFFC) + b"\0" * 4)
    endless_banner(client)


@pytest.mark.parametrize(
    ("treat", "why"),
    [
        (endless_banner, "more than 262144 bytes before it let us in"),
        (dripping_banner, "no key exchange within 2 s"),
        (escaping_banner, "owned"),
        (huge_packet, "claims a packet of 21474"),
    ],
)
def test_a_greeting_that_is_none_has_an_end(
    serve: Serve, own_home: Path, capfd: pytest.CaptureFixture[str], treat: Callable[[socket.socket], None], why: str
) -> None:
    """The drip would go on for five minutes."""
    with pytest.raises(DeviceLost, match=r"does not answer as an SSH server") as caught:
        link_to(serve(treat), own_home, connect_seconds=2.0)
    assert why in caught.value.message
    assert caught.value.message.isprintable()
    assert capfd.readouterr() == ("", "")


# ------------------------------------------------------------------------------- a server that lets us in


class Server(paramiko.ServerInterface):
    """Lets everybody in and everything happen."""

    def __init__(self, answers: bool = True, overrun: bool = False):
        self.answers, self.overrun = answers, overrun

    def get_allowed_auths(self, username: str) -> str:
        return "none"

    def check_auth_none(self, username: str) -> int:
        return paramiko.AUTH_SUCCESSFUL

    def check_channel_request(self, kind: str, chanid: int) -> int:
        return paramiko.OPEN_SUCCEEDED

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:
        if not self.answers:
            time.sleep(60)
        if self.overrun:
            threading.Thread(target=overrun, args=(channel,), daemon=True).start()
        return True


def overrun(channel: paramiko.Channel) -> None:
    """Send 100 MB without regard to the window."""
    transport = channel.get_transport()
    for _ in range(3200):
        message = paramiko.Message()
        message.add_byte(cMSG_CHANNEL_DATA)
        message.add_int(channel.remote_chanid)  # type: ignore[attr-defined]
        message.add_string(b"o" * 32_000)
        with contextlib.suppress(OSError, EOFError):
            transport._send_user_message(message)  # type: ignore[attr-defined]


class Sftp(paramiko.SubsystemHandler):
    """Agrees on a version, then treats the first request as `treat` says."""

    treat: Callable[[paramiko.Channel], None]

    def start_subsystem(self, name: str, transport: paramiko.Transport, channel: paramiko.Channel) -> None:
        channel.recv(9)
        channel.sendall(struct.pack(">IBI", 5, 2, 3))
        channel.recv(1 << 15)
        with contextlib.suppress(OSError, EOFError):
            type(self).treat(channel)


def status(ident: int, text: str = "") -> bytes:
    said = text.encode()
    body = struct.pack(">BII", 101, ident, 4) + struct.pack(">I", len(said)) + said + struct.pack(">I", 0)
    return struct.pack(">I", len(body)) + body


def answers_others(channel: paramiko.Channel) -> None:
    for number in itertools.count(1000):
        channel.sendall(status(number % 1_000_000, "x" * 1000))


def answers_slowly(channel: paramiko.Channel) -> None:
    channel.sendall(struct.pack(">I", 5000))
    for _ in range(3000):
        channel.sendall(b"x")
        time.sleep(0.1)


def claims_much(channel: paramiko.Channel) -> None:
    channel.sendall(struct.pack(">I", 0xFFFFFF))
    for _ in itertools.count():
        channel.sendall(b"x" * 32_000)


def refuses_in_colour(channel: paramiko.Channel) -> None:
    channel.sendall(status(1, ESCAPES))
    channel.recv(1 << 15)
    channel.sendall(status(2, ESCAPES))


def ssh(server: Server, sftp: Callable[[paramiko.Channel], None] | None = None) -> Callable[[socket.socket], None]:
    key = paramiko.ECDSAKey.generate()

    def treat(client: socket.socket) -> None:
        transport = paramiko.Transport(client)
        transport.add_server_key(key)
        handler = type("Handler", (Sftp,), {"treat": staticmethod(sftp)})
        transport.set_subsystem_handler("sftp", handler)
        transport.start_server(server=server)
        while transport.is_active():
            time.sleep(0.05)

    return treat


def test_a_server_that_sends_past_its_window_is_stopped(serve: Serve, own_home: Path) -> None:
    link = link_to(serve(ssh(Server(overrun=True))), own_home)

    def read_late() -> None:
        channel = link.start(["agent"])  # a quick server is stopped before it has said that it starts one
        while link.connection.transport.is_active():
            time.sleep(0.02)
        channel.readline(1 << 30, 30)

    with contextlib.closing(link), pytest.raises(ProtocolError, match="more than its window allows"):
        read_late()


def test_a_server_that_never_says_whether_it_starts_a_program_is_given_up(serve: Serve, own_home: Path) -> None:
    link = link_to(serve(ssh(Server(answers=False))), own_home, connect_seconds=2.0)
    with contextlib.closing(link), pytest.raises(DeviceLost, match="cannot start a process"):
        link.start(["agent"])


@pytest.mark.parametrize(
    ("treat", "error", "why"),
    [
        (answers_others, ProtocolError, "answers without end"),
        (claims_much, ProtocolError, "answers without end"),
        (answers_slowly, DeviceLost, "took too long"),
        (refuses_in_colour, DeviceLost, "owned"),
    ],
)
def test_an_sftp_server_without_end_ends_the_transfer(
    serve: Serve, own_home: Path, treat: Callable[[paramiko.Channel], None], error: type[DeviceLost], why: str
) -> None:
    link = link_to(serve(ssh(Server(), treat)), own_home, put_seconds=2.0, close_seconds=0.2)
    with contextlib.closing(link), pytest.raises(DeviceLost) as caught:
        link.put(b"data", "/somewhere/file")
    assert type(caught.value) is error
    assert why in caught.value.message
    assert caught.value.message.isprintable()
