"""The wire between host and agent: the one definition of it, imported by both sides.

In: lines of bytes from a peer that may be broken or hostile. Out: frozen dataclasses, or a WireError.
Rules kept here: one JSON object a line, read by strict_json.py; every field has a type and a range, and a missing
or an unknown one is an error. Times are milliseconds, sizes bytes.

    host  -> agent   {"id": 7, "op": "measure", "args": {...}}
    agent -> host    {"id": 7, "ok": true, "result": {...}}
                     {"id": 7, "ok": false, "error": {"kind": "usage", "message": "..."}}
                     {"id": 7, "row": {...}}*   {"id": 7, "end": {"count": 2}}
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Union

from device_agents.errors import ERROR_KINDS, AgentError
from device_agents.strict_json import MAX_TEXT, Fields, WireError, canonical, clean, dumps, loads

__all__ = [
    "AGENT_VERSION", "ERROR_KINDS", "FLAGS", "MAX_HASHES", "MAX_JOBS", "MAX_LINE", "MAX_TEXT", "PROTOCOL",
    "AgentError", "Checked", "End", "Energy", "EnergyJob", "Facts", "Failed", "Fields", "Figures", "Health",
    "MeasureJob", "Measured", "Noise", "Refusal", "Reply", "Request", "Result", "Row", "WireError", "canonical",
    "clean", "dumps", "energy_row", "loads", "measure_row", "parse_energy_row", "parse_measure_row", "parse_reply",
    "parse_request", "reply_line", "request_line", "to_wire",
]  # fmt: skip

PROTOCOL = 2
AGENT_VERSION = "0.1.0"

MAX_LINE = 1 << 20
"""Bytes in one line, its newline included; both sides stop reading there."""
MAX_ROWS = 1_000_000
MAX_JOBS = 1000
MAX_HASHES = 4000
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
    "throttled",  # the device says that it slowed itself down
    "undervoltage",  # the device says that its supply was too weak
    "clock-changed",  # the cores' frequency was another one afterwards
    "governor-changed",  # and so was who decides about it
)


# --------------------------------------------------------------------------------------- the values


def to_wire(value: Any) -> dict[str, Any]:
    """The JSON object of one of this module's dataclasses: what a peer will read, with lists for tuples."""
    plain = _plain(asdict(value))
    assert isinstance(plain, dict)
    return plain


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, (list, tuple)) else value


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
class Noise:
    """What else went on while a job was timed; None (for the governor 'unknown') where the device does not tell.

    Args:
        steal: share of all cores' time that a hypervisor took.
        pressure: share of the time in which some task waited for a CPU.
        runnable: tasks that ran or wanted to, at the end.
        temperature_c: of the hottest zone, at the end.
        frequency_mhz: the lower of before and after, of the core that the worker ran on last.
        throttled: bits that were set now or before, as a Raspberry Pi's firmware numbers them (0 under-voltage, 1
            frequency capped, 2 throttled, 3 soft temperature limit): its four present ones.
        governor: at the end.
    """

    steal: float | None = None
    pressure: float | None = None
    runnable: int | None = None
    temperature_c: float | None = None
    frequency_mhz: float | None = None
    throttled: int | None = None
    governor: str = "unknown"

    @classmethod
    def parse(cls, value: Any) -> Noise:
        """Raises WireError."""
        f = Fields("noise", value)
        numbers = {
            name: f.number(name, low, high) if f.maybe(name) else None
            for name, low, high in (
                ("steal", 0.0, 1.0), ("pressure", 0.0, 1.0), ("temperature_c", -100.0, 300.0),
                ("frequency_mhz", 0.0, 1e5),
            )
        }  # fmt: skip
        wholes = {
            name: f.whole(name, 0, most) if f.maybe(name) else None
            for name, most in (("runnable", 1 << 22), ("throttled", 15))
        }
        out = cls(**numbers, **wholes, governor=f.text("governor", limit=200))  # type: ignore[arg-type]
        f.done()
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
        anchor: sha256 of the network interleaved in the same process (it cancels the machine's drift).
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

    @property
    def limit_seconds(self) -> float:
        """How long it takes at most, loading not counted."""
        return self.max_seconds

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
        noise: what the flags were raised for, and more.
        peak_bytes: by how much loading and the first run of the target made the process' peak resident memory grow;
            None where the system does not tell, or the model was loaded before.
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
    noise: Noise = Noise()
    peak_bytes: int | None = None

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
            noise=Noise.parse(f.take("noise")),
            peak_bytes=f.whole("peak_bytes") if f.maybe("peak_bytes") else None,
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
class EnergyJob:
    """One model whose energy a run is asked for: `windows` turns of idling and of running, `seconds` each.

    Args:
        key, model, shape, runtime, threads, cores: as MeasureJob's.
        sensor: one out of `Facts.sensors`.
    """

    key: str
    model: str
    sensor: str
    shape: Mapping[str, int] = field(default_factory=dict)
    runtime: str = "onnxruntime"
    threads: int = 1
    cores: Sequence[int] | None = None
    seconds: float = 1.0
    windows: int = 6

    @property
    def limit_seconds(self) -> float:
        """How long it takes, loading not counted: one idle window more than running ones, a quarter on top of each."""
        return 1.25 * self.seconds * (2 * self.windows + 1)

    @classmethod
    def parse(cls, value: Any) -> EnergyJob:
        """Raises WireError."""
        f = Fields("energy job", value)
        out = cls(
            key=f.text("key", limit=400),
            model=f.sha256("model"),
            sensor=f.text("sensor", limit=100),
            shape=_dimensions("shape", f.take("shape")),
            runtime=f.text("runtime", r"[a-z0-9_-]{1,40}"),
            threads=f.whole("threads", 1, 256),
            cores=f.wholes("cores", 1024, 0, 4096) if f.maybe("cores") else None,
            seconds=f.number("seconds", 0.05, 60.0),
            windows=f.whole("windows", 2, 1000),
        )
        f.done()
        return out


@dataclass(frozen=True)
class Energy:
    """Energy of one run in mJ, the idle power of the same minute subtracted.

    Args:
        sensor: what was read.
        idle_w, busy_w: mean power without and with the model running.
        mj: median over the windows, with its interval; may be negative where the sensor is too coarse.
        low, high: interval of the median.
        runs: in all windows.
        windows: that counted.
    """

    key: str
    sensor: str
    idle_w: float
    busy_w: float
    mj: float
    low: float
    high: float
    runs: int
    windows: int

    @classmethod
    def parse(cls, value: Any) -> Energy:
        """Raises WireError."""
        f = Fields("energy", value)
        out = cls(
            f.text("key", limit=400), f.text("sensor", limit=100), f.number("idle_w", 0.0, 1e6),
            f.number("busy_w", 0.0, 1e6), f.number("mj", -1e9, 1e9), f.number("low", -1e9, 1e9),
            f.number("high", -1e9, 1e9), f.whole("runs", 1), f.whole("windows", 1),
        )  # fmt: skip
        f.done()
        if not out.low <= out.mj <= out.high:
            raise WireError("energy contradicts itself")
        return out


def energy_row(result: Energy | Failed) -> dict[str, Any]:
    """A stream row of `energy`."""
    return {"energy" if isinstance(result, Energy) else "failed": to_wire(result)}


def parse_energy_row(value: Any) -> Energy | Failed:
    """Raises WireError."""
    f = Fields("row", value)
    result = Energy.parse(f.take("energy")) if f.has("energy") else Failed.parse(f.take("failed"))
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
        libc: name and version of the C library, e.g. "glibc 2.36".
        sensors: counters of energy or power that can be read, by name.
        serial, boot_id: provenance; compared only to notice that another machine answers.
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
    libc: str = "unknown"
    sensors: tuple[str, ...] = ()

    @classmethod
    def parse(cls, value: Any) -> Facts:
        """Raises WireError."""
        f = Fields("facts", value)
        text = {
            name: f.text(name, limit=200)
            for name in (
                "device_model", "soc", "machine", "kernel", "python", "governor", "serial", "boot_id", "agent", "libc",
            )
        }  # fmt: skip
        runtimes = f.take("runtimes")
        out = cls(
            cores=f.whole("cores", 1, 4096),
            core_mask=f.wholes("core_mask", 4096, 0, 4096),
            memory_bytes=f.whole("memory_bytes"),
            emulated=f.flag("emulated"),
            runtimes=_versions(runtimes),
            sensors=_sensors(f.items("sensors", _MAX_NAMES)),
            **text,
        )
        f.done()
        if not out.core_mask or len(set(out.core_mask)) != len(out.core_mask):
            raise WireError("facts: 'core_mask' must name every usable core once")
        return out


@dataclass(frozen=True)
class Health:
    """How fit a device is to be measured; None, () and 'unknown' stand for what it does not tell.

    Args:
        governors: of the cores the agent may use, each once.
        capacities: of those cores, in the order of Facts.core_mask, in any unit.
        isolated: cores that the scheduler leaves alone.
        limited: the highest clock that settings allow over what the hardware can.
        turbo: on or off.
        throttle_c: where the kernel begins to slow the processor.
        throttled, throttled_before: as Noise.throttled, now and since it was started.
        busy: the processes beside the agent that computed most in the last second, and their share of one core.
        pressure: share of the last ten seconds in which some task waited for a CPU.
        swapping: pages went to or came from swap in the last second.
    """

    governors: tuple[str, ...] = ()
    capacities: tuple[int, ...] = ()
    isolated: tuple[int, ...] = ()
    limited: float | None = None
    turbo: str = "unknown"
    temperature_c: float | None = None
    throttle_c: float | None = None
    throttled: int | None = None
    throttled_before: int | None = None
    busy: tuple[tuple[str, float], ...] = ()
    pressure: float | None = None
    memory_available_bytes: int | None = None
    swap_used_bytes: int | None = None
    swapping: bool | None = None

    @classmethod
    def parse(cls, value: Any) -> Health:
        """Raises WireError."""
        f = Fields("health", value)
        out = cls(
            governors=tuple(_text("governor", item) for item in f.items("governors", _MAX_NAMES)),
            capacities=f.wholes("capacities", 4096, 0),
            isolated=f.wholes("isolated", 4097, 0, 4096),
            limited=f.number("limited", 0.0, 1.0) if f.maybe("limited") else None,
            turbo=f.text("turbo", "on|off|unknown"),
            temperature_c=f.number("temperature_c", -100.0, 300.0) if f.maybe("temperature_c") else None,
            throttle_c=f.number("throttle_c", -100.0, 300.0) if f.maybe("throttle_c") else None,
            throttled=f.whole("throttled", 0, 15) if f.maybe("throttled") else None,
            throttled_before=f.whole("throttled_before", 0, 15) if f.maybe("throttled_before") else None,
            busy=tuple(map(_process, f.items("busy", _MAX_NAMES))),
            pressure=f.number("pressure", 0.0, 1.0) if f.maybe("pressure") else None,
            memory_available_bytes=f.whole("memory_available_bytes") if f.maybe("memory_available_bytes") else None,
            swap_used_bytes=f.whole("swap_used_bytes") if f.maybe("swap_used_bytes") else None,
            swapping=f.flag("swapping") if f.maybe("swapping") else None,
        )
        f.done()
        return out


def _process(value: Any) -> tuple[str, float]:
    if not isinstance(value, list) or len(value) != 2:
        raise WireError("health: a process is not a name and a share")
    f = Fields("process", {"name": value[0], "share": value[1]})
    return f.text("name", limit=200), f.number("share", 0.0, 4096.0)


def _text(name: str, value: Any) -> str:
    return Fields("health", {name: value}).text(name, limit=200)


def _versions(value: Any) -> dict[str, str]:
    f = Fields("runtimes", value)
    if len(value) > _MAX_NAMES:
        raise WireError("runtimes: too many")
    return {name: f.text(name, limit=100) for name in value if _name(name)}


def _sensors(values: Sequence[Any]) -> tuple[str, ...]:
    if not all(isinstance(name, str) and re.fullmatch(r"[A-Za-z0-9_.:-]{1,100}", name) for name in values):
        raise WireError("facts: a sensor has no name")
    return tuple(values)


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
