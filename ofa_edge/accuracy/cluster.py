"""Many subnets over many machines: a Ray cluster counts, this process writes the table.

In: an evaluator's Source, archs, the address of a cluster. Out: rows in a table's journal, in the order they come.
Rules kept: a task is one subnet and returns one count, so a worker that is lost costs that subnet again and nothing
else; what a task needs travels once to each machine; Ray is imported only here, and only when this is asked for.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Sequence
from typing import Any

import ray

from ofa_edge.accuracy.evaluate import Evaluator, Source, count, note
from ofa_edge.accuracy.table import AccuracyWriter
from ofa_edge.errors import OfaEdgeError, UsageError
from ofa_edge.space.arch import Arch

LOCAL = "local"
RETRIES = 3

# Tasks under way for each core: one running, one ready.
_AHEAD = 2

# In a worker: the evaluator it made for its first task, and which run that was of.
_made: dict[str, Evaluator] = {}


def fill_table(
    source: Source,
    archs: Sequence[Arch],
    writer: AccuracyWriter,
    report: Callable[[], None],
    *,
    address: str = LOCAL,
    workers: int | None = None,
) -> int:
    """Measure the archs that the table does not have yet on a cluster; returns how many were measured.

    Args:
        report: called once for each arch.
        address: of the cluster's head, or 'local' for one on this machine that ends with this call.
        workers: of a local cluster; all cores where left out.

    Raises:
        UsageError: there is no cluster at the address.
    """
    _connect(address, workers)
    try:
        task = ray.remote(num_cpus=1, max_retries=RETRIES)(_count)
        shared, run = ray.put(source), uuid.uuid4().hex
        missing = [arch for arch in archs if arch not in writer]
        for _ in range(len(archs) - len(missing)):
            report()
        ahead = _AHEAD * max(1, int(ray.cluster_resources().get("CPU", 1)))
        running: dict[Any, Arch] = {}
        measured = 0
        missing.reverse()  # taken from the end
        while missing or running:
            while missing and len(running) < ahead:
                arch = missing.pop()
                running[task.remote([shared], run, arch)] = arch
            (done,), _ = ray.wait(list(running))
            measured += note(writer, running.pop(done), _result(done), len(source.images))
            report()
        return measured
    finally:
        ray.shutdown()


def _connect(address: str, workers: int | None) -> None:
    quiet = {"include_dashboard": False, "num_cpus": workers} if address == LOCAL else {"address": address}
    try:
        ray.init(log_to_driver=False, configure_logging=False, **quiet)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise UsageError(
            f"no Ray cluster answers at {address}: {error}"[:500], hint="start one with `ray start`, or use --ray local"
        ) from error


def _count(shared: list[Any], run: str, arch: Arch) -> int | str:
    """The task, in a worker. `shared` holds the Source's reference, so that only a worker's first task reads it."""
    if run not in _made:
        _made.clear()
        _made[run] = ray.get(shared[0]).evaluator(workers=1)
    return count(_made[run], arch)


def _result(done: Any) -> int | str:
    try:
        counted: int | str = ray.get(done)
        return counted
    except ray.exceptions.RayError as error:
        if isinstance(error, ray.exceptions.RayTaskError):
            cause = error.cause if isinstance(error.cause, ImportError) else None
            raise OfaEdgeError(
                f"the cluster's workers cannot run ofa-edge: {cause or str(error).splitlines()[-1]}"[:500],
                hint="install the same ofa-edge on every machine of the cluster",
            ) from error
        return f"its worker was lost {RETRIES + 1} times: {type(error).__name__}"
