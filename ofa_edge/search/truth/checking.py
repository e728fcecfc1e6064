"""Measuring a shortlist: what is missing in its journal is measured and written down, subnet by subnet.

In: archs, a device or a way to classify images, the journal. Out: rows of the journal, and the reasons of those that
failed. Rules kept: what the journal holds is not measured again; processes go over all subnets in turn, each
interleaved with the anchor (latency/trials.py), so that a slow minute does not hit one subnet alone; a failure costs
one subnet.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial

from device_agents import wire
from ofa_edge.errors import OfaEdgeError
from ofa_edge.latency import trials, workload
from ofa_edge.latency.conditions import RunsOn
from ofa_edge.latency.plan import Effort
from ofa_edge.search.truth.journal import Process, TruthJournal
from ofa_edge.search.truth.posterior import Bools
from ofa_edge.space.arch import Arch, Space


def time_missing(
    device: workload.Device,
    archs: Sequence[Arch],
    notes: TruthJournal,
    under: str,
    *,
    space: Space,
    anchor: workload.Source,
    reference_ms: float | None,
    runs_on: RunsOn,
    processes: int,
    effort: Effort,
    report: Callable[[int], None] = lambda count: None,
) -> dict[Arch, str]:
    """Time each subnet in `processes` fresh processes, or as many as the journal lacks; why some could not be timed.

    What the journal holds of disturbed processes is not counted, so another run at a quieter time replaces them.

    Args:
        under: the journal's key of the device, the anchor and the effort.
        anchor: the network interleaved; `reference_ms` is what it takes undisturbed, where that is known.
        report: told how many more processes are done.

    Raises:
        UsageError, DeviceLost: as trials.measure_networks.
    """
    keys = {str(i): arch for i, arch in enumerate(archs)}
    # Asked for once a round, made once.
    sources = {
        key: workload.Source(cache(partial(workload.network_file, space, arch, runs_on))) for key, arch in keys.items()
    }
    beside = workload.Source(cache(anchor.make), anchor.shape)
    failed: dict[Arch, str] = {}

    def note(key: str, trial: trials.Trial) -> None:
        found = trial.result
        if isinstance(found, wire.Failed):
            failed[keys[key]] = found.reason
        elif trial.disturbed and trial.attempt < effort.attempts:
            return  # it is repeated
        else:
            ratio = None if found.ratio is None else found.ratio.median
            beside_ms = None if found.anchor is None else found.anchor.median
            notes.add_process(under, keys[key], Process(found.figures.median, ratio, beside_ms, trial.flags))
        report(1)

    def quiet(arch: Arch) -> int:
        return sum(not process.disturbed for process in notes.processes(under, arch))

    for number in range(processes):
        waiting = {key for key, arch in keys.items() if quiet(arch) <= number}
        report(len(keys) - len(waiting))
        left = {key: source for key, source in sources.items() if key in waiting and keys[key] not in failed}
        if left:
            trials.measure_networks(
                device,
                left,
                runs_on=runs_on,
                processes=1,
                anchor=beside,
                reference_ms=reference_ms,
                effort=effort,
                on_process=note,
            )
    return failed


def evaluate_missing(
    right: Callable[[Arch], Bools],
    archs: Sequence[Arch],
    notes: TruthJournal,
    under: str,
    report: Callable[[Arch], None] = lambda arch: None,
) -> dict[Arch, str]:
    """Classify the images with each subnet that the journal does not have; why some could not be.

    Args:
        right: which images a subnet gets right, (n,).
        under: the journal's key of the checkpoint, the images and the batch-norm statistics.
        report: told of each subnet that is done.
    """
    failed: dict[Arch, str] = {}
    for arch in archs:
        if notes.right(under, arch) is None:
            try:
                notes.add_right(under, arch, right(arch))
            except OfaEdgeError as error:
                failed[arch] = error.message
            except Exception as error:  # a runtime's own errors share no base
                failed[arch] = f"{type(error).__name__}: {error}"
        report(arch)
    return failed
