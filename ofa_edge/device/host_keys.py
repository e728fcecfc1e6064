"""Whether a device is the one it was: known_hosts files read and judged as OpenSSH does.

In: known_hosts files, a host's name and the key it shows. Out: a Verdict. Rules kept: files are only ever
appended to, so '@revoked' lines, comments and what we do not understand survive; a host with any known key
that shows another one has CHANGED, also when the new key is of another type; nothing is accepted below
'accept-new'. Host certificates ('@cert-authority') are not offered by our SSH library and are ignored.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from ofa_edge.errors import BadFile, TrustError
from ofa_edge.limits import LIMITS

DEFAULT_PORT = 22


class Verdict(StrEnum):
    """What known_hosts says about a shown key."""

    KNOWN = "known"
    UNKNOWN = "unknown"
    CHANGED = "changed"
    REVOKED = "revoked"


@dataclass(frozen=True)
class KnownKey:
    """One matching line: `marker` is '', '@revoked' or '@cert-authority'; `key` the raw public key."""

    file: Path
    line: int
    marker: str
    key_type: str
    key: bytes


def lookup_name(host: str, port: int) -> str:
    """How known_hosts calls a host: plain for port 22, [host]:port otherwise."""
    return host.lower() if port == DEFAULT_PORT else f"[{host.lower()}]:{port}"


def fingerprint(key: bytes) -> str:
    """As ssh shows it: SHA256: and unpadded base64."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(key).digest()).decode("ascii").rstrip("=")


def known_keys(files: Sequence[Path], name: str) -> list[KnownKey]:
    """All lines of `files` that are about `name`; absent files hold none.

    Raises:
        BadFile: a file that cannot be read or is larger than any known_hosts.
    """
    return [entry for file in files for entry in _lines(file, name)]


def judge(known: Sequence[KnownKey], key: bytes) -> Verdict:
    """The verdict on a host that shows `key`. A revoked key is refused whatever other lines say."""
    if any(entry.marker == "@revoked" and entry.key == key for entry in known):
        return Verdict.REVOKED
    plain = [entry for entry in known if entry.marker == ""]
    if any(entry.key == key for entry in plain):
        return Verdict.KNOWN
    return Verdict.CHANGED if plain else Verdict.UNKNOWN


def record(file: Path, name: str, key_type: str, key: bytes, *, hashed: bool) -> None:
    """Append a key. The folder is made as ssh makes it, for the user alone.

    Raises:
        BadFile: the file cannot be written.
    """
    shown = _hashed(name) if hashed else name
    line = f"{shown} {key_type} {base64.b64encode(key).decode('ascii')}\n".encode("ascii")
    try:
        file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with open(os.open(file, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o600), "r+b") as stream:
            end = stream.seek(0, os.SEEK_END)
            if end:
                stream.seek(end - 1)
                line = line if stream.read(1) == b"\n" else b"\n" + line
            stream.write(line)
            stream.flush()
            os.fsync(stream.fileno())
    except OSError as error:
        raise BadFile(f"cannot record the host key in {file}: {error.strerror}") from error


def refusal(verdict: Verdict, name: str, key_type: str, key: bytes, known: Sequence[KnownKey]) -> TrustError:
    """The error for a key that is not accepted, with what to type next."""
    shown = fingerprint(key)
    details = {"host": name, "key_type": key_type, "fingerprint": shown, "verdict": str(verdict)}
    if verdict is Verdict.UNKNOWN:
        return TrustError(
            f"{name} is not a known host; it shows the {key_type} key {shown}",
            hint="compare the fingerprint with `ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub` on the device, "
            "then connect once with ssh, or pass --accept-new",
            details=details,
        )
    if verdict is Verdict.REVOKED:
        return TrustError(f"{name} shows a key that is marked @revoked: {shown}", details=details)
    old = next(entry for entry in known if entry.marker == "")
    target = f"'{name}'" if name.startswith("[") else name
    return TrustError(
        f"the host key of {name} has CHANGED: it shows {key_type} {shown}, {old.file}:{old.line} has "
        f"{old.key_type} {fingerprint(old.key)}; someone may be listening in",
        hint=f'if the device was reinstalled: ssh-keygen -f "{old.file}" -R {target}',
        details={**details, "file": str(old.file), "line": old.line},
    )


def _lines(file: Path, name: str) -> Iterator[KnownKey]:
    try:
        with file.open("rb") as stream:
            data = stream.read(LIMITS.ssh_config_bytes + 1)
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        raise BadFile(f"cannot read {file}: {error.strerror}") from error
    if len(data) > LIMITS.ssh_config_bytes:
        raise BadFile(f"{file} is larger than {LIMITS.ssh_config_bytes} bytes")
    for number, line in enumerate(data.decode("utf-8", "replace").splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        marker = words.pop(0) if words[0].startswith("@") else ""
        if len(words) < 3 or not _matches(words[0], name):
            continue
        try:
            key = base64.b64decode(words[2], validate=True)
        except (binascii.Error, ValueError):
            continue
        yield KnownKey(file, number, marker, words[1], key)


def _matches(patterns: str, name: str) -> bool:
    """known_hosts' own patterns: comma-separated, * and ?, ! negates, |1|salt|hash hides a name."""
    if patterns.startswith("|1|"):
        try:
            salt, digest = (base64.b64decode(part, validate=True) for part in patterns[3:].split("|"))
        except (binascii.Error, ValueError):
            return False
        return hmac.compare_digest(hmac.new(salt, name.encode(), hashlib.sha1).digest(), digest)
    found = False
    for pattern in patterns.lower().split(","):
        glob = re.escape(pattern.removeprefix("!")).replace(r"\*", ".*").replace(r"\?", ".")
        if re.fullmatch(glob, name):
            if pattern.startswith("!"):
                return False
            found = True
    return found


def _hashed(name: str) -> str:
    salt = os.urandom(20)
    digest = hmac.new(salt, name.encode(), hashlib.sha1).digest()
    return "|1|" + "|".join(base64.b64encode(part).decode("ascii") for part in (salt, digest))
