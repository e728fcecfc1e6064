"""What a host asks a device to time."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Optional

from device_agents.strict_json import Fields
from device_agents.wire import values as v
from device_agents.wire.values import Value

Sizes = Annotated[Mapping[str, int], v.named(v.whole(1, 1 << 20))]
Runtime = Annotated[str, v.text(r"[a-z0-9_-]{1,40}")]
Threads = Annotated[int, v.whole(1, 256)]
Cores = Annotated[Optional[Sequence[int]], v.maybe(v.wholes(1024, 0, 4096))]


@dataclass(frozen=True)
class MeasureJob(Value, what="job"):
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

    key: v.Key
    model: v.Sha256
    shape: Sizes = field(default_factory=dict)
    runtime: Runtime = "onnxruntime"
    threads: Threads = 1
    cores: Cores = None
    target_rel: Annotated[float, v.number(0.001, 1.0)] = 0.02
    max_seconds: Annotated[float, v.number(0.01, 600.0)] = 3.0
    anchor: Annotated[Optional[str], v.maybe(Fields.sha256)] = None
    anchor_shape: Sizes = field(default_factory=dict)

    @property
    def limit_seconds(self) -> float:
        """How long it takes at most, loading not counted."""
        return self.max_seconds


@dataclass(frozen=True)
class EnergyJob(Value, what="energy job"):
    """One model whose energy a run is asked for: `windows` turns of idling and of running, `seconds` each.

    Args:
        key, model, shape, runtime, threads, cores: as MeasureJob's.
        sensor: one out of `Facts.sensors`.
    """

    key: v.Key
    model: v.Sha256
    sensor: Annotated[str, v.text(limit=100)]
    shape: Sizes = field(default_factory=dict)
    runtime: Runtime = "onnxruntime"
    threads: Threads = 1
    cores: Cores = None
    seconds: Annotated[float, v.number(0.05, 60.0)] = 1.0
    windows: Annotated[int, v.whole(2, 1000)] = 6

    @property
    def limit_seconds(self) -> float:
        """How long it takes, loading not counted: one idle window more than running ones, a quarter on top of each."""
        return 1.25 * self.seconds * (2 * self.windows + 1)
