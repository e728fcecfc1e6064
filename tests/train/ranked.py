"""One rank of a training run: `torchrun --nproc-per-node N -m tests.train.ranked OUT`.

Rank 0 writes OUT/losses.json and OUT/weights.safetensors.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import safetensors.torch
import torch

from ofa_edge.accuracy.samples import Shard
from ofa_edge.cli import evaluate
from ofa_edge.train.distributed import Ranks
from ofa_edge.train.options import TrainOptions
from ofa_edge.train.schedule import ONLY_LARGEST, Axes, Phase, Recipe
from ofa_edge.train.trainer import Trainer
from tests.train.tiny import TINY, splits

RECIPE = Recipe(
    name="ranked",
    phases=(
        Phase("largest", 1, ("largest",), 0.04, axes=ONLY_LARGEST),
        Phase("depth", 1, ("random", "random"), 0.02, axes=Axes(None, 2, 1, 1), distill="teacher"),
        Phase("elastic", 1, ("largest", "smallest", "random"), 0.02, distill="in-place", sort_groups=0),
    ),
    batch_size=16,
)


def run(out: Path, ranks: Ranks) -> None:
    """Train on these ranks, from the same initial weights each time."""
    torch.manual_seed(0)
    losses: list[float] = []
    options = TrainOptions(seed=3, sync_bn=True, checkpoint_minutes=99)
    trainer = Trainer(TINY, RECIPE, splits(48), out, options, lambda news: losses.append(news.loss), ranks)
    trainer.run()
    assert evaluate.this_shard(None, None) == (Shard(ranks.rank, ranks.count) if ranks.count > 1 else None)
    if ranks.main:
        (out / "losses.json").write_text(json.dumps({"ranks": ranks.count, "losses": losses}))
        weights = {name: value.contiguous() for name, value in trainer.network.state_dict().items()}
        safetensors.torch.save_file(weights, out / "weights.safetensors")


if __name__ == "__main__":
    torch.set_num_threads(1)
    with Ranks.here() as here:
        run(Path(sys.argv[1]), here)
