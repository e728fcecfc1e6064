"""Ed25519 signatures of manifests: who made a release, not only that it is whole.

In: the bytes of a manifest, and keys as PEM files, which openssl reads and writes too. Out: the content of
manifest.sig, a JSON object, or BadFile. A manifest names the sha256 of every file, so its signature is of the whole
bundle. Rules kept: what is signed begins with a line of ours, so that a signature made for something else is never one
of a manifest; a signature names its key, and counts for nothing more than that key until it is held against a trusted
one; a private key is written for its owner alone, and no key file is ever written over.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ofa_edge import strict_json
from ofa_edge.errors import BadFile, OfaEdgeError, UsageError
from ofa_edge.files import read_bytes

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

CONTEXT = b"ofa-edge bundle manifest\n"
MAX_BYTES = 4 << 10  # of a signature
_MAX_KEY_BYTES = 16 << 10

_SIGN_AGAIN = "sign the bundle again with `ofa-edge bundle sign BUNDLE --key KEY`"
_MAKE_KEY = "`ofa-edge bundle keygen KEY` makes a pair"


class Signature(BaseModel):
    """The content of manifest.sig."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    format: Literal["ofa-edge-signature"] = "ofa-edge-signature"
    version: Annotated[int, Field(ge=1, le=1)] = 1
    public_key: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    signature: Annotated[str, Field(pattern="^[0-9a-f]{128}$")]


@dataclass(frozen=True, slots=True)
class TrustedKey:
    """A public key that a person trusts: raw, as hex, and the file it is from."""

    key: str
    name: str

    @classmethod
    def read(cls, path: Path) -> TrustedKey:
        """Read a public key in PEM.

        Raises:
            UsageError: the file cannot be read.
            BadFile: it is none, of another kind, or a private key.
        """
        from cryptography.exceptions import UnsupportedAlgorithm
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
        from cryptography.hazmat.primitives.serialization import load_pem_public_key

        data = read_bytes(path, _MAX_KEY_BYTES)
        if b"PRIVATE KEY" in data:
            raise BadFile(
                f"{path} holds a private key, which nobody who only checks should have",
                hint=f"name the public one: openssl pkey -in {path} -pubout",
            )
        try:
            key = load_pem_public_key(data)
        except (ValueError, UnsupportedAlgorithm) as error:
            raise BadFile(f"{path} is no public key in PEM", hint=_MAKE_KEY) from error
        if not isinstance(key, Ed25519PublicKey):
            raise BadFile(f"{path} is not an Ed25519 key", hint=_MAKE_KEY)
        return cls(key.public_bytes_raw().hex(), str(path))


def keygen(path: Path) -> str:
    """Write a new private key to `path` (mode 0600) and its public one to `path`.pub; the public key as hex.

    Raises:
        UsageError: one of the files is there already.
        OfaEdgeError: they cannot be written.
    """
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

    key = Ed25519PrivateKey.generate()
    public = path.with_name(path.name + ".pub")
    private_pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    public_pem = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    _write_new(path, private_pem, 0o600)
    try:
        _write_new(public, public_pem, 0o644)
    except BaseException:
        with contextlib.suppress(OSError):
            path.unlink()
        raise
    return key.public_key().public_bytes_raw().hex()


def read_private(path: Path) -> Ed25519PrivateKey:
    """Read a private key in PEM without a passphrase.

    Raises:
        UsageError: the file cannot be read.
        BadFile: it is none, of another kind, or protected by a passphrase.
    """
    from cryptography.exceptions import UnsupportedAlgorithm
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    data = read_bytes(path, _MAX_KEY_BYTES)
    try:
        key = load_pem_private_key(data, password=None)
    except TypeError as error:
        raise BadFile(
            f"{path} is protected by a passphrase", hint=f"openssl pkey -in {path} -out PLAIN, and delete PLAIN after"
        ) from error
    except (ValueError, UnsupportedAlgorithm) as error:
        raise BadFile(f"{path} is no private key in PEM", hint=_MAKE_KEY) from error
    if not isinstance(key, Ed25519PrivateKey):
        raise BadFile(f"{path} is not an Ed25519 key", hint=_MAKE_KEY)
    return key


def sign(manifest: bytes, key: Ed25519PrivateKey) -> bytes:
    """The content of manifest.sig."""
    found = Signature(
        public_key=key.public_key().public_bytes_raw().hex(), signature=key.sign(CONTEXT + manifest).hex()
    )
    return strict_json.dumps(found.model_dump()).encode() + b"\n"


def signer(manifest: bytes, signature: bytes, name: str) -> str:
    """The public key, as hex, that really signed this manifest.

    Raises:
        BadFile: the signature is malformed, or not of this manifest.
    """
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    try:
        strict_json.loads(signature)
        found = Signature.model_validate_json(signature)
        key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(found.public_key))
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "the whole"
        raise BadFile(f"{name} is not a signature: {where}: {first['msg']}", hint=_SIGN_AGAIN) from error
    except ValueError as error:
        raise BadFile(f"{name} is not a signature: {error}", hint=_SIGN_AGAIN) from error
    try:
        key.verify(bytes.fromhex(found.signature), CONTEXT + manifest)
    except InvalidSignature as error:
        raise BadFile(
            f"{name} is not the signature of this manifest: one of the two was changed or belongs to another bundle",
            hint="get the bundle again from whoever made it",
        ) from error
    return found.public_key


def require_trusted(signed_by: str | None, trusted: Sequence[TrustedKey], name: str) -> TrustedKey:
    """The trusted key that signed a bundle.

    Args:
        signed_by: what `signer` found, None for a bundle without a signature.
        name: of the bundle, for errors.

    Raises:
        BadFile: it is not signed, or by a key that is not among `trusted`.
    """
    names = ", ".join(key.name for key in trusted)
    if signed_by is None:
        raise BadFile(
            f"{name} is not signed, and --trust asks for a signature of {names}",
            hint="sign it with `ofa-edge bundle sign BUNDLE --key KEY`, or `deploy --sign KEY`; or leave --trust out",
        )
    for key in trusted:
        if key.key == signed_by:
            return key
    raise BadFile(
        f"{name} is signed by the key {signed_by[:16]}..., which is not {names}",
        hint="name the maker's public key with --trust once you know from elsewhere that it is theirs",
        details={"signed_by": signed_by},
    )


def _write_new(path: Path, content: bytes, mode: int) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    except FileExistsError as error:
        raise UsageError(f"{path} is there already, and keys are never written over", hint="name another") from error
    except OSError as error:
        raise OfaEdgeError(f"cannot write {path}: {error.strerror}", hint="name another file") from error
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(descriptor)
