"""The page as a file: whole in itself, the same each time, with nothing in it that a stranger put there."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import itertools
import json
import re
from pathlib import Path

import pytest

from ofa_edge import journal
from ofa_edge.errors import BadFile
from ofa_edge.latency.table import FORMAT
from ofa_edge.report import sources
from ofa_edge.report.page import Page, page
from tests.report import materials
from tests.report.materials import SECTIONS, drawn, made, text_of
from tests.report.test_markup import Seen

HOSTILE = '"><script>alert(1)</script><img src=x onerror=alert(2)>'


def test_the_same_files_give_the_same_bytes(folder: Path, whole: Page) -> None:
    again = made(folder, *materials.EVERYTHING)
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


def test_absurd_numbers_in_a_selection_break_no_figure(folder: Path, tmp_path: Path) -> None:
    value = json.loads((folder / "slow.json").read_text())
    value["predicted"] |= {"macs": 2**63 - 1, "latency_ms": {"value": 1e300, "low": 0.0, "high": 1e308}}
    (tmp_path / "s.json").write_text(json.dumps(value))
    found = page(sources.read([tmp_path / "s.json", folder / "slow.jsonl", folder / "accuracy.jsonl"]))
    assert drawn(found) == SECTIONS
    assert "1e+300 ms" in text_of(found)
    assert len(found.content) < 300_000


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
