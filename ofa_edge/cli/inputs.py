"""Finding and reading what commands work on: checkpoints, tables, and the models fitted to them.

In: what a person named, or nothing. Out: read and checked values. Rules kept: a table that was not named is the
newest that fits, a finished one before one that was interrupted, and the command says which it took; nothing is used
under other conditions than its own.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from ofa_edge import settings, shipped, strict_json
from ofa_edge.accuracy import family
from ofa_edge.accuracy.family import AccuracyPredictor, Fitted
from ofa_edge.accuracy.predictor import AdditiveAccuracy
from ofa_edge.accuracy.table import UNKNOWN, AccuracyTable
from ofa_edge.cli.output import Output
from ofa_edge.errors import BadFile, OfaEdgeError, UsageError
from ofa_edge.graph.stored import HALF, Stored
from ofa_edge.latency.conditions import LOSSY, RunsOn, conditions, require_match, unknown_conditions
from ofa_edge.latency.models.model import LatencyModel
from ofa_edge.latency.models.predictors import model_of
from ofa_edge.latency.table import LatencyTable, newest_match
from ofa_edge.search.models import CostModels
from ofa_edge.space.arch import Arch, Space
from ofa_edge.space.spaces import OFA_LITE0, get_space
from ofa_edge.weights import checkpoint as checkpoints
from ofa_edge.weights.bank import Statistics
from ofa_edge.weights.checkpoint import Checkpoint
from ofa_edge.weights.cut import Arrays
from ofa_edge.weights.random import random_arrays

if TYPE_CHECKING:
    from device_agents.wire import Facts
    from ofa_edge.latency.models.energy_model import EnergyModel
    from ofa_edge.search.budget import Budget


# -- weights --------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Weights:
    """Where the weights of subnets come from: a checkpoint, or where there is none a seed."""

    space: Space
    checkpoint: Checkpoint | None
    seed: int = 0

    def arrays(self, arch: Arch, statistics: Statistics | None = None) -> Arrays:
        """Folded arrays of a subnet; `statistics` in place of the checkpoint's bank. Raises as Checkpoint.folded."""
        if self.checkpoint is None:
            return random_arrays(self.space.layers(arch), self.seed)
        return self.checkpoint.folded(arch, statistics)


def weights(supernet: str, random_weights: int | None, space: str | None) -> Weights:
    """Read what --supernet, --random-weights SEED and --space name.

    Raises:
        UsageError: no such checkpoint or space, or the checkpoint is of another space.
        BadFile: the checkpoint is damaged.
    """
    if random_weights is not None:
        return Weights(get_space(space or OFA_LITE0.name), None, random_weights)
    checkpoint = checkpoints.load(supernet)
    if space is not None and get_space(space).with_classes(checkpoint.space.classes) != checkpoint.space:
        raise UsageError(
            f"checkpoint {supernet} is of space {checkpoint.space.name}, not of {space}",
            hint="leave --space out, or name another --supernet",
        )
    return Weights(checkpoint.space, checkpoint)


# -- latency tables -------------------------------------------------------------------------------
def named_latency_table(path: Path | None, space: str | None, out: Output) -> LatencyTable:
    """The table at `path`, or the newest one that was measured from here, whatever the device.

    Args:
        space: of a table that is not named; None is any.

    Raises:
        UsageError: there is none.
        BadFile: the file is damaged.
    """
    if path is not None:
        return _finished(LatencyTable.read(path), out)
    folder = settings.home() / "tables"
    found = newest_match(folder.glob("*/*.jsonl"), space)
    if found is None:
        raise UsageError(
            f"there is no latency table{f' of space {space}' if space else ''} in {folder}",
            hint="make one with `ofa-edge profile --host HOST`, or name one",
        )
    return _taken(found, out)


