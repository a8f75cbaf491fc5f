"""Distillation: a small model learns what a large one would say, not only what was said (Hinton et al. 2015).

    loss = (1 - a) CE(student, targets) + a T² KL(softmax(teacher / T) || softmax(student / T))

At a higher temperature T the teacher's small probabilities count more. The gradient of the second term shrinks as 1/T²,
which T² undoes: so a need not change with T.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from llmlab.arguments import instance, real
from llmlab.evaluate import on_device
from llmlab.model import IGNORE, cross_entropy
from llmlab.model.whole import check_in_one_piece


def distillation_loss(
    student: Float[Tensor, "*B V"],
    teacher: Float[Tensor, "*B V"],
    targets: Int[Tensor, "*B"],
    temperature: float = 2.0,
    share: float = 0.9,
    reduction: str = "mean",
) -> Float[Tensor, ""]:
    """Compute the loss above in nats, over the target tokens (-100: not one).

    student, teacher: logits.  share: a, of the teacher; the rest is that of the targets themselves.
    """
    real("distillation_loss", "temperature", temperature, above=0)
    real("distillation_loss", "share", share, least=0, most=1)
    if student.shape != teacher.shape:
        raise ValueError(f"student and teacher want one vocabulary, got {list(student.shape)}, {list(teacher.shape)}")
    counts = targets != IGNORE
    log_q = (student[counts] / temperature).log_softmax(-1)
    log_p = (teacher[counts].detach() / temperature).log_softmax(-1)
    divergence = (log_p.exp() * (log_p - log_q)).sum() * temperature**2
    if reduction == "mean":
        divergence = divergence / counts.sum()
    own = cross_entropy(student, targets, reduction=reduction)
    return (1 - share) * own + share * divergence


class Distillation:
    """What a Trainer takes as its loss: `Trainer(student, optimizer, loss=Distillation(teacher))`."""

    def __init__(self, teacher: nn.Module, temperature: float = 2.0, share: float = 0.9):
        self.teacher = instance("Distillation", "teacher", teacher, nn.Module).eval()
        check_in_one_piece("Distillation", teacher)
        self.temperature, self.share = temperature, share

    def __call__(self, student: nn.Module, batch: Any) -> Float[Tensor, ""]:
        """Sum the loss over the batch's targets."""
        *inputs, targets = on_device(student, batch)
        with torch.no_grad():
            said = self.teacher(*inputs)
        return distillation_loss(student(*inputs), said, targets, self.temperature, self.share, "sum")
