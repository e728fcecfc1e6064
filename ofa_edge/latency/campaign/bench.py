"""What both loops of a campaign measure with: the device, its models and its sentinel, and waiting until it is quiet.

In: a device, a plan and the rows. Out: jobs whose models are there, and sentinels in the table. Rules kept: blocks come
to the device together, because one file serves all sizes; networks come a few at a time, just before they are measured,
and where the device has no room for more, those that were measured make it; what there is room for stays, so that a
second campaign sends nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence, Set
from functools import partial

from device_agents import wire
from ofa_edge.errors import NoRoom
from ofa_edge.latency import workload
from ofa_edge.latency.campaign.identity import Identity, Task
from ofa_edge.latency.campaign.quiet import Quiet
from ofa_edge.latency.campaign.rows import Rows
from ofa_edge.latency.plan import Plan, network_key
from ofa_edge.latency.trials import network_job
from ofa_edge.latency.workload import Device, Model
from ofa_edge.space.arch import Arch
from ofa_edge.space.block import Block

_ANCHOR = "anchor"  # its key beside blocks' and networks'


class Models:
    """Model files on the device, by the key of a block or network.

    Attributes:
        pushed: bytes sent.
    """

    def __init__(self, device: Device, task: Task):
        self.pushed = 0
        self._device = device
        self._task = task
        self._models: dict[str, Model] = {}
        self._used: set[str] = set()  # networks that were measured and are still there

    def __getitem__(self, key: str) -> Model:
        return self._models[key]

    @property
    def anchor(self) -> Model:
        return self._models[_ANCHOR]

    def bring_blocks(self, blocks: Sequence[Block]) -> None:
        """Raises NoRoom where there is not enough of it."""
        runs_on = self._task.runs_on
        hashes = self._upload({b.weights_key: partial(workload.block_file, b, runs_on) for b in blocks})
        self._models |= {b.key: Model(hashes[b.weights_key], workload.block_shape(b)) for b in blocks}

    def bring_anchor(self, arch: Arch) -> None:
        """Raises as bring_networks."""
        self.bring_networks({_ANCHOR: arch})

    def bring_networks(self, archs: Mapping[str, Arch]) -> None:
        """Those that are not there yet.

        Args:
            archs: by key.

        Raises:
            NoRoom: not even in place of the networks that were measured.
        """
        lacking = {key: arch for key, arch in archs.items() if key not in self._models}
        files = {
            key: workload.network_source(self._task.space, arch, self._task.runs_on).make
            for key, arch in lacking.items()
        }
        try:
            hashes = self._upload(files)
        except NoRoom:
            if not self._discarded(keep=archs.keys()):
                raise
            hashes = self._upload(files)
        self._models |= {key: Model(sha256, {}) for key, sha256 in hashes.items()}

    def used(self, key: str) -> None:
        """A network was measured: its file may make room; it is brought again where it is measured again."""
        self._used.add(key)

    def _discarded(self, keep: Set[str]) -> int:
        """Blobs that were removed: those of measured networks, unless they are the anchor's too."""
        gone = {self._models.pop(key).sha256 for key in self._used - keep}
        self._used &= keep
        still = {model.sha256 for model in self._models.values()}
        return self._device.discard(sorted(gone - still)) if gone - still else 0

    def _upload(self, files: Mapping[str, Callable[[], bytes]]) -> dict[str, str]:
        hashes, sent = workload.upload(self._device, files)
        self.pushed += sent
        return hashes


class Bench:
    """A device made ready to measure a plan.

    Args:
        patience: seconds that all waits may take, beside the plan's own; 0 for a device that is to stay warm.
    """

    def __init__(
        self,
        device: Device,
        task: Task,
        plan: Plan,
        rows: Rows,
        *,
        clock: Callable[[], float],
        pause: Callable[[float], None],
        patience: float,
    ):
        self.device = device
        self.task = task
        self.plan = plan
        self.rows = rows
        self.models = Models(device, task)
        self.identity = Identity(device, task.runs_on, rows)
        self.quiet = Quiet(self.look, clock, pause, together=patience)
        self.clock = clock

    def late(self, deadline: float | None) -> bool:
        return deadline is not None and self.clock() >= deadline

    def wait(self, deadline: float | None) -> bool:
        """Until the device is quiet, as long as the plan has patience."""
        patience = self.clock() + max(0.0, self.plan.effort.patience - self.quiet.waited)
        return self.quiet.wait(patience if deadline is None else min(deadline, patience))

    def look(self, *, fresh: bool = False) -> wire.Measured | wire.Failed:
        """The sentinel, or where there is none the anchor, without a row."""
        plan, runs_on = self.plan, self.task.runs_on
        if plan.sentinel is None:
            key = network_key(self.task.space, plan.anchor)
            job = network_job(key, self.models.anchor, None, runs_on, plan.effort)
        else:
            job = self.block_job(plan.sentinel, plan.effort.block_seconds)
        (result,) = self.device.measure([job], fresh=fresh)
        return result

    def measure_sentinel(self, *, fresh: bool = False) -> None:
        """A row of the sentinel; a governor that it saw change is asked about at once."""
        result = self.look(fresh=fresh)
        if isinstance(result, wire.Measured):
            self.quiet.saw(result, sentinel=True)
            self.rows.sentinel(result)
            if result.noise.governor not in (wire.Noise.governor, self.identity.facts.governor):
                self.identity.require_same()

    def block_job(self, block: Block, seconds: float) -> wire.MeasureJob:
        rel = self.plan.effort.block_rel
        return workload.timing_job(block.key, self.models[block.key], self.task.runs_on, rel=rel, seconds=seconds)
