"""Several ranks: two with half a batch each learn what one with the whole batch does; only the first writes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
import torch

from ofa_edge.errors import UsageError
from ofa_edge.train.distributed import Ranks
from ofa_edge.train.options import TrainOptions
from ofa_edge.train.trainer import Trainer
from tests.train import ranked, runs
from tests.train.tiny import TINY, splits

REPOSITORY = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_two_ranks_with_half_a_batch_each_learn_as_one_with_all_of_it(tmp_path: Path) -> None:
    """Through torchrun and gloo, with batch norm over the ranks: every phase's loss curve, and the weights."""
    one, two = tmp_path / "one", tmp_path / "two"
    one.mkdir()
    two.mkdir()
    command = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m", "tests.train.ranked", str(two)]
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=REPOSITORY,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    ranked.run(one, Ranks())
    curves = [json.loads((folder / "losses.json").read_text()) for folder in (one, two)]
    assert [curve["ranks"] for curve in curves] == [1, 2]
    assert len(curves[0]["losses"]) == 9
    assert np.ptp(curves[0]["losses"]) > 0.1
    np.testing.assert_allclose(curves[1]["losses"], curves[0]["losses"], rtol=1e-4)
    weights = [safetensors.numpy.load_file(folder / "weights.safetensors") for folder in (one, two)]
    for name, value in weights[0].items():
        np.testing.assert_allclose(weights[1][name], value, atol=2e-3, err_msg=name)


def test_ranks_take_parts_that_make_up_the_batch() -> None:
    places = [list(range(12)[Ranks(rank, 3, torch.device("cpu")).part(12)]) for rank in range(3)]
    assert [place for part in places for place in part] == list(range(12))
    assert {len(part) for part in places} == {4}


def test_a_batch_that_the_ranks_do_not_divide_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="a batch of 8 is not divided by 3 ranks"):
        Trainer(TINY, runs.RECIPE, splits(24), tmp_path, TrainOptions(), print, Ranks(0, 3))


def test_all_ranks_but_the_first_write_nothing(tmp_path: Path) -> None:
    trainer = Trainer(TINY, runs.RECIPE, splits(24), tmp_path, TrainOptions(), print, Ranks(1, 2))
    trainer.save()
    assert list(tmp_path.iterdir()) == []


def test_without_torchrun_there_is_one_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    with Ranks.here() as ranks:
        assert (ranks.rank, ranks.count, ranks.main) == (0, 1, True)
