"""Published supernets: what is imported computes what the reference implementation does, in torch and in ONNX Runtime.

The networks here are narrow ones of the same classes; benchmarks/parity.py does the same at full width.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from ofa_edge.cli.app import main
from ofa_edge.errors import BadFile
from ofa_edge.graph import check
from ofa_edge.space import codecs, spaces
from ofa_edge.space.arch import Space
from ofa_edge.space.spaces import SPACES
from ofa_edge.supernet.batchnorm import given_statistics
from ofa_edge.supernet.network import Supernet
from ofa_edge.weights import checkpoint
from ofa_edge.weights.from_ofa import canonical, from_ofa, their_names
from ofa_edge.weights.imports import read_torch_file
from tests import reference_ofa

NARROW: dict[str, tuple[Space, Callable[[], nn.Module]]] = {
    "mbv3": (spaces.mobilenet_v3("narrow-mbv3", 0.25), lambda: reference_ofa.mobilenet_v3(0.25, 7)),
    "proxyless": (spaces.proxyless("narrow-proxyless", 0.5), lambda: reference_ofa.proxyless(0.5, 7)),
    "resnet": (spaces.resnet_d("narrow-resnet", (0.125, 0.25)), lambda: reference_ofa.resnet_d((0.125, 0.25), 7)),
}
RESOLUTION = 132  # whose maps are odd at most strides


@pytest.fixture(scope="module", params=NARROW)
def family(request: pytest.FixtureRequest) -> tuple[Space, nn.Module]:
    space, make = NARROW[request.param]
    network = make()
    reference_ofa.randomise(network, 1)
    return space, network


@pytest.fixture
def imported(
    family: tuple[Space, nn.Module], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Path:
    """The reference's state dict, saved by it and imported by our command."""
    space, network = family
    monkeypatch.setitem(SPACES, space.name, space)
    torch.save({"state_dict": network.state_dict(), "epoch": 3}, tmp_path / "theirs.pth")
    out = tmp_path / "ours.safetensors"
    arguments = ["supernet", "import", tmp_path / "theirs.pth", "--space", space.name, "--out", out, "--json"]
    assert main(list(map(str, arguments))) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["tensors"] + 2 * told["batch_norms"] == len(their_names(space))
    return out


def difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    assert np.abs(theirs[0] - theirs[1]).max() > 0.01 * np.abs(theirs).max()  # the images are told apart
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


def drawn(network: nn.Module, seed: int) -> dict[str, Any]:
    random.seed(seed)
    return network.sample_active_subnet()


def test_subnets_give_the_references_logits_in_torch(family: tuple[Space, nn.Module], imported: Path) -> None:
    network, found = family[1], checkpoint.load(imported)
    assert found.space.classes == 7
    ours = Supernet(found.space)
    ours.load_state_dict({name: torch.from_numpy(value) for name, value in found.arrays.items()})
    images = reference_ofa.images(2, RESOLUTION, 0)
    for seed in range(5):
        one = drawn(network, seed)
        arch = codecs.decode(found.space, one | {"r": RESOLUTION})
        with torch.no_grad(), given_statistics(ours, found.statistics_of(arch, "running")):
            logits = ours(images, arch)
        assert difference(logits.numpy(), reference_ofa.logits(network, one, images).numpy()) < 1e-4