def device_latency_table(
    named: LatencyTable | None,
    facts: Facts,
    runs_on: RunsOn,
    space: str,
    out: Output,
    *,
    accept_stale: bool = False,
) -> LatencyTable:
    """The named table, or the newest of this device's, measured under the conditions the device is in now.

    Args:
        accept_stale: take a named table of other conditions too, with a warning.

    Raises:
        UsageError: there is none.
        BadFile: the named table is of other conditions.
    """
    now = conditions(facts, runs_on)
    if named is None:
        folder = settings.tables_dir(facts.device_model)
        found = newest_match(folder.glob("*.jsonl"), space, now)
        if found is None:
            raise UsageError(
                f"no table in {folder} was measured under the conditions {facts.device_model} is in now",
                hint="make one with `ofa-edge profile --host HOST`, or name one with --table",
            )
        return _taken(found, out)
    try:
        require_match(named.conditions, now, names=(named.path, "this device"))
    except BadFile as error:
        if not accept_stale:
            raise BadFile(
                error.message,
                hint="measure it as it is now: `ofa-edge profile --host HOST`; or pass --accept-stale to use this one",
                details=error.details,
            ) from error
        out.warning(error.message)
    return named


def _half(table: LatencyTable) -> str:
    """Why a table of fp32 is the one to choose by where weights are in half precision."""
    return f"fp16 runs as {table.path} was measured, in {table.conditions.precision}: {HALF}"


def emulated_times(what: str) -> BadFile:
    """The refusal to choose by the times of a device that is emulated."""
    return BadFile(
        f"{what} is of an emulated device: its times say nothing about the real one, so no latency budget can be held "
        "against them",
        hint="profile the real device, or give a budget without latency, such as size=5MB",
    )


def _taken(table: LatencyTable, out: Output) -> LatencyTable:
    """Say which table was taken though nobody named it."""
    out.notice(f"latency table {table.path}")
    return _finished(table, out)


def _finished(table: LatencyTable, out: Output) -> LatencyTable:
    """Say so where it is not: it may be a part of one that was cut off, too."""
    if not table.complete:
        out.warning(
            f"{table.path} is not finished, so predictions are less sure; `ofa-edge profile --resume --out"
            f" {table.path}` with the options it was begun with goes on"
        )
    return table


# -- accuracy tables and models -------------------------------------------------------------------
def accuracy_table(path: Path | None, checkpoint: str | None, out: Output) -> AccuracyTable:
    """The table at `path`, or the newest in the home, else among those that ship.

    Args:
        checkpoint: hex sha256 of the checkpoint that it must be of; None is any.

    Raises:
        UsageError: there is none.
        BadFile: the named one is damaged or of another checkpoint.
    """
    if path is not None:
        table = AccuracyTable.read(path)
        if checkpoint not in (None, table.header.checkpoint):
            raise BadFile(
                f"{path} was measured with checkpoint {table.header.checkpoint[:12]}, not {str(checkpoint)[:12]}",
                hint="name the checkpoint it was measured with, or measure this one with `ofa-edge evaluate`",
            )
        return _evaluated(table, path, out)
    for found in accuracy_tables_at_hand():
        try:
            table = AccuracyTable.read(found)
        except OfaEdgeError:
            continue
        if checkpoint in (None, table.header.checkpoint):
            out.notice(f"accuracy table {found}")
            return _evaluated(table, found, out)
    raise UsageError(
        f"there is no accuracy table{f' of checkpoint {checkpoint[:12]}' if checkpoint else ''}",
        hint="make one with `ofa-edge evaluate --data PATH --samples 300 --out FILE`, and name it",
    )


def _evaluated(table: AccuracyTable, path: Path, out: Output) -> AccuracyTable:
    if not table.complete:
        out.warning(f"{path} is not finished; `ofa-edge evaluate --resume` goes on")
    return table


def predictors_table(kept: KeptPredictor) -> AccuracyTable | None:
    """The accuracy table that a predictor was fitted on, found by its hash; None where it is not at hand."""
    for found in accuracy_tables_at_hand():
        if hashlib.sha256(found.read_bytes()).hexdigest() == kept.fitted.table:
            return AccuracyTable.read(found)
    return None


