"""What is on the page: every figure says what its files say, and what was not given is named."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from ofa_edge.accuracy import family
from ofa_edge.accuracy.table import AccuracyTable
from ofa_edge.graph.stored import Stored
from ofa_edge.report import choice_sections, choices, sources
from ofa_edge.report.choice_sections import Content
from ofa_edge.report.devices import devices, networks
from ofa_edge.report.page import Page, page
from ofa_edge.report.proxies import proxies, rank_correlation
from ofa_edge.search.budget import Budget
from ofa_edge.search.candidate import Candidate
from ofa_edge.search.choose import choose
from ofa_edge.search.families import Family, Member
from ofa_edge.search.models import CostModels
from ofa_edge.search.selection import Selection
from tests.reduced import REDUCED
from tests.report import materials
from tests.report.materials import SECTIONS, drawn, made, text_of


def test_everything_is_drawn_where_everything_is_given(whole: Page) -> None:
    assert drawn(whole) == SECTIONS
    assert all(not section.missing for section in whole.sections)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["slow.jsonl"], ["predictions", "macs", "health"]),
        (["accuracy.jsonl"], ["accuracy"]),
        (["slow.json"], ["subnets"]),
        (["slow.json", "slow.jsonl"], ["subnets", "blocks", "predictions", "macs", "health"]),
        (["slow.jsonl", "accuracy.jsonl"], SECTIONS),
    ],
)
def test_what_is_not_given_is_left_out_and_says_what_to_give(
    folder: Path, names: list[str], expected: list[str]
) -> None:
    found = made(folder, *names)
    assert drawn(found) == expected
    for section in found.sections:
        if section.body is None:
            assert any(re.search(r"[Gg]ive", sentence) for sentence in section.missing)
            assert section.missing[0].split("`")[0].strip() in text_of(found)


def test_the_order_of_files_and_giving_one_twice_change_only_the_order(folder: Path) -> None:
    assert (
        made(folder, "slow.jsonl", "accuracy.jsonl", "slow.jsonl").content
        == made(folder, "slow.jsonl", "accuracy.jsonl").content
    )


def test_a_predictor_that_is_additive_stands_for_its_table(folder: Path, tmp_path: Path) -> None:
    fitted = family.fit("additive", REDUCED, AccuracyTable.read(folder / "accuracy.jsonl"))
    family.save(fitted, tmp_path / "additive")
    found = page(sources.read([folder / "slow.jsonl", tmp_path / "additive"]))
    assert "fronts" in drawn(found)


def test_chosen_subnets_are_drawn_block_by_block(folder: Path, whole: Page) -> None:
    markup = whole.content.decode()
    for number, name in ((1, "slow.json"), (2, "fast.json")):
        arch = Selection.read(folder / name).arch
        picture = markup[markup.index(f'aria-labelledby="subnet{number}-t') :]
        picture = picture[: picture.index("</svg>")]
        blocks = [f"{c.kernel}×{c.kernel} e{c.expand}" for stage in arch.stages for c in stage]
        assert re.findall(r'class="bl m"[^>]*>(\d×\d e\d)<', picture) == blocks
        assert picture.count("stroke-dasharray") == sum(s.max_depth for s in REDUCED.stages) - len(blocks)
        assert f"input {arch.resolution} px" in picture


def test_a_family_shows_its_members_by_mode_and_equal_ones_once(folder: Path, tmp_path: Path) -> None:
    read = sources.read([folder / "slow.jsonl", folder / "fast.jsonl"])
    slow, fast = (table.conditions for table in read.latency)
    one, other = (Selection.read(folder / name) for name in ("slow.json", "fast.json"))
    assert one.arch != other.arch
    Family((Member("full", slow, one), Member("low", slow, one), Member("full", fast, other))).write(
        tmp_path / "f.json"
    )
    found = page(sources.read([folder / "slow.jsonl", tmp_path / "f.json"]))
    said = text_of(found)
    assert all(name in said for name in ("full, Simulated Board", "low, Simulated Board", "full, Other Board"))
    assert re.findall(r'aria-labelledby="subnet(\d+)-t', found.content.decode()) == ["1", "3"]
    assert re.findall(r'aria-labelledby="blocks(\d+)-t', found.content.decode()) == ["1"]
    assert "give the latency table it was chosen with" in said  # of the other board

    Family((Member("full", slow, one), Member("low", slow, one)), common=True).write(tmp_path / "c.json")
    assert "one subnet for all" in text_of(page(sources.read([tmp_path / "c.json"])))


def test_a_blocks_width_is_its_expand_ratio_and_its_colour_its_kernel(whole: Page) -> None:
    found: dict[str, set[tuple[str, str]]] = {}
    pattern = r'class="k (k\w+)"[^>]*? width="([\d.]+)"[^>]*></rect><text class="bl m"[^>]*>(\d)×\d e(\d)<'
    for class_, width, kernel, expand in re.findall(pattern, whole.content.decode()):
        found.setdefault(f"{kernel}", set()).add((class_, f"k{kernel}"))
        found.setdefault(f"e{expand}", set()).add((width, ""))
    assert all(len(same) == 1 for same in found.values())
    assert all(class_ == named for key, same in found.items() if key[0] != "e" for class_, named in same)
    widths = {int(key[1:]): float(next(iter(same))[0]) for key, same in found.items() if key[0] == "e"}
    assert len(widths) > 1
    assert sorted(widths.values()) == [widths[expand] for expand in sorted(widths)]


def test_latencies_of_blocks_are_those_of_the_table(folder: Path, whole: Page) -> None:
    table = sources.read([folder / "slow.jsonl"]).latency[0]
    arch = Selection.read(folder / "slow.json").arch
    body = next(section.body for section in whole.sections if section.ident == "blocks")
    assert body is not None
    for block in REDUCED.blocks(arch):
        assert f"{table.blocks.at[block.key, 'median']:.4g}" in body


def test_networks_are_those_of_the_table_and_errors_are_relative_to_what_was_measured(folder: Path) -> None:
    (device,) = devices(sources.read([folder / "slow.jsonl"]).latency)
    found = networks(device, 0.95)
    assert [n.held_out for n in found].count(True) == 4
    assert len(found) == len(device.table.networks)
    assert device.health.held_out is not None
    held = [abs(n.error) for n in found if n.held_out]
    assert max(held) == pytest.approx(device.health.held_out.worst, rel=1e-6)
    assert [n.covered for n in found if n.held_out].count(True) == round(4 * (device.health.held_out.covered or 0))


def test_budgets_are_kept_and_the_best_of_the_front_is_taken(folder: Path) -> None:
    read = sources.read([folder / "slow.jsonl", folder / "accuracy.jsonl"])
    (front,) = choices.fronts(devices(read.latency), choices.accuracies(read), 0.95).found
    limits = choices.default_budgets([front])
    tops = []
    for budget in limits:
        best = choices.best(front, budget, 0.95)
        assert isinstance(best, Candidate)
        assert best.latency_ms.high is not None
        assert best.latency_ms.high <= (budget.latency_ms or 0)
        tops.append(best.top1.value)
    assert tops == sorted(tops)
    assert choices.best(front, Budget(latency_ms=1e-6), 0.95) == "no subnet fits"
    assert choices.best(front, Budget(latency_ms=1.0, macs=1), 0.95) == "no subnet fits"
    assert choices.best(front, Budget(energy_mj=1.0), 0.95) == "its table holds no energies"
    small = Budget(latency_ms=1e6, macs=int(front.shown[0].cost.macs * 1.05))
    fitting = choices.best(front, small, 0.95)
    assert isinstance(fitting, Candidate)
    assert fitting.cost.macs <= (small.macs or 0)


def test_the_best_of_a_budget_is_what_select_chooses(folder: Path) -> None:
    read = sources.read([folder / "fast.jsonl", folder / "accuracy.jsonl"])
    (front,) = choices.fronts(devices(read.latency), choices.accuracies(read), 0.9).found
    for budget in choices.default_budgets([front], 0.9):
        models = CostModels(REDUCED, front.model, front.resolutions, 0.9)
        chosen = choose(models, front.accuracy.model, budget, inputs={}).selection
        found = choices.best(front, budget, 0.9)
        assert isinstance(found, Candidate)
        assert (found.arch, found.top1, found.latency_ms) == (chosen.arch, chosen.top1, chosen.latency_ms)


def test_the_asked_budgets_are_compared(folder: Path) -> None:
    found = made(folder, "slow.jsonl", "accuracy.jsonl", budgets=[Budget(latency_ms=1e-4), Budget(latency_ms=500.0)])
    body = next(section.body for section in found.sections if section.ident == "budgets")
    assert body is not None
    assert "no subnet fits" in body
    assert "500 ms" in body


def test_budgets_are_named_by_all_their_limits() -> None:
    budget = Budget.parse("latency=20ms,memory=8MB,size=5250001B,macs=300M,energy=30mJ")
    assert choices.budget_name(budget) == "20 ms, memory 8 MB, weights 5.25 MB, 300 M MACs, 30 mJ"
    assert choices.budget_name(budget, short=True) == "20 ms +4"
    assert choices.budget_name(Budget(size_bytes=5000), short=True) == "weights 5 kB"


def test_macs_are_a_worse_proxy_where_launching_costs_more(folder: Path) -> None:
    slow, fast = proxies(devices(sources.read([folder / "slow.jsonl", folder / "fast.jsonl"]).latency))
    assert fast.rank < slow.rank
    assert fast.spread > slow.spread
    assert slow.pair is not None
    a, b = slow.pair
    assert slow.latency_ms[a] < slow.latency_ms[b]
    assert slow.macs[a] == pytest.approx(slow.macs[b], rel=0.021)


def test_ranks() -> None:
    rising = np.array([1.0, 5.0, 6.0, 100.0])
    assert rank_correlation(rising, rising**3) == pytest.approx(1.0)
    assert rank_correlation(rising, -rising) == pytest.approx(-1.0)
    assert np.isnan(rank_correlation(rising, np.ones(4)))


def test_tables_are_told_apart_by_what_differs(folder: Path, tmp_path: Path) -> None:
    materials.renamed(folder / "slow.jsonl", tmp_path / "litert.jsonl", runtime="litert", threads=2)
    materials.renamed(folder / "slow.jsonl", tmp_path / "four.jsonl", threads=4)
    read = sources.read([folder / "slow.jsonl", tmp_path / "litert.jsonl", tmp_path / "four.jsonl"])
    names = [device.name for device in devices(read.latency)]
    assert names == [
        "Simulated Board, onnxruntime, 1 thread",
        "Simulated Board, litert",
        "Simulated Board, onnxruntime, 4 threads",
    ]


def test_fronts_of_one_device_are_named_by_runtime_and_precision_and_the_chosen_is_marked(
    folder: Path, tmp_path: Path
) -> None:
    """Its int8 front says that its top-1 is predicted as in float."""
    materials.renamed(folder / "slow.jsonl", tmp_path / "lite.jsonl", runtime="litert")
    materials.renamed(folder / "slow.jsonl", tmp_path / "int8.jsonl", runtime="litert", precision="int8")
    materials.write_selection(tmp_path / "lite.json", tmp_path / "lite.jsonl", folder / "accuracy.jsonl")
    tables = [folder / "slow.jsonl", tmp_path / "lite.jsonl", tmp_path / "int8.jsonl", folder / "fast.jsonl"]
    read = sources.read([*tables, folder / "accuracy.jsonl", tmp_path / "lite.json"])
    names = [device.name for device in devices(read.latency)]
    assert names == [
        "Simulated Board, onnxruntime fp32", "Simulated Board, litert fp32", "Simulated Board, litert int8",
        "Other Board",
    ]  # fmt: skip
    said = text_of(page(read))
    assert "Simulated Board, litert fp32 (chosen: 1)" in said
    assert "Of Simulated Board, litert int8 top-1 is predicted as in float" in said
    assert said.count("(chosen:") == 1


def test_bytes_of_a_selection_that_does_not_say_how_it_runs_are_by_its_table(folder: Path, tmp_path: Path) -> None:
    materials.renamed(folder / "slow.jsonl", tmp_path / "int8.jsonl", precision="int8", threads="unknown")
    materials.write_selection(tmp_path / "int8.json", tmp_path / "int8.jsonl", folder / "accuracy.jsonl")
    read = sources.read([tmp_path / "int8.jsonl", tmp_path / "int8.json"])
    (pick,) = choices.picks(read, devices(read.latency), choices.Fronts((), ()), {}, 0.95)
    assert pick.candidate.cost == Stored("onnxruntime", "int8").cost(REDUCED.blocks(pick.candidate.arch))


def test_more_devices_than_series_are_drawn_in_several_figures(folder: Path, tmp_path: Path) -> None:
    for threads in range(1, 9):
        materials.renamed(folder / "slow.jsonl", tmp_path / f"{threads}.jsonl", threads=threads)
    read = sources.read([*(tmp_path / f"{threads}.jsonl" for threads in range(1, 9)), folder / "accuracy.jsonl"])
    found, known = devices(read.latency), choices.accuracies(read)
    drawn = choices.fronts(found, known, 0.95)
    section = choice_sections.fronts(Content(read, tuple(found), tuple(known), drawn, {}, (), 0.95))
    legends = re.findall(r'<ul class="legend">(.*?)</ul>', section.body or "", re.DOTALL)
    assert [re.findall(r"Simulated Board, (\d) thread", legend) for legend in legends] == [list("123456"), list("78")]
    assert [device.series for device in found] == list(range(8))


def test_times_of_unknown_conditions_are_held_against_a_budget_only_when_asked(folder: Path, tmp_path: Path) -> None:
    materials.renamed(folder / "slow.jsonl", tmp_path / "t.jsonl", governor="unknown")
    files = [tmp_path / "t.jsonl", folder / "accuracy.jsonl"]
    refused = page(sources.read(files))
    assert "fronts" not in drawn(refused)
    assert "--accept-unknown" in text_of(refused)
    assert "fronts" in drawn(page(sources.read(files), accept_unknown=True))


def test_an_emulated_devices_times_carry_a_warning(folder: Path, tmp_path: Path) -> None:
    materials.renamed(folder / "slow.jsonl", tmp_path / "t.jsonl", emulated=True)
    assert "say nothing about a real device" in text_of(page(sources.read([tmp_path / "t.jsonl"])))


def test_an_unfinished_table_is_drawn_and_says_so(folder: Path, tmp_path: Path) -> None:
    lines = (folder / "slow.jsonl").read_bytes().splitlines(keepends=True)
    (tmp_path / "t.jsonl").write_bytes(b"".join(lines[:40]))
    found = page(sources.read([tmp_path / "t.jsonl", folder / "accuracy.jsonl"]))
    assert "not finished" in text_of(found)
    assert "health" in drawn(found)
