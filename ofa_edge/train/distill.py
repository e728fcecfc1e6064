"""Losses of a step: labels, and the soft outputs of a teacher (Hinton et al., 2015)."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from ofa_edge.train.schedule import Phase


def label_loss(logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    """Cross-entropy with label smoothing; logits (N, classes), labels (N,)."""
    return F.cross_entropy(logits, labels, label_smoothing=smoothing)


def soft_loss(logits: Tensor, teacher: Tensor) -> Tensor:
    """Cross-entropy against the teacher's softmax; both of shape (N, classes), the teacher without gradient."""
    return F.cross_entropy(logits, teacher.detach().softmax(dim=1))


def step_loss(phase: Phase, logits: Tensor, labels: Tensor, teacher: Tensor | None, smoothing: float) -> Tensor:
    """The loss of one subnet of a step, as the phase distils; `teacher` are logits, None where there are none yet."""
    if teacher is None:
        return label_loss(logits, labels, smoothing)
    if phase.distill == "in-place":
        return soft_loss(logits, teacher)
    return phase.kd_ratio * soft_loss(logits, teacher) + label_loss(logits, labels, smoothing)
