"""Who we are to a device: ssh-agent, key files, passphrases.

In: a connected, not yet authenticated transport and what ssh's configuration says. Out: an authenticated one, or a
TrustError that lists what was tried. Order as OpenSSH: the agent's keys that are named by IdentityFile, the
agent's other keys, key files. A passphrase is asked for on a terminal only, three times. No passwords.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import getpass
import os
import socket
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import paramiko

from device_agents import wire
from ofa_edge.device.ssh_config import SshTarget
from ofa_edge.errors import DeviceLost, TrustError

Ask = Callable[[str], str | None]
"""Asks for a passphrase; None when nobody can be asked."""

_ASK_TIMES = 3


def ask_on_terminal(prompt: str) -> str | None:
    """The default Ask."""
    if not (sys.stdin.isatty() and sys.stderr.isatty()):
        return None
    try:
        return getpass.getpass(prompt, stream=sys.stderr)
    except EOFError:
        return None


def authenticate(
    transport: paramiko.Transport, target: SshTarget, name: str, *, identity: Path | None, ask: Ask
) -> None:
    """Authenticate with the first key that is accepted.

    Args:
        identity: a key file named by option; it comes first.

    Raises:
        TrustError: no key was accepted, or none could be opened.
        DeviceLost: the link was cut meanwhile.
    """
    tried: list[str] = []
    allowed = _try_none(transport, target.user)
    if allowed is None:
        return
    files = ([identity.expanduser()] if identity else []) + list(target.identity_files)
    with contextlib.closing(_Agent(target.identity_agent)) as agent:
        for label, key in _keys(agent.keys, files, target.identities_only, ask, tried):
            tried.append(label)
            try:
                rest = transport.auth_publickey(target.user, key)
            except paramiko.AuthenticationException:
                if not transport.is_active():
                    break
                continue
            except (paramiko.SSHException, EOFError, OSError) as error:
                if not transport.is_active():
                    raise DeviceLost(
                        f"{name} closed the connection after {label}: {wire.clean(str(error), 300)}"
                    ) from error
                continue
            if not rest:
                return
            tried.append(f"{label} was accepted, but {name} wants {wire.clean(', '.join(rest), 100)} as well")
    raise TrustError(
        f"{name} accepts no key of ours for {target.user} (tried: {'; '.join(tried) or 'no key was found'})",
        hint=f"ssh-copy-id {_copy_id(target)}"
        + ("" if "publickey" in allowed else f"; the device allows only {', '.join(allowed)}"),
        details={"user": target.user, "tried": tried, "allowed": allowed},
    )


def is_encrypted(data: bytes) -> bool:
    """Does a private key file need a passphrase?"""
    if b"BEGIN OPENSSH PRIVATE KEY" not in data:
        return b"ENCRYPTED" in data
    body = b"".join(line for line in data.splitlines() if not line.startswith(b"-----"))
    try:
        raw = base64.b64decode(body)
    except (binascii.Error, ValueError):
        return False
    magic = b"openssh-key-v1\0"
    size = int.from_bytes(raw[len(magic) : len(magic) + 4], "big")
    return raw.startswith(magic) and raw[len(magic) + 4 : len(magic) + 4 + size] != b"none"


class _Agent(paramiko.agent.AgentSSH):
    """The user's ssh-agent: SSH_AUTH_SOCK, or ssh_config's IdentityAgent. No agent is an agent without keys."""

    def __init__(self, identity_agent: str):
        super().__init__()
        path = _agent_path(identity_agent)
        if not path:
            return
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(10.0)
        try:
            connection.connect(path)
            self._connect(connection)  # type: ignore[attr-defined]
        except (OSError, paramiko.SSHException):
            connection.close()

    @property
    def keys(self) -> Sequence[paramiko.AgentKey]:
        return self.get_keys()

    def close(self) -> None:
        self._close()  # type: ignore[attr-defined]


def _agent_path(identity_agent: str) -> str:
    if identity_agent.lower() == "none":
        return ""
    if identity_agent in ("", "SSH_AUTH_SOCK"):
        return os.environ.get("SSH_AUTH_SOCK", "")
    if identity_agent.startswith("$"):
        return os.environ.get(identity_agent[1:].strip("{}"), "")
    return os.path.expanduser(identity_agent)


def _try_none(transport: paramiko.Transport, user: str) -> list[str] | None:
    """Ask what is allowed; None when the device wants nothing at all (some boards ship so)."""
    try:
        transport.auth_none(user)
    except paramiko.BadAuthenticationType as error:
        return [wire.clean(str(name), 40) for name in error.allowed_types]
    except (paramiko.SSHException, EOFError, OSError) as error:
        raise DeviceLost(f"the connection ended before authentication: {wire.clean(str(error)) or 'cut'}") from error
    return None


def _keys(
    held: Sequence[paramiko.AgentKey], files: Sequence[Path], only_files: bool, ask: Ask, notes: list[str]
) -> Iterator[tuple[str, paramiko.PKey]]:
    """Keys in the order in which they are offered, each once. What could not be opened goes into `notes`."""
    public = {file: _public_key(file) for file in files}
    named = [key for key in held if key.asbytes() in public.values()]
    others = [] if only_files else [key for key in held if key not in named]
    for key in named + others:
        yield f"{key.get_name()} {key.fingerprint} of the ssh-agent", key
    offered = {key.asbytes() for key in named + others}
    for file in dict.fromkeys(files):
        if public[file] in offered or not file.is_file():
            continue
        opened = _open(file, ask, notes)
        if opened is not None and opened.asbytes() not in offered:
            offered.add(opened.asbytes())
            yield str(file), opened


def _public_key(file: Path) -> bytes | None:
    try:
        return base64.b64decode(Path(f"{file}.pub").read_bytes()[:16384].split()[1])
    except (OSError, IndexError, ValueError):
        return None


def _open(file: Path, ask: Ask, notes: list[str]) -> paramiko.PKey | None:
    """Read a private key, asking for its passphrase where it has one."""
    try:
        if not is_encrypted(file.read_bytes()):
            return _load(file, None)
    except Exception as error:  # each key type's parser has exceptions of its own
        notes.append(f"{file} cannot be read ({error})")
        return None
    for _ in range(_ASK_TIMES):
        passphrase = ask(f"Enter passphrase for key '{file}': ")
        if not passphrase:
            notes.append(f"{file} has a passphrase, and there is no terminal to ask for it; use ssh-add")
            return None
        try:
            return _load(file, passphrase)
        except Exception:  # a wrong passphrase is a different exception for each key type
            continue
    notes.append(f"{file}: wrong passphrase")
    return None


def _load(file: Path, passphrase: str | None) -> paramiko.PKey:
    secret = None if passphrase is None else passphrase.encode()
    return paramiko.PKey.from_path(file, secret)  # type: ignore[arg-type]


def _copy_id(target: SshTarget) -> str:
    port = "" if target.port == 22 else f"-p {target.port} "
    return f"{port}{target.user}@{target.host}"
