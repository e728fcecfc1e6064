"""The end of a campaign: the table is read back, the model fitted, the verdict given, the file closed.

In: the journal that was written. Out: an Outcome; in the file a `fit` record and, where the plan is done, the `end`.
Rules kept: what is reported is what is in the file; a fit is judged on networks it did not see (leave-one-out, and
hold-outs where there are some).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ofa_edge import journal
from ofa_edge.errors import BadFile, NotTrustworthy, OfaEdgeError
from ofa_edge.latency.campaign.energy import Report
from ofa_edge.latency.campaign.sustained import Steady, steady
from ofa_edge.latency.judging import combine, verdicts
from ofa_edge.latency.models import memory
from ofa_edge.latency.models.model import LatencyModel, anchor_reference, calibration
from ofa_edge.latency.models.predictors import model_of
from ofa_edge.latency.models.transfer import FROM_PRIOR
from ofa_edge.latency.plan import Plan
from ofa_edge.latency.stats import Notice, Quality, Verdict, judge
from ofa_edge.latency.table import LatencyTable


@dataclass(frozen=True, slots=True)
class HeldOut:
    """Prediction against measurement on networks that were not fitted; errors are relative, `covered` a share."""

    networks: int
    mape: float
    worst: float
    covered: float | None

    def as_json(self) -> dict[str, Any]:
        return {
            "networks": self.networks,
            "mape_pct": 100 * self.mape,
            "worst_pct": 100 * self.worst,
            "covered": self.covered,
        }


@dataclass(frozen=True)
class Outcome:
    """What a campaign gave.

    Attributes:
        table: read back from the file.
        fitted: its model; None where an unfinished campaign has measured too little for one.
        distinct: blocks of the space at the table's resolutions.
        verdict, notices: how far to trust it, and why.
        finished: nothing of the plan is left; else `resume` goes on.
        energy: what the energy run gave, where there was one.
    """

    table: LatencyTable
    fitted: LatencyModel | None
    distinct: int
    held_out: HeldOut | None
    verdict: Verdict
    notices: tuple[Notice, ...]
    seconds: float
    bytes_pushed: int
    finished: bool
    energy: Report | None = None

    @property
    def sustained(self) -> Steady | None:
        """How the device was heated in the last session that heated it; None for a table of bursts."""
        return steady(self.table.contents.of("sustained"))

    @property
    def predicted(self) -> int:
        """Blocks that the table predicts: from others, from its prior, or from whole networks."""
        only_networks = self.table.blocks.empty and self.table.predicted.empty
        return self.distinct if only_networks else len(self.table.predicted)

    def as_json(self) -> dict[str, Any]:
        """The keys of `ofa-edge profile --json`."""
        table = self.table
        return {
            "table": table.path,
            "conditions": table.conditions.model_dump(mode="json"),
            "blocks": {
                "distinct": self.distinct,
                "measured": len(table.blocks),
                "predicted": self.predicted,
                "failed": len(table.failed_blocks),
            },
            "networks": len(table.networks),
            "seconds": self.seconds,
            "bytes_pushed": self.bytes_pushed,
            "fit": None if self.fitted is None else self.fitted.fit.as_json(),
            "held_out": None if self.held_out is None else self.held_out.as_json(),
            "memory": memory.fit(table, table.space).as_json(),
            "verdict": str(self.verdict),
            "verdicts": verdicts.counts(table.blocks),
            "notices": [notice.as_json() for notice in self.notices],
            "finished": self.finished,
            **({} if self.sustained is None else {"sustained": self.sustained.as_json()}),
            **({} if self.energy is None else {"energy": self.energy.as_json()}),
        }

    def require_good(self) -> None:
        """`--strict`: raises NotTrustworthy unless the verdict is good."""
        if self.verdict is not Verdict.GOOD:
            raise NotTrustworthy(
                f"the measurements in {self.table.path} are {self.verdict}: "
                + "; ".join(notice.text for notice in self.notices),
                hint=next(
                    (notice.hint for notice in self.notices if notice.hint),
                    "stop other programs on the device and profile again",
                ),
                details={"notices": [notice.as_json() for notice in self.notices]},
            )


def held_out(model: LatencyModel, table: LatencyTable) -> HeldOut | None:
    """How well the table's hold-out networks are predicted; None where there are none."""
    errors, covered = [], []
    for arch, latency in calibration(table, model.space, model.reference_ms, "holdout"):
        if not model.times.knows(model.space.blocks(arch)):
            continue
        (prediction,) = model.predict([arch])
        if (estimate := prediction.latency) is None:
            continue
        errors.append(abs(estimate.value / latency - 1))
        if estimate.low is not None and estimate.high is not None:
            covered.append(estimate.low <= latency <= estimate.high)
    if not errors:
        return None
    share = float(np.mean(covered)) if covered else None
    return HeldOut(len(errors), float(np.mean(errors)), max(errors), share)


