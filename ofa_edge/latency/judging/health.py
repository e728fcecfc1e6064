"""What is wrong with a latency table, as data: each rule a code, a level and the values behind it.

In: a LatencyTable, which was read and so is whole row by row. Out: a Report. Rules kept: codes are stable, scripts may
look for them; a rule says what it saw and what to do, and decides nothing: whether a table is refused is the caller's;
what is unknown (an imported table's intervals, a device that tells no temperature) is no fault.

    invalid   the file cannot be what it says: key, space, impossible
    doubtful  measurements to be careful with: unfinished, missing, disturbed, wide, holdout-error, coverage, and the
              notices that made a verdict other than good (sentinel-spread, anchor-spread, loo-error, throttled, ...)
    note      facts: failed, inverted, interval-unknown, condition-unknown, strange, drift, uncalibrated, ...
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cache
from typing import Any

import numpy as np

from ofa_edge.errors import BadFile, NotTrustworthy, OfaEdgeError, UsageError
from ofa_edge.latency.campaign.outcome import HeldOut, held_out, quality
from ofa_edge.latency.conditions import UNKNOWN, RunsOn, unknown_conditions
from ofa_edge.latency.judging import plausible, verdicts
from ofa_edge.latency.judging.combine import widths
from ofa_edge.latency.models.model import LatencyModel
from ofa_edge.latency.models.predictors import model_of
from ofa_edge.latency.stats import DISTURBED, Notice, Verdict, judge
from ofa_edge.latency.table import LatencyTable
from ofa_edge.space.block import Block
from ofa_edge.space.cost import block_macs

# Relative half-widths beyond WIDE of more than this share of the blocks: a network's sum is then off by a per cent.
WIDE = verdicts.NOISY_WIDTH
_WIDE_SHARE = 0.10
# A mean error of networks that were not fitted; twice what the study in docs/ found on a quiet machine.
_HOLDOUT_ERROR = 0.03
# Of the 95 % intervals so many may miss by bad luck once in a hundred tables.
_COVERAGE_CHANCE = 0.01
_CONFIDENCE = 0.95
# A larger map that is faster by more than this, beyond both intervals; vector widths make smaller steps.
_INVERTED = 0.10
_SHOWN = 3
_MOST_FAILED = 20  # that are named one by one
# What an imported table was run with, where it does not say: the most that any machine has.
_THREADS = 1024


class Level(StrEnum):
    """What a problem means for the whole table."""

    INVALID = "invalid"
    DOUBTFUL = "doubtful"
    NOTE = "note"


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing to know about a table: how bad, and the notice (stable code, sentence, value, what to do)."""

    level: Level
    notice: Notice

    @property
    def code(self) -> str:
        return self.notice.code

    @property
    def text(self) -> str:
        return self.notice.text

    def as_json(self) -> dict[str, Any]:
        return {"level": str(self.level), **self.notice.as_json()}


@dataclass(frozen=True)
class Report:
    """What `check` found.

    Attributes:
        problems: worst first.
        model: None where none can be fitted; a problem says why.
        verdict: as `ofa-edge profile` gives it; None without a model, and for tables that are imported or unfinished
    """

    table: LatencyTable
    problems: tuple[Problem, ...]
    model: LatencyModel | None
    held_out: HeldOut | None
    verdict: Verdict | None

    def of(self, level: Level) -> list[Problem]:
        return [problem for problem in self.problems if problem.level is level]

    def require_valid(self) -> None:
        """Raises BadFile where the file cannot be what it says."""
        if found := self.of(Level.INVALID):
            raise BadFile(
                f"{self.table.path} is invalid: {'; '.join(problem.text for problem in found)}",
                hint=found[0].notice.hint or "measure again with `ofa-edge profile`",
                details={"problems": [problem.as_json() for problem in self.problems]},
            )

    def require_trustworthy(self) -> None:
        """`--strict`: raises NotTrustworthy where a measurement is doubtful."""
        if found := self.of(Level.DOUBTFUL):
            raise NotTrustworthy(
                f"{self.table.path} is not trustworthy: {'; '.join(problem.text for problem in found)}",
                hint=next((p.notice.hint for p in found if p.notice.hint), "measure again with `ofa-edge profile`"),
                details={"problems": [problem.as_json() for problem in self.problems]},
            )


def check(table: LatencyTable) -> Report:
    """Everything that is wrong with a table that can be read; never raises for what it holds."""
    blocks, wrong = _blocks(table)
    problems = [*_campaign(table), *wrong, *_planned(table, blocks), *_figures(table, blocks)]
    problems += _unknown_conditions(table)
    model: LatencyModel | None = None
    tested, verdict = None, None
    if not any(problem.level is Level.INVALID for problem in problems):
        try:
            model = model_of(table)
            verdict, found = judged(table, model)
            tested = held_out(model, table)
            problems += [*found, *_held_out(tested)]
        except (UsageError, BadFile) as error:
            text = f"nothing can be predicted from it: {error.message}"
            problems.append((_invalid if table.complete else _doubtful)("model", text, hint=error.hint))
    order = list(Level)
    problems = sorted(_once(problems), key=lambda problem: order.index(problem.level))
    return Report(table, tuple(problems), model, tested, verdict)


