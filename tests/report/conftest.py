"""What the tests of the page share: the files it is made from, and a page of all of them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from ofa_edge.accuracy import family
from ofa_edge.accuracy.table import AccuracyTable
from ofa_edge.report.page import Page
from tests.reduced import REDUCED, registered
from tests.report import materials


@pytest.fixture(scope="package", autouse=True)
def _spaces() -> Iterator[None]:
    with registered():
        yield


@pytest.fixture(scope="package")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """slow.jsonl, fast.jsonl, accuracy.jsonl, a selection for each board, a predictor."""
    found = tmp_path_factory.mktemp("report")
    slow, fast, accuracy = materials.write_tables(found)
    materials.write_selection(found / "slow.json", slow, accuracy)
    materials.write_selection(found / "fast.json", fast, accuracy)
    table = AccuracyTable.read(accuracy)
    family.save(family.fit("pairwise", REDUCED, table), found / "pairwise.safetensors")
    return found


@pytest.fixture(scope="package")
def whole(folder: Path) -> Page:
    """A page of everything."""
    return materials.made(folder, *materials.EVERYTHING)
