"""What went on beside a campaign, judged: a verdict for every block, notices with their value and what to type.

In: a table, whose rows say which flags were raised and what was seen beside them (wire.Noise). Out: verdicts and
notices. Rules kept: the verdict of a block comes from its flags and the width of its interval; what a device did not
tell (None, or a table from before there was noise) is unknown and raises nothing; a notice that says how to mend
something says what to type.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from ofa_edge.device.advice import PERFORMANCE, spelled
from ofa_edge.latency.campaign.sustained import steady
from ofa_edge.latency.conditions import SUSTAINED, UNKNOWN, UNTOLD
from ofa_edge.latency.stats import Notice, Verdict, told
from ofa_edge.latency.table import LatencyTable

# Relative half-widths of the interval of a block's median: a campaign stops at .02 (quick .03); a sum of some twenty
# independent blocks of .05 is still good to about .01; a block of .20 is a guess.
NOISY_WIDTH = 0.05
UNUSABLE_WIDTH = 0.20
# Shares of the time, on average over the campaign; as the agent's own thresholds for one measurement (trust.py).
PRESSURE = 0.10
STOLEN = 0.01
# Share of the measurements that count above which a slowed device makes the table unusable.
_MOST_SLOWED = 0.50
# Share of the sentinels and networks that must say so before a load, sampled for an instant, is told.
_OFTEN = 0.5
# Ratio of the lowest to the highest clock beside the sentinels; measured clocks jitter by less.
_CLOCK_RANGE = 0.85
_SEVERITY = (Verdict.GOOD, Verdict.NOISY, Verdict.UNUSABLE)
_FAST = ("performance", UNKNOWN, UNTOLD)


class Judged(NamedTuple):
    """A verdict and the facts behind it."""

    verdict: Verdict
    notices: tuple[Notice, ...]


def worst(*verdicts: Verdict) -> Verdict:
    """The least good one; good of none."""
    return max(verdicts, key=_SEVERITY.index, default=Verdict.GOOD)


def of_rows(frame: pd.DataFrame) -> pd.Series:
    """The verdict of each row of LatencyTable.blocks, by its index."""
    middle = frame["median"].to_numpy(float)
    with np.errstate(divide="ignore", invalid="ignore"):
        half = np.maximum(frame["high"].to_numpy(float) - middle, middle - frame["low"].to_numpy(float)) / middle
    half = np.nan_to_num(half, nan=0.0)
    disturbed = frame["disturbed"].to_numpy(bool)
    unusable = (half > UNUSABLE_WIDTH) | (disturbed & (half > NOISY_WIDTH))
    noisy = disturbed | (half > NOISY_WIDTH)
    found = np.where(unusable, Verdict.UNUSABLE, np.where(noisy, Verdict.NOISY, Verdict.GOOD))
    return pd.Series(found, index=frame.index, dtype=object)


def counts(frame: pd.DataFrame) -> dict[str, int]:
    """How many rows of LatencyTable.blocks have each verdict."""
    found = of_rows(frame)
    return {str(verdict): int((found == verdict).sum()) for verdict in Verdict}


def surroundings(table: LatencyTable) -> Judged:
    """What went on beside the campaign of a table."""
    judged: list[Judged] = [*_heated(table), *_slowed(table), *_busy(table), *_clocks(table)]
    if table.conditions.emulated is True:
        text = "the device is emulated: its times say nothing about a real one"
        judged.append(_bad("emulated", text, True, "profile the device itself", Verdict.UNUSABLE))
    return Judged(worst(*(one.verdict for one in judged)), tuple(n for one in judged for n in one.notices))


def _heated(table: LatencyTable) -> Iterable[Judged]:
    """The steady state of a sustained table: how much slower it is, and whether it was reached."""
    if table.conditions.thermal != SUSTAINED:
        return
    found = steady(table.contents.of("sustained"))
    if found is None:
        yield _bad("not-steady", "the device was not heated", 0, "give --max-minutes more")
        return
    hot = "" if found.temperature_c is None else f" at {found.temperature_c:.1f} C"
    much = f"{abs(found.slower):.0%} {'longer' if found.slower >= 0 else 'shorter'}"
    said = f"after {found.seconds:.0f} s of load{hot} a run takes {much} than cold"
    if found.reached:
        yield _told("sustained", said, found.slower, "")
    else:
        text = f"{said}, and still changed"
        yield _bad("not-steady", text, found.slower, "give --max-minutes more, or stop other programs on the device")


def _slowed(table: LatencyTable) -> Iterable[Judged]:
    """Heat, supply and governor: flags of the measurements that count."""
    flags = [*_flags(table.blocks), *_flags(table.networks)]
    for code, text, hint in (
        ("throttled", "throttled during {} measurements", "cool it (heat sink, fan), or profile with --sustained"),
        ("undervoltage", "the supply was too weak during {} measurements", "use a stronger supply and a short cable"),
        ("governor-changed", "the governor changed during {} measurements", "stop what changes it, and profile again"),
    ):
        if number := sum(code in found for found in flags):
            hottest = max(_values(_noises(table, ("block", "network", "sentinel")), "temperature_c"), default=None)
            said = text.format(number)
            if code == "throttled" and hottest is not None:
                said += f", hottest {hottest:.1f} C"
            grave = Verdict.UNUSABLE if number > _MOST_SLOWED * len(flags) else Verdict.NOISY
            yield _bad(code, said, number, hint, grave)


def _busy(table: LatencyTable) -> Iterable[Judged]:
    """Other work: means over the sentinels and the networks, which all say what went on beside them."""
    conditions = table.conditions
    noises = list(_noises(table, ("sentinel", "network")))
    cores = conditions.cores if isinstance(conditions.cores, list) else []
    stolen = _mean(_values(noises, "steal"))
    if stolen is not None and stolen > STOLEN:
        text = f"a hypervisor took {stolen:.1%} of the time"
        yield _bad("steal", text, stolen, "profile while the other machines on its host are quiet")
    threads = conditions.threads if isinstance(conditions.threads, int) else 1
    if cores and threads > len(cores):
        return  # its own threads waited for each other
    waited = _mean(_values(noises, "pressure"))
    if waited is not None and waited > PRESSURE:
        pin = f", or pin with --cores {spelled(cores[-threads:])}" if len(cores) > 1 else ""
        text = f"cores waited for {waited:.0%} of the time"
        yield _bad("pressure", text, waited, f"stop other programs on the device{pin}")
    flags = [*_flags(table.sentinels), *_flags(table.networks)]
    if sum("load" in found for found in flags) > _OFTEN * len(flags):
        runnable = float(np.median(_values(noises, "runnable") or [0.0]))
        yield _told("load", f"{runnable:.0f} tasks wanted to run", runnable, "stop other programs on the device")


def _clocks(table: LatencyTable) -> Iterable[Judged]:
    governor = table.conditions.governor
    if governor not in _FAST and table.conditions.thermal != SUSTAINED:
        yield _told("governor", f"governor is {governor}", governor, f"for steadier numbers: {PERFORMANCE}")
    clocks = _values(_noises(table, ("sentinel",)), "frequency_mhz")
    if clocks and min(clocks) < _CLOCK_RANGE * max(clocks):
        text = f"the cores' clock went between {min(clocks):.0f} and {max(clocks):.0f} MHz"
        yield _told("clock", text, min(clocks) / max(clocks), f"for steadier numbers: {PERFORMANCE}")


# -- rows -----------------------------------------------------------------------------------------
def _bad(code: str, text: str, value: float | str, hint: str, verdict: Verdict = Verdict.NOISY) -> Judged:
    return Judged(verdict, (Notice(code, text, value, hint),))


def _told(code: str, text: str, value: float | str, hint: str) -> Judged:
    return Judged(Verdict.GOOD, (Notice(code, text, value, hint),))


def _flags(frame: pd.DataFrame) -> list[set[str]]:
    """Of each row; a field that is no list of texts says nothing."""
    if "flags" not in frame:
        return [set() for _ in range(len(frame))]
    return [{f for f in flags if isinstance(f, str)} if isinstance(flags, list) else set() for flags in frame["flags"]]


def _noises(table: LatencyTable, records: Iterable[str]) -> Iterable[Mapping[str, Any]]:
    for record in records:
        for row in table.contents.of(record):
            if isinstance(noise := row.get("noise"), dict):
                yield noise


def _values(noises: Iterable[Mapping[str, Any]], name: str) -> list[float]:
    """Of those that know it; a file may hold anything there."""
    found = (told(noise.get(name)) for noise in noises)
    return [number for number in found if number is not None]


def _mean(values: Sequence[float]) -> float | None:
    return float(np.mean(values)) if values else None