def conclude(
    path: Path, writer: journal.Writer, plan: Plan, *, finished: bool, seconds: float, bytes_pushed: int
) -> Outcome:
    """Fit and judge what was written; add the `fit` record, and the `end` where `finished`.

    Raises:
        OfaEdgeError: not one block, or network of a plan of networks alone, could be measured.
        BadFile: the plan is done, and no model can be fitted to what was measured.
    """
    table = LatencyTable.read(path)
    _require_measured(table, plan, finished=finished)
    model = _fitted(table, finished=finished)
    verdict, notices = judge(quality(table, model))
    around = verdicts.surroundings(table)
    verdict = verdicts.worst(verdict, around.verdict)
    notices = (*(() if model is None else model.notices), *around.notices, *notices)
    if not finished:
        text = "the time was over before the plan was done"
        notices += (Notice("unfinished", text, hint="the same command with --resume goes on"),)
    tested = None if model is None else held_out(model, table)
    if model is not None:
        _write_fit(writer, table, model, tested, verdict)
    if finished:
        writer.finish()
    return Outcome(
        table=LatencyTable.read(path),
        fitted=model,
        distinct=len(table.space.distinct_blocks(table.header.resolutions)),
        held_out=tested,
        verdict=verdict,
        notices=notices,
        seconds=seconds,
        bytes_pushed=bytes_pushed,
        finished=finished,
    )


def _require_measured(table: LatencyTable, plan: Plan, *, finished: bool) -> None:
    """Raises OfaEdgeError where nothing came out: of an unfinished campaign networks alone are something."""
    if table.blocks.empty and (table.networks.empty or (plan.blocks and finished)):
        reasons = [reason for reason in table.failed["reason"] if not reason.startswith(FROM_PRIOR)]
        why = f": {reasons[0]}" if reasons else " in the time given"
        raise OfaEdgeError(
            f"no {'block' if plan.blocks else 'network'} could be measured{why}",
            hint="look at `ofa-edge doctor --host HOST`, or give --max-minutes more",
        )


def _fitted(table: LatencyTable, *, finished: bool) -> LatencyModel | None:
    """The model; None where an unfinished table is too little for one. Raises BadFile where a finished one is."""
    try:
        return model_of(table)
    except BadFile:
        if finished:
            raise
        return None


def _write_fit(
    writer: journal.Writer, table: LatencyTable, model: LatencyModel, tested: HeldOut | None, verdict: Verdict
) -> None:
    """Add the `fit` record, unless the last one says the same."""
    fit = {
        **model.fit.as_json(),
        "reference_ms": model.reference_ms,
        "anchor_spread": model.anchor_spread,
        "drift": model.drift.largest_change,
        "sentinel_spread": model.drift.spread,
        "held_out": None if tested is None else tested.as_json(),
        "verdict": str(verdict),
    }
    last = table.contents.of("fit")
    if not last or {key: value for key, value in last[-1].items() if key != "record"} != fit:
        writer.append("fit", fit)


def quality(table: LatencyTable, model: LatencyModel | None) -> Quality:
    """What the rows say about how the measuring went."""
    drift = combine.drift(table.sentinels) if model is None else model.drift
    _, anchor_spread = anchor_reference(table)
    return Quality(
        rows=len(table.blocks) + len(table.networks),
        disturbed=int(table.blocks["disturbed"].sum() + table.networks["disturbed"].sum()),
        failed=len(table.failed),
        sentinel_spread=drift.spread,
        drift_change=drift.largest_change,
        anchor_spread=anchor_spread,
        networks=0 if model is None else model.fit.networks,
        loo_error=None if model is None else model.fit.loo_error,
    )
