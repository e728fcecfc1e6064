"""evaluate by many: whoever measures, whenever it is killed, the table is the one that a single run writes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from ofa_edge.accuracy.evaluate import Evaluator
from ofa_edge.accuracy.samples import Shard
from ofa_edge.accuracy.table import AccuracyTable
from ofa_edge.cli import app
from ofa_edge.errors import UsageError
from ofa_edge.space.cost import cost
from ofa_edge.weights import checkpoint
from ofa_edge.weights.cut import subnet_arrays
from tests.accuracy.test_evaluate import NETWORK, measured
from tests.train.tiny import TINY, arrays_of, parquet_rows, write_parquet

# Runs the command of its arguments and kills itself when it is to count its N-th subnet.
KILLED = """
import os, signal, sys
from ofa_edge.accuracy.evaluate import Evaluator
from ofa_edge.cli import app

left, correct = int(sys.argv[1]), Evaluator.correct

def counted(self, arch):
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return correct(self, arch)

Evaluator.correct = counted
sys.exit(app.main(sys.argv[2:]))
"""


class Scene(NamedTuple):
    """A supernet, pictures, and the table that one undisturbed run makes of six subnets at two sizes."""

    command: tuple[str, ...]
    table: bytes


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    folder = tmp_path_factory.mktemp("scene")
    write_parquet(folder / "data" / "val.parquet", parquet_rows(24))
    metadata = checkpoint.Metadata("tiny", ("a", "b", "c"), "random", "none", {}, {}, {})
    file = folder / "tiny.safetensors"
    running = measured(TINY.largest())
    checkpoint.save(file, arrays_of(NETWORK), None, metadata, space=TINY, running=running, single_precision=True)
    command = ("evaluate", "--supernet", str(file), "--data", str(folder / "data"), "--split", "val", "--bn", "running")
    command += ("--samples", "6", "--resolutions", "16,32", "--json")
    assert app.main([*command, "--out", str(folder / "alone.jsonl")]) == 0
    return Scene(command, (folder / "alone.jsonl").read_bytes())


def environment(**more: str) -> dict[str, str]:
    return {**os.environ, "OMP_NUM_THREADS": "1", **more}


def killed(at: int, *command: str) -> None:
    done = subprocess.run([sys.executable, "-c", KILLED, str(at), *command], env=environment(), capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr


def test_a_run_killed_without_warning_goes_on_to_the_same_table(scene: Scene, tmp_path: Path) -> None:
    out = tmp_path / "table.jsonl"
    killed(5, *scene.command, "--out", str(out))
    left = AccuracyTable.read(out, TINY)
    assert (len(left.frame), left.complete) == (4, False)
    assert app.main([*scene.command, "--out", str(out), "--resume"]) == 0
    assert out.read_bytes() == scene.table


def test_a_part_killed_without_warning_costs_the_others_nothing(
    scene: Scene, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "table.jsonl"
    first = [*scene.command, "--out", str(out), "--shard", "1/2"]
    killed(3, *scene.command, "--out", str(out), "--shard", "2/2")
    assert app.main(first) == 0
    assert json.loads(capsys.readouterr().out)["table"] is None
    assert not out.exists()
    assert app.main([*scene.command, "--out", str(out), "--shard", "2/2"]) == 2, "a part is never begun anew by mistake"
    assert app.main([*scene.command, "--out", str(out), "--shard", "2/2", "--resume"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["rows"] == 12
    assert out.read_bytes() == scene.table
    assert list(tmp_path.iterdir()) == [out], "no part is left over"


def test_the_same_again_measures_nothing(scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "table.jsonl"
    out.write_bytes(scene.table)
    monkeypatch.setattr(Evaluator, "correct", lambda self, arch: pytest.fail("measured again"))
    for part in ("1/2", "2/2"):
        assert app.main([*scene.command, "--out", str(out), "--shard", part, "--resume"]) == 0
    assert out.read_bytes() == scene.table
    assert list(tmp_path.iterdir()) == [out]


def test_ranks_of_torchrun_are_the_parts(
    scene: Scene, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the environment it sets; that torchrun sets it so is seen where two ranks train (tests/train/ranked.py)."""
    out = tmp_path / "table.jsonl"
    monkeypatch.setenv("WORLD_SIZE", "2")
    for rank in ("1", "0"):
        assert not out.exists()
        monkeypatch.setenv("RANK", rank)
        assert app.main([*scene.command, "--out", str(out)]) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == 12, "one rank tells the result"
    assert out.read_bytes() == scene.table
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.ray
def test_a_cluster_of_two_workers_counts_what_one_process_does(scene: Scene, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    out = tmp_path / "table.jsonl"
    command = [sys.executable, "-m", "ofa_edge.cli.app", *scene.command, "--out", str(out), "--ray", "local"]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["rows"] == 12
    alone = tmp_path / "alone.jsonl"
    alone.write_bytes(scene.table)
    assert counts(out) == counts(alone)


# Measures on a local cluster of two workers; the first task of all kills its worker.
LOSES_A_WORKER = """
import os, signal, sys
from dataclasses import dataclass
from pathlib import Path
from ofa_edge.accuracy import cluster
from ofa_edge.accuracy.evaluate import Source
from ofa_edge.accuracy.table import AccuracyHeader, AccuracyWriter
from ofa_edge.accuracy.samples import spread_sample
from ofa_edge.train import images
from ofa_edge.weights import checkpoint

supernet, data, out = map(Path, sys.argv[1:])
flag = out.with_name("killed")

class Deadly(Source):
    def evaluator(self, workers=None):
        if not flag.exists():
            flag.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return Source.evaluator(self, workers)

found = checkpoint.load(supernet)
pictures = images.load_images(data, "val")
header = AccuracyHeader.of(found.space, checkpoint=found.sha256, data="pictures", bn="running", seed=0)
with AccuracyWriter.open(out, found.space, header) as writer:
    archs = spread_sample(found.space, 6, (16, 32), 0)
    told = []
    measured = cluster.fill_table(
        Deadly(found, pictures, "running"), archs, writer, lambda: told.append(1), address="local", workers=2
    )
    writer.finish()
assert (measured, len(told)) == (12, 12), (measured, told)
"""


@pytest.mark.ray
def test_a_worker_that_is_lost_costs_its_subnet_once_more_and_nothing_else(scene: Scene, tmp_path: Path) -> None:
    pytest.importorskip("ray")
    out, alone = tmp_path / "table.jsonl", tmp_path / "alone.jsonl"
    alone.write_bytes(scene.table)
    supernet, data = (scene.command[scene.command.index(option) + 1] for option in ("--supernet", "--data"))
    command = [sys.executable, "-c", LOSES_A_WORKER, supernet, data, str(out)]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "killed").exists()
    assert counts(out) == counts(alone)
    assert not AccuracyTable.read(out, TINY).failed


