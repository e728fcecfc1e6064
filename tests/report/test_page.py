"""The page: whole in itself, the same each time, and honest about what it was not given."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import itertools
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from ofa_edge import journal
from ofa_edge.accuracy import family
from ofa_edge.accuracy.table import AccuracyTable
from ofa_edge.cli.app import main
from ofa_edge.errors import BadFile, UsageError
from ofa_edge.latency.table import FORMAT
from ofa_edge.report import choice_sections, choices, sources
from ofa_edge.report.choice_sections import Content
from ofa_edge.report.devices import devices, networks
from ofa_edge.report.page import Page, page
from ofa_edge.report.proxies import proxies, spearman
from ofa_edge.search.budget import Budget
from ofa_edge.search.candidate import Candidate
from ofa_edge.search.families import Family, Member
from ofa_edge.search.selection import Selection
from tests.reduced import REDUCED, registered
from tests.report import materials
from tests.report.test_markup import Seen

HOSTILE = '"><script>alert(1)</script><img src=x onerror=alert(2)>'
ALL = ["fronts", "budgets", "subnets", "blocks", "predictions", "macs", "accuracy", "health"]


@pytest.fixture(scope="module", autouse=True)
def _spaces() -> Iterator[None]:
    with registered():
        yield


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """slow.jsonl, fast.jsonl, accuracy.jsonl, a selection for each board, a predictor."""
    found = tmp_path_factory.mktemp("report")
    slow, fast, accuracy = materials.write_tables(found)
    materials.write_selection(found / "slow.json", slow, accuracy)
    materials.write_selection(found / "fast.json", fast, accuracy)
    table = AccuracyTable.read(accuracy)
    family.save(family.fit("pairwise", REDUCED, table), found / "pairwise.safetensors")
    return found


def made(folder: Path, *names: str, **options: Any) -> Page:
    return page(sources.read([folder / name for name in names]), **options)


def drawn(found: Page) -> list[str]:
    return [section.ident for section in found.sections if section.body is not None]


@pytest.fixture(scope="module")
def whole(folder: Path) -> Page:
    """A page of everything."""
    names = ("slow.jsonl", "fast.jsonl", "accuracy.jsonl", "slow.json", "fast.json", "pairwise.safetensors")
    return made(folder, *names)


# -- what is on it --------------------------------------------------------------------------------
def test_everything_is_drawn_where_everything_is_given(whole: Page) -> None:
    assert drawn(whole) == ALL
    assert all(not section.missing for section in whole.sections)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["slow.jsonl"], ["predictions", "macs", "health"]),
        (["accuracy.jsonl"], ["accuracy"]),
        (["slow.json"], ["subnets"]),
        (["slow.json", "slow.jsonl"], ["subnets", "blocks", "predictions", "macs", "health"]),
        (["slow.jsonl", "accuracy.jsonl"], ALL),
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


def test_the_asked_budgets_are_compared(folder: Path) -> None:
    found = made(folder, "slow.jsonl", "accuracy.jsonl", budgets=[Budget(latency_ms=1e-4), Budget(latency_ms=500.0)])
    body = next(section.body for section in found.sections if section.ident == "budgets")
    assert body is not None
    assert "no subnet fits" in body
    assert "500 ms" in body


def test_macs_are_a_worse_proxy_where_launching_costs_more(folder: Path) -> None:
    slow, fast = proxies(devices(sources.read([folder / "slow.jsonl", folder / "fast.jsonl"]).latency))
    assert fast.rank < slow.rank
    assert fast.spread > slow.spread
    assert slow.pair is not None
    a, b = slow.pair
    assert slow.latency_ms[a] < slow.latency_ms[b]
    assert slow.macs[a] == pytest.approx(slow.macs[b], rel=0.021)


def test_ranks() -> None:
    import numpy as np

    rising = np.array([1.0, 5.0, 6.0, 100.0])
    assert spearman(rising, rising**3) == pytest.approx(1.0)
    assert spearman(rising, -rising) == pytest.approx(-1.0)
    assert np.isnan(spearman(rising, np.ones(4)))


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


# -- what it is -----------------------------------------------------------------------------------
def text_of(found: Page) -> str:
    return " ".join(Seen.of(re.sub(r"<style>.*?</style>", "", found.content.decode())).data.split())


def test_the_same_files_give_the_same_bytes(folder: Path, whole: Page) -> None:
    names = ("slow.jsonl", "fast.jsonl", "accuracy.jsonl", "slow.json", "fast.json", "pairwise.safetensors")
    again = made(folder, *names)
    assert again.content == whole.content
    assert again.sha256 == hashlib.sha256(whole.content).hexdigest()


def test_the_folder_of_the_files_does_not_reach_the_page(folder: Path, tmp_path: Path) -> None:
    lines = (folder / "slow.jsonl").read_bytes().splitlines(keepends=True)
    found = []
    for place in (tmp_path / "secret-a", tmp_path / "b"):
        place.mkdir()
        (place / "t.jsonl").write_bytes(b"".join(lines[:60]))  # unfinished: its hint names the file
        found.append(page(sources.read([place / "t.jsonl", folder / "accuracy.jsonl"])))
    assert found[0].content == found[1].content
    assert "--out t.jsonl" in text_of(found[0])
    assert "secret-a" not in text_of(found[0])


def test_the_page_is_whole_in_itself(whole: Page) -> None:
    markup = whole.content.decode()
    seen = Seen.of(markup)
    assert not {tag for tag, _ in seen.elements} & {"script", "img", "iframe", "object", "embed", "base", "form", "use"}
    for tag, attributes in seen.elements:
        assert not [
            name for name in attributes if name.startswith("on") or name in ("src", "style", "srcset", "xlink:href")
        ]
        if "href" in attributes:
            assert (attributes["href"] or "").startswith(("#", "data:,")), (tag, attributes)
    assert not re.findall(r"https?:|//[a-z]|url\(|@import|@font-face", markup)


def test_its_policy_allows_its_own_style_sheet_and_nothing_else(whole: Page) -> None:
    markup = whole.content.decode()
    (style,) = re.findall(r"<style>(.*?)</style>", markup, re.DOTALL)
    seen = Seen.of(markup)
    (policy,) = [a["content"] for _, a in seen.elements if a.get("http-equiv") == "Content-Security-Policy"]
    rules = dict(rule.strip().split(" ", 1) for rule in (policy or "").split(";"))
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    assert rules["default-src"] == rules["base-uri"] == rules["form-action"] == "'none'"
    assert rules["style-src"] == f"'sha256-{digest}'"
    assert "unsafe" not in (policy or "")
    head = markup[: markup.index("</head>")]
    assert head.index("Content-Security-Policy") < head.index("<style>")


@pytest.mark.parametrize("value", [1e300, 1e-300, 1e15, 0.0])
@pytest.mark.parametrize("record", ["block", "network"])
def test_absurd_times_end_in_a_page_or_a_refusal(folder: Path, tmp_path: Path, record: str, value: float) -> None:
    contents = journal.read(folder / "slow.jsonl", FORMAT)
    rows = [dict(row) for row in contents.rows]
    changed = next(row for row in rows if row["record"] == record)
    figures = dict.fromkeys(("min", "p10", "median", "p90", "low", "high", "mean"), value)
    changed.update(figures if record == "block" else {"figures": changed["figures"] | figures, "ratio": None})
    journal.write(tmp_path / "t.jsonl", FORMAT, contents.header, rows, version=contents.version)
    with contextlib.suppress(BadFile):
        found = page(sources.read([tmp_path / "t.jsonl", folder / "accuracy.jsonl"]))
        assert not re.search(r"\b(nan|inf)\b", text_of(found))
        assert len(found.content) < 300_000


@pytest.mark.parametrize("field", ["device_model", "soc", "governor", "runtime_version"])
def test_a_hostile_name_is_a_text(folder: Path, tmp_path: Path, field: str) -> None:
    materials.renamed(folder / "slow.jsonl", tmp_path / "t.jsonl", **{field: HOSTILE})
    found = page(sources.read([tmp_path / "t.jsonl", folder / "accuracy.jsonl"]))
    seen = Seen.of(found.content.decode())
    assert "<script" not in found.content.decode()
    assert not {tag for tag, _ in seen.elements} & {"script", "img"}
    assert HOSTILE.split("<")[1] in text_of(found)  # and it is there, to be read
    ours = Seen.of(made(folder, "slow.jsonl", "accuracy.jsonl").content.decode())
    assert {tag for tag, _ in seen.elements} == {tag for tag, _ in ours.elements}


def test_a_hostile_file_name_is_a_text(folder: Path, tmp_path: Path) -> None:
    name = "<svg onload=alert(1)>.jsonl"
    (tmp_path / name).write_bytes((folder / "accuracy.jsonl").read_bytes())
    seen = Seen.of(page(sources.read([tmp_path / name])).content.decode())
    assert name in seen.data
    assert not [a for _, a in seen.elements if "onload" in a]


def test_headings_are_in_order_and_ids_are_used_once(whole: Page) -> None:
    seen = Seen.of(whole.content.decode())
    levels = [int(tag[1]) for tag, _ in seen.elements if re.fullmatch(r"h\d", tag)]
    assert levels[0] == 1
    assert levels.count(1) == 1
    assert all(b <= a + 1 for a, b in itertools.pairwise(levels))
    ids = [a["id"] for _, a in seen.elements if "id" in a]
    assert len(ids) == len(set(ids))
    for _, attributes in seen.elements:
        assert set((attributes.get("aria-labelledby") or "").split()) <= set(ids)
        if (attributes.get("href") or "").startswith("#"):
            assert (attributes["href"] or "")[1:] in ids


def test_every_figure_is_named_described_and_has_its_data_in_a_table(whole: Page) -> None:
    markup = whole.content.decode()
    pictures = [a for tag, a in Seen.of(markup).elements if tag == "svg" and a.get("aria-hidden") != "true"]
    assert pictures
    assert all(len((a["aria-labelledby"] or "").split()) == 2 for a in pictures)
    assert all(t.strip() for t in re.findall(r"<desc[^>]*>([^<]*)<", markup))
    for section in whole.sections:
        assert section.body is not None
        if "<svg" in section.body:
            assert "<table>" in section.body, section.ident


def test_nothing_is_drawn_over_what_a_point_says(whole: Page) -> None:
    pictures = re.findall(r"<svg viewBox.*?</svg>", whole.content.decode(), re.DOTALL)
    reached = [picture[picture.index('<g class="p"') :] for picture in pictures if '<g class="p"' in picture]
    assert len(reached) >= 8
    for rest in reached:
        tip = r'<g class="tip"[^>]*><rect[^>]*></rect>(<text[^>]*>[^<]*</text>)+</g>'
        assert re.fullmatch(rf'(<g class="p"[^>]*><circle[^>]*></circle>{tip}</g>)+</svg>', rest)


def test_a_full_page_is_a_few_hundred_kilobytes(whole: Page) -> None:
    assert len(whole.content) < 300_000


# -- the command ----------------------------------------------------------------------------------
Run = Callable[..., tuple[int, Any]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Run:
    def command(*arguments: object) -> tuple[int, Any]:
        code = main(["report", *map(str, arguments), "--json"])
        return code, json.loads(capsys.readouterr().out)

    return command


def test_the_command_writes_the_page(folder: Path, tmp_path: Path, run: Run) -> None:
    files = [folder / name for name in ("slow.jsonl", "accuracy.jsonl", "slow.json")]
    code, value = run(*files, "--out", tmp_path / "r.html", "--budget", "1ms", "--budget", "size=5MB")
    content = (tmp_path / "r.html").read_bytes()
    assert code == 0
    assert value["page"] == str(tmp_path / "r.html")
    assert value["bytes"] == len(content)
    assert value["sha256"] == hashlib.sha256(content).hexdigest()
    assert [section["name"] for section in value["sections"]] == ALL
    assert all(section["drawn"] for section in value["sections"])


@pytest.mark.parametrize("damage", [b"", b"neither", b"{}", b'{"record":"header","schema":"other"}\n', b"\x00" * 20])
def test_a_file_that_cannot_be_read_is_named(folder: Path, tmp_path: Path, run: Run, damage: bytes) -> None:
    (tmp_path / "odd.bin").write_bytes(damage)
    code, value = run(folder / "slow.jsonl", tmp_path / "odd.bin", "--out", tmp_path / "r.html")
    assert code == value["error"]["code"] == 9
    assert "odd.bin" in value["error"]["message"]
    assert value["error"]["hint"]
    assert not (tmp_path / "r.html").exists()


def test_a_damaged_table_is_named(folder: Path, tmp_path: Path) -> None:
    content = (folder / "slow.jsonl").read_bytes()
    (tmp_path / "t.jsonl").write_bytes(content.replace(b'"median"', b'"medina"', 1))
    with pytest.raises(BadFile, match=r"t\.jsonl"):
        sources.read([tmp_path / "t.jsonl"])


def test_a_file_that_is_not_there_is_a_mistake_of_typing(tmp_path: Path, run: Run) -> None:
    code, value = run(tmp_path / "none.jsonl", "--out", tmp_path / "r.html")
    assert code == 2
    assert "none.jsonl" in value["error"]["message"]


def test_nothing_to_draw_is_a_mistake_of_typing(folder: Path) -> None:
    with pytest.raises(UsageError, match="nothing to draw"):
        made(folder, "pairwise.safetensors")
