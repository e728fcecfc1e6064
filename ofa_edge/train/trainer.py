"""Training a supernet, phase by phase.

In: a space, a recipe, images, initial arrays. Out: a trained Supernet and one PhaseResult a phase. Rules
kept: a step is a function of the weights and (seed, phase, epoch, step), so a run that was killed and resumed
goes on as if it had not been, up to floating-point order; a checkpoint is written whole or not at all.
"""

from __future__ import annotations

import ctypes
import dataclasses
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import safetensors
import safetensors.numpy
import torch
from torch import Tensor

from ofa_edge.errors import BadFile, UsageError
from ofa_edge.files import write_whole
from ofa_edge.space.arch import Arch, Space
from ofa_edge.supernet.batchnorm import fit_bank, given_statistics, recalibrate
from ofa_edge.supernet.network import Supernet
from ofa_edge.train import batches, images
from ofa_edge.train.distill import label_loss, soft_loss
from ofa_edge.train.sampling import step_archs
from ofa_edge.train.schedule import Phase, Recipe, learning_rate
from ofa_edge.weights.bank import Bank, Statistics

STATE_FILE = "state.pt"
GRADIENT_NORM = 10.0  # clips only the rare exploding step of a narrow subnet

BANK_FILE = "bank.safetensors"

# The bank held during a phase is fitted to fewer subnets than the one that ships.
BANK_PHASE_SUBNETS = 100
BANK_SUBNETS = 200
BANK_IMAGES = 400

# What the bank costs against recalibration is measured on this many random subnets and images.
BANK_CHECK_SUBNETS = 20
BANK_CHECK_IMAGES = 2000

# Progress is watched with batch-norm statistics of this many images.
WATCH_IMAGES = 1000


@dataclass(frozen=True, slots=True)
class PhaseResult:
    """What a phase did: seconds of its own, and held-out top-1 (0..1) of the largest and smallest subnet at its end."""

    name: str
    epochs: int
    seconds: float
    top1: dict[str, float]


@dataclass(frozen=True, slots=True)
class Progress:
    """One step's news, for whoever shows it."""

    phase: str
    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float
    batch_size: int


@dataclass(slots=True)
class Position:
    """Where training stands: the next step to take, and the results of the phases behind it."""

    phase: int = 0
    epoch: int = 0
    step: int = 0
    seconds: float = 0.0
    results: list[PhaseResult] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class TrainOptions:
    seed: int = 0
    checkpoint_minutes: float = 5.0
    epochs_scale: float = 1.0


