"""The latency tables that come with the package: whole, sound, used as any other, and named in their README."""

from __future__ import annotations

from pathlib import Path

import pytest

from ofa_edge import shipped
from ofa_edge.latency.judging import health
from ofa_edge.latency.stats import Verdict
from ofa_edge.latency.table import LatencyTable

FILES = sorted((shipped.tables() / "latency").glob("*.jsonl"))
SPACES = ("ofa-lite0", "ofa-mbv3-w1.0", "ofa-proxyless-w1.3")


def test_there_is_one_for_each_space_and_runtime() -> None:
    names = [f"{s}-{r}-t1-x86-64.jsonl" for s in SPACES for r in ("litert", "onnxruntime")]
    assert [file.name for file in FILES] == names
    readme = (shipped.tables() / "README.md").read_text(encoding="utf-8")
    assert all(f"latency/{space}-" in readme for space in SPACES)


@pytest.mark.parametrize("file", FILES, ids=[file.stem for file in FILES])
def test_a_shipped_table_is_what_its_name_says_and_predicts_its_space(file: Path) -> None:
    table = LatencyTable.read(file)
    found = table.conditions
    assert file.stem == f"{table.header.space}-{found.runtime}-t{found.threads}-x86-64"
    assert (found.precision, found.emulated) == ("fp32", False)
    report = health.check(table)
    assert table.complete
    assert not [problem for problem in report.problems if problem.level is health.Level.INVALID]
    assert report.verdict in (Verdict.GOOD, Verdict.NOISY)
    assert report.model is not None
    space, sizes = report.model.space, report.model.resolutions
    small, large = (report.model.predict([arch])[0] for arch in (space.smallest(sizes[0]), space.largest(sizes[-1])))
    assert not small.missing
    assert not large.missing
    assert small.latency is not None
    assert large.latency is not None
    assert 0 < small.latency.value < large.latency.value