def test_an_exported_subnet_gives_the_references_logits(
    family: tuple[Space, nn.Module], imported: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, images = drawn(family[1], 9), reference_ofa.images(2, RESOLUTION, 0)
    (tmp_path / "arch.json").write_text(json.dumps(one | {"r": RESOLUTION}))
    arguments = ["--supernet", imported, "--arch", tmp_path / "arch.json", "--bn", "running", "--out", tmp_path / "m"]
    assert main(list(map(str, ["export", *arguments, "--format", "onnx", "--json"]))) == 0
    assert json.loads(capsys.readouterr().out)["bn"] == "running"
    theirs = reference_ofa.logits(family[1], one, images).numpy()
    assert difference(check.run((tmp_path / "m").read_bytes(), images.numpy()), theirs) < 1e-4


def test_imported_weights_are_the_files_to_the_last_digit(family: tuple[Space, nn.Module], imported: Path) -> None:
    found, names = checkpoint.load(imported), their_names(family[0])
    assert found.running is not None
    assert found.bank is None
    assert "unknown" in found.metadata.licence
    assert "not a known file" in found.metadata.source
    for name, value in family[1].state_dict().items():
        if not name.endswith("num_batches_tracked"):
            norm, _, statistic = names[canonical(name)].partition("/")
            ours = found.running[norm][statistic == "var"] if statistic else found.arrays[norm]
            assert np.array_equal(ours, value.numpy())


# -- names ----------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", reference_ofa.SUPERNETS)
def test_every_tensor_of_the_published_supernets_has_its_place(name: str) -> None:
    with torch.device("meta"):
        state = reference_ofa.SUPERNETS[name]().state_dict()
    assert {canonical(tensor) for tensor in state if not tensor.endswith("num_batches_tracked")} == set(
        their_names(SPACES[name])
    )


def old_names(name: str) -> str:
    return name.replace(".conv.depth_conv", ".mobile_inverted_conv.depth_conv")


def static_names(name: str) -> str:
    """As a network without elastic layers has them."""
    for part in ("bn", "conv", "linear"):
        name = name.replace(f".{part}.{part}.", f".{part}.")
    return name


@pytest.mark.parametrize("renamed", [old_names, static_names])
def test_older_names_are_read(family: tuple[Space, nn.Module], renamed: Callable[[str], str]) -> None:
    """All of these the reference implementation loads, too."""
    space, network = family
    state = {name: value.numpy() for name, value in network.state_dict().items()}
    other = {renamed(name): value for name, value in state.items()}
    network.load_state_dict({name: torch.from_numpy(value) for name, value in other.items()})
    one, two = from_ofa(state, space), from_ofa(other, space)
    assert one.arrays.keys() == two.arrays.keys()
    assert all(np.array_equal(one.arrays[name], two.arrays[name]) for name in one.arrays)


def without(state: dict[str, np.ndarray], name: str) -> dict[str, np.ndarray]:
    return {key: value for key, value in state.items() if key != name}


FIRST = "blocks.1.conv.depth_conv.conv.conv.weight"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda s: without(s, FIRST), r"missing \['blocks\.1\.conv\.depth_conv\.conv\.weight'\], extra \[\]"),
        (lambda s: s | {"blocks.99.x": s[FIRST]}, r"missing \[\], extra \['blocks\.99\.x'\]"),
        (lambda s: s | {FIRST: s[FIRST][:, :, 1:-1, 1:-1]}, r"blocks\.1\.conv\.depth_conv\.conv\.weight has shape"),
        (lambda s: s | {FIRST.replace("conv.conv.", "conv."): s[FIRST]}, "twice"),
        (lambda s: s | {"first_conv.bn.running_mean": np.zeros(3, np.float32)}, r"running_mean has shape \(3,\)"),
        (lambda s: s | {"classifier.linear.weight": s["classifier.linear.weight"][:3]}, r"has shape \(3, "),
        (lambda s: s | {FIRST: s[FIRST] * np.nan}, "not finite"),
        (
            lambda s: s | {"first_conv.bn.running_var": -s["first_conv.bn.running_var"]},
            "running_var holds .* no variance",
        ),
    ],
    ids=["missing", "extra", "kernel", "twice", "statistics", "classes", "nan", "variance"],
)
def test_tensors_that_do_not_fit_are_named(change: Callable[[dict[str, Any]], dict[str, Any]], said: str) -> None:
    space, make = NARROW["mbv3"]
    with pytest.raises(BadFile, match=said):
        from_ofa(change({name: value.numpy() for name, value in make().state_dict().items()}), space)


def test_a_training_state_is_read_by_its_state_dict(tmp_path: Path) -> None:
    torch.save({"state_dict": {"x": torch.ones(2)}, "epoch": 4, "optimizer": {"lr": 0.1}}, tmp_path / "training.pth")
    assert read_torch_file(tmp_path / "training.pth")["x"].tolist() == [1, 1]
