"""The loss of distillation: its formula, its limits, and that T² keeps its gradient's size."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from llmlab.compressing import Distillation, distillation_loss
from llmlab.model import IGNORE, Config, Transformer


def drawn(scale=1.0):
    g = torch.Generator().manual_seed(0)
    student, teacher = (scale * torch.randn(2, 6, 9, generator=g, dtype=torch.float64) for _ in range(2))
    targets = torch.randint(9, (2, 6), generator=g)
    targets[0, :2] = IGNORE
    return student, teacher, targets


def test_it_is_torchs_divergence_times_temperature_squared():
    student, teacher, targets = drawn()
    counts, T = targets != IGNORE, 3.0
    q, p = ((logits[counts] / T).log_softmax(-1) for logits in (student, teacher))
    divergence = F.kl_div(q, p, log_target=True, reduction="batchmean") * T**2
    own = F.cross_entropy(student[counts], targets[counts])
    ours = distillation_loss(student, teacher, targets, T, 0.7)
    assert torch.allclose(ours, 0.3 * own + 0.7 * divergence, rtol=1e-12)
    total = distillation_loss(student, teacher, targets, T, 0.7, "sum")
    assert torch.allclose(total, ours * counts.sum(), rtol=1e-12)


def test_without_the_teacher_it_is_the_cross_entropy_and_at_the_teacher_it_is_0():
    student, teacher, targets = drawn()
    own = F.cross_entropy(student.flatten(0, 1), targets.flatten(), ignore_index=IGNORE)
    assert torch.allclose(distillation_loss(student, teacher, targets, share=0.0), own)
    assert distillation_loss(teacher, teacher, targets, share=1.0).abs() < 1e-12


def test_the_gradient_keeps_its_size_at_any_temperature():
    # at high T the gradient tends to (z - v) / V, z and v the logits about their means (Hinton et al. 2015, eq. 4)
    student, teacher, targets = drawn()
    student.requires_grad_()
    distillation_loss(student, teacher, targets, 1000.0, 1.0, "sum").backward()
    counts = targets != IGNORE
    z, v = (x.detach()[counts] - x.detach()[counts].mean(-1, keepdim=True) for x in (student, teacher))
    assert torch.allclose(student.grad[counts], (z - v) / 9, rtol=2e-2, atol=1e-3)


def test_the_teacher_gets_no_gradient_and_stays_as_it_is():
    config = Config(vocab_size=12, d_model=16, n_layer=1, n_head=2, max_seq=8)
    teacher, student = Transformer(config, seed=1), Transformer(config, seed=2)
    tokens = torch.randint(12, (2, 8), generator=torch.Generator().manual_seed(0))
    Distillation(teacher)(student, (tokens, tokens.roll(-1, 1))).backward()
    assert all(w.grad is None for w in teacher.parameters())
    assert all(w.grad is not None for w in student.parameters() if w.dim() > 1)


def test_two_vocabularies_are_refused():
    student, teacher, targets = drawn()
    with pytest.raises(ValueError, match="one vocabulary"):
        distillation_loss(student, teacher[..., :5], targets)
