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

import pytest
import torch  # noqa: F401  (before the stand-ins: torch looks for source files of all modules it finds)

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
