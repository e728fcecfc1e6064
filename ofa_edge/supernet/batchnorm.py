"""Batch-norm statistics of single subnets: recalibration on images, and imposing statistics from elsewhere.

A subnet of a supernet has no statistics of its own until it is given some: either the ones
measured here on training images, or predicted ones from the checkpoint's bank (weights/bank.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from ofa_edge.errors import UsageError
from ofa_edge.space.arch import Arch, Space
from ofa_edge.supernet.elastic import BatchStatistics
from ofa_edge.supernet.network import Supernet
from ofa_edge.weights.bank import Bank, Statistics, features
from ofa_edge.weights.layout import batch_norms

# Ridge strength of the bank's fit, relative to the number of subnets: features that a few dozen subnets
# cannot tell apart share their effect instead of cancelling.
_RIDGE = 1e-3


@torch.no_grad()
def recalibrate(network: Supernet, arch: Arch, batches: Iterable[Tensor]) -> Statistics:
    """Measure a subnet's statistics: pooled over the batches, each layer normalised by its batch as in training.

    The batches must be shuffled images: class-sorted ones cost 15 points of top-1.
    """
    norms = dict(network.batch_norms(arch))
    for norm in norms.values():
        nothing = torch.zeros((), device=norm.weight.device)
        norm.collected = BatchStatistics(nothing, nothing)
    try:
        for batch in batches:
            network(batch, arch)
        return {
            name: (n.collected.mean.numpy(force=True), n.collected.var.numpy(force=True))
            for name, n in norms.items()
            if n.collected and n.collected.count
        }
    finally:
        for norm in norms.values():
            norm.collected = None


@contextmanager
def given_statistics(network: Supernet, statistics: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> Iterator[None]:
    """Within the context, the named batch norms use these statistics instead of the batch's."""
    norms = {name: norm for name, norm in network.batch_norms() if name in statistics}
    for name, norm in norms.items():
        mean, var = statistics[name]
        device = norm.weight.device
        norm.given = BatchStatistics(torch.from_numpy(mean).to(device), torch.from_numpy(var).to(device))
    try:
        yield
    finally:
        for norm in norms.values():
            norm.given = None


def fit_statistics(space: Space, measured: Iterable[tuple[Arch, Statistics]]) -> Bank:
    """Fit the bank to statistics of many subnets.

    Channels that only wide subnets have are fitted on those subnets alone.

    Raises:
        UsageError: no subnet has a batch norm at its full width.
    """
    rows: dict[str, list[tuple[np.ndarray, np.ndarray, np.ndarray]]] = {}
    for arch, statistics in measured:
        for name, (mean, var) in statistics.items():
            rows.setdefault(name, []).append((features(space, arch, name), mean, var))
    widths = dict(batch_norms(space, space.largest()))
    if never := [name for name, width in widths.items() if all(len(row[1]) < width for row in rows.get(name, []))]:
        raise UsageError(f"no subnet measured has {never[0]} at its full width", hint="draw more subnets")
    return Bank({name: _fit_norm(rows[name], width) for name, width in widths.items()})


def _fit_norm(rows: list[tuple[np.ndarray, np.ndarray, np.ndarray]], width: int) -> tuple[np.ndarray, np.ndarray]:
    """Ridge regression per channel of mean and log deviation on the features; arrays (features, width)."""
    count = len(rows[0][0])
    fitted = (np.zeros((count, width), np.float32), np.zeros((count, width), np.float32))
    edges = sorted({len(mean) for _, mean, _ in rows})
    for start, stop in zip([0, *edges], edges, strict=False):
        wide = [row for row in rows if len(row[1]) >= stop]
        x = np.stack([row[0] for row in wide])
        penalty = _RIDGE * len(wide) * np.eye(count)
        penalty[0, 0] = 0.0  # the intercept is free
        inverse = np.linalg.solve(x.T @ x + penalty, x.T)
        means = np.stack([row[1][start:stop] for row in wide])
        log_stds = 0.5 * np.log(np.stack([row[2][start:stop] for row in wide]) + 1e-12)
        fitted[0][:, start:stop] = inverse @ means
        fitted[1][:, start:stop] = inverse @ log_stds
    return fitted
