"""The supernet as a torch module: `network(x, arch)` runs one subnet inside the shared weights.

In: a Space, and where it is to hold one subnet alone, that one. Out: logits of shape (N, classes) for images of shape
(N, 3, H, W). Parameter names are the array names of a checkpoint, so a state dict and a checkpoint need no translation.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Mapping

import numpy as np
import torch
from torch import Tensor, nn

from ofa_edge.space.arch import Arch, Space
from ofa_edge.space.block import Block
from ofa_edge.supernet.blocks import elastic
from ofa_edge.supernet.elastic import ElasticBatchNorm2d
from ofa_edge.supernet.sorting import sort_channels, sort_widths
from ofa_edge.weights.layout import batch_norms, kernels_at

# A subnet's blocks are worked out once for the steps that use it soon again, not for every one ever drawn.
_PLANS = 256


class Supernet(nn.Module):
    """All subnets of a space in one set of weights; with `alone` no more weights than this subnet's, the only one that
    can be run then, at any resolution."""

    def __init__(self, space: Space, alone: Arch | None = None):
        super().__init__()
        self.space = space
        # The modules are as wide as the widest choice of each place, at any resolution.
        for layer in space.layers(alone or space.largest()):
            kernels = (layer.block.kernel,) if alone else kernels_at(space, layer)
            place(self, layer.path, elastic(layer.block, kernels, space.bn_eps))
        self._norms = {name: m for name, m in self.named_modules() if isinstance(m, ElasticBatchNorm2d)}
        self._plans: OrderedDict[Arch, list[tuple[nn.Module, Block]]] = OrderedDict()

    def forward(self, x: Tensor, arch: Arch) -> Tensor:
        """Run the subnet `arch`; the input's size need not be the arch's resolution (its blocks set no size)."""
        for module, block in self._plan(arch):
            x = module(x, block)
        return x

    def _plan(self, arch: Arch) -> list[tuple[nn.Module, Block]]:
        """The modules that run, each with what it runs as."""
        plan = self._plans.get(arch)
        if plan is None:
            plan = [(self.get_submodule(layer.path), layer.block) for layer in self.space.layers(arch)]
            self._plans[arch] = plan
            if len(self._plans) > _PLANS:
                self._plans.popitem(last=False)
        return plan

    def batch_norms(self, arch: Arch | None = None) -> Iterator[tuple[str, ElasticBatchNorm2d]]:
        """Names and modules of the batch norms, of all subnets or of one."""
        names = self._norms if arch is None else [name for name, _ in batch_norms(self.space, arch)]
        for name in names:
            yield name, self._norms[name]

    def load(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Take copies of the weights of a checkpoint, or of what weights.cut gives of one."""
        self.load_state_dict({name: torch.tensor(value) for name, value in arrays.items()})

    def arrays(self) -> dict[str, np.ndarray]:
        """The weights, named as a checkpoint's."""
        return {name: value.numpy(force=True) for name, value in self.state_dict().items()}

    def sort_channels(self, expand_stage: int = 0) -> None:
        """Order every elastic block's inner channels by importance (see `sorting.sort_channels`)."""
        sort_channels(self.space, self, expand_stage)

    def sort_widths(self) -> None:
        """Order elastic widths by importance (see `sorting.sort_widths`)."""
        sort_widths(self.space, self)


def place(root: nn.Module, path: str, module: nn.Module) -> None:
    """Make `module` the submodule of `root` at a dotted path, in lists made on the way."""
    *parents, name = path.split(".")
    node = root
    for parent in parents:
        if not hasattr(node, parent):
            node.add_module(parent, nn.ModuleList())
        node = node.get_submodule(parent)
    node.add_module(name, module)
