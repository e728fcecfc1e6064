"""The optimiser of a phase, and the arithmetic its steps are taken in.

In: a network, a recipe, a phase; a precision's name. Out: SGD over what the phase trains; autocast and
gradient scaling.
"""

from __future__ import annotations

import ctypes
from contextlib import AbstractContextManager, nullcontext

import torch

from ofa_edge.errors import UsageError
from ofa_edge.supernet.network import Supernet
from ofa_edge.train.schedule import Phase, Recipe

PRECISIONS = ("auto", "fp32", "bf16", "fp16")
_TYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}

GRADIENT_NORM = 10.0  # clips only the rare exploding step of a narrow subnet

_TRAINED = {"all": "", "transforms": ".transform_", "head": "logits."}


def new_optimiser(network: Supernet, recipe: Recipe, phase: Phase) -> torch.optim.SGD:
    """SGD with Nesterov momentum; no decay on batch norm, biases and kernel transforms (OFA's settings).

    What the phase does not train takes no gradient from here on.

    Raises:
        UsageError: the network has none of what the phase trains.
    """
    decayed: list[torch.nn.Parameter] = []
    plain: list[torch.nn.Parameter] = []
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(_TRAINED[phase.trainable] in name)
        if parameter.requires_grad:
            (plain if parameter.ndim == 1 or ".transform_" in name else decayed).append(parameter)
    if not decayed and not plain:
        raise UsageError(f"space {network.space.name} has no {phase.trainable} to train", hint="train all weights")
    groups = [{"params": decayed, "weight_decay": recipe.weight_decay}, {"params": plain, "weight_decay": 0.0}]
    return torch.optim.SGD(groups, lr=0.0, momentum=recipe.momentum, nesterov=True)


class Precision:
    """float32, or autocast to bfloat16 or float16; `auto` is bfloat16 on a GPU and float32 elsewhere, where autocast
    is slower.

    Attributes:
        name: what it came to.
        scaler: keeps float16 gradients above its smallest number; does nothing for the others.

    Raises:
        UsageError: there is no such precision.
    """

    def __init__(self, name: str, device: torch.device):
        if name not in PRECISIONS:
            raise UsageError(f"there is no precision {name!r}", hint=f"use one of: {', '.join(PRECISIONS)}")
        self.name = ("bf16" if device.type == "cuda" else "fp32") if name == "auto" else name
        self._device = device.type
        self.scaler = torch.amp.GradScaler(device.type, enabled=self.name == "fp16")

    def step(self, optimiser: torch.optim.Optimizer, trained: list[torch.nn.Parameter], rate: float) -> None:
        """One step at this learning rate, the gradients clipped."""
        for group in optimiser.param_groups:
            group["lr"] = rate
        self.scaler.unscale_(optimiser)
        torch.nn.utils.clip_grad_norm_(trained, GRADIENT_NORM)
        self.scaler.step(optimiser)
        self.scaler.update()

    def autocast(self) -> AbstractContextManager[object]:
        """The context of a forward pass."""
        if self.name == "fp32":
            return nullcontext()
        return torch.autocast(self._device, _TYPES[self.name])


def reuse_memory() -> None:
    """Make glibc keep freed memory instead of returning it to the kernel between steps.

    Feature maps of 100 MB are mapped and zeroed anew at every layer otherwise: training runs at .6x the speed.
    """
    m_trim_threshold, m_top_pad, m_mmap_max = -1, -2, -4  # malloc.h
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError):
        return  # another C library; only slower
    mallopt(m_mmap_max, 0)
    mallopt(m_trim_threshold, 2**31 - 1)
    mallopt(m_top_pad, 256 * 2**20)
