"""Campaigns on a simulated device, small enough for a test."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ofa_edge.latency.campaign import campaign
from ofa_edge.latency.campaign.outcome import Outcome
from ofa_edge.latency.conditions import PlanSettings, RunsOn
from ofa_edge.latency.judging import health
from ofa_edge.latency.plan import Plan, make_plan
from ofa_edge.latency.table import LatencyTable
from ofa_edge.space.spaces import OFA_LITE0
from tests.simulated import SimulatedDevice

SPACE = OFA_LITE0
SETTINGS = PlanSettings(seed=1, quick=True, networks=4)


def task(settings: PlanSettings = SETTINGS, resolutions: tuple[int, ...] = (96,)) -> campaign.Task:
    return campaign.Task(SPACE, resolutions, RunsOn(), settings)


def plan_of(work: campaign.Task) -> Plan:
    return make_plan(work.space, work.resolutions, work.settings)


def device_for(work: campaign.Task, **what: Any) -> SimulatedDevice:
    plan = plan_of(work)
    return SimulatedDevice(work.space, [n.arch for n in plan.networks], plan.anchor, **what)


def profile(path: Path, device: SimulatedDevice, work: campaign.Task, **options: Any) -> Outcome:
    return campaign.run(device, path, work, clock=device.clock, pause=device.pause, **options)


def row_problems(table: LatencyTable) -> list[health.Problem]:
    """What is wrong with a table's rows, whatever their figures and the model fitted to them."""
    of_rows = ("unfinished", "failed", "disturbed", "key", "space", "strange", "missing")
    return [problem for problem in health.check(table).problems if problem.code in of_rows]
