"""What tests of commands share: two simulated boards and all that a selection comes from, images, a checkpoint."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from ofa_edge.accuracy import family
from ofa_edge.accuracy.table import AccuracyTable
from ofa_edge.cli.app import main
from ofa_edge.weights import checkpoint
from tests.reduced import REDUCED, registered, simulated, write_accuracies, write_latencies, write_supernet

Run = Callable[..., tuple[int, Any]]
CLASSES = ("amber", "birch", "coral", "dune", "elm")


@pytest.fixture(scope="module")
def reduced_space() -> Iterator[None]:
    """The commands know the space `reduced`."""
    with registered():
        yield


@pytest.fixture(scope="module")
def boards(reduced_space: None, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Files by what they are: latency tables of two boards, accuracy tables, predictors, a checkpoint."""
    folder = tmp_path_factory.mktemp("files")
    names = ("table", "other", "accuracy", "more", "ckpt", "additive", "pairwise", "foreign", "junk")
    found = {name: folder / name for name in names}
    write_latencies(found["table"])
    facts = replace(simulated().facts, device_model="Other Board")
    write_latencies(found["other"], simulated(noise=0.02, seed=9, facts=facts))
    digest = write_supernet(found["ckpt"])
    write_accuracies(found["accuracy"], digest)
    write_accuracies(found["more"], digest, subnets=45)
    for name, table in (("additive", "accuracy"), ("pairwise", "accuracy"), ("foreign", "more")):
        kind = "additive" if name == "foreign" else name
        family.save(family.fit(kind, REDUCED, AccuracyTable.read(found[table])), found[name])
    found["junk"].write_text("neither\n")
    return found


@pytest.fixture
def run_boards(boards: dict[str, Path], capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: Any) -> Run:
    """Run a command line with --json: its exit code and the one value on stdout. {name} stands for a file."""
    monkeypatch.chdir(tmp_path)
    places = {name: str(path) for name, path in boards.items()}

    def runs(line: str) -> tuple[int, Any]:
        capsys.readouterr()
        words = [word.format(**places, out=tmp_path / "out") for word in line.split()]
        return main([*words, "--json"]), json.loads(capsys.readouterr().out)

    return runs


def write_images(folder: Path, count: int, seed: int) -> None:
    """`count` pictures of each class, in class folders."""
    rng = np.random.default_rng(seed)
    for label, name in enumerate(CLASSES):
        (folder / name).mkdir(parents=True)
        for i in range(count):
            pixels = rng.integers(0, 256, (40, 40, 3)) // 2 + 25 * label
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{seed}-{i}.png")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_images(folder / "train", 24, 1)
    write_images(folder / "val", 6, 2)
    return folder


@pytest.fixture(scope="module")
def ckpt(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint whose training kept out 20 images."""
    path = tmp_path_factory.mktemp("ckpt") / "net.safetensors"
    write_supernet(path)
    found = checkpoint.load(path)
    metadata = replace(found.metadata, data={"heldout": 20})
    checkpoint.save(path, found.arrays, found.bank, metadata, space=REDUCED)
    return path
