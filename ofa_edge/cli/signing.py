"""--sign and --trust: who signs new bundles, and whose bundles are taken.

In: key files. Out: a Signing, which signs and refuses. Rules kept: keys are read before any device is asked; where a
key is trusted, a bundle that it has not signed goes nowhere, one that was made here a moment ago included.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ofa_edge.errors import UsageError

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from ofa_edge.deploy.bundle import Bundle
    from ofa_edge.deploy.signature import TrustedKey

NEW = "the new bundle"


@dataclass(frozen=True)
class Signing:
    """The key to sign with, None for none; and the keys one of which must have signed, () for any or none."""

    key: Ed25519PrivateKey | None = None
    trusted: tuple[TrustedKey, ...] = ()

    @classmethod
    def read(cls, sign: Path | None, trust: Sequence[Path] | None, *, makes: bool = True) -> Signing:
        """From --sign and --trust.

        Args:
            makes: a bundle is made, which --sign is for.

        Raises:
            UsageError: a key cannot be read, or there is nothing to sign.
            BadFile: it is no key of the kind that is needed, or what is made would not be signed by a trusted one.
        """
        from ofa_edge.deploy.signature import TrustedKey, read_private, require_trusted

        if sign is not None and not makes:
            raise UsageError(
                "--sign is for bundles that are made here", hint=f"ofa-edge bundle sign BUNDLE --key {sign}"
            )
        key = None if sign is None else read_private(sign)
        found = cls(key, tuple(TrustedKey.read(path) for path in trust or ()))
        if makes and found.trusted:
            require_trusted(None if key is None else key.public_key().public_bytes_raw().hex(), found.trusted, NEW)
        return found

    def read_bundle(self, path: Path) -> Bundle:
        """The bundle at a path, if a trusted key signed it where keys are trusted. Raises as bundle.read."""
        from ofa_edge.deploy import bundle as bundles

        return bundles.read(path, trusted=self.trusted)

    def done(self, bundle: Bundle, name: str) -> Bundle:
        """The bundle, signed where there is a key.

        Raises:
            BadFile: it is not signed by a trusted key.
        """
        from ofa_edge.deploy.signature import require_trusted

        ready = bundle if self.key is None else bundle.signed(self.key)
        if self.trusted:
            require_trusted(ready.signed_by, self.trusted, name)
        return ready
