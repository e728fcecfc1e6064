"""A real OpenSSH server on loopback with keys of its own, for tests of everything that goes over ssh."""

from __future__ import annotations

import getpass
import os
import shutil
import signal
import socket
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

SSHD = shutil.which("sshd", path=os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin")
MISSING = (
    "" if SSHD and shutil.which("ssh-keygen") else "no OpenSSH server here (sshd, ssh-keygen): install openssh-server"
)

_CONFIG = """\
Port {port}
ListenAddress 127.0.0.1
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
    """

    folder: Path
    port: int
    process: subprocess.Popen[bytes]

    @property
    def host(self) -> str:
        return f"{getpass.getuser()}@127.0.0.1:{self.port}"

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
        return f"[127.0.0.1]:{self.port} {kind} {key}\n"

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
        self.process = _serve(self.folder, self.port)

    def stop(self) -> None:
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(10)


def start(folder: Path) -> Sshd:
    """Make keys and configuration in `folder` and serve."""
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    keygen(folder / "host_key")
    keygen(folder / "user_key")
    shutil.copy(folder / "user_key.pub", folder / "authorized_keys")
    if os.geteuid() == 0:
        Path("/run/sshd").mkdir(exist_ok=True)  # its privilege separation folder
    port = free_port()
    server = Sshd(folder, port, _serve(folder, port))
    server.known_hosts.write_text(server.host_key_line)
    server.configure()
    return server


def _serve(folder: Path, port: int) -> subprocess.Popen[bytes]:
    config = folder / "sshd_config"
    config.write_text(_CONFIG.format(port=port, folder=folder, root=folder / "device"))
    assert SSHD is not None
    with (folder / "log").open("ab") as log:
        process = subprocess.Popen([SSHD, "-D", "-e", "-f", config], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    for _ in range(500):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return process
        if process.poll() is not None:
            break
        time.sleep(0.02)
    raise RuntimeError(f"sshd did not start: {(folder / 'log').read_text()[-800:]}")
