"""Other exporters as oracles: torch.onnx and litert-torch write the same subnets, and the files say the same."""

from __future__ import annotations

import importlib.util
import io
import os
import subprocess
import sys
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch

from ofa_edge.graph import check, compiling
from ofa_edge.graph.build import network
from ofa_edge.graph.ir import Graph
from ofa_edge.space.arch import Arch, Space
from ofa_edge.space.spaces import SPACES
from ofa_edge.weights.cut import fold
from tests.families import SMALL_MBV3
from tests.static_subnet import Subnet

RESOLUTION = 64
FAMILIES = ("ofa-lite0", "ofa-mbv3-w1.0", "ofa-proxyless-w1.3", "ofa-resnet50d")


def drawn(space: Space, arch: Arch) -> Subnet:
    """A subnet of which no part is at its neutral start, batch norm's statistics included."""
    torch.manual_seed(3)
    subnet = Subnet(space, arch).eval()
    with torch.no_grad():
        for norm in subnet.batch_norms().values():
            norm.weight.uniform_(0.5, 1.5)
            norm.bias.normal_(0, 0.2)
            norm.get_buffer("running_mean").normal_(0, 0.2)
            norm.get_buffer("running_var").uniform_(0.5, 1.5)
    return subnet


def cases() -> list[tuple[Space, Arch]]:
    """The smallest subnet of each family at 64 px, and one with every kernel, SE and depth."""
    found = []
    for name in FAMILIES:
        space = replace(SPACES[name], resolutions=(RESOLUTION,))
        found.append((space, space.smallest(RESOLUTION)))
    return [*found, (SMALL_MBV3, SMALL_MBV3.largest(33))]


def made(space: Space, arch: Arch) -> tuple[Subnet, Graph, np.ndarray]:
    subnet = drawn(space, arch)
    graph = network(space.layers(arch), fold(space, subnet.arrays(), arch, subnet.statistics()))
    x = np.random.default_rng(1).standard_normal(graph.input.shape, dtype=np.float32)
    return subnet, graph, x


def torch_file(subnet: Subnet, x: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its own deprecations
        torch.onnx.export(subnet, (torch.from_numpy(x),), buffer, input_names=["input"], opset_version=17, dynamo=False)
    return buffer.getvalue()


@pytest.mark.parametrize(("space", "arch"), cases(), ids=lambda value: getattr(value, "name", ""))
def test_torchs_own_export_of_a_subnet_says_the_same(space: Space, arch: Arch) -> None:
    subnet, graph, x = made(space, arch)
    theirs = check.run(torch_file(subnet, x), x)
    assert check.compare(subnet(torch.from_numpy(x)).detach().numpy(), theirs).rel < 1e-4
    for runtime in compiling.FORMATS:
        compiled = compiling.compile_graph(graph, runtime=runtime)
        assert check.compare(check.run(compiled.content, x), theirs).rel < 1e-4
        if runtime == "onnxruntime":
            onnx.checker.check_model(onnx.load_model_from_string(compiled.content), full_check=True)


# In a process of its own: it loads jax, and may live in an environment of its own (OFA_EDGE_LITERT_TORCH_PYTHON).
CONVERT = """
import sys, warnings
warnings.simplefilter("ignore")
import litert_torch, numpy as np, torch
from pathlib import Path
from tests.graph.test_oracles import cases, made
for number, (space, arch) in enumerate(cases()):
    subnet, _, x = made(space, arch)
    sample = torch.from_numpy(x).permute(0, 2, 3, 1).contiguous()
    model = litert_torch.convert(litert_torch.to_channel_last_io(subnet, args=[0]), (sample,))
    model.export(str(Path(sys.argv[1], f"{number}.tflite")))
"""


def litert_torch_python() -> str | None:
    if importlib.util.find_spec("litert_torch"):
        return sys.executable
    return os.environ.get("OFA_EDGE_LITERT_TORCH_PYTHON")


@pytest.mark.slow
def test_litert_torchs_export_of_a_subnet_says_the_same(tmp_path: Path) -> None:
    python = litert_torch_python()
    if python is None:
        pytest.skip("litert-torch is not installed (2 GB): pip install '.[oracles]'")
    repository = str(Path(__file__).resolve().parents[2])
    subprocess.run(
        [python, "-c", CONVERT, str(tmp_path)],
        check=True,
        capture_output=True,
        env={**os.environ, "PYTHONPATH": repository},
        timeout=280,
    )
    for number, (space, arch) in enumerate(cases()):
        _, graph, x = made(space, arch)
        theirs = check.run(Path(tmp_path, f"{number}.tflite").read_bytes(), x)
        for runtime in compiling.FORMATS:
            compiled = compiling.compile_graph(graph, runtime=runtime)
            assert check.compare(check.run(compiled.content, x), theirs).rel < 1e-4, space.name
