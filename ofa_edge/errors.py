"""Every error a user can meet, each with its exit code and what to type next.

OfaEdgeError                    1  failed
├── LockHeld                    1  another deployment holds the device's lock
├── NoRoom                      1  the device's disk has too little room for a transfer
├── DeploymentRefused           1  downgrade, loop guard, preflight
├── UsageError                  2  wrong arguments
├── InfeasibleBudget            3  no subnet fits the budget
├── TrustError                  4  authentication or host key
├── DeviceLost                  5  the device or the link went away
│   └── ProtocolError           5  it answered with something that is no answer
├── NotTrustworthy              6  a measurement too disturbed to use
├── RolledBack                  7  the promise broke, the old release runs
├── NeedsHands                  8  the device is in a state that a person must look at
├── BadFile                     9  stale, invalid or unsigned file
└── Interrupted               130  Ctrl-C
"""

from __future__ import annotations

from typing import Any, ClassVar


class OfaEdgeError(Exception):
    """Base of all errors that are shown to the user as one sentence and a hint.

    Attributes:
        message: what happened, naming the file, host or value.
        hint: what to type or change next; may be empty.
        details: JSON-able facts for `--json`.
    """

    code: ClassVar[int] = 1
    kind: ClassVar[str] = "failed"

    def __init__(self, message: str, *, hint: str = "", details: dict[str, Any] | None = None):
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.details = details or {}

    def as_json(self) -> dict[str, Any]:
        """The value of the `error` key that `--json` prints."""
        return {
            "code": self.code,
            "kind": self.kind,
            "message": self.message,
            "hint": self.hint,
            "details": self.details,
        }


class LockHeld(OfaEdgeError):
    kind = "lock-held"


class NoRoom(OfaEdgeError):
    kind = "no-room"


class DeploymentRefused(OfaEdgeError):
    kind = "refused"


class UsageError(OfaEdgeError):
    code = 2
    kind = "usage"


class InfeasibleBudget(OfaEdgeError):
    code = 3
    kind = "infeasible-budget"


class TrustError(OfaEdgeError):
    code = 4
    kind = "trust"


class DeviceLost(OfaEdgeError):
    code = 5
    kind = "device-lost"


class ProtocolError(DeviceLost):
    kind = "protocol"


class NotTrustworthy(OfaEdgeError):
    code = 6
    kind = "not-trustworthy"


class RolledBack(OfaEdgeError):
    code = 7
    kind = "rolled-back"


class NeedsHands(OfaEdgeError):
    code = 8
    kind = "needs-hands"


class BadFile(OfaEdgeError):
    code = 9
    kind = "bad-file"


class Interrupted(OfaEdgeError):
    """Ctrl-C: as the value that --json prints, or raised where it is known what became of a device."""

    code = 130
    kind = "interrupted"
