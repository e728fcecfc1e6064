"""What the user's ssh configuration says about a host.

In: the host as typed. Out: SshTarget, a value. `ssh -G` is asked where there is an ssh (it follows Include,
Match and canonical names); else paramiko's own parser reads ~/.ssh/config, which knows less. Rules kept:
nothing typed can be taken for an option; the output is capped and waited for with a deadline.
"""

from __future__ import annotations

import getpass
import os
import re
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ofa_edge.errors import UsageError
from ofa_edge.limits import LIMITS

_USER = r"[^@\s\x00-\x1f-][^@\s\x00-\x1f]*"
_HOST = r"\[(?P<v6>[0-9A-Fa-f:.%\w]+)\]|(?P<bare>[0-9A-Fa-f]*:[0-9A-Fa-f]*:[0-9A-Fa-f:.%\w]*)|(?P<name>[\w][\w.%-]*)"
_ADDRESS = re.compile(rf"(?:(?P<user>{_USER})@)?(?:{_HOST})(?::(?P<port>\d{{1,5}}))?")


@dataclass(frozen=True)
class Address:
    """[user@]host[:port] as typed; None for what was left out."""

    host: str
    user: str | None = None
    port: int | None = None

    @classmethod
    def parse(cls, text: str) -> Address:
        """Raises UsageError. An IPv6 address with a port is written [::1]:22."""
        match = _ADDRESS.fullmatch(text.removeprefix("ssh://"))
        port = int(match["port"]) if match and match["port"] else None
        if match is None or port == 0 or (port or 0) > 65535:
            raise UsageError(
                f"{text[:100]!r} is not a host",
                hint="a host is `local`, [user@]host[:port], or a name or @group from devices.toml",
            )
        return cls(match["v6"] or match["bare"] or match["name"], match["user"], port)


@dataclass(frozen=True)
class SshTarget:
    """Where to connect and with what; the words are those of ssh_config(5).

    Attributes:
        accept_new: the configuration says StrictHostKeyChecking accept-new. Anything laxer counts as strict.
        proxy_jump: hops as written, '' for none.
    """

    host: str
    port: int
    user: str
    identity_files: tuple[Path, ...] = ()
    identities_only: bool = False
    identity_agent: str = ""
    known_hosts: tuple[Path, ...] = ()
    global_known_hosts: tuple[Path, ...] = ()
    host_key_alias: str = ""
    hash_known_hosts: bool = False
    accept_new: bool = False
    proxy_jump: str = ""
    proxy_command: str = ""


def resolve(address: Address, *, config: Path | None = None) -> SshTarget:
    """Look a host up.

    Args:
        config: read this file instead of the user's and the system's.

    Raises:
        UsageError: ssh refuses its configuration.
    """
    values = _ask_ssh(address, config) if shutil.which("ssh") else _read_config(address, config)

    def one(key: str, default: str = "") -> str:
        found = values.get(key, [default])[0]
        return "" if found.lower() == "none" else found

    def paths(text: str) -> tuple[Path, ...]:
        return tuple(_path(word) for word in text.split() if word.lower() != "none")

    return SshTarget(
        host=one("hostname", address.host),
        port=address.port or int(one("port", "22")),
        user=address.user or one("user") or getpass.getuser(),
        identity_files=tuple(_path(text) for text in values.get("identityfile", []) if text.lower() != "none"),
        identities_only=one("identitiesonly") == "yes",
        identity_agent=values.get("identityagent", [""])[0],
        known_hosts=paths(one("userknownhostsfile", "~/.ssh/known_hosts ~/.ssh/known_hosts2")),
        global_known_hosts=paths(one("globalknownhostsfile", "/etc/ssh/ssh_known_hosts")),
        host_key_alias=one("hostkeyalias"),
        hash_known_hosts=one("hashknownhosts") == "yes",
        accept_new=one("stricthostkeychecking") == "accept-new",
        proxy_jump=one("proxyjump"),
        proxy_command=one("proxycommand"),
    )


def _ask_ssh(address: Address, config: Path | None) -> Mapping[str, Sequence[str]]:
    command = ["ssh", "-G"]
    if config is not None:
        command += ["-F", str(config)]
    if address.user:
        command += ["-l", address.user]
    if address.port:
        command += ["-p", str(address.port)]
    try:
        done = subprocess.run(
            [*command, "--", address.host],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=LIMITS.connect_seconds,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise UsageError(f"`ssh -G {address.host}` did not end", hint="look for a `Match exec` that waits") from error
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace").strip()[-400:]
        raise UsageError(f"ssh refuses its configuration for {address.host}: {said}")
    values: dict[str, list[str]] = {}
    for line in done.stdout[: LIMITS.ssh_config_bytes].decode("utf-8", "replace").splitlines():
        key, _, value = line.partition(" ")
        values.setdefault(key.lower(), []).append(value.strip())
    return values


def _read_config(address: Address, config: Path | None) -> Mapping[str, Sequence[str]]:
    """Without an ssh program: paramiko's parser, which ignores Include."""
    import paramiko

    file = config or Path("~/.ssh/config").expanduser()
    parsed = paramiko.SSHConfig()
    if file.is_file():
        try:
            parsed = paramiko.SSHConfig.from_path(str(file))
        except paramiko.ConfigParseError as error:
            raise UsageError(f"cannot read {file}: {error}") from error
    found = parsed.lookup(address.host)
    values = {key: list(value) if isinstance(value, list) else [str(value)] for key, value in found.items()}
    values.setdefault("identityfile", ["~/.ssh/id_ed25519", "~/.ssh/id_ecdsa", "~/.ssh/id_rsa"])
    return values


def _path(text: str) -> Path:
    return Path(os.path.expanduser(text.strip('"')))
