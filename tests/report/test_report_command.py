"""The command: what it prints and writes, and what it says to files that it cannot read."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ofa_edge.cli.app import main
from ofa_edge.errors import BadFile, UsageError
from ofa_edge.report import sources
from tests.report.materials import SECTIONS, made

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
    assert [section["name"] for section in value["sections"]] == SECTIONS
    assert all(section["drawn"] for section in value["sections"])


def test_a_page_is_replaced_and_nothing_else_is(folder: Path, tmp_path: Path, run: Run) -> None:
    table = tmp_path / "t.jsonl"
    table.write_bytes((folder / "accuracy.jsonl").read_bytes())
    code, value = run(table, "--out", table)
    assert code == 2
    assert "not replaced" in value["error"]["message"]
    assert table.read_bytes() == (folder / "accuracy.jsonl").read_bytes()
    sums = [run(table, "--out", tmp_path / "r.html")[1]["sha256"] for _ in range(2)]
    assert sums[0] == sums[1]


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
