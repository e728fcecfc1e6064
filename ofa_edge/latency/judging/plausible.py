"""Can that be? Results that no hardware gives, or that contradict themselves, are not taken.

In: a device and what its jobs compute. Out: the same device, whose results are checked one by one as they come; the
first that cannot be is a ProtocolError, and those before it stand. Rules kept: the bounds are those of the fastest
hardware there is, so that no honest device ever meets them; they find a broken clock, a unit mixed up by a thousand
and an agent that makes its figures up.
"""

from __future__ import annotations

from collections.abc import Mapping

from device_agents import wire
from ofa_edge.errors import ProtocolError
from ofa_edge.latency.conditions import DELEGATES, RunsOn
from ofa_edge.latency.workload import Device, Relay

# A call from Python into LiteRT that runs one operator on a few numbers takes 0.4 us on a desktop (into ONNX Runtime
# 1.9 us, FINDINGS 1), of which Python's own part is a tenth; nothing does all of it four times as fast.
FLOOR_MS = 0.0001

_GHZ = 6.2  # the highest boost clock sold
# Multiply-accumulates of one core in a cycle. fp32: a 16x16 outer product (Arm SME, Apple AMX), 256; two AVX-512 units
# have 32. int8: the tile multiply of x86 AMX, 16 x 16 x 64 in 16 cycles, 1024; two VNNI units have 128.
_MACS_A_CYCLE = {"fp32": 256, "int8": 1024}
# Winograd's F(4x4, 3x3) needs a quarter of the multiplications that are counted.
_ALGORITHM = 4.0
# Delegates other than a CPU's: int8 of the largest accelerators is about 2e15 a second.
_ACCELERATOR = 4e15
_CPU_DELEGATES = ("none", "xnnpack")

# The ratio's median is of other pairs than the two medians'; they differ by what the device drifts within the job.
_RATIO_BAND = 4.0
# What was timed lies within the time that was spent; the clock is read in between.
_TIMED_SHARE = 0.9


def ceiling(runs_on: RunsOn) -> float:
    """Multiply-accumulates a second that nothing reaches: cycles x width of the widest unit x threads x algorithm."""
    if DELEGATES.get(runs_on.runtime, "none") not in _CPU_DELEGATES:
        return _ACCELERATOR * _ALGORITHM
    a_cycle = _MACS_A_CYCLE.get(runs_on.precision, _MACS_A_CYCLE["int8"])
    return _GHZ * 1e9 * a_cycle * runs_on.threads * _ALGORITHM


def implausible(measured: wire.Measured, runs_on: RunsOn, macs: int = 0, anchor_macs: int = 0) -> str:
    """Why a result cannot be, as a sentence with its figures; "" where it can."""
    for what, figures, work in (("it", measured.figures, macs), ("its anchor", measured.anchor, anchor_macs)):
        if figures is None:
            continue
        if figures.median < FLOOR_MS:
            return f"{what} took {figures.median:.3g} ms, a call into a runtime alone takes {FLOOR_MS:g} ms"
        rate = work / figures.median * 1e3
        if rate > ceiling(runs_on):
            return (
                f"{what} took {figures.median:.3g} ms for {work} multiply-accumulates, {rate:.2g} a second; "
                f"{runs_on.threads} threads at {runs_on.precision} cannot reach {ceiling(runs_on):.2g}"
            )
    if measured.anchor is not None and measured.ratio is not None:
        expected = measured.figures.median / measured.anchor.median
        if not expected / _RATIO_BAND <= measured.ratio.median <= expected * _RATIO_BAND:
            return f"its ratio to the anchor is {measured.ratio.median:.3g}, its times say {expected:.3g}"
    if measured.seconds < _TIMED_SHARE * _timed_seconds(measured):
        return f"{_timed_seconds(measured):.3g} s of runs were timed in {measured.seconds:.3g} s"
    return ""


def _timed_seconds(measured: wire.Measured) -> float:
    """The least time in which the samples can have been taken (wire.Measured says what a sample is)."""
    if measured.anchor is None:
        return measured.figures.n * measured.batch * measured.figures.min / 1e3
    return (measured.figures.n * measured.figures.min + measured.anchor.n * measured.anchor.min) / 1e3


class CheckedDevice(Relay):
    """A device whose results can be.

    Args:
        macs: a job's key -> multiply-accumulates of its model; what is not in it has only the other bounds.
        anchor_macs: of the anchor.
    """

    def __init__(self, device: Device, runs_on: RunsOn, macs: Mapping[str, int] | None = None, anchor_macs: int = 0):
        super().__init__(device)
        self._runs_on = runs_on
        self._macs = macs or {}
        self._anchor_macs = anchor_macs

    def passed(self, measured: wire.Measured) -> wire.Measured:
        """Raises ProtocolError where a result cannot be; it names the job, the figures and the bound."""
        why = implausible(measured, self._runs_on, self._macs.get(measured.key, 0), self._anchor_macs)
        if why:
            raise ProtocolError(
                f"{self.facts.device_model} says what cannot be of {measured.key!r}: {why}",
                hint="its clock or its agent is not to be trusted; results before this one are kept",
                details={"key": measured.key, "median_ms": measured.figures.median, "why": why},
            )
        return measured
