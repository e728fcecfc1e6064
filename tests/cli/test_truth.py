"""The truth step: what is measured decides, is kept, and is said; with the real agent here, and a few images."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest

from ofa_edge import settings
from ofa_edge.accuracy import family
from ofa_edge.accuracy.table import AccuracyTable
from ofa_edge.cli import truth, truth_measuring
from ofa_edge.cli.app import main
from ofa_edge.cli.inputs import KeptPredictor, Models
from ofa_edge.cli.output import Output
from ofa_edge.cli.truth_measuring import Asked
from ofa_edge.device import open_device
from ofa_edge.errors import BadFile, DeviceLost, InfeasibleBudget, OfaEdgeError, UsageError
from ofa_edge.latency.plan import QUICK
from ofa_edge.latency.table import LatencyTable
from ofa_edge.search.batch import estimates
from ofa_edge.search.budget import Budget
from ofa_edge.search.choose import Chosen, choose
from ofa_edge.search.sampled.measured import choose_measured
from ofa_edge.search.selection import Selection
from ofa_edge.space.arch import Arch
from ofa_edge.space.population import ArchArrays
from ofa_edge.weights import checkpoint
from tests.reduced import REDUCED, registered, simulated, write_accuracies, write_latencies, write_supernet

BRIEF = replace(QUICK, network_seconds=0.1, attempts=1)


@pytest.fixture(scope="module", autouse=True)
def _spaces() -> Iterator[None]:
    with registered():
        yield


@pytest.fixture(scope="module")
def models(ckpt: Path, tmp_path_factory: pytest.TempPathFactory) -> Models:
    """Of tables whose latencies are of this machine, if one believes their conditions."""
    folder = tmp_path_factory.mktemp("tables")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(settings.HOME_VARIABLE, str(folder / "home"))
        with open_device("local") as session:
            facts = session.facts
    write_latencies(folder / "latency.jsonl", simulated(noise=0.01, facts=facts))
    write_accuracies(folder / "accuracy.jsonl", checkpoint.load(ckpt).sha256)
    return Models(LatencyTable.read(folder / "latency.jsonl"), AccuracyTable.read(folder / "accuracy.jsonl"))


def chosen_at(models: Models, budget: str = "1s", top: int = 5) -> Chosen:
    limits = Budget.parse(budget)
    return choose(models.costs(limits, REDUCED.resolutions), models.accuracy, limits, inputs=models.inputs, top=top)


def heard() -> tuple[Output, io.StringIO]:
    said = io.StringIO()
    return Output(stdout=io.StringIO(), stderr=said), said


def asked(**what: object) -> Asked:
    return replace(Asked(top=3, processes=2, effort=BRIEF, bn_images=40), **what)  # type: ignore[arg-type]


# -- which ----------------------------------------------------------------------------------------
def nearest(archs: list[Arch]) -> int:
    """In how many axis values the two most alike differ."""
    rows = ArchArrays.of(REDUCED, archs).matrix()
    return int(min((rows[i] != rows[j]).sum() for i in range(len(rows)) for j in range(i)))


def test_the_shortlist_begins_with_what_was_chosen_and_the_rest_differ_from_it(models: Models) -> None:
    chosen = chosen_at(models, top=7)
    found = [one.arch for one in truth.shortlisted(chosen, models, 8)]
    assert found[0] == chosen.selection.arch
    assert len(set(found)) == 8
    assert nearest(found) > nearest([found[0], *(one.arch for one in chosen.alternatives)])
    assert [one.arch for one in truth.shortlisted(chosen, models, 8)] == found


def test_a_shortlist_keeps_a_tight_budget_and_is_full_where_there_are_enough(models: Models) -> None:
    middle = models.latency.predict([REDUCED.sample(np.random.default_rng(2), 32)])[0].latency
    assert middle is not None
    chosen = chosen_at(models, f"{middle.value}ms")
    found = truth.shortlisted(chosen, models, 20)
    assert len({candidate.arch for candidate in found}) == 20
    assert all(candidate.latency_ms.high <= middle.value for candidate in found)  # type: ignore[operator]
    assert found[0].arch == chosen.selection.arch


def test_a_pairwise_predictor_is_asked_where_it_chose(models: Models, tmp_path: Path) -> None:
    family.save(family.fit("pairwise", REDUCED, models.accuracy_table), tmp_path / "pairwise")
    other = replace(models, predictor=KeptPredictor.read(tmp_path / "pairwise"))
    chosen = chosen_at(models)
    arch = chosen.selection.arch
    chosen = Chosen(replace(chosen.selection, top1=estimates(other.predictions, [arch])[0]), (), 0.0)
    found = truth.shortlisted(chosen, other, 6)
    assert len({one.arch for one in found}) == 6
    for one in found[1:]:
        assert one.top1.value == pytest.approx(estimates(other.predictions, [one.arch])[0].value, abs=1e-8)


def test_a_device_that_is_not_reached_says_so_and_promises_nothing_kept(models: Models, tmp_path: Path) -> None:
    what = asked(host="nobody@127.0.0.1:1", kept=tmp_path / "kept.jsonl")
    with pytest.raises(DeviceLost) as caught:
        truth.check(chosen_at(models), models, what, heard()[0])
    assert "sshd" in caught.value.hint
    assert "is kept" not in caught.value.hint


# -- measured -------------------------------------------------------------------------------------
@dataclass(frozen=True)
class Run:
    """A check with the device and the images, and what it left."""

    asked: Asked
    chosen: Chosen
    found: Chosen
    said: str
    kept: Path


@pytest.fixture(scope="module")
def run(models: Models, ckpt: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    folder = tmp_path_factory.mktemp("run")
    out, said = heard()
    what = asked(data=data, supernet=str(ckpt), host="local", kept=folder / "kept.jsonl")
    chosen = chosen_at(models)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(settings.HOME_VARIABLE, str(folder / "home"))
        found = truth.check(chosen, models, what, out)
    return Run(what, chosen, found, said.getvalue(), folder / "kept.jsonl")


def test_device_and_images_decide(run: Run) -> None:
    selection = run.found.selection
    measured = selection.measured
    assert measured is not None
    assert measured.n == 30
    assert measured.top1 is not None
    assert measured.latency_ms is not None
    assert 0 < measured.latency_ms.low <= measured.latency_ms.value <= measured.latency_ms.high < 1000  # type: ignore[operator]
    assert measured.corrected_top1 is not None
    assert len(run.found.alternatives) == 2
    assert selection.proven_optimal == (selection.arch == run.chosen.selection.arch)
    assert set(selection.inputs) == {"latency-table", "accuracy-table", "supernet", "images"}
    assert "val, 30 images, batch norm: recalibrated on 40 training images" in selection.model
    assert "to expect" in run.said
    assert Selection.from_bytes(selection.to_bytes(), "it", REDUCED) == selection


def quiet(lines: Sequence[str]) -> str:
    """A journal as on a machine that does nothing else."""
    rows = [json.loads(line) for line in lines]
    return "".join(json.dumps(row | ({"flags": []} if "flags" in row else {})) + "\n" for row in rows)


def test_a_second_run_measures_nothing_and_chooses_the_same(models: Models, run: Run, tmp_path: Path) -> None:
    lines = run.kept.read_text().splitlines()
    records = [json.loads(line)["record"] for line in lines]
    assert (records.count("process"), records.count("right"), records.count("under")) == (6, 3, 2)
    again = tmp_path / "kept.jsonl"
    again.write_text(quiet(lines))
    found = [truth.check(run.chosen, models, replace(run.asked, kept=again), heard()[0]) for _ in range(2)]
    assert again.read_text() == quiet(lines)
    assert found[0].selection.to_bytes() == found[1].selection.to_bytes()
    assert found[0].selection.measured is not None


def test_where_nothing_fits_as_measured_nothing_is_evaluated(models: Models, run: Run, tmp_path: Path) -> None:
    """Measured before: processes a thousand times as slow as predicted."""
    kept = tmp_path / "kept.jsonl"
    lines = [line for line in run.kept.read_text().splitlines() if '"record":"right"' not in line]
    kept.write_text(quiet(lines).replace('"ratio": ', '"ratio": 1000').replace('"median": ', '"median": 1000'))
    with pytest.raises(InfeasibleBudget, match="none of the 3 best subnets fits latency=100ms as measured") as caught:
        truth.check(chosen_at(models, "100ms"), models, replace(run.asked, kept=kept, bn="bank"), heard()[0])
    assert caught.value.details["needed"]["latency_ms"] > 100
    assert '"record":"right"' not in kept.read_text()


def test_images_alone_need_no_device_and_the_bank_no_torch(models: Models, ckpt: Path, data: Path) -> None:
    found = truth.check(chosen_at(models), models, asked(data=data, supernet=str(ckpt), bn="bank"), heard()[0])
    measured = found.selection.measured
    assert measured is not None
    assert measured.latency_ms is None
    assert (settings.home() / "truth" / "reduced.jsonl").is_file()
    assert "bank" in found.selection.model


def test_of_the_table_strategy_only_its_own_subnets_are_measured(models: Models, ckpt: Path, data: Path) -> None:
    table = models.accuracy_table
    budget = Budget.parse("1s")
    costs = models.costs(budget, REDUCED.resolutions)
    chosen = choose_measured(costs, table, budget, inputs=models.inputs, top=3)
    found = truth.check(chosen, models, asked(data=data, supernet=str(ckpt), bn="bank", top=3), heard()[0])
    known = {chosen.selection.arch, *(one.arch for one in chosen.alternatives)}
    assert {found.selection.arch, *(one.arch for one in found.alternatives)} <= known


class Impatient(io.StringIO):
    """A terminal whose reader presses Ctrl-C as soon as a line comes."""

    def __init__(self, line: str):
        super().__init__()
        self._line = line

    def write(self, text: str) -> int:
        if text.startswith(self._line):
            raise KeyboardInterrupt
        return super().write(text)


def test_an_interrupted_check_says_where_it_goes_on(models: Models, ckpt: Path, data: Path, tmp_path: Path) -> None:
    kept, said = tmp_path / "kept.jsonl", Impatient("evaluate: 2/3")
    what = asked(data=data, supernet=str(ckpt), bn="bank", kept=kept)
    with pytest.raises(KeyboardInterrupt):
        truth.check(chosen_at(models), models, what, Output(stdout=io.StringIO(), stderr=said))
    assert f"kept in {kept}; the same command goes on" in said.getvalue()
    assert kept.read_text().count('"record":"right"') == 2
    truth.check(chosen_at(models), models, what, heard()[0])
    assert kept.read_text().count('"record":"right"') == 3


def test_select_measures_where_it_is_given_images_and_its_file_says_so(
    models: Models, ckpt: Path, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    latencies = Path(models.latency_table.path)
    tables = ["--latency-table", latencies, "--accuracy-table", latencies.with_name("accuracy.jsonl")]
    line = ["select", *tables, "--supernet", ckpt, "--budget", "1s", "--data", data, "--bn", "bank"]
    for more, count in ((["--top", "3"], 3), (["--strategy", "table"], 20)):
        out = tmp_path / f"{count}.json"
        capsys.readouterr()
        assert main([*map(str, line), *more, "--out", str(out), "--json"]) == 0
        said = capsys.readouterr()
        assert f"top-1 of {count} subnets on {data.name}" in said.err
        value = json.loads(said.out)
        assert value["measured"]["n"] == 30
        assert len(value["alternatives"]) == count - 1
        assert Selection.read(out, REDUCED).as_json()["measured"] == value["measured"]
        assert f"best that differ, the best as measured: top-1 on {data.name}, val" in value["model"]


# -- images ---------------------------------------------------------------------------------------
def test_images_that_made_the_table_judge_only_where_there_are_no_others(
    models: Models, ckpt: Path, data: Path, tmp_path: Path
) -> None:
    """A table made on the held-out images and data without val: warned of. One made on val: the held-out ones."""
    only = tmp_path / "only"
    only.mkdir()
    (only / "train").symlink_to(data / "train")
    found = checkpoint.load(ckpt)
    out, said = heard()
    images, split, _ = truth_measuring._images(only, found, False, models, out)
    assert (len(images), split) == (20, "heldout")
    assert "warning" not in said.getvalue()

    def made_on(sha256: str) -> Models:
        header = models.accuracy_table.header.model_copy(update={"images_sha256": sha256})
        return replace(models, measured=replace(models.accuracy_table, header=header))

    truth_measuring._images(only, found, False, made_on(images.sha256()), out)
    assert "warning: these images made the accuracy table too" in said.getvalue()
    val, split, source = truth_measuring._images(data, found, True, models, out)
    assert (len(val), split, len(source or ())) == (30, "val", 100)
    assert truth_measuring._images(data, found, True, made_on(val.sha256()), out)[1] == "heldout"


# -- wrong input ----------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("what", "kind", "message"),
    [
        ({}, UsageError, "nothing to measure with"),
        ({"data": Path("nowhere")}, UsageError, "there are no images at nowhere"),
        ({"data": Path("nowhere"), "bn": "magic"}, UsageError, "--bn magic is not possible"),
        ({"data": Path("nowhere"), "supernet": "nowhere"}, UsageError, "cannot read checkpoint"),
        ({"data": Path("nowhere"), "bn": "running"}, BadFile, "has no statistics running"),
        ({"data": Path("nowhere"), "host": "nobody@127.0.0.1:1"}, UsageError, "there are no images"),
        ({"host": "nobody@127.0.0.1:1"}, OfaEdgeError, "127.0.0.1"),
    ],
)
def test_wrong_input_is_named_before_a_device_is_asked(
    models: Models, ckpt: Path, what: dict[str, object], kind: type[OfaEdgeError], message: str
) -> None:
    with pytest.raises(kind, match=message) as caught:
        truth.check(chosen_at(models), models, asked(**{"supernet": str(ckpt), **what}), heard()[0])
    assert caught.value.hint


def test_another_supernet_than_the_tables_is_refused(models: Models, data: Path, tmp_path: Path) -> None:
    write_supernet(tmp_path / "other", seed=1)
    with pytest.raises(BadFile, match="the accuracy table is of checkpoint"):
        truth.check(chosen_at(models), models, asked(data=data, supernet=str(tmp_path / "other")), heard()[0])


def test_a_table_of_another_device_is_refused(models: Models, tmp_path: Path) -> None:
    write_latencies(tmp_path / "other.jsonl")
    other = replace(models, latency_table=LatencyTable.read(tmp_path / "other.jsonl"))
    with pytest.raises(BadFile, match="not measured under the same conditions"):
        truth.check(chosen_at(other), other, asked(host="local"), heard()[0])
