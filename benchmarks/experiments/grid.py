"""Every subnet of a one-unit space: inherited accuracy against accuracy after fine-tuning alone.

    python benchmarks/experiments/grid.py --data PATH --out DIR [--images 5000] [--epochs 25] [--more 12]
        [--train ARG ...]

One unit, kernels 5 and 7, depths 2 and 3, widths 2 and 4 at 32 px
(docs/examples/one-unit-32px.toml): eight subnets whose blocks are alike. Prints MACs, top-1 inherited from the supernet
(batch norm recalibrated) and top-1 after fine-tuning that subnet alone; and, with `--more` random subnets beside them,
how well the one ranks the other. Stopped, it goes on where it was.
"""

from __future__ import annotations

import argparse
import itertools
import json
from pathlib import Path

import common
import numpy as np
from scipy.stats import pearsonr, spearmanr

from ofa_edge.space import codecs
from ofa_edge.space.arch import Arch, BlockChoice, Space
from ofa_edge.space.cost import cost
from ofa_edge.space.spaces import get_space

SPACE = "docs/examples/one-unit-32px.toml"


def grid(space: Space) -> dict[str, Arch]:
    """The subnets whose blocks are alike."""
    (stage,) = space.stages
    return {
        f"K{kernel} D{depth} W{expand}": Arch(space.resolutions[0], ((BlockChoice(kernel, expand),) * depth,))
        for kernel, depth, expand in itertools.product(stage.kernels, stage.depths, stage.expands)
    }


def more(space: Space, count: int, taken: dict[str, Arch]) -> dict[str, Arch]:
    """Random other subnets."""
    rng = np.random.default_rng(0)
    found: dict[str, Arch] = {}
    while len(found) < count:
        arch = space.sample(rng)
        if arch not in taken.values() and arch not in found.values():
            found[f"random {len(found) + 1}"] = arch
    return found


def finetuned(out: Path, checkpoint: Path, data: Path, arch: Arch, space: Space, epochs: int) -> float:
    """Top-1 in percent on the validation split after training this subnet alone."""
    result = out / "result.json"
    if not result.exists():
        out.mkdir(parents=True, exist_ok=True)
        (out / "arch.json").write_text(json.dumps(codecs.encode(space, arch)))
        given = ("--supernet", checkpoint, "--arch", out / "arch.json", "--data", data, "--epochs", epochs)
        said = common.ofa_edge(
            "finetune", *given, "--split", "val", "--heldout", common.HELDOUT, "--out", out / "subnet.safetensors"
        )
        result.write_text(json.dumps(said))
    return 100 * json.loads(result.read_text())["top1"]["after"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--epochs", type=int, default=25)
    parser.add_argument("--more", type=int, default=12)
    parser.add_argument("--train", nargs=argparse.REMAINDER, default=[])
    options = parser.parse_args()
    space = get_space(SPACE)
    data = common.subset(options.data, options.out / "data", options.images)
    given = ("--space", SPACE, "--data", data, "--recipe", "progressive", "--from", "scratch")
    checkpoint = common.train(options.out / "supernet", *given, *options.train)
    archs = grid(space)
    archs |= more(space, options.more, archs)
    judged = ("--supernet", checkpoint, "--data", data)
    dicts = [codecs.encode(space, arch) for arch in archs.values()]
    before = common.evaluate(options.out / "inherited.jsonl", dicts, *judged)
    rows, after = [], []
    for (name, arch), inherited in zip(archs.items(), before, strict=True):
        run = options.out / name.replace(" ", "-")
        after.append(finetuned(run, checkpoint, data, arch, space, options.epochs))
        rows.append([name, f"{cost(space.blocks(arch)).macs / 1e6:.2f}M", inherited, after[-1]])
    print(common.markdown(["subnet", "MACs", "inherited top-1", f"after {options.epochs} epochs alone"], rows))
    rank, linear = spearmanr(before, after).statistic, pearsonr(before, after).statistic
    print(f"\n{len(rows)} subnets: Spearman {rank:.2f}, Pearson {linear:.2f}")


if __name__ == "__main__":
    main()
