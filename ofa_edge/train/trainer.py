"""Training a supernet, phase by phase, on one machine or many.

In: a space, a recipe, images, initial arrays. Out: a trained Supernet and one PhaseResult a phase. Rules
kept: a step is a function of the weights and (seed, phase, epoch, step), so a run that was killed and resumed
goes on as if it had not been, up to floating-point order; a checkpoint is written whole or not at all.
"""

from __future__ import annotations

import dataclasses
import hashlib
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import safetensors
import safetensors.numpy
import safetensors.torch
import torch
from torch import Tensor

from ofa_edge.errors import BadFile, UsageError
from ofa_edge.files import held, require_writable, write_whole
from ofa_edge.space.arch import Space
from ofa_edge.supernet.batchnorm import given_statistics
from ofa_edge.supernet.network import Supernet
from ofa_edge.train import bank as banks
from ofa_edge.train import batches, images, schedule, state
from ofa_edge.train.distill import step_loss
from ofa_edge.train.distributed import Ranks
from ofa_edge.train.optimiser import Precision, new_optimiser, reuse_memory
from ofa_edge.train.options import TrainOptions
from ofa_edge.train.progress import Progress, finite
from ofa_edge.train.sampling import step_archs
from ofa_edge.train.schedule import Phase, Recipe
from ofa_edge.train.state import PhaseResult, Position
from ofa_edge.train.watch import watch
from ofa_edge.weights.bank import Bank

BANK_FILE = "bank.safetensors"
TEACHER_FILE = "teacher.safetensors"


class _Batch(NamedTuple):
    """What a step trains on: its resolution in pixels, images (N, 3, R, R), labels (N,), and its subnets' generator."""

    resolution: int
    images: Tensor
    labels: Tensor
    rng: np.random.Generator


