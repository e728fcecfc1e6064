"""Losses of a step: labels for the first subnet, its soft outputs for the others (Hinton et al., 2015)."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def label_loss(logits: Tensor, labels: Tensor, smoothing: float) -> Tensor:
    """Cross-entropy with label smoothing; logits (N, classes), labels (N,)."""
    return F.cross_entropy(logits, labels, label_smoothing=smoothing)


def soft_loss(logits: Tensor, teacher: Tensor) -> Tensor:
    """Cross-entropy against the teacher's softmax; both of shape (N, classes), the teacher without gradient."""
    return F.cross_entropy(logits, teacher.detach().softmax(dim=1))
