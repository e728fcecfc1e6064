"""How the agent says no: an error whose kind the host knows. On its own, for commands that need not load the wire."""

from __future__ import annotations

import errno

ERROR_KINDS = (
    "failed", "usage", "no-runtime", "bad-file", "refused", "lock-held", "needs-hands", "rolled-back", "cancelled",
)  # fmt: skip


class AgentError(Exception):
    """Raised by an op on the device; becomes an error reply. `kind` is one of ERROR_KINDS."""

    def __init__(self, kind: str, message: str):
        super().__init__(message)
        self.kind = kind
        self.message = message

    @classmethod
    def of(cls, error: OSError) -> AgentError:
        """What the system refused."""
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            return cls("failed", "the device's disk is full")
        return cls("failed", str(error))
