"""A real OpenSSH server with keys of its own, on loopback or in a network namespace, for tests of everything that goes
over ssh. It can be crashed as a device crashes: everything it started dies with it, and it comes back."""

from __future__ import annotations

import contextlib
import getpass
import os
import shutil
import signal
import socket
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

SSHD = shutil.which("sshd", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")
MISSING = (
    "" if SSHD and shutil.which("ssh-keygen") else "no OpenSSH server here (sshd, ssh-keygen): install openssh-server"
)

_CONFIG = """\
Port {port}
ListenAddress {address}
HostKey {folder}/host_key
PidFile none
AuthorizedKeysFile {folder}/authorized_keys
StrictModes no
UsePAM no
PasswordAuthentication no
KbdInteractiveAuthentication no
PermitRootLogin prohibit-password
AllowTcpForwarding yes
PrintMotd no
Subsystem sftp internal-sftp
SetEnv OFA_EDGE_HOME={root}
MaxStartups 100
ClientAliveInterval {alive}
ClientAliveCountMax 2
"""


def keygen(file: Path, *, passphrase: str = "", kind: str = "ed25519") -> None:
    subprocess.run(["ssh-keygen", "-q", "-t", kind, "-N", passphrase, "-f", file], check=True, stdin=subprocess.DEVNULL)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class Sshd:
    """A running server and a client's ssh_config that knows it.

    Attributes:
        root: the device's OFA_EDGE_HOME.
        key: a private key it accepts, named by `config`.
        known_hosts: the client's file; holds the host key unless the test takes it out.
        config: to be given as OFA_EDGE_SSH_CONFIG.
        address: where it listens.
        within: what its command begins with, to start it elsewhere than here.
        alive: seconds after which it asks a silent client for a sign of life; the third time it gives it up. 0: never.
    """

    folder: Path
    port: int
    address: str = "127.0.0.1"
    within: tuple[str, ...] = ()
    alive: int = 0
    process: subprocess.Popen[bytes] = field(init=False)

    def __post_init__(self) -> None:
        self.process = _serve(self)

    @property
    def host(self) -> str:
        return f"{getpass.getuser()}@{self.address}:{self.port}"

    @property
    def root(self) -> Path:
        return self.folder / "device"

    @property
    def key(self) -> Path:
        return self.folder / "user_key"

    @property
    def known_hosts(self) -> Path:
        return self.folder / "known_hosts"

    @property
    def config(self) -> Path:
        return self.folder / "ssh_config"

    @property
    def authorized_keys(self) -> Path:
        return self.folder / "authorized_keys"

    @property
    def host_key_line(self) -> str:
        """Its line in a known_hosts file."""
        kind, key = (self.folder / "host_key.pub").read_text().split()[:2]
        name = self.address if self.port == 22 else f"[{self.address}]:{self.port}"
        return f"{name} {kind} {key}\n"

    def configure(self, extra: str = "", *, identity: Path | None = None) -> Path:
        """Write the client's ssh_config; `extra` comes first, so it wins."""
        self.config.write_text(
            f"{extra}\nHost *\n  IdentityFile {identity or self.key}\n  IdentitiesOnly yes\n"
            f"  UserKnownHostsFile {self.known_hosts}\n  GlobalKnownHostsFile none\n"
        )
        return self.config

    def change_host_key(self) -> None:
        """Serve another key on the same port."""
        self.stop()
        for name in ("host_key", "host_key.pub"):
            (self.folder / name).unlink()
        keygen(self.folder / "host_key")
        self.process = _serve(self)

    def crash(self) -> None:
        """Kill it and everything that came of it, sessions and agents and workers, as a loss of power would."""
        ours = descendants(self.process.pid)
        for pid in (self.process.pid, *ours):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait(10)
        while any(map(lives, ours)):
            time.sleep(0.01)

    def boot(self) -> None:
        """Start it again after a crash."""
        self.process = _serve(self)

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(10)


def descendants(pid: int) -> list[int]:
    """All processes that came of one, directly or not."""
    children: dict[int, list[int]] = {}
    for entry in os.listdir("/proc"):
        with contextlib.suppress(OSError, ValueError):
            parent = int(Path("/proc", entry, "stat").read_text().rpartition(")")[2].split()[1])
            children.setdefault(parent, []).append(int(entry))
    found = []
    left = [pid]
    while left:
        new = children.get(left.pop(), [])
        found += new
        left += new
    return found


def lives(pid: int) -> bool:
    """Whether a process still runs; one that only waits to be collected does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def start(folder: Path, *, address: str = "127.0.0.1", within: tuple[str, ...] = (), alive: int = 0) -> Sshd:
    """Make keys and configuration in `folder` and serve."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    keygen(folder / "host_key")
    keygen(folder / "user_key")
    shutil.copy(folder / "user_key.pub", folder / "authorized_keys")
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # its privilege separation folder
    server = Sshd(folder, free_port(), address, within, alive)
    server.known_hosts.write_text(server.host_key_line)
    server.configure()
    return server


def _serve(server: Sshd) -> subprocess.Popen[bytes]:
    folder, port, address = server.folder, server.port, server.address
    config = folder / "sshd_config"
    config.write_text(
        _CONFIG.format(port=port, folder=folder, root=folder / "device", address=address, alive=server.alive)
    )
    assert SSHD is not None
    with (folder / "log").open("ab") as log:
        command = [*server.within, SSHD, "-D", "-e", "-f", str(config)]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    for _ in range(500):
        with socket.socket() as probe:
            if probe.connect_ex((address, port)) == 0:
                return process
        if process.poll() is not None:
            break
        time.sleep(0.02)
    raise RuntimeError(f"sshd did not start: {(folder / 'log').read_text()[-800:]}")
