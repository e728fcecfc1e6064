"""Selections and a checkpoint become a bundle; and the function that measures a bundle's promises.

In: what was chosen for each mode, the weights it is cut from, how it will run. Out: a Bundle whose models were run here
and held against the reference arithmetic before any device sees them. Rules kept: a model is made as its latency was
predicted (runtime, precision, type of activations), or not at all; int8 is calibrated on images, never on noise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from device_agents import wire
from ofa_edge.deploy import bundle as bundles
from ofa_edge.deploy.bundle import Bundle, Part, Promise, Tensors
from ofa_edge.deploy.manifest import DEFAULT_MODE, Budget, Manifest, Mode, Predicted, Sources
from ofa_edge.deploy.outcome import Measure, Timing
from ofa_edge.errors import BadFile, UsageError
from ofa_edge.graph import build, compiling
from ofa_edge.latency import plan, trials, workload
from ofa_edge.latency.conditions import UNKNOWN, Activations, Conditions, RunsOn
from ofa_edge.latency.models.model import LatencyModel
from ofa_edge.latency.table import DISTURBING
from ofa_edge.search.selection import Selection
from ofa_edge.space.arch import Arch
from ofa_edge.space.spaces import OFA_LITE0, SPACES
from ofa_edge.weights.checkpoint import Checkpoint

# Fresh processes of a trial: the median of five bears two bad ones.
TRIAL_PROCESSES = 5

Calibration = Callable[[int], np.ndarray]
"""Images of a resolution as a network reads them, float32 (N, 3, R, R)."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What was chosen for one mode.

    Attributes:
        selection: or a subnet that nobody selected, of which nothing is promised.
        conditions: those of the latency table the selection was made with; None where it is not at hand, and then
            the device's state cannot be held against it.
        name: of the mode.
    """

    selection: Selection | Arch
    runs_on: RunsOn
    conditions: Conditions | None = None
    name: str = DEFAULT_MODE

    @property
    def arch(self) -> Arch:
        return self.selection if isinstance(self.selection, Arch) else self.selection.arch

    @property
    def inputs(self) -> Mapping[str, str]:
        """What it comes from besides the checkpoint, by role."""
        return {} if isinstance(self.selection, Arch) else self.selection.inputs

    @property
    def promise(self) -> Promise:
        if isinstance(self.selection, Arch):
            return Promise()
        estimate = self.selection.latency_ms
        return Promise(
            budget=_promised(self.selection),
            predicted=Predicted(value=estimate.value, low=estimate.low, high=estimate.high),
            top1=100 * self.selection.top1.value,
            conditions=self.conditions,
        )


def assemble(
    choices: Sequence[Choice],
    checkpoint: Checkpoint,
    *,
    app: str,
    calibration: Calibration | None = None,
    machine: str = "",
    notice: Callable[[str], object] = lambda text: None,
) -> Bundle:
    """Cut, fold, write, check and pack the selected subnets: one for each mode, the default first.

    Args:
        calibration: gives what int8 is calibrated on.
        machine: processor of the device, which decides the type of int8 activations where the latency table says none.
        notice: is told what a person should know of the models.

    Raises:
        BadFile: a selection was made for another checkpoint.
        OfaEdgeError: a model does not compute what the reference does.
        UsageError: `app` or a mode's name is not a plain name; as require_deployable and compile_graph.
    """
    for choice in choices:
        require_deployable(choice.runs_on, choice.conditions)
        if not isinstance(choice.selection, Arch):
            require_checkpoint(choice.selection, checkpoint)
    inputs = [choice.inputs for choice in choices]

    def common(role: str) -> str | None:
        """What they do not share is nobody's."""
        found = {one.get(role) for one in inputs}
        return found.pop() if len(found) == 1 else None

    return bundles.build(
        app=app,
        space=checkpoint.space,
        parts=[_part(choice, checkpoint, calibration, machine, notice) for choice in choices],
        labels=checkpoint.metadata.labels,
        sources=Sources(
            checkpoint=checkpoint.sha256,
            latency_table=common("latency-table"),
            accuracy_table=common("accuracy-table"),
            bn="bank",
        ),
    )


def _part(
    choice: Choice,
    checkpoint: Checkpoint,
    calibration: Calibration | None,
    machine: str,
    notice: Callable[[str], object],
) -> Part:
    """One mode: its model, checked here, and what was promised of it."""
    arch, runs_on = choice.arch, choice.runs_on
    of = "" if choice.name == DEFAULT_MODE else f" of mode {choice.name}"
    images = None
    if runs_on.precision == "int8":
        runs_on = replace(runs_on, activations=_activations(choice, machine))
        images = calibration(arch.resolution) if calibration else None
    compiled = compiling.compile_graph(
        build.network(checkpoint.space.layers(arch), checkpoint.folded(arch)),
        runtime=runs_on.runtime,
        precision=runs_on.precision,
        calibration=images,
        activations=runs_on.activations,
        name=f"the compiled model{of}",
    )
    for text in compiled.notices:
        notice(f"the model{of}: {text}")
    golden = compiled.golden
    tensors = Tensors(golden.inputs, golden.outputs)
    return Part(arch, compiled.content, tensors, runs_on, choice.promise, choice.name, golden.tolerance)


