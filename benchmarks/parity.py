"""Do imported supernets compute what Once-for-All's reference implementation does? A table a space.

    python benchmarks/parity.py [--subnets 50] [--counted 100] [--spaces NAME ...] [--threads N] [--json]

For each space the reference implementation (PyPI `ofa`) makes a supernet with random weights, kernel transforms, batch
norms and running statistics, and saves its state dict. `ofa-edge supernet import` reads that; random subnets, drawn
by the reference, are run on the same two images by it, by our supernet in torch, and by ONNX Runtime as the model that
`ofa-edge export --bn running` writes. A difference is max |a - b| / max |b| over the logits, b being the reference's;
`apart` is the least difference between the logits of the two images. `miscounted` is how many of `--counted` random
subnets have other MACs or another number of parameters than the reference counts.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import math
import random
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ofa_edge.cli.app import main as ofa_edge
from ofa_edge.graph import check, subnet
from ofa_edge.space import codecs
from ofa_edge.space.cost import cost
from ofa_edge.space.spaces import get_space
from ofa_edge.supernet.batchnorm import given_statistics
from ofa_edge.supernet.network import Supernet
from ofa_edge.weights import checkpoint
from ofa_edge.weights.layout import arch_shapes

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests import reference_ofa


def imported(name: str, network: torch.nn.Module, folder: Path) -> checkpoint.Checkpoint:
    """The reference's weights, by way of its state dict and our command."""
    theirs, ours = folder / "theirs.pth", folder / "ours.safetensors"
    torch.save({"state_dict": network.state_dict()}, theirs)
    arguments = ["supernet", "import", str(theirs), "--space", name, "--out", str(ours), "--json"]
    with contextlib.redirect_stdout(io.StringIO()):
        code = ofa_edge(arguments)
    if code:
        raise SystemExit(code)
    return checkpoint.load(ours)


def compare(name: str, subnets: int, folder: Path) -> dict[str, Any]:
    """Greatest and median difference over random subnets of one space."""
    start = time.monotonic()
    reference = reference_ofa.SUPERNETS[name]()
    reference_ofa.randomise(reference, 1)
    found = imported(name, reference, folder)
    network = Supernet(found.space)
    network.load_state_dict({key: torch.from_numpy(value) for key, value in found.arrays.items()})
    random.seed(2)
    in_torch, in_onnx, apart = [], [], []
    for seed in range(subnets):
        drawn = reference.sample_active_subnet()
        arch = codecs.decode(found.space, drawn | {"r": random.choice(found.space.resolutions)})
        images = reference_ofa.images(2, arch.resolution, seed)
        theirs = reference_ofa.logits(reference, drawn, images).numpy()
        given = found.statistics_of(arch, "running")
        with torch.no_grad(), given_statistics(network, given):
            ours = network(images, arch).numpy()
        exported = check.run(subnet.to_onnx(found, arch, given), images.numpy())
        scale = np.abs(theirs).max()
        in_torch.append(float(np.abs(ours - theirs).max() / scale))
        in_onnx.append(float(np.abs(exported - theirs).max() / scale))
        apart.append(float(np.abs(theirs[0] - theirs[1]).max() / scale))
    return {
        "space": name,
        "subnets": subnets,
        "torch": {"max": max(in_torch), "median": statistics.median(in_torch)},
        "onnx": {"max": max(in_onnx), "median": statistics.median(in_onnx)},
        "images_apart": min(apart),
        "seconds": round(time.monotonic() - start, 1),
    }


def miscounted(name: str, subnets: int) -> int:
    """How many random subnets of a space have other MACs or parameters than the reference's."""
    space = get_space(name)
    random.seed(1)
    with reference_ofa.shapes_only():
        reference: Any = reference_ofa.SUPERNETS[name]()
    wrong = 0
    for _ in range(subnets):
        drawn = reference.sample_active_subnet() | {"r": random.choice(space.resolutions)}
        arch = codecs.decode(space, drawn)
        with reference_ofa.shapes_only():
            subnet = reference.get_active_subnet(preserve_weight=False)
        blocks = space.blocks(arch)
        trained = sum(map(math.prod, arch_shapes(space, arch).values()))
        wrong += (cost(blocks).macs, trained) != reference_ofa.counts(subnet, arch.resolution)
    return wrong


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--subnets", type=int, default=50)
    parser.add_argument("--counted", type=int, default=100)
    parser.add_argument("--spaces", nargs="+", default=list(reference_ofa.SUPERNETS), choices=reference_ofa.SUPERNETS)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if not options.json:
        figures = "".join(f"{kind + ' max':>12}{'median':>10}" for kind in ("torch", "ONNX"))
        print(f"{'space':20}{'subnets':>8}{figures}{'apart':>8}{'miscounted':>12}")
    rows = []
    for name in options.spaces:
        with tempfile.TemporaryDirectory() as folder:
            row = compare(name, options.subnets, Path(folder)) | {"miscounted": miscounted(name, options.counted)}
        rows.append(row)
        if not options.json:
            figures = "".join(f"{row[kind][value]:{w}.1e}" for kind in ("torch", "onnx") for value, w in _COLUMNS)
            print(f"{name:20}{row['subnets']:8}{figures}{row['images_apart']:8.2f}{row['miscounted']:12}", flush=True)
    if options.json:
        print(json.dumps(rows))


_COLUMNS = (("max", 12), ("median", 10))


if __name__ == "__main__":
    main()
