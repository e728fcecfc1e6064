"""Subnets in torch, and the files that other exporters make of them; benchmarks/compiled.py times them beside ours.

In: names of spaces. Out: torch modules, our graph of them, bytes by torch.onnx and litert-torch. The latter may live in
an environment of its own: OFA_EDGE_LITERT_TORCH_PYTHON names its interpreter.
"""

from __future__ import annotations

import importlib.util
import io
import json
import os
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from ofa_edge.graph import build
from ofa_edge.graph.ir import Graph
from ofa_edge.space.arch import Arch, Space
from ofa_edge.space.spaces import SPACES
from ofa_edge.weights.cut import fold

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # tests/

HERE = Path(__file__).resolve().parent


def middle(name: str) -> tuple[Space, Arch]:
    """A subnet of middle size."""
    space = SPACES[name]
    size = space.resolutions[len(space.resolutions) // 2]
    return space, space.sample(np.random.default_rng(3), size)


def torch_subnet(space: Space, arch: Arch) -> Any:
    """The subnet in torch, its weights drawn and its batch norm not at its neutral start."""
    import torch

    from tests.static_subnet import Subnet

    torch.manual_seed(3)
    subnet = Subnet(space, arch).eval()
    with torch.no_grad():
        for norm in subnet.batch_norms().values():
            norm.weight.uniform_(0.5, 1.5)
            norm.get_buffer("running_mean").normal_(0, 0.2)
            norm.get_buffer("running_var").uniform_(0.5, 1.5)
    return subnet


def graph_of(subnet: Any) -> Graph:
    """Our graph of a torch subnet."""
    arrays = fold(subnet.space, subnet.arrays(), subnet.arch, subnet.statistics())
    return build.network(subnet.space.layers(subnet.arch), arrays)


def torch_onnx(subnet: Any, x: np.ndarray) -> bytes:
    """torch.onnx's own file."""
    import torch

    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(subnet, (torch.from_numpy(x),), buffer, input_names=["input"], opset_version=17, dynamo=False)
    return buffer.getvalue()


# Runs in whatever interpreter has litert-torch; prints the seconds that each conversion took.
_CONVERT = """
import json, sys, time, warnings
warnings.simplefilter("ignore")
import litert_torch, torch
from pathlib import Path
from other_exporters import middle, torch_subnet
seconds = {}
for name in sys.argv[2:]:
    space, arch = middle(name)
    subnet = torch_subnet(space, arch)
    sample = torch.randn(1, arch.resolution, arch.resolution, 3)
    start = time.perf_counter()
    model = litert_torch.convert(litert_torch.to_channel_last_io(subnet, args=[0]), (sample,))
    model.export(str(Path(sys.argv[1], name)))
    seconds[name] = time.perf_counter() - start
Path(sys.argv[1], "seconds").write_text(json.dumps(seconds))
"""


def litert_torch(names: tuple[str, ...]) -> tuple[dict[str, bytes], dict[str, float], str]:
    """litert-torch's files of `middle` subnets, the seconds each took, and why there are none."""
    python = sys.executable if importlib.util.find_spec("litert_torch") else None
    python = python or os.environ.get("OFA_EDGE_LITERT_TORCH_PYTHON")
    if python is None:
        return {}, {}, "litert-torch is not installed (2 GB)"
    with tempfile.TemporaryDirectory(prefix="ofa-edge-") as folder:
        done = subprocess.run(
            [python, "-c", _CONVERT, folder, *names],
            env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (HERE, HERE.parent)))},
            capture_output=True,
            text=True,
        )
        if done.returncode:
            return {}, {}, f"litert-torch failed: {(done.stderr.strip().splitlines() or ['?'])[-1][:200]}"
        seconds = json.loads(Path(folder, "seconds").read_text())
        return {name: Path(folder, name).read_bytes() for name in names}, seconds, ""
