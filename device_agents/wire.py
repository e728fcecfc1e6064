"""The wire between host and agent: the one definition of it, imported by both sides.

In: lines of bytes from a peer that may be broken or hostile. Out: frozen dataclasses, or a WireError.
Rules kept here: one JSON object a line; strict JSON (no NaN, Infinity, 1e999, duplicate keys or huge
integers); every field has a type and a range, a missing or an unknown field is an error; text holds no
control characters, so that a terminal may show it. Times are milliseconds, sizes bytes.

    host  -> agent   {"id": 7, "op": "measure", "args": {...}}
    agent -> host    {"id": 7, "ok": true, "result": {...}}
                     {"id": 7, "ok": false, "error": {"kind": "usage", "message": "..."}}
                     {"id": 7, "row": {...}}*   {"id": 7, "end": {"count": 2}}
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, NoReturn, Union

PROTOCOL = 1
AGENT_VERSION = "0.1.0"

MAX_LINE = 1 << 20
"""Bytes in one line, its newline included; both sides stop reading there."""
MAX_TEXT = 4096
MAX_ROWS = 1_000_000
MAX_JOBS = 1000
MAX_HASHES = 4000
_MAX_DIGITS = 20
_MAX_NAMES = 64

FLAGS = (
    "warmup-unsettled",  # two windows never agreed
    "interval-wide",  # the limit came before the interval was as narrow as asked
    "few-batches",  # fewer timed batches than the method wants
    "cpu-starved",  # cpu/wall below .95
    "preempted",  # more than 5 involuntary switches a second
    "steal",  # the hypervisor took time
    "pressure",  # tasks waited for a CPU more than 10 % of the time
    "load",  # more runnable tasks than cores
    "spread",  # median far above the minimum
)

ERROR_KINDS = (
    "failed", "usage", "no-runtime", "bad-file", "refused", "lock-held", "needs-hands", "rolled-back", "cancelled",
)  # fmt: skip


class WireError(ValueError):
    """A line or a field that is not what this module defines."""


class AgentError(Exception):
    """Raised by an op on the device; becomes an error reply. `kind` is one of ERROR_KINDS."""

    def __init__(self, kind: str, message: str):
        super().__init__(message)
        self.kind = kind
        self.message = message


# ---------------------------------------------------------------------------------------------- JSON


def loads(data: str | bytes) -> Any:
    """Strict JSON.

    Raises:
        WireError: no JSON, NaN or Infinity in any spelling, a number beyond a double, an integer of more
            than 20 digits, a repeated key, nesting beyond the interpreter's depth, bytes that are not UTF-8.
    """
    try:
        text = data.decode("utf-8") if isinstance(data, bytes) else data
        return json.loads(text, parse_constant=_constant, parse_float=_float, parse_int=_int, object_pairs_hook=_object)
    except WireError:
        raise
    except (ValueError, RecursionError) as error:
        raise WireError(f"not JSON: {clean(str(error))}") from error


def dumps(value: Any) -> str:
    """One line of strict JSON, keys in the order given, ASCII only."""
    return json.dumps(value, allow_nan=False, separators=(",", ":"))


def canonical(value: Any) -> bytes:
    """The one spelling of a value that is hashed: compact, keys sorted, ASCII (as ofa_edge.strict_json's)."""
    return json.dumps(value, allow_nan=False, sort_keys=True, separators=(",", ":")).encode("ascii")


def clean(text: str, limit: int = MAX_TEXT) -> str:
    """Text without control characters, lone surrogates or more than `limit` characters."""
    shown = "".join(c if c.isprintable() else " " for c in text[: limit + 1])
    return shown if len(shown) <= limit else shown[: limit - 3] + "..."


def _constant(name: str) -> NoReturn:
    raise WireError(f"{name} is not a JSON number")


def _float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise WireError(f"{text[:40]} does not fit a double")
    return value


def _int(text: str) -> int:
    if len(text) > _MAX_DIGITS:
        raise WireError(f"an integer of {len(text)} digits")
    return int(text)


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value = dict(pairs)
    if len(value) != len(pairs):
        raise WireError("a key is repeated in an object")
    return value


class Fields:
    """Takes typed fields out of one JSON object; `done` refuses what nobody took.

    `what` names the object in error messages.
    """

    def __init__(self, what: str, value: Any):
        if not isinstance(value, Mapping):
            raise WireError(f"{what} must be an object")
        self.what = what
        self._rest = dict(value)

    def take(self, name: str) -> Any:
        if name not in self._rest:
            raise WireError(f"{self.what} has no {name!r}")
        return self._rest.pop(name)

    def has(self, name: str) -> bool:
        return name in self._rest

    def done(self) -> None:
        if self._rest:
            raise WireError(f"{self.what} has an unknown field {clean(sorted(self._rest)[0], 60)!r}")

    def text(self, name: str, pattern: str = "", limit: int = MAX_TEXT) -> str:
        value = self.take(name)
        if not isinstance(value, str) or len(value) > limit or not value.isprintable():
            raise self._bad(name, f"printable text of at most {limit} characters")
        if pattern and not re.fullmatch(pattern, value):
            raise self._bad(name, f"text of the form {pattern}")
        return value

    def whole(self, name: str, low: int = 0, high: int = 1 << 62) -> int:
        value = self.take(name)
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise self._bad(name, f"a whole number from {low} to {high}")
        return value

    def number(self, name: str, low: float = 0.0, high: float = 1e15) -> float:
        value = self.take(name)
        if not isinstance(value, (int, float)) or isinstance(value, bool) or not low <= value <= high:
            raise self._bad(name, f"a number from {low:g} to {high:g}")
        return float(value)

    def flag(self, name: str) -> bool:
        value = self.take(name)
        if not isinstance(value, bool):
            raise self._bad(name, "true or false")
        return value

    def object(self, name: str) -> dict[str, Any]:
        value = self.take(name)
        if not isinstance(value, dict):
            raise self._bad(name, "an object")
        return value

    def sha256(self, name: str) -> str:
        return self.text(name, "[0-9a-f]{64}")

    def items(self, name: str, limit: int) -> list[Any]:
        value = self.take(name)
        if not isinstance(value, list) or len(value) > limit:
            raise self._bad(name, f"a list of at most {limit} entries")
        return value

    def wholes(self, name: str, limit: int, low: int = 0, high: int = 1 << 31) -> tuple[int, ...]:
        values = self.items(name, limit)
        if not all(isinstance(v, int) and not isinstance(v, bool) and low <= v <= high for v in values):
            raise self._bad(name, f"whole numbers from {low} to {high}")
        return tuple(values)

    def maybe(self, name: str) -> bool:
        """Is there a value other than null? A null is taken."""
        if name not in self._rest:
            raise WireError(f"{self.what} has no {name!r}")
        if self._rest[name] is None:
            del self._rest[name]
            return False
        return True

    def _bad(self, name: str, want: str) -> WireError:
        return WireError(f"{self.what}: {name!r} must be {want}")


# --------------------------------------------------------------------------------------- the values


def to_wire(value: Any) -> dict[str, Any]:
    """The JSON object of one of this module's dataclasses."""
    return asdict(value)


@dataclass(frozen=True)
class Figures:
    """What `n` timed samples say, in ms (a ratio's figures are plain numbers).

    `p10`, `median`, `p90` interpolate linearly; `low`, `high` are the order-statistic 95 % interval of the
    median; `std` is the sample's (n - 1), 0 for one sample.
    """

    n: int
    min: float
    p10: float
    median: float
    p90: float
    low: float
    high: float
    mean: float
    std: float

    @classmethod
    def parse(cls, value: Any) -> Figures:
        """Raises WireError, also when the figures contradict each other."""
        f = Fields("figures", value)
        names = ("min", "p10", "median", "p90", "low", "high", "mean", "std")
        out = cls(f.whole("n", 1), *(f.number(name) for name in names))
        f.done()
        if not out.min <= out.p10 <= out.median <= out.p90 or not out.min <= out.low <= out.median <= out.high:
            raise WireError("figures contradict each other")
        return out


@dataclass(frozen=True)
class MeasureJob:
    """One model to time.

    Args:
        key: the caller's name of the job, returned with its result.
        model: sha256 of a blob that was pushed before.
        shape: sizes for the model's named (symbolic) dimensions, e.g. {"h": 56, "w": 56}; {} for a fixed model.
        runtime: a name out of `Facts.runtimes`.
        threads: of the runtime's own pool.
        cores: CPU numbers the worker may use, or None for all it has.
        target_rel: stop when the interval of the median (with an anchor: of the ratio) is within +- this.
        max_seconds: or after this long, loading not counted.
        anchor: sha256 of the network interleaved in the same process (FINDINGS: it cancels the machine's drift).
        anchor_shape: as `shape`, for the anchor.
    """

    key: str
    model: str
    shape: Mapping[str, int] = field(default_factory=dict)
    runtime: str = "onnxruntime"
    threads: int = 1
    cores: Sequence[int] | None = None
    target_rel: float = 0.02
    max_seconds: float = 3.0
    anchor: str | None = None
    anchor_shape: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def parse(cls, value: Any) -> MeasureJob:
        """Raises WireError."""
        f = Fields("job", value)
        out = cls(
            key=f.text("key", limit=400),
            model=f.sha256("model"),
            shape=_dimensions("shape", f.take("shape")),
            runtime=f.text("runtime", r"[a-z0-9_-]{1,40}"),
            threads=f.whole("threads", 1, 256),
            cores=f.wholes("cores", 1024, 0, 4096) if f.maybe("cores") else None,
            target_rel=f.number("target_rel", 0.001, 1.0),
            max_seconds=f.number("max_seconds", 0.01, 600.0),
            anchor=f.sha256("anchor") if f.maybe("anchor") else None,
            anchor_shape=_dimensions("anchor_shape", f.take("anchor_shape")),
        )
        f.done()
        return out


@dataclass(frozen=True)
class Measured:
    """A job that gave a result.

    Without an anchor each sample is one batch's time divided by its `batch` runs. With an anchor each sample of
    `figures` and `anchor` is a single run, their low and high come from the batches' medians, and a sample of
    `ratio` is a target batch's median over the mean of the medians of the anchor batches around it.

    Args:
        batch: runs per timed batch of the target.
        seconds: spent timing, warm-up included, loading not.
        cpu_over_wall: CPU time of all threads over wall time (about `threads` where nothing disturbs).
        involuntary_switches: of the worker while timing.
        flags: out of FLAGS, what makes the figures doubtful.
    """

    key: str
    figures: Figures
    anchor: Figures | None
    ratio: Figures | None
    batch: int
    seconds: float
    cpu_over_wall: float
    involuntary_switches: int
    flags: tuple[str, ...] = ()

    @classmethod
    def parse(cls, value: Any) -> Measured:
        """Raises WireError."""
        f = Fields("measured", value)
        out = cls(
            key=f.text("key", limit=400),
            figures=Figures.parse(f.take("figures")),
            anchor=Figures.parse(f.take("anchor")) if f.maybe("anchor") else None,
            ratio=Figures.parse(f.take("ratio")) if f.maybe("ratio") else None,
            batch=f.whole("batch", 1),
            seconds=f.number("seconds"),
            cpu_over_wall=f.number("cpu_over_wall", 0.0, 1e6),
            involuntary_switches=f.whole("involuntary_switches"),
            flags=tuple(f.items("flags", len(FLAGS))),
        )
        f.done()
        if not all(isinstance(flag, str) and flag in FLAGS for flag in out.flags):
            raise WireError("measured: a flag is not one of {}".format(", ".join(FLAGS)))
        return out


@dataclass(frozen=True)
class Failed:
    """A job that gave none, and why: a crash, a deadline, a model the runtime refuses."""

    key: str
    reason: str

    @classmethod
    def parse(cls, value: Any) -> Failed:
        """Raises WireError."""
        f = Fields("failed", value)
        out = cls(f.text("key", limit=400), f.text("reason"))
        f.done()
        return out


def measure_row(result: Measured | Failed) -> dict[str, Any]:
    """A stream row of `measure`."""
    return {"measured" if isinstance(result, Measured) else "failed": to_wire(result)}


def parse_measure_row(value: Any) -> Measured | Failed:
    """Raises WireError."""
    f = Fields("row", value)
    result = Measured.parse(f.take("measured")) if f.has("measured") else Failed.parse(f.take("failed"))
    f.done()
    return result


@dataclass(frozen=True)
class Checked:
    """A model's outputs against golden ones: `rel` is `max_abs` over the largest golden magnitude.

    `max_abs` and `rel` are None when the outputs are not finite; `argmax_equal` compares along the last axis.
    """

    max_abs: float | None
    rel: float | None
    finite: bool
    argmax_equal: bool

    @classmethod
    def parse(cls, value: Any) -> Checked:
        """Raises WireError."""
        f = Fields("check", value)
        out = cls(
            max_abs=f.number("max_abs", 0.0, 1e300) if f.maybe("max_abs") else None,
            rel=f.number("rel", 0.0, 1e300) if f.maybe("rel") else None,
            finite=f.flag("finite"),
            argmax_equal=f.flag("argmax_equal"),
        )
        f.done()
        if out.finite != (out.max_abs is not None) or out.finite != (out.rel is not None):
            raise WireError("check contradicts itself")
        return out


@dataclass(frozen=True)
class Facts:
    """What a device is. 'unknown' stands for text the device does not tell.

    Args:
        machine: instruction set as the kernel names it, e.g. aarch64.
        core_mask: CPU numbers the agent may run on; `cores` counts all online ones.
        governor: of the first usable core.
        emulated: timings here say nothing about a real device.
        runtimes: name -> version, only those that really load.
        serial, boot_id: provenance, never compared.
    """

    device_model: str
    soc: str
    machine: str
    kernel: str
    python: str
    cores: int
    core_mask: tuple[int, ...]
    governor: str
    memory_bytes: int
    emulated: bool
    runtimes: Mapping[str, str]
    serial: str
    boot_id: str
    agent: str

    @classmethod
    def parse(cls, value: Any) -> Facts:
        """Raises WireError."""
        f = Fields("facts", value)
        text = {
            name: f.text(name, limit=200)
            for name in (
                "device_model", "soc", "machine", "kernel", "python", "governor", "serial", "boot_id", "agent",
            )
        }  # fmt: skip
        runtimes = f.take("runtimes")
        out = cls(
            cores=f.whole("cores", 1, 4096),
            core_mask=f.wholes("core_mask", 4096, 0, 4096),
            memory_bytes=f.whole("memory_bytes"),
            emulated=f.flag("emulated"),
            runtimes=_versions(runtimes),
            **text,
        )
        f.done()
        return out


def _versions(value: Any) -> dict[str, str]:
    f = Fields("runtimes", value)
    if len(value) > _MAX_NAMES:
        raise WireError("runtimes: too many")
    return {name: f.text(name, limit=100) for name in value if _name(name)}


def _dimensions(what: str, value: Any) -> dict[str, int]:
    f = Fields(what, value)
    if len(value) > _MAX_NAMES:
        raise WireError(f"{what}: too many dimensions")
    return {name: f.whole(name, 1, 1 << 20) for name in value if _name(name)}


def _name(name: str) -> bool:
    if not re.fullmatch(r"[A-Za-z0-9_-]{1,40}", name):
        raise WireError(f"{clean(name, 60)!r} is not a name")
    return True


# ------------------------------------------------------------------------------ requests and replies


@dataclass(frozen=True)
class Request:
    id: int
    op: str
    args: Mapping[str, Any]


@dataclass(frozen=True)
class Result:
    id: int
    result: Mapping[str, Any]


@dataclass(frozen=True)
class Refusal:
    """`kind` is one of ERROR_KINDS."""

    id: int
    kind: str
    message: str


@dataclass(frozen=True)
class Row:
    id: int
    row: Mapping[str, Any]


@dataclass(frozen=True)
class End:
    """`count` is the number of rows sent before it in this stream."""

    id: int
    count: int


Reply = Union[Result, Refusal, Row, End]


def parse_request(line: bytes) -> Request:
    """Raises WireError."""
    f = Fields("request", loads(line))
    out = Request(f.whole("id"), f.text("op", r"[a-z][a-z0-9_.-]{0,39}"), f.object("args"))
    f.done()
    return out


def parse_reply(line: bytes) -> Reply:
    """Raises WireError."""
    f = Fields("reply", loads(line))
    ident = f.whole("id")
    out: Reply
    if f.has("row"):
        out = Row(ident, f.object("row"))
    elif f.has("end"):
        end = Fields("end", f.take("end"))
        out = End(ident, end.whole("count", 0, MAX_ROWS))
        end.done()
    elif f.flag("ok"):
        out = Result(ident, f.object("result"))
    else:
        error = Fields("error", f.take("error"))
        out = Refusal(ident, error.text("kind", "|".join(ERROR_KINDS)), error.text("message"))
        error.done()
    f.done()
    return out


def request_line(ident: int, op: str, args: Mapping[str, Any]) -> bytes:
    """Raises WireError when the line would be longer than a peer reads."""
    return _line({"id": ident, "op": op, "args": dict(args)})


def reply_line(reply: Reply) -> bytes:
    """Raises WireError when the line would be longer than a peer reads."""
    if isinstance(reply, Row):
        return _line({"id": reply.id, "row": reply.row})
    if isinstance(reply, End):
        return _line({"id": reply.id, "end": {"count": reply.count}})
    if isinstance(reply, Result):
        return _line({"id": reply.id, "ok": True, "result": reply.result})
    error = {"kind": reply.kind, "message": clean(reply.message)}
    return _line({"id": reply.id, "ok": False, "error": error})


def _line(value: Any) -> bytes:
    try:
        line = dumps(value).encode("ascii") + b"\n"
    except (TypeError, ValueError) as error:
        raise WireError(f"not a JSON value: {clean(str(error))}") from error
    if len(line) > MAX_LINE:
        raise WireError(f"a message of {len(line)} bytes, the limit is {MAX_LINE}")
    return line