def precision(table: LatencyTable) -> dict[str, float | None]:
    """Shares of the measured blocks whose interval is within +-1 % and +-2 %; None where intervals are unknown."""
    half = widths(table.blocks)
    known = half[~np.isnan(half)]
    shares = {1: None, 2: None} if known.size == 0 else {p: float(np.mean(known <= p / 100)) for p in (1, 2)}
    return {f"within_{p}_pct": share for p, share in shares.items()}


# -- rules ----------------------------------------------------------------------------------------
def _campaign(table: LatencyTable) -> Iterator[Problem]:
    """What the campaign left behind."""
    if not table.complete:
        yield _doubtful("unfinished", "the campaign did not end", hint=_go_on(table))
    for key, reason in itertools.islice(zip(table.failed.index, table.failed["reason"], strict=True), _MOST_FAILED):
        yield _note("failed", f"{key}: {reason}", key)
    if len(table.failed) > _MOST_FAILED:
        yield _note("failed", f"{len(table.failed) - _MOST_FAILED} more failed", len(table.failed))
    if disturbed := int(table.blocks["disturbed"].sum() + table.networks["disturbed"].sum()):
        share = disturbed / (len(table.blocks) + len(table.networks))
        text = f"{disturbed} measurements ({share:.1%}) were disturbed by other work"
        hint = "stop other programs on the device and profile again"
        yield Problem(Level.DOUBTFUL if share > DISTURBED else Level.NOTE, Notice("disturbed", text, share, hint))


def _unknown_conditions(table: LatencyTable) -> Iterator[Problem]:
    if unknown := unknown_conditions(table.conditions):
        text = f"not known about the measuring: {', '.join(unknown)}"
        hint = "`select` holds it against a budget, and `table merge` joins it, under --accept-unknown only"
        yield _note("condition-unknown", text, len(unknown), hint)


def _blocks(table: LatencyTable) -> tuple[dict[str, Block], list[Problem]]:
    """The measured blocks by key, and the keys that are none."""
    blocks: dict[str, Block] = {}
    problems = []
    for key in [*table.blocks.index, *table.predicted.index]:
        try:
            blocks[key] = Block.from_key(key)
        except OfaEdgeError as error:
            problems.append(_invalid("key", error.message, str(key)[:200], error.hint))
    return blocks, problems[:_MOST_FAILED]


def _planned(table: LatencyTable, blocks: dict[str, Block]) -> Iterator[Problem]:
    """Blocks of the space that are not there, and blocks that are not of the space."""
    try:
        planned = {block.key for block in table.space.distinct_blocks(table.header.resolutions)}
    except (UsageError, BadFile) as error:
        yield _invalid("space", error.message, table.header.space, error.hint)
        return
    if strange := sorted(blocks.keys() & set(table.blocks.index) - planned):
        text = f"{len(strange)} blocks are not of space {table.header.space} at these resolutions: {_some(strange)}"
        yield _note("strange", text, len(strange))
    if table.header.plan.predictor == "network" and table.blocks.empty:
        return
    missing = planned - set(table.blocks.index) - set(table.predicted.index) - set(table.failed.index)
    if missing:
        text = f"{len(missing)} of {len(planned)} blocks are missing, for instance {min(missing)}"
        yield _doubtful("missing", text, len(missing) / len(planned), _go_on(table))


def _figures(table: LatencyTable, blocks: dict[str, Block]) -> Iterator[Problem]:
    """What the times of blocks say about themselves."""
    frame = table.blocks
    known = [key in blocks for key in frame.index]
    frame = frame[known]
    if frame.empty:
        return
    median, low, high = (frame[name].to_numpy(float) for name in ("median", "low", "high"))
    keys = frame.index.to_numpy()
    macs = np.array([block_macs(blocks[key]) for key in keys], float)
    impossible = (median < plausible.FLOOR_MS) | (macs / median * 1e3 > plausible.ceiling(_runs_on(table)))
    for i in np.flatnonzero(impossible)[:_SHOWN].tolist():
        text = f"{keys[i]} cannot take {median[i]:.3g} ms for {macs[i]:,.0f} multiply-accumulates"
        yield _invalid("impossible", text, float(median[i]), "its clock or its unit (ms) is wrong: measure again")
    unknown = np.isnan(low) | np.isnan(high)
    if unknown.any():
        text = f"the intervals of {int(unknown.sum())} of {len(frame)} blocks are unknown"
        yield _note("interval-unknown", text, float(unknown.mean()))
    half = widths(frame)
    wide = float(np.mean(half[~unknown] > WIDE)) if not unknown.all() else 0.0
    if wide > _WIDE_SHARE:
        text = f"the intervals of {wide:.0%} of the blocks are wider than +-{WIDE:.0%}"
        yield _doubtful("wide", text, wide, "profile again, without --quick or on a quieter device")
    yield from _inverted(keys.tolist(), [blocks[key] for key in keys], low, high, median)