class Trainer:
    """Runs a recipe; after `resume()`, `run()` goes on where the last checkpoint in `out` stands.

    Attributes:
        recipe: as it is run: fitted to the space and scaled.
        origin: where the initial weights came from, in words; kept with the state, so that a resumed run cannot
            claim another.

    Raises:
        UsageError: there are fewer training images than one batch takes, or the ranks do not divide a batch.
    """

    def __init__(
        self,
        space: Space,
        recipe: Recipe,
        splits: images.Splits,
        out: Path,
        options: TrainOptions,
        report: Callable[[Progress], None],
        ranks: Ranks | None = None,
    ):
        self.space, self.splits, self.out = space, splits, out
        self.options, self.report, self.ranks = options, report, ranks or Ranks()
        self.recipe = options.plan(recipe, space)
        self.origin = ""
        self._steps = batches.steps_of(splits.train, self.recipe.batch_size)
        if self.recipe.batch_size % self.ranks.count:
            raise UsageError(
                f"a batch of {self.recipe.batch_size} is not divided by {self.ranks.count} ranks",
                hint="give another --batch-size",
            )
        self.precision = Precision(options.precision, self.ranks.device)
        self.network = self._new_network()
        self.position = Position()
        self.optimiser = self._new_optimiser()
        self._saved_at = time.monotonic()
        reuse_memory()

    # -- the run ----------------------------------------------------------------------------------
    def run(self) -> list[PhaseResult]:
        """Train to the end of the recipe.

        Raises:
            OfaEdgeError: a loss is not finite, or `out` cannot be written.
            LockHeld: another process trains in `out`.
        """
        if not self.ranks.main:
            return self._run()
        require_writable(self.out)
        with held(self.out):
            return self._run()

    def _run(self) -> list[PhaseResult]:
        while self.position.phase < len(self.recipe.phases):
            phase = self.recipe.phases[self.position.phase]
            self._run_phase(phase)
            result = PhaseResult(phase.name, int(phase.epochs), self.position.seconds, self.watch())
            if self.position.phase == 0 and any(later.distill == "teacher" for later in self.recipe.phases[1:]):
                self._write(TEACHER_FILE, safetensors.torch.save(_contiguous(self.network)))
            self.position = Position(phase=self.position.phase + 1, results=[*self.position.results, result])
            self.optimiser = self._new_optimiser()
            self.save()
        return self.position.results

    def _run_phase(self, phase: Phase) -> None:
        if self._begins():
            if phase.sort_groups is not None:
                self.network.sort_channels(phase.sort_groups)
            if phase.sort_widths:
                self.network.sort_widths()
        bank = self._bank() if phase.statistics == "bank" else None
        teacher = self._teacher() if phase.distill == "teacher" else None
        while self.position.epoch < phase.epochs:
            self._run_epoch(phase, bank, teacher)
            self.position.epoch += 1
            self.position.step = 0

    def _run_epoch(self, phase: Phase, bank: Bank | None, teacher: Supernet | None) -> None:
        where, steps, size = self.position, self._steps, self.recipe.batch_size
        order = np.random.default_rng(self._seed(where.epoch, 0)).permutation(len(self.splits.train))
        mine = self.ranks.part(size)

        def make(step: int) -> _Batch:
            rng = np.random.default_rng(self._seed(where.epoch, 1, step))
            resolution = int(rng.choice(self.space.resolutions))
            indices = order[step * size : (step + 1) * size][mine]
            seed = self._seed(where.epoch, 2, step)
            return _Batch(
                resolution,
                *batches.training_batch(
                    self.splits.train, indices, resolution, self.space.preprocess, seed, mine.start
                ),
                rng,
            )

        for batch in batches.prefetched(make, range(where.step, steps), self.options.workers):
            start = time.monotonic()
            loss = self._step(phase, bank, teacher, batch)
            where.seconds += time.monotonic() - start
            where.step += 1
            self.report(finite(Progress(phase.name, where.epoch, int(phase.epochs), where.step, steps, loss, size)))
            if time.monotonic() - self._saved_at > self.options.checkpoint_minutes * 60:
                self.save()

    def _step(self, phase: Phase, bank: Bank | None, teacher: Supernet | None, batch: _Batch) -> float:
        self.optimiser.zero_grad(set_to_none=True)
        device = self.ranks.device
        x, labels = batch.images.to(device, non_blocking=True), batch.labels.to(device, non_blocking=True)
        taught = self._logits(teacher, x, batch) if teacher else None
        total = torch.zeros((), device=device)
        archs = step_archs(self.space, phase.subnets, batch.resolution, batch.rng, phase.axes, self.options.most_macs)
        for arch in archs:
            held = bank.statistics(self.space, arch) if bank else {}
            with given_statistics(self.network, held), self.precision.autocast():
                logits = self.network(x, arch)
            logits = logits.float()
            loss = step_loss(phase, logits, labels, taught, self.recipe.label_smoothing)
            if taught is None and phase.distill == "in-place":
                taught = logits.detach()
            self.precision.scaler.scale(loss).backward()
            total += loss.detach()
        trained = [p for group in self.optimiser.param_groups for p in group["params"] if p.grad is not None]
        self.ranks.average([*(p.grad for p in trained), total])
        self.precision.step(self.optimiser, trained, self._rate(phase))
        return total.item() / len(archs)

    @torch.no_grad()
    def _logits(self, teacher: Supernet, x: Tensor, batch: _Batch) -> Tensor:
        """What the largest net says, normalised by the batch as in its own training."""
        with self.precision.autocast():
            logits: Tensor = teacher(x, self.space.largest(batch.resolution))
        return logits.float()

    def _rate(self, phase: Phase) -> float:
        steps = self._steps
        step, all_steps = self.position.epoch * steps + self.position.step, int(phase.epochs) * steps
        return schedule.learning_rate(phase, step, all_steps, self.recipe.batch_size)

    # -- what a phase holds -----------------------------------------------------------------------
    def _bank(self) -> Bank:
        """Fitted anew where the phase begins, and read back by every rank: it must not differ, nor change half-way."""
        if self._begins():
            self._write(BANK_FILE, safetensors.numpy.save(self.fit_bank(banks.BANK_PHASE_SUBNETS).arrays()))
            self.save()
        return banks.read_bank(self.out / BANK_FILE)

    def _teacher(self) -> Supernet:
        """The network as it stood at the end of the first phase.

        Raises:
            BadFile: its file is gone or damaged.
        """
        path = self.out / TEACHER_FILE
        teacher = self._new_network()
        try:
            teacher.load_state_dict(safetensors.torch.load_file(path))
        except (OSError, safetensors.SafetensorError, RuntimeError) as error:
            raise BadFile(f"cannot read the teacher {path}: {str(error)[:300]}", hint="start another run") from error
        return teacher.requires_grad_(False)

    def fit_bank(self, subnets: int) -> Bank:
        """A BN bank from `subnets` random subnets, each recalibrated on its own shuffled training images."""
        return banks.fit_bank(self.network, self.splits.train, subnets, self.options.seed)

    def bank_loss(self, bank: Bank) -> dict[str, float]:
        """Held-out top-1 in points (0..100) with recalibration minus with the bank, over random subnets."""
        return banks.bank_loss(self.network, self.splits, bank, self.options.seed)

    def watch(self) -> dict[str, float]:
        """Held-out top-1 (0..1) of the largest and smallest subnet, recalibrated on training images."""
        return watch(self.network, self.splits, self.options.seed)

    # -- state ------------------------------------------------------------------------------------
    def start_from(self, arrays: Mapping[str, np.ndarray], *, keep_head: bool = True) -> bool:
        """Take initial weights by name; kernel transforms that are not given stay the identity.

        Args:
            keep_head: take the classifier too, where it is of as many classes.

        Returns:
            whether the classifier stays new.

        Raises:
            BadFile: an array is missing, extra or of another shape.
        """
        own = self.network.state_dict()
        given = {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in arrays.items()}
        heads = [name for name in own if name.startswith("logits.") and name in given]
        new_head = not keep_head or any(len(given[name]) != len(own[name]) for name in heads)
        if new_head:
            given.update((name, own[name]) for name in heads if given[name].shape[1:] == own[name].shape[1:])
        missing = [name for name in own if name not in given and ".transform_" not in name]
        wrong = [name for name in given if name not in own or own[name].shape != given[name].shape]
        if missing or wrong:
            raise BadFile(f"the initial weights do not fit {self.space.name}: missing {missing[:3]}, wrong {wrong[:3]}")
        self.network.load_state_dict(given, strict=False)
        return new_head

    def identity(self) -> dict[str, object]:
        """What a resumed run must have in common with the one it resumes."""
        return {
            "space": self.space.name,
            "classes": self.space.classes,
            **self.options.identity(),
            "precision": self.precision.name,
            "ranks": self.ranks.count,
            "recipe": dataclasses.asdict(self.recipe),
            "definition": hashlib.sha256(repr(self.space).encode()).hexdigest(),
            "images": self.splits.train.sha256(),
        }

    def save(self) -> None:
        """Write the state; a kill leaves the last one or this one."""
        if self.ranks.main:
            state.write_state(
                self.out,
                {
                    "identity": self.identity(),
                    "origin": self.origin,
                    "position": dataclasses.asdict(self.position),
                    "network": self.network.state_dict(),
                    "optimiser": self.optimiser.state_dict(),
                    "scaler": self.precision.scaler.state_dict(),
                },
            )
        self._saved_at = time.monotonic()

    def resume(self) -> None:
        """Go on from the checkpoint in `out`.

        Raises:
            UsageError: there is none, or it belongs to another run.
            BadFile: it is damaged.
        """
        stored = state.read_state(self.out, self.identity(), self.origin)
        self.position = state.position_of(stored)
        self.network.load_state_dict(stored["network"])
        self.optimiser = self._new_optimiser()
        self.optimiser.load_state_dict(stored["optimiser"])
        self.precision.scaler.load_state_dict(stored["scaler"])

    # -- small things -----------------------------------------------------------------------------
    def _write(self, name: str, content: bytes) -> None:
        if self.ranks.main:
            write_whole(self.out / name, content)
        self.ranks.wait()

    def _begins(self) -> bool:
        return not (self.position.epoch or self.position.step)

    def _seed(self, *where: int) -> list[int]:
        return [self.options.seed, self.position.phase, *where]

    def _new_network(self) -> Supernet:
        network = Supernet(self.space).to(self.ranks.device, memory_format=torch.channels_last)
        for _, norm in network.batch_norms():
            norm.over_ranks = self.options.sync_bn and self.ranks.count > 1
        return network

    def _new_optimiser(self) -> torch.optim.SGD:
        """Of the phase that stands next; of the last one where none does."""
        phases = self.recipe.phases
        return new_optimiser(self.network, self.recipe, phases[min(self.position.phase, len(phases) - 1)])


def _contiguous(network: Supernet) -> dict[str, Tensor]:
    """The weights in the one memory order that safetensors stores."""
    return {name: value.detach().cpu().contiguous() for name, value in network.state_dict().items()}
