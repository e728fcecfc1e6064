"""What `select` does with models and budgets: a strategy for one of each, and families for several.

In: models (inputs.py), budgets or modes, a strategy. Out: Chosen, one for each mode and device. Rules kept: times of an
emulated device are held against no budget; a mode that cannot be kept does not hide what was chosen for the others.
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
from ofa_edge.errors import BadFile, InfeasibleBudget, UsageError
from ofa_edge.latency.conditions import mismatches
from ofa_edge.search import choose as searching
from ofa_edge.search.families import Family, Member, Mode, labels
from ofa_edge.weights import checkpoint as checkpoints

if TYPE_CHECKING:
    from ofa_edge.search.budget import Budget
    from ofa_edge.search.choose import Chosen

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
    return replace(chosen, selection=replace(chosen.selection, headers=models.headers))


def choose_exact(models: Models, budget: Budget, *, confidence: float = 0.95) -> Chosen:
    """Strategy exact; raises as `choose`."""
    return choose(models, budget, How(confidence=confidence))


def _exact(models: Models, budget: Budget, how: How) -> Chosen:
    accuracy = models.predictions
    if isinstance(accuracy, AdditiveAccuracy):
        return searching.choose(models.space, models.latency, accuracy, budget, **_common(models, budget, how))
    from ofa_edge.search import polish

    return polish.choose(models.space, models.latency, accuracy, budget, **_common(models, budget, how))


def _evolution(models: Models, budget: Budget, how: How) -> Chosen:
    from ofa_edge.search import evolution

    return evolution.choose_evolution(
        models.space,
        models.latency,
        models.predictions,
        budget,
        preset=how.evolution,
        **_common(models, budget, how),
    )


def _random(models: Models, budget: Budget, how: How) -> Chosen:
    from ofa_edge.search import within

    return within.choose_random(
        models.space,
        models.latency,
        models.predictions,
        budget,
        samples=how.samples,
        **_common(models, budget, how),
    )


def _table(models: Models, budget: Budget, how: How) -> Chosen:
    from ofa_edge.search import measured

    return measured.choose_measured(
        models.space,
        models.latency,
        models.accuracy_table,
        budget,
        inputs=models.inputs,
        resolutions=models.latency.resolutions,
        confidence=how.confidence,
        top=how.top,
        energy=models.energy(budget),
    )


def _common(models: Models, budget: Budget, how: How) -> dict[str, Any]:
    """What every search of a space is told."""
    return {
        "resolutions": searching.shared_resolutions(models.latency.resolutions, models.predictions),
        "inputs": models.inputs,
        "confidence": how.confidence,
        "seed": models.seed,
        "top": how.top,
        "energy": models.energy(budget),
    }


# -- what is chosen from --------------------------------------------------------------------------
def load_models(
    latency_tables: Sequence[Path],
    accuracy_table: Path | None,
    predictor: Path | None,
    supernet: str,
    seed: int,
    out: Output,
) -> list[Models]:
    """Models of each latency table with the same accuracies; the newest table where none is named.

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
        measured = inputs.predictors_table(kept) if accuracy_table is None else AccuracyTable.read(accuracy_table)
        space = kept.fitted.predictor.space.name
    paths: Sequence[Path | None] = latency_tables or [None]
    tables = [inputs.named_latency_table(path, space, out) for path in paths]
    first = Models(tables[0], measured, seed, kept)
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


# -- families -------------------------------------------------------------------------------------
@dataclass(frozen=True, slots=True)
class Asked:
    """What a member of a family is for, and what it is chosen from.

    Attributes:
        device: label of the device; '' where there is one only.
    """

    mode: Mode
    device: str
    models: Models

    @property
    def name(self) -> str:
        """What messages call it."""
        mode = "" if self.mode.name is None else f"mode {self.mode.name}"
        return f"{mode} on {self.device}" if mode and self.device else mode or self.device

    def said(self, budget: object) -> str:
        """The option that asks for it with another budget."""
        return f"--budget {budget}" if self.mode.name is None else f"--mode {self.mode.name}:{budget}"


def asked(models: Sequence[Models], modes: Sequence[Mode]) -> list[Asked]:
    """Every mode on every device."""
    devices = labels([one.latency_table.conditions for one in models]) if len(models) > 1 else [""]
    return [Asked(mode, device, one) for mode in modes for device, one in zip(devices, models, strict=True)]


def choose_each(members: Sequence[Asked], how: How, then: Any = None) -> list[Chosen]:
    """One subnet for each member.

    Args:
        then: what is done with a choice and its models, such as measuring it.

    Raises:
        InfeasibleBudget: for a member there is none; details hold those, and what was chosen for the others.
    """
    found: list[tuple[Asked, Chosen]] = []
    failed: list[tuple[Asked, InfeasibleBudget]] = []
    for member in members:
        try:
            chosen = choose(member.models, member.mode.budget, how)
            found.append((member, then(chosen, member.models) if then else chosen))
        except InfeasibleBudget as error:
            if not member.name:  # it is alone, and there is nothing to tell apart
                raise
            failed.append((member, error))
    if failed:
        raise _infeasible(failed, found)
    return [chosen for _, chosen in found]


def _infeasible(
    failed: Sequence[tuple[Asked, InfeasibleBudget]], found: Sequence[tuple[Asked, Chosen]]
) -> InfeasibleBudget:
    """One error for all members without a subnet."""
    from ofa_edge.search.budget import Budget

    hints = []
    for member, error in failed:
        needed = error.details.get("needed")
        hints.append(f"try {member.said(Budget(**needed))}" if needed else error.hint)
    return InfeasibleBudget(
        "; ".join(f"{member.name}: {error.message}" for member, error in failed),
        hint="; ".join(dict.fromkeys(hints)),
        details={
            "infeasible": [
                {"mode": member.mode.name, "device": member.models.latency_table.conditions.device_model}
                | error.details
                for member, error in failed
            ],
            "members": [
                Member(member.mode.name, member.models.latency_table.conditions, chosen.selection).as_json(
                    chosen.as_json()
                )
                for member, chosen in found
            ],
        },
    )


def choose_common(members: Sequence[Asked], how: How) -> list[Chosen]:
    """The one subnet that is best for all members, as chosen for each.

    Raises:
        InfeasibleBudget: no subnet keeps all budgets.
        UsageError: the predictor is not an additive one, or no resolution is shared.
    """
    from ofa_edge.search.together import Wanted, choose_together

    for member in members:
        member.models.require_real(member.mode.budget)
    models = members[0].models
    resolutions = set.intersection(*(set(member.models.latency.resolutions) for member in members))
    if not resolutions:
        raise UsageError("the latency tables share no resolution", hint="profile the devices at the same --resolutions")
    chosen = choose_together(
        models.space,
        [
            Wanted(one.name, m.latency, one.mode.budget, m.inputs, m.energy(one.mode.budget))
            for one in members
            for m in [one.models]
        ],
        models.accuracy,
        resolutions=searching.shared_resolutions(sorted(resolutions), models.accuracy),
        confidence=how.confidence,
        seed=models.seed,
        top=how.top,
    )
    return [
        replace(one, selection=replace(one.selection, headers=member.models.headers))
        for member, one in zip(members, chosen, strict=True)
    ]


def family_of(members: Sequence[Asked], chosen: Sequence[Chosen], common: bool) -> Family:
    """The family of what was chosen."""
    return Family(
        tuple(
            Member(member.mode.name, member.models.latency_table.conditions, one.selection)
            for member, one in zip(members, chosen, strict=True)
        ),
        common,
    )
