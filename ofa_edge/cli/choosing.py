"""What `select` chooses from, and how: files to models, and a strategy on models and a budget.

In: what a person named. Out: Models for each latency table, and a Chosen. Rule kept: times of an emulated device are
held against no budget.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ofa_edge.accuracy.predictor import AdditiveAccuracy
from ofa_edge.accuracy.table import UNKNOWN, AccuracyTable
from ofa_edge.cli import inputs
from ofa_edge.cli.inputs import KeptPredictor, Models
from ofa_edge.cli.output import Output
from ofa_edge.errors import BadFile, UsageError
from ofa_edge.latency.conditions import mismatches
from ofa_edge.search import choose as searching
from ofa_edge.weights import checkpoint as checkpoints

if TYPE_CHECKING:
    from ofa_edge.search.budget import Budget
    from ofa_edge.search.choose import Chosen
    from ofa_edge.search.models import CostModels

# As many subnets as SPOS's evolution evaluates: 50 in each of 20 generations.
RANDOM_SAMPLES = 1000


@dataclass(frozen=True, slots=True)
class How:
    """How to choose.

    Attributes:
        samples: that strategy random draws.
        evolution: preset of strategy evolution.
        top: how many alternatives.
    """

    strategy: str = "exact"
    samples: int = RANDOM_SAMPLES
    evolution: str = "ofa"
    confidence: float = 0.95
    top: int = 5


def choose(models: Models, budget: Budget, how: How) -> Chosen:
    """One subnet by one strategy. Raises as Models.require_real, shared_resolutions and the strategy's own function."""
    models.require_real(budget)
    strategy = {"exact": _exact, "evolution": _evolution, "random": _random, "table": _table}[how.strategy]
    chosen = strategy(models, budget, how)
    return replace(chosen, selection=replace(chosen.selection, headers=models.headers, runs_on=models.runs_on))


def choose_exact(models: Models, budget: Budget, *, confidence: float = 0.95) -> Chosen:
    """Strategy exact; raises as `choose`."""
    return choose(models, budget, How(confidence=confidence))


def _exact(models: Models, budget: Budget, how: How) -> Chosen:
    accuracy, costs = models.predictions, _costs(models, budget, how)
    if isinstance(accuracy, AdditiveAccuracy):
        return searching.choose(costs, accuracy, budget, **_common(models, how))
    from ofa_edge.search.nonadditive import polish

    return polish.choose(costs, accuracy, budget, **_common(models, how))


def _evolution(models: Models, budget: Budget, how: How) -> Chosen:
    from ofa_edge.search.sampled import evolution

    costs, more = _costs(models, budget, how), _common(models, how)
    return evolution.choose_evolution(costs, models.predictions, budget, preset=how.evolution, **more)


def _random(models: Models, budget: Budget, how: How) -> Chosen:
    from ofa_edge.search.sampled import within

    costs, more = _costs(models, budget, how), _common(models, how)
    return within.choose_random(costs, models.predictions, budget, samples=how.samples, **more)


def _table(models: Models, budget: Budget, how: How) -> Chosen:
    from ofa_edge.search.sampled import measured

    costs = models.costs(budget, models.latency.resolutions, how.confidence)
    return measured.choose_measured(costs, models.accuracy_table, budget, inputs=models.inputs, top=how.top)


def _costs(models: Models, budget: Budget, how: How) -> CostModels:
    """At the resolutions that both tables know."""
    shared = searching.shared_resolutions(models.latency.resolutions, models.predictions)
    return models.costs(budget, shared, how.confidence)


def _common(models: Models, how: How) -> dict[str, Any]:
    """What every search of a space is told."""
    return {"inputs": models.inputs, "seed": models.seed, "top": how.top}


# -- what is chosen from --------------------------------------------------------------------------
def load_models(
    latency_tables: Sequence[Path],
    accuracy_table: Path | None,
    predictor: Path | None,
    supernet: str,
    seed: int,
    out: Output,
    *,
    find_table: bool = False,
    half: bool = False,
) -> list[Models]:
    """Models of each latency table with the same accuracies; the newest table where none is named.

    Args:
        find_table: a predictor's accuracy table is looked for too, as measuring needs it.
        half: as Models.half.

    Raises:
        UsageError: a file is missing, they are of several spaces, or two latency tables are of one device.
        BadFile: a file is damaged, or of another checkpoint.
    """
    # With both tables named no weights are needed; deploy holds the selection against its checkpoint.
    needed = (accuracy_table is None and predictor is None) or supernet != checkpoints.EMBEDDED
    checkpoint = checkpoints.load(supernet).sha256 if needed else None
    kept = None if predictor is None else KeptPredictor.read(predictor)
    measured: AccuracyTable | None
    if kept is None:
        measured = inputs.accuracy_table(accuracy_table, checkpoint, out)
        space = measured.header.space
    else:
        _require_checkpoint(kept, checkpoint)
        measured = None if accuracy_table is None else AccuracyTable.read(accuracy_table)
        if measured is None and find_table:
            measured = inputs.predictors_table(kept)
        space = kept.fitted.predictor.space.name
    paths: Sequence[Path | None] = latency_tables or [None]
    tables = [inputs.named_latency_table(path, space, out) for path in paths]
    first = Models(tables[0], measured, seed, kept, half)
    found = [first, *(first.of(table) for table in tables[1:])]
    _require_different(found)
    return found


def _require_checkpoint(kept: KeptPredictor, checkpoint: str | None) -> None:
    made_with = kept.fitted.checkpoint
    if checkpoint is not None and made_with not in (UNKNOWN, checkpoint):
        raise BadFile(
            f"{kept.path} was fitted on accuracies of checkpoint {made_with[:12]}, not {checkpoint[:12]}",
            hint="name the checkpoint it was fitted for, or fit one for this with `ofa-edge predictor fit`",
        )


def _require_different(models: Sequence[Models]) -> None:
    """Raises UsageError where two latency tables are of the same device under the same conditions."""
    for i, one in enumerate(models):
        for other in models[:i]:
            same = one.latency_table.sha256 == other.latency_table.sha256
            if same or not mismatches(one.latency_table.conditions, other.latency_table.conditions):
                raise UsageError(
                    f"{other.latency_table.path} and {one.latency_table.path} are of the same device under the same"
                    " conditions",
                    hint="give one table for each device; `ofa-edge table merge` makes one of two",
                )