def _inverted(
    keys: list[str], blocks: Sequence[Block], low: np.ndarray, high: np.ndarray, median: np.ndarray
) -> Iterator[Problem]:
    """Blocks with the same weights that are faster on a larger map, beyond both intervals."""
    order = sorted(range(len(keys)), key=lambda i: (blocks[i].weights_key, blocks[i].in_size))
    pairs = [(i, j) for i, j in itertools.pairwise(order) if blocks[i].weights_key == blocks[j].weights_key]
    found = [(i, j) for i, j in pairs if high[j] < low[i] and median[j] < (1 - _INVERTED) * median[i]]
    if found:
        i, j = max(found, key=lambda pair: median[pair[0]] / median[pair[1]])
        text = (
            f"{len(found)} of {len(pairs)} blocks are faster on a larger map than on the next smaller one, most "
            f"{keys[j]}: {median[j]:.3g} ms, on {blocks[i].in_size} px {median[i]:.3g} ms"
        )
        yield _note("inverted", text, len(found) / len(pairs))


def judged(table: LatencyTable, model: LatencyModel) -> tuple[Verdict | None, list[Problem]]:
    """The verdict that `ofa-edge profile` gives, None as Report's, and its notices; doubtful where they made it worse
    than good."""
    own, notices = judge(quality(table, model))
    around = verdicts.surroundings(table)
    problems = [_from_judge(notice, own) for notice in notices if notice.code not in ("failed", "disturbed")]
    problems += [_from_judge(notice, around.verdict) for notice in around.notices]
    problems += [Problem(Level.NOTE, notice) for notice in model.notices]
    told = table.given.empty and table.complete
    return verdicts.worst(own, around.verdict) if told else None, problems


_FACTS = ("drift", "uncalibrated", "load", "governor", "clock")


def _from_judge(notice: Notice, verdict: Verdict) -> Problem:
    doubtful = verdict is not Verdict.GOOD and notice.code not in _FACTS
    return Problem(Level.DOUBTFUL if doubtful else Level.NOTE, notice)


def _held_out(tested: HeldOut | None) -> Iterator[Problem]:
    """Error and coverage of networks that the fit did not see."""
    if tested is None:
        return
    if tested.mape > _HOLDOUT_ERROR:
        text = f"{tested.networks} networks that were not fitted are predicted with an error of {tested.mape:.1%}"
        yield _doubtful("holdout-error", text, tested.mape, "measure more networks with --networks 20")
    if tested.covered is not None:
        inside = round(tested.covered * tested.networks)
        if _chance(inside, tested.networks) < _COVERAGE_CHANCE:
            text = f"only {inside} of {tested.networks} networks that were not fitted lie within their 95 % interval"
            yield _doubtful("coverage", text, tested.covered, "measure more networks with --networks 20")


@cache
def _chance(inside: int, networks: int) -> float:
    """Probability that so few or fewer of so many 95 % intervals hold."""
    from math import comb

    p = _CONFIDENCE
    return sum(comb(networks, k) * p**k * (1 - p) ** (networks - k) for k in range(inside + 1))


# -- helpers --------------------------------------------------------------------------------------
def _runs_on(table: LatencyTable) -> RunsOn:
    """As the table says; what it does not say does not bound what is possible."""
    conditions = table.conditions
    threads = conditions.threads if isinstance(conditions.threads, int) else _THREADS
    precision = conditions.precision if conditions.precision != UNKNOWN else "int8"
    return RunsOn(conditions.runtime, threads, None, precision)


def _once(problems: Iterable[Problem]) -> list[Problem]:
    """Without repeats of one code and text; the first, which knows more, stays."""
    return list({(problem.code, problem.text): problem for problem in reversed(list(problems))}.values())[::-1]


def _go_on(table: LatencyTable) -> str:
    return f"`ofa-edge profile --resume --out {table.path}` with the options it was begun with goes on"


def _some(keys: Sequence[str]) -> str:
    return ", ".join(keys[:_SHOWN]) + (", ..." if len(keys) > _SHOWN else "")


def _invalid(code: str, text: str, value: float | str | None = None, hint: str = "") -> Problem:
    return Problem(Level.INVALID, Notice(code, text, value, hint))


def _doubtful(code: str, text: str, value: float | str | None = None, hint: str = "") -> Problem:
    return Problem(Level.DOUBTFUL, Notice(code, text, value, hint))


def _note(code: str, text: str, value: float | str | None = None, hint: str = "") -> Problem:
    return Problem(Level.NOTE, Notice(code, text, value, hint))
