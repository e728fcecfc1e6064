"""Trains Once-for-All's accuracy predictor, in torch; its predictions need none (mlp.py).

In: measured rows. Out: `MlpAccuracy`. Three hidden layers of 400 with ReLU and no bias at the end, as in
the paper's code, where the mean of the measured accuracies is added instead. What the paper leaves open is fixed here:
AdamW, cosine rate, a number of passes that shrinks with the table so that all tables cost about the same. Rule kept:
the same rows and seed give the same weights on one machine.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
import torch
from numpy.typing import NDArray

from ofa_edge.accuracy.encoding import ONE_HOT, encode
from ofa_edge.accuracy.mlp import HIDDEN, MlpAccuracy, forward
from ofa_edge.accuracy.validation import VALIDATION_FOLDS, Rows, left_out
from ofa_edge.space.arch import Arch

BATCH = 128
RATE = 3e-3
WEIGHT_DECAY = 3.0
STEPS = 600

Layers = list[tuple[NDArray[np.float32], NDArray[np.float32]]]


def fit(rows: Rows, *, seed: int = 0, report: Callable[[], None] = lambda: None) -> MlpAccuracy:
    """Train on measured rows; once more on each fold's rest, for the figures and intervals of left-out subnets.

    Args:
        seed: of weights, order and folds.
        report: called after each of the VALIDATION_FOLDS + 1 trainings.
    """

    def predictor(part: Rows) -> Callable[[Sequence[Arch]], NDArray[np.float64]]:
        layers, scale = _fit(part, seed)
        report()
        base = part.shares.mean()
        return lambda archs: base + scale * forward(layers, encode(part.space, archs, part.resolutions, ONE_HOT))

    predicted = left_out(rows, predictor, seed)
    layers, scale = _fit(rows, seed)
    report()
    return MlpAccuracy.of(rows, layers, scale, predicted, VALIDATION_FOLDS)


def _fit(rows: Rows, seed: int) -> tuple[Layers, float]:
    scale = float(rows.shares.std()) or 1.0
    columns = encode(rows.space, rows.archs, rows.resolutions, ONE_HOT)
    return train(columns, (rows.shares - rows.shares.mean()) / scale, seed), scale


def train(columns: NDArray[np.float64], targets: NDArray[np.float64], seed: int) -> Layers:
    """Fit the network.

    Args:
        columns: (rows, p) one-hot.
        targets: (rows,) of mean 0 and deviation 1 or so.

    Returns:
        (weights (in, out), biases (out,)) of each layer; the last one's bias is 0.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # so small a network is slower on several
    try:
        return _train(columns, targets, torch.Generator().manual_seed(seed))
    finally:
        torch.set_num_threads(threads)


def _train(columns: NDArray[np.float64], targets: NDArray[np.float64], generator: torch.Generator) -> Layers:
    layers = _layers([columns.shape[1], *HIDDEN, 1], generator)
    x = torch.from_numpy(columns.astype(np.float32))
    y = torch.from_numpy(targets.astype(np.float32))
    trained = [parameter for layer in layers for parameter in layer.parameters() if parameter.requires_grad]
    optimiser = torch.optim.AdamW(trained, lr=RATE, weight_decay=WEIGHT_DECAY)
    epochs = max(1, math.ceil(STEPS * BATCH / len(x)))
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, epochs * math.ceil(len(x) / BATCH))
    for _ in range(epochs):
        for batch in torch.randperm(len(x), generator=generator).split(BATCH):
            loss = torch.nn.functional.mse_loss(_forward(layers, x[batch]), y[batch])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    return [(layer.weight.detach().numpy().T.copy(), layer.bias.detach().numpy().copy()) for layer in layers]


def _layers(widths: Sequence[int], generator: torch.Generator) -> list[torch.nn.Linear]:
    """Linear layers with torch's own initial distribution, drawn from the generator."""
    layers = []
    for before, after in pairwise(widths):
        layer = torch.nn.Linear(before, after)
        bound = 1 / math.sqrt(max(1, before))
        with torch.no_grad():
            layer.weight.uniform_(-bound, bound, generator=generator)
            layer.bias.uniform_(-bound, bound, generator=generator)
        layers.append(layer)
    torch.nn.init.zeros_(layers[-1].bias)
    layers[-1].bias.requires_grad_(False)
    return layers


def _forward(layers: Sequence[torch.nn.Linear], x: torch.Tensor) -> torch.Tensor:
    for layer in layers[:-1]:
        x = torch.relu(layer(x))
    return layers[-1](x).squeeze(1)
