"""What a job gives: figures and what else went on meanwhile, energy, a check of outputs, or why there are none."""

from dataclasses import dataclass
from typing import Annotated, Any, Optional, TypeVar, Union

from device_agents.strict_json import Fields
from device_agents.wire import values as v
from device_agents.wire.values import Value

R = TypeVar("R", bound=Value)
Figure = Annotated[float, v.number()]
Some = Annotated[int, v.whole(1)]
Watts = Annotated[float, v.number(0.0, 1e6)]
Millijoules = Annotated[float, v.number(-1e9, 1e9)]
Difference = Annotated[Optional[float], v.maybe(v.number(0.0, 1e300))]

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


@dataclass(frozen=True)
class Figures(Value, what="figures"):
    """What `n` timed samples say, in ms (a ratio's figures are plain numbers).

    `p10`, `median`, `p90` interpolate linearly; `low`, `high` are the order-statistic 95 % interval of the
    median; `std` is the sample's (n - 1), 0 for one sample.
    """

    n: Some
    min: Figure
    p10: Figure
    median: Figure
    p90: Figure
    low: Figure
    high: Figure
    mean: Figure
    std: Figure

    def agrees(self) -> bool:
        return self.min <= self.p10 <= self.median <= self.p90 and self.min <= self.low <= self.median <= self.high


@dataclass(frozen=True)
class Noise(Value, what="noise"):
    """What else went on while a job was timed; None (for the governor 'unknown') where the device does not tell.

    Args:
        steal: share of all cores' time that a hypervisor took.
        pressure: share of the time in which some task waited for a CPU.
        runnable: tasks that ran or wanted to, at the end.
        temperature_c: of the hottest zone, at the end.
        frequency_mhz: the lower of before and after, of the core that the worker ran on last.
        throttled: bits that were set now or before (values.Throttled), the firmware's four present ones.
        governor: at the end.
    """

    steal: v.Share = None
    pressure: v.Share = None
    runnable: Annotated[Optional[int], v.maybe(v.whole(0, 1 << 22))] = None
    temperature_c: v.Celsius = None
    frequency_mhz: Annotated[Optional[float], v.maybe(v.number(0.0, 1e5))] = None
    throttled: v.Throttled = None
    governor: v.Words = "unknown"


MaybeFigures = Annotated[Optional[Figures], v.maybe(v.of(Figures))]


@dataclass(frozen=True)
class Measured(Value, what="measured"):
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

    key: v.Key
    figures: Annotated[Figures, v.of(Figures)]
    anchor: MaybeFigures
    ratio: MaybeFigures
    batch: Some
    seconds: Figure
    cpu_over_wall: Annotated[float, v.number(0.0, 1e6)]
    involuntary_switches: v.Count
    flags: Annotated[tuple[str, ...], v.each(v.text("|".join(FLAGS)), len(FLAGS))] = ()
    noise: Annotated[Noise, v.of(Noise)] = Noise()
    peak_bytes: v.MaybeCount = None


@dataclass(frozen=True)
class Failed(Value, what="failed"):
    """A job that gave none, and why: a crash, a deadline, a model the runtime refuses."""

    key: v.Key
    reason: Annotated[str, v.text()]


@dataclass(frozen=True)
class Energy(Value, what="energy"):
    """Energy of one run in mJ, the idle power of the same minute subtracted.

    Args:
        sensor: what was read.
        idle_w, busy_w: mean power without and with the model running.
        mj: median over the windows, with its interval; may be negative where the sensor is too coarse.
        low, high: interval of the median.
        runs: in all windows.
        windows: that counted.
    """

    key: v.Key
    sensor: Annotated[str, v.text(limit=100)]
    idle_w: Watts
    busy_w: Watts
    mj: Millijoules
    low: Millijoules
    high: Millijoules
    runs: Some
    windows: Some

    def agrees(self) -> bool:
        return self.low <= self.mj <= self.high


@dataclass(frozen=True)
class Checked(Value, what="check"):
    """A model's outputs against golden ones: `rel` is `max_abs` over the largest golden magnitude.

    `max_abs` and `rel` are None when the outputs are not finite; `argmax_equal` compares along the last axis.
    """

    max_abs: Difference
    rel: Difference
    finite: v.Flag
    argmax_equal: v.Flag

    def agrees(self) -> bool:
        return self.finite == (self.max_abs is not None) == (self.rel is not None)


def result_row(result: Union[Measured, Energy, Failed]) -> dict[str, Any]:
    """A row of the streams `measure` and `energy`."""
    return {result.what: v.to_wire(result)}


def parse_row(kind: type[R], value: Any) -> Union[R, Failed]:
    """A row of a stream of such results. Raises WireError."""
    f = Fields("row", value)
    found = kind if f.has(kind.what) else Failed
    result = found.parse(f.take(found.what))
    f.done()
    return result
