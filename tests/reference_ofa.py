"""Once-for-All's reference implementation (PyPI `ofa`), importable without torchvision.

It wants torchvision for data sets and transforms only, which no test uses, so empty modules of these names stand in
while it is imported. Tests that use it skip where it is not installed (`make setup` installs it).
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import types
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
import torch  # before the stand-ins: torch looks for source files of all modules it finds
from torch import nn

_STAND_INS = ("torchvision", "torchvision.transforms", "torchvision.transforms.functional", "torchvision.datasets")


class _StandIn(types.ModuleType):
    def __getattr__(self, name: str) -> object:
        if name.startswith("__"):
            raise AttributeError(name)
        return sys.modules.get(f"{self.__name__}.{name}") or type(name, (), {})


def module(name: str) -> types.ModuleType:
    """A module of the package by its name below `ofa`: 'utils', 'imagenet_classification.elastic_nn.networks', ..."""
    if importlib.util.find_spec("ofa") is None:
        pytest.skip("the reference implementation is not installed; `make setup` installs it")
    before = {name: sys.modules.get(name) for name in _STAND_INS}
    sys.modules.update({name: _StandIn(name) for name in _STAND_INS})
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return importlib.import_module(f"ofa.{name}")
    finally:
        for stand_in, found in before.items():
            del sys.modules[stand_in]
            if found is not None:
                sys.modules[stand_in] = found


# -- supernets ------------------------------------------------------------------------------------
_MOBILE = {"dropout_rate": 0, "ks_list": [3, 5, 7], "expand_ratio_list": [3, 4, 6], "depth_list": [2, 3, 4]}
_RESNET = {"dropout_rate": 0, "depth_list": [0, 1, 2], "expand_ratio_list": [0.2, 0.25, 0.35]}


def mobilenet_v3(width: float, classes: int = 1000) -> nn.Module:
    return _networks().OFAMobileNetV3(n_classes=classes, width_mult=width, **_copied(_MOBILE))


def proxyless(width: float, classes: int = 1000) -> nn.Module:
    return _networks().OFAProxylessNASNets(n_classes=classes, width_mult=width, **_copied(_MOBILE))


def resnet_d(multipliers: Sequence[float], classes: int = 1000) -> nn.Module:
    return _networks().OFAResNets(n_classes=classes, width_mult_list=list(multipliers), **_copied(_RESNET))


# The reference implementation's supernets, by the names of our spaces.
SUPERNETS: dict[str, Callable[[], nn.Module]] = {
    "ofa-mbv3-w1.0": lambda: mobilenet_v3(1.0),
    "ofa-mbv3-w1.2": lambda: mobilenet_v3(1.2),
    "ofa-proxyless-w1.3": lambda: proxyless(1.3),
    "ofa-resnet50d": lambda: resnet_d((0.65, 0.8, 1.0)),
}


def _networks() -> types.ModuleType:
    return module("imagenet_classification.elastic_nn.networks")


def _copied(settings: dict[str, Any]) -> dict[str, Any]:
    """Its constructors sort the lists they are given in place."""
    return {name: list(value) if isinstance(value, list) else value for name, value in settings.items()}


@torch.no_grad()
def randomise(network: nn.Module, seed: int) -> None:
    """Weights, kernel transforms, batch norms and their running statistics all away from where they start.

    The statistics are those of the largest net on noise, each off by a random part: under wholly arbitrary ones
    activations grow from block to block until single precision has no digits left to compare.
    """
    torch.manual_seed(seed)
    for name, value in network.named_parameters():
        if name.endswith("_matrix"):
            value.copy_(torch.eye(len(value)) + 0.05 * torch.randn_like(value))
        elif name.endswith("bn.weight"):
            value.uniform_(0.5, 1.5)
        elif value.ndim == 1:
            value.normal_(0, 0.2)
        else:
            value.normal_(0, (2 / value[0].numel()) ** 0.5)
    norms = [layer for layer in network.modules() if isinstance(layer, nn.BatchNorm2d)]
    network.set_max_net()
    for norm in norms:
        norm.momentum = 1.0
    network.train()(torch.randn(8, 3, 64, 64))
    for norm in norms:
        norm.momentum = 0.1
        norm.running_mean.add_(0.2 * norm.running_var.sqrt() * torch.randn_like(norm.running_mean))
        norm.running_var.mul_(torch.empty_like(norm.running_var).uniform_(0.5, 2))


def images(count: int, resolution: int, seed: int) -> torch.Tensor:
    """Noise (count, 3, H, W), each image with another contrast and tint: of plain noise, pooling leaves little to tell
    two images apart by."""
    generator = torch.Generator().manual_seed(seed)
    contrast, tint = (
        torch.linspace(0.5, 2, count).view(count, 1, 1, 1),
        torch.randn(count, 3, 1, 1, generator=generator),
    )
    return contrast * torch.randn(count, 3, resolution, resolution, generator=generator) + tint


def logits(network: nn.Module, drawn: dict[str, Any], images: torch.Tensor) -> torch.Tensor:
    """What its subnet gives in eval mode; `drawn` as `sample_active_subnet` returns it."""
    network.eval()
    network.set_active_subnet(**drawn)
    with torch.no_grad():
        return network(images)


@contextmanager
def shapes_only() -> Iterator[None]:
    """Modules made within have shapes but no values, so that hundreds of networks take seconds."""
    with torch.device("meta"):
        yield


def counts(subnet: nn.Module, resolution: int) -> tuple[int, int]:
    """MACs and trainable parameters of a static network, as the reference counts them.

    Its counter adds up in floating point, which is exact for these numbers in 64 bits; layers that it counts as
    nothing are taken out of `subnet` first.
    """
    params = sum(value.numel() for value in subnet.parameters())
    parts = module("utils.pytorch_modules")
    _leave_out(subnet, (nn.BatchNorm2d, nn.ReLU, nn.ReLU6, nn.Dropout, parts.Hswish, parts.Hsigmoid))
    torch.set_default_dtype(torch.float64)
    try:
        macs, _ = module("utils.flops_counter").profile(subnet.double(), (1, 3, resolution, resolution))
    finally:
        torch.set_default_dtype(torch.float32)
    return int(macs), params


def _leave_out(network: nn.Module, kinds: tuple[type[nn.Module], ...]) -> None:
    for name, child in network.named_children():
        if isinstance(child, kinds):
            setattr(network, name, nn.Identity())
        else:
            _leave_out(child, kinds)