def accuracy_tables_at_hand() -> list[Path]:
    """Those at hand: in the home, newest first, then those that ship."""
    folders = settings.home() / "accuracy", shipped.tables() / "accuracy"
    return [
        file
        for folder in folders
        for file in sorted(folder.glob("*.jsonl"), key=lambda file: file.stat().st_mtime, reverse=True)
    ]


class KeptPredictor(NamedTuple):
    """A predictor out of a file, and the file's hex sha256."""

    path: Path
    fitted: Fitted
    sha256: str

    @classmethod
    def read(cls, path: Path) -> Self:
        """Raises as family.load."""
        fitted = family.load(path)
        return cls(path, fitted, hashlib.sha256(path.read_bytes()).hexdigest())


@dataclass(frozen=True)
class Models:
    """What is selected from: a latency table, an accuracy table or a predictor, and the models of both.

    The models are fitted when they are first asked for: a measured choice needs no accuracy model.

    Args:
        measured: the accuracy table; None only where there is a predictor, and its table is not at hand.
        seed: of the accuracy model's folds.
        predictor: in place of a model fitted to the accuracy table.
        half: subnets are to be run with weights in half precision, by a table of single precision.

    Raises:
        UsageError: the tables are of different spaces, or the predictor was fitted on another table.
    """

    latency_table: LatencyTable
    measured: AccuracyTable | None
    seed: int = 0
    predictor: KeptPredictor | None = None
    half: bool = False
    # Models of the same accuracies fit one model between them.
    _shared: dict[str, AdditiveAccuracy] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        self._require_one_source()
        precision = self.latency_table.conditions.precision
        if self.half and precision in LOSSY:
            raise UsageError(
                f"{self.latency_table.path} is of {precision}, and fp16 runs as fp32's tables tell",
                hint="leave this table out, or --precision",
            )
        latency, accuracy = self.latency_table.header.space, self.space.name
        if latency != accuracy:
            raise UsageError(
                f"the latency table is of space {latency}, the"
                f" {'accuracy table' if self.predictor is None else 'predictor'} of {accuracy}",
                hint="give files of one space",
            )
        # The number of classes may differ: it is one block of many, whose time is then estimated.
        if self.latency_table.space.with_classes(self.space.classes) != self.space:
            raise UsageError(
                f"the tables are of two different spaces called {latency}", hint="measure one of them again"
            )

    def _require_one_source(self) -> None:
        if self.predictor is None or self.measured is None:
            return
        fitted = self.predictor.fitted
        if fitted.table != self.measured.sha256:
            raise UsageError(
                f"{self.predictor.path} was fitted on the accuracy table {fitted.table[:12]}, this one is"
                f" {self.measured.sha256[:12]}",
                hint="leave --accuracy-table out, or fit again with `ofa-edge predictor fit TABLE --out FILE`",
            )

    def of(self, latency_table: LatencyTable) -> Models:
        """The same accuracies with another latency table. Raises as the constructor."""
        return replace(self, latency_table=latency_table)

    def require_real(self, budget: Budget) -> None:
        """Raises BadFile where times of an emulated device would be held against a budget: they mean nothing."""
        if budget.latency_ms is not None and self.latency_table.conditions.emulated is True:
            raise emulated_times(str(self.latency_table.path))

    def require_known(self, budget: Budget) -> None:
        """Raises BadFile where times would be held against a budget of which nobody knows what they were taken on."""
        found = unknown_conditions(self.latency_table.conditions)
        if budget.latency_ms is not None and found:
            raise BadFile(
                f"{self.latency_table.path} does not say how it was measured: {', '.join(found)} unknown",
                hint="pass --accept-unknown to trust it, or import it again with what you know: --device-model NAME "
                "--condition KEY=VALUE",
                details={"unknown": found},
            )

    @property
    def runs_on(self) -> RunsOn | None:
        """How a subnet runs that is chosen from these."""
        own = self.latency_table.conditions.deployed_on
        return replace(own, precision="fp16") if own is not None and self.half else own

    @property
    def notices(self) -> list[str]:
        """What is to be known of the latency table before anything is chosen by it, a sentence each."""
        from ofa_edge.latency.judging import health
        from ofa_edge.latency.stats import Verdict

        table = self.latency_table
        found = [_half(table)] if self.half else []
        verdict, problems = health.judged(table, self.latency)
        if verdict not in (None, Verdict.GOOD):
            doubtful = [problem for problem in problems if problem.level is health.Level.DOUBTFUL]
            hint = next((f"; {problem.notice.hint}" for problem in doubtful if problem.notice.hint), "")
            said = "; ".join(problem.text for problem in doubtful) or "see `ofa-edge table check`"
            found.append(f"{table.path} is {verdict}: {said}{hint}")
        return found

    @property
    def accuracy_table(self) -> AccuracyTable:
        """Raises UsageError where it is not at hand."""
        if self.measured is None:
            raise UsageError(
                "this needs the accuracy table that the predictor was fitted on", hint="name it with --accuracy-table"
            )
        return self.measured

    @property
    def space(self) -> Space:
        if self.measured is None and self.predictor is not None:
            return self.predictor.fitted.predictor.space
        return self.accuracy_table.space

    @cached_property
    def latency(self) -> LatencyModel:
        return model_of(self.latency_table)

    def costs(self, budget: Budget, resolutions: Sequence[int], confidence: float = 0.95) -> CostModels:
        """What subnets cost at these resolutions, as the latency table was measured: what searches are asked with.

        Raises:
            BadFile: energy is limited, and the table knows no energies.
        """
        stored = Stored.of(self.latency_table.conditions)
        if self.half:
            stored = replace(stored, precision="fp16")
        return CostModels(self.space, self.latency, tuple(resolutions), confidence, self.energy(budget), stored)

    def energy(self, budget: Budget) -> EnergyModel | None:
        """What a limit on energy needs; None where there is none. Raises BadFile where the table knows no energies."""
        return None if budget.energy_mj is None else self._energies

    @cached_property
    def _energies(self) -> EnergyModel:
        from ofa_edge.latency.models.energy_model import EnergyModel  # it brings what measures energy along

        return EnergyModel.from_table(self.latency_table, self.latency)

    @property
    def predictions(self) -> AccuracyPredictor:
        """What top-1 is predicted with: the predictor, of whatever kind, or the additive model."""
        return self.accuracy if self.predictor is None else self.predictor.fitted.predictor

    @property
    def accuracy(self) -> AdditiveAccuracy:
        """The additive model: the predictor's, or fitted to the accuracy table.

        Raises:
            UsageError: the predictor is of another kind.
        """
        if self.predictor is not None:
            found = self.predictor.fitted.predictor
            if not isinstance(found, AdditiveAccuracy):
                raise UsageError(
                    f"{self.predictor.path} is a {found.kind} predictor, and this needs an additive one",
                    hint="leave --predictor out, or fit one with `ofa-edge predictor fit TABLE --kind additive`",
                )
            return found
        if "additive" not in self._shared:
            self._shared["additive"] = AdditiveAccuracy.fit(self.space, self.accuracy_table, seed=self.seed)
        return self._shared["additive"]

    @property
    def inputs(self) -> dict[str, str]:
        """Hex sha256 of what a selection from these comes from, by role."""
        found = {"latency-table": self.latency_table.sha256}
        if self.predictor is not None:
            fitted = self.predictor.fitted
            found |= {"accuracy-table": fitted.table, "predictor": self.predictor.sha256}
            checkpoint = fitted.checkpoint
        else:
            found["accuracy-table"] = self.accuracy_table.sha256
            checkpoint = self.accuracy_table.header.checkpoint
        return found if checkpoint == UNKNOWN else {**found, "supernet": checkpoint}

    @property
    def headers(self) -> dict[str, str]:
        """Hex sha256 of the tables' headers, for the selection."""
        found = {"latency-table": identity(self.latency_table.header.as_json())}
        return found if self.measured is None else {**found, "accuracy-table": identity(self.measured.header.as_json())}


def identity(header: Mapping[str, Any]) -> str:
    """Of a table: what stays when it grows."""
    return strict_json.sha256(header)
