"""What is chosen: the front of every device, the best subnet for each budget, the subnets that selections name.

In: devices, accuracy tables and predictors, selections, budgets. Out: `Fronts` and `Pick`s, as data. Rules kept: a
front is exact for its model (search/exact/frontier.py) and says which accuracy model that is; a budget limits the upper
bound of the latency, as `ofa-edge select` does; where something cannot be shown the reason is a sentence that says what
to give.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ofa_edge.accuracy.predictor import AdditiveAccuracy
from ofa_edge.accuracy.table import AccuracyTable
from ofa_edge.errors import BadFile, InfeasibleBudget, UsageError
from ofa_edge.graph.stored import Stored
from ofa_edge.latency.models.energy_model import EnergyModel
from ofa_edge.latency.models.model import Estimate, LatencyModel
from ofa_edge.report.devices import Device, size
from ofa_edge.report.markup import number
from ofa_edge.report.sources import Sources
from ofa_edge.search.batch import BatchCosts
from ofa_edge.search.budget import Budget
from ofa_edge.search.candidate import Candidate, excess
from ofa_edge.search.choose import choose, shared_resolutions
from ofa_edge.search.costs import FAILED, PER_MS
from ofa_edge.search.exact.frontier import Front, exact_front
from ofa_edge.search.models import CostModels
from ofa_edge.search.selection import Measured
from ofa_edge.space.arch import Arch, Space
from ofa_edge.space.population import ArchArrays

# Points of a front that get an interval, and so a row in its table.
_SHOWN = 40
# Measured subnets that are drawn behind a front.
_MOST_DOTS = 500
_BUDGETS = 5
_NONE_FITS = "no subnet fits"


@dataclass(frozen=True)
class Accuracy:
    """An additive accuracy model, and the measured rows it comes from (None where a predictor's file was given)."""

    name: str
    space: Space
    model: AdditiveAccuracy
    table: AccuracyTable | None


@dataclass(frozen=True)
class DeviceFront:
    """A device's front.

    Attributes:
        latency_ms, top1: (n,) of every point, fastest first, as the models give them.
        shown: a part of the points, both ends among them, with intervals.
        measured: (m, 2) predicted latency in ms and measured top-1 of some of the accuracy table's subnets.
    """

    device: Device
    model: LatencyModel
    accuracy: Accuracy
    resolutions: tuple[int, ...]
    front: Front
    shown: tuple[Candidate, ...]
    measured: np.ndarray

    @property
    def latency_ms(self) -> np.ndarray:
        return np.asarray(self.front.latency_ms)

    @property
    def top1(self) -> np.ndarray:
        return np.array([self.accuracy.model.top1(score) for score in self.front.score.tolist()])


@dataclass(frozen=True)
class Pick:
    """A subnet on the page.

    Attributes:
        number: as its badge says.
        name: mode, device and budget.
        origin: where it comes from, in words.
        budget: that it was chosen under.
        device: whose table it was chosen with; None where that was not given.
        measured: what the truth step found of it.
    """

    number: int
    name: str
    origin: str
    space: Space
    candidate: Candidate
    budget: Budget | None
    device: Device | None
    measured: Measured | None = None

    @property
    def arch(self) -> Arch:
        return self.candidate.arch


@dataclass(frozen=True)
class Fronts:
    """Fronts, and a sentence for each device that has none."""

    found: tuple[DeviceFront, ...]
    left_out: tuple[str, ...]


def accuracies(sources: Sources) -> list[Accuracy]:
    """One additive model a space: of its first accuracy table, else of its first additive predictor."""
    found: dict[str, Accuracy] = {}
    for name, table in sources.accuracy:
        if table.space.name not in found:
            try:
                model = AdditiveAccuracy.fit(table.space, table)
            except UsageError:
                continue  # too few subnets: the sources' list says how many there are
            found[table.space.name] = Accuracy(name, table.space, model, table)
    for name, fitted in sources.predictors:
        predictor = fitted.predictor
        if isinstance(predictor, AdditiveAccuracy) and predictor.space.name not in found:
            found[predictor.space.name] = Accuracy(name, predictor.space, predictor, None)
    return list(found.values())


def fronts(
    found: Sequence[Device], known: Sequence[Accuracy], confidence: float, *, accept_unknown: bool = False
) -> Fronts:
    """The front of every device that there is an accuracy model for."""
    drawn, left_out = [], []
    for device in found:
        try:
            drawn.append(_front(device, known, confidence, accept_unknown))
        except (UsageError, BadFile) as error:
            hint = f" ({error.hint})" if error.hint else ""
            left_out.append(f"{device.name}: {error.message}{hint}")
    return Fronts(tuple(drawn), tuple(left_out))


def _front(device: Device, known: Sequence[Accuracy], confidence: float, accept_unknown: bool) -> DeviceFront:
    """Raises UsageError or BadFile, saying why there is none."""
    model = device.model
    if model is None:
        raise BadFile("nothing can be predicted from its table; its health says why")
    if device.unknown and not accept_unknown:
        raise BadFile(
            f"its table does not tell its {', '.join(device.unknown)}", hint="pass --accept-unknown to trust it"
        )
    accuracy = next((a for a in known if a.space.name == device.table.header.space), None)
    if accuracy is None:
        raise UsageError(
            f"there is no accuracy table of space {device.table.header.space}",
            hint="give one, or a predictor of kind additive",
        )
    if not _of_space(device, accuracy.space):
        raise UsageError(f"its space and that of {accuracy.name} differ, though both are called {accuracy.space.name}")
    resolutions = shared_resolutions(model.resolutions, accuracy.model)
    front = exact_front(accuracy.space, model, accuracy.model, resolutions)
    if len(front) == 0:
        raise BadFile("no subnet can run on it, since blocks failed")
    indices = np.unique(np.linspace(0, len(front) - 1, _SHOWN).round().astype(int)).tolist()
    shown = tuple(_candidate(_costs(device, model, accuracy, confidence), accuracy, front.arch(i)) for i in indices)
    return DeviceFront(device, model, accuracy, resolutions, front, shown, _measured(model, accuracy, resolutions))


def _costs(device: Device, model: LatencyModel, accuracy: Accuracy, confidence: float) -> CostModels:
    return CostModels(accuracy.space, model, (), confidence, stored=Stored.of(device.table.conditions))


def _candidate(costs: CostModels, accuracy: Accuracy, arch: Arch) -> Candidate:
    """A subnet with what both models say of it."""
    return costs.candidate(arch, accuracy.model.estimate(arch, costs.confidence))


def _measured(model: LatencyModel, accuracy: Accuracy, resolutions: Sequence[int]) -> np.ndarray:
    if accuracy.table is None:
        return np.empty((0, 2))
    frame = accuracy.table.frame
    frame = frame[frame["resolution"].isin(resolutions)]
    frame = frame.iloc[:: -(-len(frame) // _MOST_DOTS) or 1]
    if frame.empty:
        return np.empty((0, 2))
    archs = ArchArrays.of(accuracy.space, list(frame["arch"]))
    ms = BatchCosts(accuracy.space, model, resolutions).latency_ms(archs)
    found = np.stack([ms, frame["top1"].to_numpy(float)], axis=1)
    return np.asarray(found[ms < FAILED / PER_MS])


# -- budgets --------------------------------------------------------------------------------------
def best(of: DeviceFront, budget: Budget, confidence: float) -> Candidate | str:
    """The subnet with the highest predicted top-1 within a budget; where there is none, why, in a few words."""
    if set(budget.searched()) != {"latency_ms"}:
        return _best_of_several(of, budget, confidence)
    limit = (budget.latency_ms or 0.0) / (1 + of.model.margin(confidence))
    costs = _costs(of.device, of.model, of.accuracy, confidence)
    for i in reversed(np.flatnonzero(of.front.latency_ms <= limit).tolist()):
        found = _candidate(costs, of.accuracy, of.front.arch(i))
        if excess(found, budget) <= 1:  # its own interval has the last word, as in choose.py
            return found
    return _NONE_FITS


def _best_of_several(of: DeviceFront, budget: Budget, confidence: float) -> Candidate | str:
    """Under other limits than latency's, which the front does not have."""
    energy = None
    if budget.energy_mj is not None:
        try:
            energy = EnergyModel.from_table(of.device.table, of.model)
        except BadFile:
            return "its table holds no energies"
    try:
        costs = replace(_costs(of.device, of.model, of.accuracy, confidence), resolutions=of.resolutions, energy=energy)
        found = choose(costs, of.accuracy.model, budget, inputs={}, top=0).selection
    except InfeasibleBudget:
        return _NONE_FITS
    return Candidate(found.arch, found.top1, found.latency_ms, found.cost, found.energy_mj)


def default_budgets(found: Sequence[DeviceFront], confidence: float = 0.95) -> list[Budget]:
    """Latencies, evenly spaced as ratios, from where every device has a subnet to where none gains any more."""
    if not found:
        return []
    least = max(float(f.latency_ms[0]) * (1 + f.model.margin(confidence)) for f in found)
    most = max(float(f.latency_ms[-1]) * (1 + f.model.margin(confidence)) for f in found)
    least = min(least * 1.1, most)
    steps = np.geomspace(least, max(most, least * 1.01), _BUDGETS)
    return [Budget(latency_ms=ms) for ms in dict.fromkeys(_two_digits(float(step)) for step in steps)]


def _two_digits(ms: float) -> float:
    """Rounded up to two significant digits."""
    step = 10.0 ** (math.floor(math.log10(ms)) - 1)
    return float(f"{math.ceil(ms / step - 1e-9) * step:.6g}")


# -- the subnets of the page ------------------------------------------------------------------------
def budgets_of(drawn: Fronts, asked: Sequence[Budget], confidence: float) -> dict[str, tuple[Budget, ...]]:
    """For each space with fronts: what was asked, else `default_budgets`."""
    spaces = dict.fromkeys(front.accuracy.space.name for front in drawn.found)
    return {
        name: tuple(asked or default_budgets([f for f in drawn.found if f.accuracy.space.name == name], confidence))
        for name in spaces
    }


def picks(
    sources: Sources,
    found: Sequence[Device],
    drawn: Fronts,
    budgets: Mapping[str, Sequence[Budget]],
    confidence: float,
) -> list[Pick]:
    """The subnets of the selections; without any the best of each front for the middle one of its space's budgets."""
    by_table = {device.table.sha256: device for device in found}
    chosen: list[Pick] = []
    for choice in sources.selections:
        found_ = choice.selection
        device = by_table.get(found_.inputs.get("latency-table", ""))
        if device is not None and not _of_space(device, found_.space):
            device = None
        stored = Stored.of(found_.runs_on or (None if device is None else device.table.conditions))
        counts = stored.cost(found_.space.blocks(found_.arch))  # a file may say anything
        parts = Candidate(found_.arch, found_.top1, found_.latency_ms, counts, found_.energy_mj)
        runs = None if found_.runs_on is None else str(found_.runs_on)
        name = ", ".join(part for part in (choice.device, runs) if part) if device is None else device.name
        said = ", ".join(part for part in (choice.mode, name, budget_name(found_.budget)) if part)
        place = len(chosen) + 1
        chosen.append(Pick(place, said, choice.origin, found_.space, parts, found_.budget, device, found_.measured))
    for of in () if chosen else drawn.found:
        limits = budgets[of.accuracy.space.name]
        budget = limits[len(limits) // 2]
        best_one = best(of, budget, confidence)
        if isinstance(best_one, Candidate):
            said = f"{of.device.name}, {budget_name(budget)}"
            place, words = len(chosen) + 1, "best of the front"
            chosen.append(Pick(place, said, words, of.accuracy.space, best_one, budget, of.device))
    return chosen


def _of_space(device: Device, space: Space) -> bool:
    """Whether a table is of this space, whatever the number of classes; two may have one name."""
    model = device.model
    return model is None or model.space.with_classes(space.classes) == space


def budget_name(budget: Budget, *, short: bool = False) -> str:
    """'1.5 ms, weights 6 MB'; in short the first limit, and how many more there are."""
    written: dict[str, Callable[[Any], str]] = {
        "latency_ms": lambda ms: f"{ms:g} ms",
        "p90_ms": lambda ms: f"p90 {ms:g} ms",
        "memory_bytes": lambda count: f"memory {size(count, 3)}",
        "size_bytes": lambda count: f"weights {size(count, 3)}",
        "macs": lambda count: f"{number(count / 1e6, 3)} M MACs",
        "energy_mj": lambda mj: f"{mj:g} mJ",
    }
    limits = [written[name](limit) for name, limit in budget.as_json().items()]
    return f"{limits[0]} +{len(limits) - 1}" if short and len(limits) > 1 else ", ".join(limits)


def on_other(pick_: Candidate, of: DeviceFront, confidence: float) -> Estimate | None:
    """The latency of a subnet on another device; None where its table cannot tell."""
    blocks = of.accuracy.space.blocks(pick_.arch)
    if pick_.arch.resolution not in of.resolutions or not of.model.times.knows(blocks):
        return None
    (prediction,) = of.model.predict([pick_.arch], confidence)
    return prediction.latency
