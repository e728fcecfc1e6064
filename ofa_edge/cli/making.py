"""From what was selected to a bundle for a device: how models run, what int8 is calibrated on, one assembly at a time.

In: a checkpoint, how a person wants models to run, images. Out: Bundles. Rules kept: a selection that says how it is
run is run so, whatever the options' defaults are; devices that get the same models get the same bytes, made once.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from ofa_edge.cli import options
from ofa_edge.cli.output import Output
from ofa_edge.deploy import assemble
from ofa_edge.deploy.assemble import Choice
from ofa_edge.errors import UsageError
from ofa_edge.graph.compiling import PRECISIONS, usual_activations
from ofa_edge.graph.stored import HALF
from ofa_edge.latency.conditions import RunsOn
from ofa_edge.space.arch import Arch

if TYPE_CHECKING:
    from ofa_edge.deploy.bundle import Bundle
    from ofa_edge.search.selection import Selection
    from ofa_edge.weights.checkpoint import Checkpoint


@dataclass(frozen=True, slots=True)
class Asked:
    """--runtime, --threads, --cores and --precision; None for those that were not given."""

    runtime: str | None = None
    threads: int | None = None
    cores: str | None = None
    precision: str | None = None

    @property
    def runs_on(self) -> RunsOn:
        """With what is usual for the rest. Raises UsageError as options.runs_on."""
        return options.runs_on(
            self.runtime or "onnxruntime",
            self.threads or 1,
            self.cores,
            self.precision or "fp32",
            precisions=PRECISIONS,
        )

    def of(self, selection: Selection) -> RunsOn:
        """How a selection runs. As it says, if it does; but weights in half precision are no other way to run it."""
        own = selection.runs_on
        if own is None:
            return self.runs_on
        return replace(own, precision="fp16") if (own.precision, self.precision) == ("fp32", "fp16") else own

    def passed_over(self, selection: Selection) -> list[str]:
        """The options that a selection has an answer of its own to."""
        own, asked = self.of(selection), self.runs_on
        names = ("runtime", "threads", "cores", "precision")
        return [f"--{n}" for n in names if getattr(self, n) is not None and getattr(own, n) != getattr(asked, n)]


@dataclass
class Making:
    """What bundles are made with.

    Args:
        app: None for the space's name.
        data: images that int8 is calibrated on.
    """

    checkpoint: Checkpoint
    app: str | None
    asked: Asked
    data: Path | None
    out: Output
    _made: dict[tuple[object, ...], Bundle] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self._images = None
        if self.data is not None:
            from ofa_edge.cli.export_images import Images
            from ofa_edge.cli.inputs import Weights

            self._images = Images(self.data, Weights(self.checkpoint.space, self.checkpoint), self.out)

    def require(self, runs: Sequence[RunsOn]) -> None:
        """Raises UsageError where bundles that run so cannot be made here: no such runtime, no images for int8, a
        package that is not installed."""
        for runs_on in runs:
            assemble.require_deployable(runs_on)
            options.require_writers(runs_on)
        lossy = any(runs_on.precision == "int8" for runs_on in runs)
        if lossy and self.data is None:
            raise UsageError("int8 is calibrated on images, and there are none", hint="add --data PATH")
        if self.data is not None and not lossy:
            raise UsageError("--data is what int8 is calibrated on", hint="add --precision int8, or leave --data out")

    def require_selected(self, selections: Sequence[Selection], file: Path) -> None:
        """As `require`, for what a file says; options that it has an answer of its own to are passed over aloud."""
        self.require([self.asked.of(chosen) for chosen in selections])
        if passed_over := sorted({option for chosen in selections for option in self.asked.passed_over(chosen)}):
            self.out.notice(f"{file} says how its subnets run: {', '.join(passed_over)} passed over")
        if any(chosen.runs_on not in (None, self.asked.of(chosen)) for chosen in selections):
            self.out.notice(f"fp16 runs as {file} predicts, by a table of fp32: {HALF}")

    def bundle(self, choices: Sequence[Choice], machine: str, said: Output) -> Bundle:
        """A bundle of these modes for a device with this processor. Raises as assemble.assemble."""
        with self._lock:
            key = (usual_activations(machine), *(_key(choice) for choice in choices))
            if key not in self._made:
                self._made[key] = assemble.assemble(
                    choices,
                    self.checkpoint,
                    app=self.app or self.checkpoint.space.name,
                    calibration=None if self._images is None else self._images.calibration,
                    machine=machine,
                    notice=said.notice,
                )
            return self._made[key]


def _key(choice: Choice) -> tuple[object, ...]:
    conditions = None if choice.conditions is None else choice.conditions.model_dump_json()
    chosen = choice.selection
    return (choice.name, chosen if isinstance(chosen, Arch) else chosen.to_bytes(), choice.runs_on, conditions)
