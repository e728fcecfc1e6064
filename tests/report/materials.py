"""Files that a page is made from, of simulated boards that differ in what they are slow at."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ofa_edge import journal
from ofa_edge.accuracy.predictor import AdditiveAccuracy
from ofa_edge.accuracy.table import AccuracyTable
from ofa_edge.latency.campaign import campaign
from ofa_edge.latency.conditions import PlanSettings, RunsOn
from ofa_edge.latency.models.predictors import model_of
from ofa_edge.latency.table import FORMAT, LatencyTable
from ofa_edge.report import sources
from ofa_edge.report.page import Page, page
from ofa_edge.search.budget import Budget
from ofa_edge.search.choose import choose
from ofa_edge.search.models import CostModels
from ofa_edge.space.block import Block
from tests.reduced import REDUCED, simulated, write_accuracies, write_latencies
from tests.report.test_markup import Seen
from tests.simulated import FACTS, Law

TASK = campaign.Task(REDUCED, REDUCED.resolutions, RunsOn(), PlanSettings(seed=1, quick=False, networks=8, holdout=4))
CHECKPOINT = "c0ffee" + "0" * 58
EVERYTHING = ("slow.jsonl", "fast.jsonl", "accuracy.jsonl", "slow.json", "fast.json", "pairwise.safetensors")
SECTIONS = ["fronts", "budgets", "subnets", "blocks", "predictions", "macs", "accuracy", "health"]


@dataclass(frozen=True)
class WideLaw(Law):
    """A device that launches slowly and computes fast: depth costs it much, width and kernels little."""

    per_block: float = 0.05
    macs_per_ms: float = 4e8

    def block(self, block: Block) -> float:
        return super().block(block) * (2.0 if block.kernel == 3 else 1.0)


def write_tables(folder: Path) -> tuple[Path, Path, Path]:
    """Latency tables of two boards, and the accuracy table of their space."""
    slow, fast, accuracy = (folder / name for name in ("slow.jsonl", "fast.jsonl", "accuracy.jsonl"))
    write_latencies(slow, simulated(TASK, noise=0.01), TASK)
    board = simulated(TASK, noise=0.01, law=WideLaw())
    board.facts = replace(FACTS, device_model="Other Board", soc="SIM2")
    write_latencies(fast, board, TASK)
    write_accuracies(accuracy, CHECKPOINT, subnets=60)
    return slow, fast, accuracy


def write_selection(path: Path, latency: Path, accuracy: Path, share: float = 0.5) -> Budget:
    """A selection at a latency between the least and the greatest of the front; returns its budget."""
    table, rows = LatencyTable.read(latency), AccuracyTable.read(accuracy)
    model = model_of(table)
    low, high = (model.estimate(REDUCED.blocks(a)).value for a in (REDUCED.smallest(32), REDUCED.largest(48)))
    budget = Budget(latency_ms=round((low + share * (high - low)) * (1 + model.margin()), 4))
    chosen = choose(
        CostModels(REDUCED, model, REDUCED.resolutions),
        AdditiveAccuracy.fit(REDUCED, rows),
        budget,
        inputs={"latency-table": table.sha256, "accuracy-table": rows.sha256},
    )
    chosen.selection.write(path)
    return budget


def renamed(source: Path, target: Path, **conditions: Any) -> None:
    """The same table under other conditions, of which nobody checks where they come from."""
    contents = journal.read(source, FORMAT)
    header = contents.header | {"conditions": contents.header["conditions"] | conditions}
    journal.write(target, FORMAT, header, contents.rows, version=contents.version)


def made(folder: Path, *names: str, **options: Any) -> Page:
    """The page of these files of a folder."""
    return page(sources.read([folder / name for name in names]), **options)


def drawn(found: Page) -> list[str]:
    """Its sections that have a body."""
    return [section.ident for section in found.sections if section.body is not None]


def text_of(found: Page) -> str:
    """What can be read on it."""
    return " ".join(Seen.of(re.sub(r"<style>.*?</style>", "", found.content.decode())).data.split())
