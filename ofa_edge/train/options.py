"""How a recipe is run: scale factors, precision, ranks, and what of it makes a run another run.

In: values a person chose. Out: the recipe as it is run. No torch here.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from ofa_edge.errors import UsageError
from ofa_edge.space.arch import Space
from ofa_edge.train import schedule
from ofa_edge.train.schedule import Recipe


@dataclass(frozen=True, slots=True)
class TrainOptions:
    """How a recipe is run; all but `checkpoint_minutes` and `workers` make it another run.

    Attributes:
        epochs_scale, rate_scale, subnets_scale: factors of `schedule.scaled`.
        batch_size: images of a step on all ranks together; None is the recipe's.
        most_macs: limit of every subnet that is drawn, at its step's resolution.
        transforms_only: the kernel phase trains the transform matrices alone.
        precision: a name of `optimiser.PRECISIONS`.
        sync_bn: batch norm over the batches of all ranks.
        workers: threads that make batches.
    """

    seed: int = 0
    checkpoint_minutes: float = 5.0
    epochs_scale: float = 1.0
    rate_scale: float = 1.0
    subnets_scale: float = 1.0
    batch_size: int | None = None
    most_macs: int | None = None
    transforms_only: bool = False
    precision: str = "fp32"
    sync_bn: bool = False
    workers: int = 1

    def plan(self, recipe: Recipe, space: Space) -> Recipe:
        """The recipe as it is run on this space.

        Raises:
            UsageError: --transforms-only without a phase that opens kernels.
        """
        plan = schedule.scaled(
            schedule.fitted(recipe, space), epochs=self.epochs_scale, rates=self.rate_scale, subnets=self.subnets_scale
        )
        if self.transforms_only:
            if not any(phase.name == "kernel" for phase in plan.phases):
                raise UsageError(
                    f"recipe {recipe.name} has no kernel phase in space {space.name}",
                    hint="leave --transforms-only out",
                )
            phases = [
                dataclasses.replace(phase, trainable="transforms") if phase.name == "kernel" else phase
                for phase in plan.phases
            ]
            plan = dataclasses.replace(plan, phases=tuple(phases))
        return dataclasses.replace(plan, batch_size=self.batch_size or plan.batch_size)

    def identity(self) -> dict[str, Any]:
        """The options that a resumed run must have in common with the one it resumes."""
        values = dataclasses.asdict(self)
        return {name: value for name, value in values.items() if name not in ("checkpoint_minutes", "workers")}