class Trainer:
    """Runs a recipe; after `resume()`, `run()` goes on where the last checkpoint in `out` stands.

    Attributes:
        origin: where the initial weights came from, in words; kept with the state, so that a resumed run cannot
            claim another.

    Raises:
        UsageError: there are fewer training images than one batch takes.
    """

    def __init__(
        self,
        space: Space,
        recipe: Recipe,
        splits: images.Splits,
        out: Path,
        options: TrainOptions,
        report: Callable[[Progress], None],
    ):
        self.space, self.recipe, self.splits, self.out = space, recipe, splits, out
        self.options, self.report = options, report
        self.origin = ""
        if self._steps() == 0:
            raise UsageError(
                f"{len(splits.train)} training images are fewer than one batch of {recipe.batch_size}",
                hint="give more images, or a smaller --heldout",
            )
        self.network = Supernet(space).to(memory_format=torch.channels_last)
        self.optimiser = self._new_optimiser()
        self.position = Position()
        self._saved_at = time.monotonic()
        reuse_memory()

    # -- the run ----------------------------------------------------------------------------------
    def run(self) -> list[PhaseResult]:
        """Train to the end of the recipe."""
        while self.position.phase < len(self.recipe.phases):
            phase = self.recipe.phases[self.position.phase]
            self._run_phase(phase)
            result = PhaseResult(phase.name, self._epochs(phase), self.position.seconds, self.watch())
            self.position = Position(phase=self.position.phase + 1, results=[*self.position.results, result])
            self.optimiser = self._new_optimiser()
            self.save()
        return self.position.results

    def _run_phase(self, phase: Phase) -> None:
        bank = self._bank() if phase.statistics == "bank" else None
        while self.position.epoch < self._epochs(phase):
            self._run_epoch(phase, bank)
            self.position.epoch += 1
            self.position.step = 0

    def _run_epoch(self, phase: Phase, bank: Bank | None) -> None:
        where, steps = self.position, self._steps()
        order = self._rng(where.epoch, 0).permutation(len(self.splits.train))
        size = self.recipe.batch_size

        def make(step: int) -> tuple[int, Tensor, Tensor, np.random.Generator]:
            rng = self._rng(where.epoch, 1, step)
            resolution = int(rng.choice(self.space.resolutions))
            indices = order[step * size : (step + 1) * size]
            return (
                resolution,
                *batches.training_batch(self.splits.train, indices, resolution, self.space.preprocess, rng),
                rng,
            )

        for batch in batches.prefetched(make, range(where.step, steps)):
            start = time.monotonic()
            loss = self._step(phase, bank, *batch)
            where.seconds += time.monotonic() - start
            where.step += 1
            self.report(
                Progress(phase.name, where.epoch, self._epochs(phase), where.step, steps, loss, self.recipe.batch_size)
            )
            if time.monotonic() - self._saved_at > self.options.checkpoint_minutes * 60:
                self.save()

    def _step(
        self, phase: Phase, bank: Bank | None, resolution: int, x: Tensor, labels: Tensor, rng: np.random.Generator
    ) -> float:
        steps = self._steps()
        rate = learning_rate(phase, self.position.epoch * steps + self.position.step, self._epochs(phase) * steps)
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        self.optimiser.zero_grad(set_to_none=True)
        teacher: Tensor | None = None
        total = 0.0
        for arch in step_archs(self.space, phase.subnets, resolution, rng):
            with given_statistics(self.network, bank.statistics(self.space, arch) if bank else {}):
                logits = self.network(x, arch)
            if teacher is None or not phase.distill:
                loss = label_loss(logits, labels, self.recipe.label_smoothing)
                teacher = logits.detach()
            else:
                loss = soft_loss(logits, teacher)
            loss.backward()
            total += loss.item()
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), GRADIENT_NORM)
        self.optimiser.step()
        return total / len(phase.subnets)

    def _bank(self) -> Bank:
        """Fitted anew where the phase begins, and read back where it is resumed: it must not change half-way."""
        path = self.out / BANK_FILE
        if self.position.epoch or self.position.step:
            try:
                held = Bank.from_arrays(safetensors.numpy.load_file(path))
            except (OSError, safetensors.SafetensorError) as error:
                raise BadFile(f"cannot read the phase's BN bank {path}: {error}", hint="start another run") from error
            if held is None:
                raise BadFile(f"{path} holds no BN bank", hint="start another run")
            return held
        bank = self.fit_bank(BANK_PHASE_SUBNETS)
        write_whole(path, safetensors.numpy.save(bank.arrays()))
        self.save()
        return bank

    def fit_bank(self, subnets: int) -> Bank:
        """A BN bank from `subnets` random subnets, each recalibrated on its own shuffled training images."""
        rng = np.random.default_rng([self.options.seed, 7])
        space = self.space

        def draws() -> Iterator[tuple[Arch, Iterator[Tensor]]]:
            for index in range(subnets):
                arch = space.sample(rng)
                yield (
                    arch,
                    batches.calibration_batches(
                        self.splits.train, BANK_IMAGES, arch.resolution, space.preprocess, index
                    ),
                )

        return fit_bank(self.network, draws())

    def bank_loss(self, bank: Bank) -> dict[str, float]:
        """Held-out top-1 in points (0..100) with recalibration minus with the bank, over random subnets."""
        rng = np.random.default_rng([self.options.seed, 8])
        losses = []
        for index in range(BANK_CHECK_SUBNETS):
            arch = self.space.sample(rng)
            calibration = batches.calibration_batches(
                self.splits.train, BANK_CHECK_IMAGES, arch.resolution, self.space.preprocess, index
            )
            recalibrated = self.heldout_top1(arch, recalibrate(self.network, arch, calibration))
            losses.append(100 * (recalibrated - self.heldout_top1(arch, bank.statistics(self.space, arch))))
        return {
            "subnets": len(losses),
            "heldout_images": len(self.splits.heldout),
            "recalibration_images": BANK_CHECK_IMAGES,
            "mean_points": round(float(np.mean(losses)), 3),
            "worst_points": round(float(np.max(losses)), 3),
        }

    @torch.no_grad()
    def heldout_top1(self, arch: Arch, statistics: Statistics) -> float:
        """Top-1 (0..1) of a subnet on the held-out images, by these batch-norm statistics."""
        views = images.centre_crops(self.splits.heldout, arch.resolution, self.space.preprocess)
        with given_statistics(self.network, statistics):
            guesses = [self.network(x, arch).argmax(dim=1) for x in batches.plain_batches(views, self.space.preprocess)]
        return float((torch.cat(guesses).numpy() == self.splits.heldout.labels).mean())

    def watch(self) -> dict[str, float]:
        """Held-out top-1 (0..1) of the largest and smallest subnet, recalibrated on training images.

        At the middle one of the space's resolutions (ofa-lite0: 128).
        """
        resolution = sorted(self.space.resolutions)[len(self.space.resolutions) // 2]
        top1 = {}
        for name, arch in (
            ("largest", self.space.largest(resolution)),
            ("smallest", self.space.smallest(resolution)),
        ):
            calibration = batches.calibration_batches(
                self.splits.train, WATCH_IMAGES, resolution, self.space.preprocess, self.options.seed
            )
            top1[name] = self.heldout_top1(arch, recalibrate(self.network, arch, calibration))
        return top1

    # -- state ------------------------------------------------------------------------------------
    def start_from(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Take initial weights by name; kernel transforms that are not given stay the identity.

        Raises:
            BadFile: an array is missing, extra or of another shape.
        """
        state = self.network.state_dict()
        given = {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in arrays.items()}
        missing = [name for name in state if name not in given and ".transform_" not in name]
        wrong = [name for name in given if name not in state or state[name].shape != given[name].shape]
        if missing or wrong:
            raise BadFile(f"the initial weights do not fit {self.space.name}: missing {missing[:3]}, wrong {wrong[:3]}")
        self.network.load_state_dict(given, strict=False)

    def identity(self) -> dict[str, object]:
        """What a resumed run must have in common with the one it resumes."""
        return {
            "space": self.space.name,
            "recipe": dataclasses.asdict(self.recipe),
            "seed": self.options.seed,
            "epochs_scale": self.options.epochs_scale,
            "images": self.splits.train.sha256(),
        }

    def save(self) -> None:
        """Write the state beside the last one and rename it over, so that a kill leaves one of the two."""
        self.out.mkdir(parents=True, exist_ok=True)
        part = self.out / f"{STATE_FILE}.part"
        state = {
            "identity": self.identity(),
            "origin": self.origin,
            "position": dataclasses.asdict(self.position),
            "network": self.network.state_dict(),
            "optimiser": self.optimiser.state_dict(),
        }
        with part.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        part.replace(self.out / STATE_FILE)
        self._saved_at = time.monotonic()

    def resume(self) -> None:
        """Go on from the checkpoint in `out`.

        Raises:
            UsageError: there is none, or it belongs to another run.
            BadFile: it is damaged.
        """
        path = self.out / STATE_FILE
        if not path.exists():
            raise UsageError(f"there is no checkpoint in {self.out}", hint="leave --resume out to start a new run")
        try:
            state = torch.load(path, map_location="cpu", weights_only=True)
            theirs, position = dict(state["identity"]), dict(state["position"])
        except Exception as error:  # damaged bytes end in any of a dozen types
            raise BadFile(f"{path} is damaged: {str(error)[:300]}", hint="start another run") from error
        ours = self.identity() | {"from": self.origin}
        theirs["from"] = state.get("origin", self.origin)  # the first states had none
        if different := [key for key in ours if ours[key] != theirs.get(key)]:
            key = different[0]
            raise UsageError(
                f"{path} is of another run: {key} was {theirs.get(key)!r:.200}, now {ours[key]!r:.200}",
                hint="give the same options and data, or another --out",
            )
        results = [PhaseResult(**result) for result in position.pop("results")]
        self.position = Position(**position, results=results)
        self.network.load_state_dict(state["network"])
        self.optimiser.load_state_dict(state["optimiser"])

    # -- small things -----------------------------------------------------------------------------
    def _epochs(self, phase: Phase) -> int:
        return max(1, round(phase.epochs * self.options.epochs_scale))

    def _steps(self) -> int:
        return len(self.splits.train) // self.recipe.batch_size

    def _rng(self, *where: int) -> np.random.Generator:
        return np.random.default_rng([self.options.seed, self.position.phase, *where])

    def _new_optimiser(self) -> torch.optim.SGD:
        """SGD with Nesterov momentum; no decay on batch norm, biases and kernel transforms (OFA's settings)."""
        decayed: list[torch.nn.Parameter] = []
        plain: list[torch.nn.Parameter] = []
        for name, parameter in self.network.named_parameters():
            (plain if parameter.ndim == 1 or ".transform_" in name else decayed).append(parameter)
        return torch.optim.SGD(
            [{"params": decayed, "weight_decay": self.recipe.weight_decay}, {"params": plain, "weight_decay": 0.0}],
            lr=0.0,
            momentum=self.recipe.momentum,
            nesterov=True,
        )


def reuse_memory() -> None:
    """Make glibc keep freed memory instead of returning it to the kernel between steps.

    Feature maps of 100 MB are mapped and zeroed anew at every layer otherwise: training runs at .6x the speed.
    """
    m_trim_threshold, m_top_pad, m_mmap_max = -1, -2, -4  # malloc.h
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return  # another C library; only slower
    mallopt(m_mmap_max, 0)
    mallopt(m_trim_threshold, 2**31 - 1)
    mallopt(m_top_pad, 256 * 2**20)