def counts(path: Path) -> dict[object, int]:
    frame = AccuracyTable.read(path, TINY).frame
    return dict(zip(frame["arch"], frame["correct"], strict=True))


# -- parts --------------------------------------------------------------------------------------
def test_parts_share_all_archs_evenly_and_every_size_among_them() -> None:
    archs = [arch.at(r) for arch in (TINY.largest(), TINY.smallest()) for r in (16, 24, 32) for _ in range(1)] * 4
    parts = [Shard(index, 3).part(range(len(archs))) for index in range(3)]  # type: ignore[arg-type]
    assert sorted(number for part in parts for number in part) == list(range(24))
    assert {len(part) for part in parts} == {8}
    assert all({archs[number].resolution for number in part} == {16, 24, 32} for part in parts)


@pytest.mark.parametrize("text", ["", "1", "0/2", "3/2", "1/0", "-1/2", "a/2", "1/2/3", "１/２"])
def test_what_is_no_part(text: str) -> None:
    with pytest.raises(UsageError, match="part"):
        Shard.parse(text)


def test_a_part_is_of_one_process_and_a_cluster_of_all(scene: Scene, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.main([*scene.command, "--out", "x", "--shard", "1/2", "--ray", "local"]) == 2
    assert "cannot be used together" in json.loads(capsys.readouterr().out)["error"]["message"]


def test_nothing_measured_is_a_failure(
    scene: Scene, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(self: Evaluator, arch: object) -> int:
        raise ValueError("no memory")

    monkeypatch.setattr(Evaluator, "correct", fails)
    assert app.main([*scene.command, "--out", str(tmp_path / "x.jsonl")]) == 1
    assert "no subnet could be measured: 12 subnets failed" in json.loads(capsys.readouterr().out)["error"]["message"]
    assert len(AccuracyTable.read(tmp_path / "x.jsonl", TINY).failed) == 12


# -- presets and budgets ------------------------------------------------------------------------
def evaluated(scene: Scene, capsys: pytest.CaptureFixture[str], out: Path, *options: str) -> AccuracyTable:
    """The table of a run of the scene with other options than --samples and --resolutions."""
    command = [*scene.command[: scene.command.index("--samples")], "--json", "--out", str(out), *options]
    assert app.main(command) == 0, capsys.readouterr().err
    return AccuracyTable.read(out, TINY)


def test_what_is_said_wins_over_the_preset(scene: Scene, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    drawn = evaluated(scene, capsys, tmp_path / "a.jsonl", "--preset", "ofa-paper", "--samples", "7")
    assert (len(drawn.frame), drawn.header.bn) == (7, "running")
    assert len({arch.at(0) for arch in drawn.frame["arch"]}) == 7, "each subnet at one size, as the paper has it"
    everywhere = evaluated(
        scene, capsys, tmp_path / "b.jsonl", "--preset", "spos-paper", "--samples", "2", "--sizes", "all"
    )
    assert len(everywhere.frame) == 2 * len(TINY.resolutions)


def test_samples_are_drawn_within_a_budget(scene: Scene, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    limit = 300_000
    table = evaluated(scene, capsys, tmp_path / "a.jsonl", "--samples", "8", "--budget", f"macs={limit}")
    assert len(table.frame) == 8
    assert max(cost(TINY.blocks(arch)).macs for arch in table.frame["arch"]) <= limit


def test_a_subnet_trained_alone_is_measured_by_its_running_statistics(
    scene: Scene, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arch = TINY.smallest(32)
    metadata = checkpoint.Metadata("tiny", ("a", "b", "c"), "random", "none", {}, {}, {})
    arrays = subnet_arrays(TINY, arrays_of(NETWORK), arch)
    file = tmp_path / "one.safetensors"
    checkpoint.save(file, arrays, None, metadata, space=TINY, running=measured(arch), arch=arch, single_precision=True)
    data = scene.command[scene.command.index("--data") + 1]
    command = ["evaluate", "--supernet", str(file), "--data", data, "--split", "val", "--samples", "2"]
    assert app.main([*command, "--out", str(tmp_path / "x.jsonl")]) == 0
    table = AccuracyTable.read(tmp_path / "x.jsonl", TINY)
    assert table.header.bn == "running"
    assert list(table.frame["arch"]) == [arch.at(r) for r in TINY.resolutions]


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (("--samples", "8", "--budget", "macs=10"), 3, "not even the smallest subnet of tiny"),
        (("--samples", "8", "--budget", "latency=20ms"), 2, "needs a latency table"),
        (("--samples", "8", "--budget", "20"), 2, "no unit"),
        (("--samples", "8", "--latency-table", "x"), 2, "--latency-table is for --budget"),
        (("--preset", "paper"), 2, "there is no preset 'paper'"),
        (("--samples", "8", "--sizes", "some"), 2, "--sizes some is not possible"),
        (("--arch", "-", "--preset", "ofa-paper", "--samples", "3"), 2, "cannot be used together"),
        (("--samples", "8", "--bn", "bank"), 9, "has no BN bank"),
        (("--samples", "8", "--shard", "3/2"), 2, "there is no part 3 of 2"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_cannot_be_asked(
    scene: Scene, tmp_path: Path, capsys: pytest.CaptureFixture[str], options: tuple[str, ...], code: int, said: str
) -> None:
    command = [*scene.command[: scene.command.index("--samples")], "--json", "--out", str(tmp_path / "x"), *options]
    assert app.main(command) == code
    assert said in json.loads(capsys.readouterr().out)["error"]["message"]
    assert not (tmp_path / "x").exists()