def _activations(choice: Choice, machine: str) -> Activations:
    """As the latency was predicted for; where nobody says, what is usual on such a machine."""
    if choice.runs_on.activations is not None:
        return choice.runs_on.activations
    measured = None if choice.conditions is None else choice.conditions.deployed_on
    if measured is not None and measured.activations is not None:
        return measured.activations
    return "int8" if choice.runs_on.runtime == "litert" else compiling.usual_activations(machine)


def _promised(selection: Selection) -> Budget:
    """The limits that a bundle speaks of: a device is not asked for energy, so no limit on it is promised."""
    limits = selection.budget.as_json()
    return Budget.model_validate({name: limit for name, limit in limits.items() if name in Budget.model_fields})


def require_deployable(runs_on: RunsOn, conditions: Conditions | None = None) -> None:
    """Raises UsageError where no bundle can be made that runs so, or for what was promised under such conditions."""
    for key, known in (("runtime", compiling.FORMATS), ("precision", compiling.PRECISIONS)):
        if (asked := getattr(runs_on, key)) not in known:
            raise UsageError(f"no bundle can be made of {key} {asked!r}", hint=f"use {' or '.join(known)}")
    if conditions is None:
        return
    made = {"runtime": runs_on.runtime, "precision": runs_on.precision.replace("fp16", "fp32")}  # Runs.measured_as
    if runs_on.activations is not None and conditions.lossy:
        made["activations"] = runs_on.activations
    for key, value in made.items():
        promised = getattr(conditions, key)
        if promised not in (value, UNKNOWN):
            raise UsageError(
                f"the latency was predicted for {key} {promised}, and this bundle would be of {key} {value}: "
                "its promise would be about another model",
                hint=f"deploy with --{key} {promised}, or choose by a table of `ofa-edge profile --{key} {value}`",
            )


def require_checkpoint(selection: Selection, checkpoint: Checkpoint) -> None:
    """Raises BadFile where the selection was made for another checkpoint."""
    made_for = selection.inputs.get("supernet", checkpoint.sha256)
    if made_for != checkpoint.sha256:
        raise BadFile(
            f"the selection was made for checkpoint {made_for[:12]}, this one is {checkpoint.sha256[:12]}",
            hint="select again, or name the checkpoint it was made for with --supernet",
        )


def measurer(
    device: workload.Device,
    models: Mapping[str, LatencyModel | None],
    *,
    on_process: Callable[[], object] = lambda: None,
) -> Measure:
    """Measures a mode's model, which the device has, as promises are judged: raw medians of fresh processes,
    interleaved with an anchor, as the mode runs.

    The measurement is disturbed where more of its processes were than their median bears; it is the caller's to
    repeat it. It failed where any process did.

    Args:
        models: by mode, the latency model its promise was made with. A process whose anchor is off the reference in
            its table is a disturbed one; without a model nothing says what the anchor should take.
        on_process: called after each process; what it raises ends the measurement.
    """

    def measure(manifest: Manifest, mode: Mode) -> Timing | wire.Failed:
        # Without a model the anchor only says how evenly the device works, and any network will do.
        latency = models.get(mode.name)
        space = latency.space if latency else SPACES.get(manifest.space, OFA_LITE0)
        beside = latency.anchor if latency else plan.middle(space, space.resolutions)
        runs_on = mode.runs.measured_as()
        key = manifest.release if mode is manifest.default else f"{manifest.release} {mode.name}"
        processes: list[trials.Trial] = []

        def note(_: str, trial: trials.Trial) -> None:
            processes.append(trial)
            on_process()

        (found,) = trials.measure_networks(
            device,
            {key: workload.Source.there(manifest.file(mode.model).sha256)},
            runs_on=runs_on,
            processes=TRIAL_PROCESSES,
            anchor=workload.network_source(space, beside, runs_on),
            reference_ms=latency.reference_ms if latency else None,
            effort=replace(plan.QUICK, attempts=1),
            on_process=note,
        )
        # One that crashed is no slow one, which a median bears: the model would crash in use, too.
        crashed = [trial.result.reason for trial in processes if isinstance(trial.result, wire.Failed)]
        if found.figures is None or crashed:
            return wire.Failed(key, _crashed(crashed))
        p90 = float(np.median([t.result.figures.p90 for t in processes if isinstance(t.result, wire.Measured)]))
        bad = [trial for trial in processes if trial.disturbed]
        if len(bad) <= TRIAL_PROCESSES // 2:
            return Timing(found.figures.median, p90_ms=p90)
        disturbing = DISTURBING | {trials.ANCHOR_OFF}
        return Timing(found.figures.median, tuple(flag for flag in found.flags if flag in disturbing), p90)

    return measure


def _crashed(reasons: Sequence[str]) -> str:
    if not reasons:
        return "no process gave a result"
    few = f"{len(reasons)} of {TRIAL_PROCESSES} processes: " if len(reasons) < TRIAL_PROCESSES else ""
    return f"{few}{reasons[-1]}"
