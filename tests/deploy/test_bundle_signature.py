"""A signature says whose bundle it is: of these bytes, by this key, and only a key that is trusted counts."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ofa_edge.deploy import bundle, run
from ofa_edge.deploy.bundle import MANIFEST, SIGNATURE
from ofa_edge.deploy.signature import CONTEXT, TrustedKey, keygen, read_private, require_trusted, sign, signer
from ofa_edge.errors import BadFile, UsageError
from tests.deploy.double import APP, Clock, Device, make_bundle

BUNDLE = make_bundle()
TEXT = BUNDLE.files[MANIFEST]


def test_a_signed_bundle_is_known_by_its_key_wherever_it_lies(keys: Path, tmp_path: Path) -> None:
    signed = BUNDLE.signed(read_private(keys / "ours"))
    assert signed.release == BUNDLE.release
    for name in ("folder", "file.ofab"):
        bundle.write(signed, tmp_path / name)
        again = bundle.read(tmp_path / name)
        assert again.signature == signed.signature
        assert again.signed_by == TrustedKey.read(keys / "ours.pub").key
    assert BUNDLE.signed_by is None


def test_the_same_key_gives_the_same_signature(keys: Path) -> None:
    key = read_private(keys / "ours")
    assert sign(TEXT, key) == sign(TEXT, key)


def test_a_signature_travels_with_the_blobs(keys: Path) -> None:
    signed = BUNDLE.signed(read_private(keys / "ours"))
    assert set(signed.blobs().values()) - set(BUNDLE.blobs().values()) == {signed.signature}


def test_only_trusted_keys_count(keys: Path) -> None:
    ours, theirs = (TrustedKey.read(keys / f"{name}.pub") for name in ("ours", "theirs"))
    signed = BUNDLE.signed(read_private(keys / "ours"))
    assert require_trusted(signed.signed_by, [theirs, ours], "it") == ours
    with pytest.raises(BadFile, match=f"it is signed by the key {ours.key[:16]}"):
        require_trusted(signed.signed_by, [theirs], "it")
    with pytest.raises(BadFile, match="it is not signed"):
        require_trusted(None, [ours, theirs], "it")


def test_another_number_is_not_signed_by_anyone(keys: Path) -> None:
    signed = BUNDLE.signed(read_private(keys / "ours"))
    assert signed.counted(3).signature is None


def _with(signed: bytes, **change: Any) -> bytes:
    return json.dumps({**json.loads(signed), **change}).encode()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.replace(b'signature":"', b'signature":"0')[:-3] + b'"}', "not a signature: signature"),
        (lambda s: _with(s, signature="00" * 64), "is not the signature of this manifest"),
        (lambda s: _with(s, version=2), "not a signature: version"),
        (lambda s: _with(s, format="pgp"), "not a signature: format"),
        (lambda s: _with(s, note="x"), "not a signature: note"),
        (lambda s: _with(s, public_key="AB" * 32), "not a signature: public_key"),
        (lambda s: s[:-2] + b',"version":1}', "not a signature: duplicate key"),
        (lambda s: b"-----BEGIN PGP SIGNATURE-----", "not a signature"),
        (lambda s: b"", "not a signature"),
    ],
)
def test_a_signature_that_was_changed_is_refused(
    change: Callable[[bytes], bytes], message: str, keys: Path, tmp_path: Path
) -> None:
    bundle.write(BUNDLE.signed(read_private(keys / "ours")), tmp_path)
    path = tmp_path / SIGNATURE
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(BadFile, match=message):
        bundle.read(tmp_path)


def test_a_signature_of_another_manifest_or_of_something_else_is_refused(keys: Path) -> None:
    key = read_private(keys / "ours")
    with pytest.raises(BadFile, match="not the signature of this manifest"):
        signer(TEXT, sign(make_bundle(2.0).files[MANIFEST], key), "it")
    bare = _with(sign(TEXT, key), signature=key.sign(TEXT).hex())
    with pytest.raises(BadFile, match="not the signature of this manifest"):
        signer(TEXT, bare, "it")


# -- keys -----------------------------------------------------------------------------------------
def test_a_private_key_is_for_its_owner_and_never_written_over(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        keygen(tmp_path / "key")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "key").stat().st_mode) == 0o600
    kept = (tmp_path / "key").read_bytes()
    with pytest.raises(UsageError, match="is there already"):
        keygen(tmp_path / "key")
    (tmp_path / "key").unlink()
    with pytest.raises(UsageError, match=r"key\.pub is there already"):
        keygen(tmp_path / "key")
    assert not (tmp_path / "key").exists()
    (tmp_path / "key.pub").unlink()
    (tmp_path / "key").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match="is there already"):
        keygen(tmp_path / "key")
    assert kept
    assert not (tmp_path / "elsewhere").exists()


def test_wrong_keys_are_told_apart(keys: Path, tmp_path: Path) -> None:
    from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
    from cryptography.hazmat.primitives.serialization import (
        BestAvailableEncryption,
        Encoding,
        NoEncryption,
        PrivateFormat,
        PublicFormat,
    )

    other = generate_private_key(SECP256R1())
    form = PublicFormat.SubjectPublicKeyInfo
    (tmp_path / "ec.pub").write_bytes(other.public_key().public_bytes(Encoding.PEM, form))
    (tmp_path / "ec").write_bytes(other.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    locked = read_private(keys / "ours").private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")
    )
    (tmp_path / "locked").write_bytes(locked)
    (tmp_path / "junk").write_text("junk")
    for read, name, message in (
        (TrustedKey.read, "ec.pub", "not an Ed25519 key"),
        (TrustedKey.read, "junk", "no public key"),
        (read_private, "ec", "not an Ed25519 key"),
        (read_private, "junk", "no private key"),
        (read_private, "locked", "protected by a passphrase"),
    ):
        with pytest.raises(BadFile, match=message):
            read(tmp_path / name)
    with pytest.raises(BadFile, match="holds a private key"):
        TrustedKey.read(keys / "ours")
    with pytest.raises(UsageError, match="cannot read"):
        TrustedKey.read(tmp_path / "absent")


@pytest.mark.skipif(shutil.which("openssl") is None, reason="there is no openssl here")
def test_openssl_reads_our_keys_makes_its_own_and_verifies_what_we_sign(keys: Path, tmp_path: Path) -> None:
    def openssl(*words: str | Path) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(["openssl", *words], capture_output=True, timeout=60)

    derived = openssl("pkey", "-in", keys / "ours", "-pubout")
    assert derived.stdout == (keys / "ours.pub").read_bytes()
    assert openssl("genpkey", "-algorithm", "ed25519", "-out", tmp_path / "own").returncode == 0
    assert openssl("pkey", "-in", tmp_path / "own", "-pubout", "-out", tmp_path / "own.pub").returncode == 0
    signed = sign(TEXT, read_private(tmp_path / "own"))
    assert signer(TEXT, signed, "it") == TrustedKey.read(tmp_path / "own.pub").key
    (tmp_path / "text").write_bytes(CONTEXT + TEXT)
    (tmp_path / "sig").write_bytes(bytes.fromhex(json.loads(signed)["signature"]))
    found = openssl(
        *("pkeyutl", "-verify", "-pubin", "-inkey", tmp_path / "own.pub", "-rawin"),
        *("-in", tmp_path / "text", "-sigfile", tmp_path / "sig"),
    )
    assert found.returncode == 0, found.stderr


def test_a_release_on_a_device_still_says_who_made_it(keys: Path, tmp_path: Path) -> None:
    signed = BUNDLE.signed(read_private(keys / "ours"))
    run.deploy(Device(tmp_path / "root"), signed, measure=Clock())
    there = bundle.read((tmp_path / "root" / APP / "current").resolve())
    assert there.files == signed.files
    assert require_trusted(there.signed_by, [TrustedKey.read(keys / "ours.pub")], "it").key == signed.signed_by


def test_where_a_key_is_trusted_nothing_else_is_parsed(keys: Path, tmp_path: Path) -> None:
    """Neither what is not signed, nor what somebody else signed: their manifest here is not even JSON."""
    folder = tmp_path / "bundle"
    folder.mkdir()
    (folder / MANIFEST).write_bytes(b"{")
    trusted = [TrustedKey.read(keys / "ours.pub")]
    with pytest.raises(BadFile, match="is not signed, and --trust asks"):
        bundle.read(folder, trusted=trusted)
    (folder / SIGNATURE).write_bytes(sign(b"{", read_private(keys / "theirs")))
    with pytest.raises(BadFile, match="signed by the key"):
        bundle.read(folder, trusted=trusted)
    (folder / SIGNATURE).write_bytes(sign(b"{", read_private(keys / "ours")))
    with pytest.raises(BadFile, match="not a valid manifest"):
        bundle.read(folder, trusted=trusted)
