"""The same campaign through a real agent and ONNX Runtime on this machine: what comes back, not how fast."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ofa_edge.device.local import LocalLink
from ofa_edge.device.opening import open_session
from ofa_edge.latency import plan
from ofa_edge.latency.campaign import campaign
from ofa_edge.latency.conditions import PlanSettings, RunsOn
from ofa_edge.latency.plan import QUICK, middle
from ofa_edge.latency.trials import measure_networks
from ofa_edge.latency.workload import network_source
from tests.latency.helpers import SPACE, row_problems, task


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_profile_and_measure_on_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plan, "QUICK", replace(QUICK, block_seconds=0.05, network_seconds=0.5, patience=0.0))
    work = task(PlanSettings(seed=0, quick=True, networks=2))
    with open_session(LocalLink(root=str(tmp_path / "device"))) as session:
        outcome = campaign.run(session, tmp_path / "t.jsonl", work)
        table = outcome.table
        assert outcome.finished
        assert table.complete
        assert {problem.code for problem in row_problems(table)} <= {"disturbed"}
        assert len(table.blocks) == 56
        assert (table.blocks["median"] > 0).all()
        assert table.networks["ratio_median"].notna().all()
        assert table.conditions.runtime == "onnxruntime"
        small, large = (outcome.fitted.predict([arch])[0].latency for arch in (SPACE.smallest(96), SPACE.largest(96)))
        assert small is not None
        assert large is not None
        assert 0 < small.value < large.value

        anchor = network_source(SPACE, middle(SPACE, (96,)), RunsOn())
        sources = {"small": network_source(SPACE, SPACE.smallest(96), RunsOn())}
        (found,) = measure_networks(
            session, sources, runs_on=RunsOn(), processes=1, anchor=anchor,
            reference_ms=outcome.fitted.reference_ms, effort=plan.QUICK,
        )  # fmt: skip
        assert found.failed is None
        assert found.figures is not None
        assert found.anchored is not None
