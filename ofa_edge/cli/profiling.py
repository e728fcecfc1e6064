"""`ofa-edge profile`: latency tables, measured on a device."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ofa_edge import settings
from ofa_edge.cli import options
from ofa_edge.cli.output import Output, size
from ofa_edge.cli.reaching import Reach, reaches
from ofa_edge.errors import DeviceLost, OfaEdgeError, UsageError
from ofa_edge.space.spaces import OFA_LITE0, get_space

if TYPE_CHECKING:
    from device_agents.wire import Facts
    from ofa_edge.latency.campaign.campaign import Step, Task
    from ofa_edge.latency.campaign.energy import Report
    from ofa_edge.latency.campaign.outcome import Outcome
    from ofa_edge.latency.conditions import PlanSettings
    from ofa_edge.latency.stats import Notice
    from ofa_edge.latency.table import LatencyTable
    from ofa_edge.latency.workload import Device

_MOST_NETWORKS = 10_000  # what a table's header may say
_PREDICTORS = ("blocks", "network")
# Whole networks where --networks is left out; with --prior latency.transfer.NETWORKS.
_NETWORKS = {"blocks": 12, "network": 60}
# Fewer cannot be left out one by one.
_FEWEST_NETWORKS, _FEWEST_WITH_PRIOR = 4, 2


@reaches
def profile(
    reach: Reach,
    host: options.Host,
    space: options.MeasuredSpace = None,
    resolutions: options.Resolutions = None,
    runtime: options.Runtime = "onnxruntime",
    threads: options.Threads = 1,
    cores: options.Cores = None,
    precision: options.Precision = "fp32",
    quick: Annotated[
        bool, typer.Option("--quick", help="Measure at most 80 blocks, and shorter; the others are predicted.")
    ] = False,
    networks: Annotated[
        int | None,
        typer.Option(
            "--networks",
            min=0,
            max=_MOST_NETWORKS,
            help="Whole networks to measure: 12 to calibrate blocks (8 to 20 are useful), 60 with --predictor network, "
            "10 with --prior, 4 for another unit.",
            show_default=False,
        ),
    ] = None,
    holdout: Annotated[
        int,
        typer.Option("--holdout", min=0, max=_MOST_NETWORKS, help="Further networks that only judge the prediction."),
    ] = 0,
    predictor: Annotated[
        str | None,
        typer.Option(
            "--predictor",
            metavar="blocks|network",
            help="blocks, the usual: each block; network: whole networks only, for runtimes that run no block alone.",
        ),
    ] = None,
    prior: Annotated[
        Path | None,
        typer.Option(
            "--prior",
            metavar="TABLE",
            help="Start from a table of another device, or of another unit of this one: a few networks bring it here.",
        ),
    ] = None,
    max_minutes: Annotated[
        float | None, typer.Option("--max-minutes", metavar="M", min=0.1, help="Stop then; --resume goes on.")
    ] = None,
    sustained: Annotated[
        bool,
        typer.Option("--sustained", help="Heat the device first, up to ten minutes, and measure its steady state."),
    ] = False,
    energy: Annotated[
        bool,
        typer.Option("--energy", help="Then measure the energy of networks and of some blocks: 6 minutes more."),
    ] = False,
    strict: Annotated[bool, typer.Option("--strict", help="Exit 6 where the table is not trustworthy.")] = False,
    seed: options.Seed = 0,
    out_file: options.MaybeOut = None,
    resume: options.Resume = False,
) -> None:
    """Measure every different block of a space on a device, and whole networks to calibrate their sum.

    Results are appended to the table as they come: Ctrl-C keeps them and --resume goes on. Without --out the table
    goes to the home, and --resume takes the newest one there that was not finished. With --predictor network and with
    --prior no block is measured; predict, select and deploy use such a table as any other.
    """
    from ofa_edge.latency.campaign.campaign import Task
    from ofa_edge.latency.conditions import SUSTAINED
    from ofa_edge.latency.table import LatencyTable

    out = reach.out
    _require_consistent(predictor, prior is not None, networks, quick=quick)
    other = None if prior is None else LatencyTable.read(prior)
    target = get_space(space or OFA_LITE0.name) if space or other is None else other.space
    runs_on = options.runs_on(runtime, threads, cores, precision)
    if sustained:
        runs_on = replace(runs_on, thermal=SUSTAINED)
    allowed = target.resolutions if other is None else tuple(other.header.resolutions)
    settings = settings_of(predictor or "blocks", networks, other, seed=seed, quick=quick, holdout=holdout)
    task = Task(target, options.resolutions(resolutions, allowed), runs_on, settings)
    _require_possible(task, other)
    with reach.open(host) as session:
        path = out_file or table_path(session.facts, task, resume=resume)
        say_device(out, session.facts)
        task = with_activations(out, session, path, task, resume=resume)
        if other is not None:
            task = started_from(other, task, session.facts, networks)
        outcome = measure_table(
            out, session, path, task, go_on="the same command with --resume", resume=resume, max_minutes=max_minutes
        )
        if energy:
            left = math.inf if max_minutes is None else 60 * max_minutes - outcome.seconds
            outcome = measure_energy(out, session, outcome, task, max_seconds=left)
    if strict:
        outcome.require_good()
    out.result(outcome.as_json(), lambda: describe(outcome))


def measure_energy(
    out: Output, device: Device, outcome: Outcome, task: Task, *, max_seconds: float = math.inf
) -> Outcome:
    """The outcome, with the energy of its networks and of some blocks; an unfinished one as it is, with a notice.

    Raises as latency.energy.measure.
    """
    from ofa_edge.latency.campaign import energy

    if not outcome.finished:
        out.notice("energy is measured when the table is finished: the same command with --resume")
        return outcome
    plan = task.plan()
    with out.progress("energy", len(plan.networks) + energy.BLOCKS) as bar:
        report = energy.measure(
            device, outcome.table, plan, task.runs_on, lambda key: bar.advance(1, key), max_seconds=max_seconds
        )
    return replace(outcome, energy=report, notices=(*outcome.notices, *report.notices()))


def _require_consistent(predictor: str | None, prior: bool, networks: int | None, *, quick: bool) -> None:
    """Raises UsageError where options contradict each other."""
    if predictor not in (None, *_PREDICTORS):
        raise UsageError(f"there is no predictor {predictor!r}", hint=f"use one of: {', '.join(_PREDICTORS)}")
    if prior and predictor == "blocks":
        raise UsageError(
            "--prior measures whole networks and takes the blocks from the other table",
            hint="leave --predictor out, or leave --prior out to measure the blocks",
        )
    if quick and (prior or predictor == "network"):
        raise UsageError(
            f"--quick measures fewer blocks, and {'--prior' if prior else '--predictor network'} measures none",
            hint="leave --quick out; a smaller number of --networks takes less time",
        )
    fewest = _FEWEST_WITH_PRIOR if prior else _FEWEST_NETWORKS if predictor == "network" else 0
    if networks is not None and networks < fewest:
        raise UsageError(
            f"{networks} networks are too few to predict from",
            hint=f"give --networks {fewest} or more, or leave it out",
        )


def settings_of(
    predictor: str, networks: int | None, prior: LatencyTable | None, *, seed: int, quick: bool, holdout: int
) -> PlanSettings:
    """What a plan is drawn from; `networks` None is as many as its kind needs (with a prior: another device's)."""
    from ofa_edge.latency.conditions import PlanSettings
    from ofa_edge.latency.models import transfer

    usual = _NETWORKS[predictor] if prior is None else transfer.NETWORKS["transfer"]
    return PlanSettings(
        seed=seed,
        quick=quick,
        networks=usual if networks is None else networks,
        holdout=holdout,
        predictor="network" if predictor == "network" or prior is not None else "blocks",
        prior=None if prior is None else prior.sha256,
    )


def _require_possible(task: Task, prior: LatencyTable | None) -> None:
    """What cannot be planned is refused before connecting. Raises UsageError."""
    from ofa_edge.latency.models import transfer

    if prior is not None:
        transfer.require_cover(prior, task.space, task.resolutions)
    options.require_writers(task.runs_on)
    task.plan()


def started_from(prior: LatencyTable, task: Task, facts: Facts, networks: int | None = None) -> Task:
    """The task that starts from another table, once the device is known.

    Args:
        networks: how many to measure; None is what a transfer, or another unit, needs.

    Raises:
        UsageError: as transfer.start_from; the device has no such runtime or cores.
        BadFile: the prior holds too little to start from.
    """
    from ofa_edge.latency.conditions import conditions
    from ofa_edge.latency.models import transfer
    from ofa_edge.latency.models.predictors import model_of

    now = conditions(facts, task.runs_on)
    start = transfer.start_from(prior, model_of(prior), task.space, task.resolutions, now)
    count = transfer.NETWORKS[start.header.kind] if networks is None else networks
    return replace(task, settings=task.settings.model_copy(update={"networks": count}), start=start)


def with_activations(out: Output, device: Device, path: Path, task: Task, *, resume: bool = False) -> Task:
    """The task with the type of int8 activations: that of the table it goes on with, else what the device is faster
    with, which is measured first.

    Raises:
        UsageError, DeviceLost, NoRoom: as latency.activations.choose.
        BadFile: the table to go on with is damaged.
    """
    from ofa_edge.latency.campaign import activations
    from ofa_edge.latency.table import LatencyTable

    if not activations.open_to_choice(task.runs_on) or (path.exists() and not resume):  # which the campaign refuses
        return task
    if path.exists():
        before = LatencyTable.read(path).conditions.runs_on
        return replace(task, runs_on=replace(task.runs_on, activations=None if before is None else before.activations))
    count = len(activations.networks(task.space, task.resolutions))
    with out.progress("activations", count) as bar:
        found = activations.choose(device, task.space, task.resolutions, task.runs_on, bar.advance)
    out.notice(found.reason)
    runs_on = replace(task.runs_on, activations=found.activations)
    return replace(task, runs_on=runs_on, notes={**task.notes, "activations": found.as_json()})


def table_path(facts: Facts, task: Task, *, resume: bool = False) -> Path:
    """Where a table goes that nobody named.

    It is `<home>/tables/<device model>/<space>-<runtime>-t<threads>[-int8][-quick|-network|-prior][-sustained].jsonl`,
    with the time in the name where that one exists. With `resume` it is the newest of these that was not finished, else
    the newest.
    """
    plan = task.settings
    kinds = {"-prior": plan.prior is not None, "-network": plan.predictor == "network", "-quick": plan.quick}
    kind = next((name for name, is_so in kinds.items() if is_so), "")
    precision = "" if task.runs_on.precision == "fp32" else f"-{task.runs_on.precision}"
    warm = "-sustained" if task.runs_on.thermal == "sustained" else ""
    stem = f"{task.space.name}-{task.runs_on.runtime}-t{task.runs_on.threads}{precision}{kind}{warm}"
    folder = settings.tables_dir(facts.device_model)
    first = folder / f"{stem}.jsonl"
    if not resume:
        return folder / f"{stem}-{time.strftime('%Y%m%d-%H%M%S')}.jsonl" if first.exists() else first
    begun = [path for path in (first, *folder.glob(f"{stem}-[0-9]*.jsonl")) if path.exists()]
    begun.sort(key=lambda path: path.stat().st_mtime, reverse=True)
    return next(filter(_unfinished, begun), begun[0] if begun else first)


def _unfinished(path: Path) -> bool:
    from ofa_edge.latency.table import LatencyTable

    try:
        return not LatencyTable.read(path).complete
    except OfaEdgeError:
        return False


def say_device(out: Output, facts: Facts) -> None:
    """One line about the device, and a warning where its times mean nothing."""
    runtimes = ", ".join(f"{name} {version}" for name, version in facts.runtimes.items()) or "no runtime"
    out.say(f"{facts.device_model}: {facts.soc}, {facts.cores} cores, governor {facts.governor}, {runtimes}")
    if facts.emulated:
        out.warning("this device is emulated: its times say nothing about the real one")


def measure_table(
    out: Output,
    device: Device,
    path: Path,
    task: Task,
    *,
    go_on: str,
    resume: bool = False,
    max_minutes: float | None = None,
) -> Outcome:
    """Run a campaign under a progress bar. Raises as latency.campaign.run.

    Args:
        go_on: the command that goes on where this one is interrupted.
    """
    from ofa_edge.latency.campaign import campaign

    try:
        with _CampaignBar(out) as bar:
            return campaign.run(device, path, task, resume=resume, max_minutes=max_minutes, on_step=bar)
    except (KeyboardInterrupt, DeviceLost):
        out.notice(f"what was measured is kept in {path}; to go on: {go_on}")
        raise


class _CampaignBar:
    """Opens the bar at the first step, when the number of measurements is known."""

    def __init__(self, out: Output):
        self._out = out
        self._context: Any = None
        self._bar: Any = None
        self._done = 0
        self._last = ""

    def __enter__(self) -> _CampaignBar:
        return self

    def __exit__(self, *error: Any) -> None:
        if self._context is not None:
            self._context.__exit__(*error)

    def __call__(self, step: Step) -> None:
        if self._bar is None:
            self._context = self._out.progress("profile", step.total)
            self._bar = self._context.__enter__()
        if step.kind == "wait" != self._last:
            self._out.say("the device is disturbed by other work; waiting until it is quiet")
        detail = step.kind if step.ms is None else f"{step.kind} {step.ms:.3f} ms"
        self._bar.advance(step.done - self._done, detail)
        self._done, self._last = step.done, step.kind


def describe(outcome: Outcome) -> str:
    """The table's summary for people."""
    value = outcome.as_json()
    how, blocks, fit = value["conditions"], value["blocks"], value["fit"]
    lines = [
        f"table      {value['table']}",
        f"run by     {how['runtime']} {how['runtime_version']}, {how['precision']}, {_threads(how['threads'])}",
        f"blocks     {blocks['measured']} of {blocks['distinct']} measured, {blocks['failed']} failed"
        + (f", {blocks['predicted']} predicted" if blocks["predicted"] else ""),
        f"networks   {value['networks']}; {_fit_text(fit)}",
        f"took       {value['seconds']:.0f} s, {size(value['bytes_pushed'])} sent",
        f"verdict    {value['verdict']}",
    ]
    if outcome.energy is not None and outcome.energy.rows:
        lines.append(_energy_text(outcome.energy))
    if held := value["held_out"]:
        lines.append(f"held out   {held['networks']} networks, {held['mape_pct']:.1f} % mean error")
    if (used := value["memory"])["networks"]:
        fitted = used["fitted"]
        more = "" if fitted is None else f"; {fitted['mape_pct']:.1f} % with what the runtime adds"
        lines.append(f"memory     predicted {used['bias_pct']:+.0f} % off on average{more}")
    return "\n".join([*lines, *(f"note       {_said(notice)}" for notice in outcome.notices)])


def _fit_text(fit: Mapping[str, Any] | None) -> str:
    if fit is None:
        return "too few for a prediction"
    error = fit["loo_error_pct"]
    known = "no error known" if error is None else f"{error:.1f} % leave-one-out error"
    return f"prediction: {' + '.join(fit['terms'])}, {known}"


def _threads(count: int) -> str:
    return "1 thread" if count == 1 else f"{count} threads"


def _energy_text(report: Report) -> str:
    """Of networks, of blocks where there are none."""
    found = [row["mj"] for row in report.rows if row["role"] != "block"] or [row["mj"] for row in report.rows]
    return f"energy     {report.sensor}: {min(found):.3g} to {max(found):.3g} mJ a run, {report.idle_w:.2f} W at rest"


def _said(notice: Notice) -> str:
    return f"{notice.text} ({notice.hint})" if notice.hint else notice.text
