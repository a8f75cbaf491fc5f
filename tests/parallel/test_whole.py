"""A split model answers as the whole one: losses, logits and texts in drawn layouts, and every function that takes one."""

from __future__ import annotations

import os
from dataclasses import replace
from random import Random

import pytest
import torch

import llmlab as lab
from llmlab.comm.processes import Processes
from llmlab.comm.simulator import Simulator
from llmlab.generation.next_tokens import next_tokens
from llmlab.model import IGNORE
from llmlab.model.maps import attention_maps
from llmlab.parallel import whole
from llmlab.parallel.compose import parallelize
from llmlab.parallel.context import columns, context_parallel
from llmlab.parallel.layout import Layout
from llmlab.parallel.pipeline import pipeline_parallel
from llmlab.parallel.schedules import make_schedule
from llmlab.parallel.tensor import tensor_parallel
from llmlab.training import Trainer
from tests.parallel.comparing import numbers
from tests.parallel.layouts import Case, draw, make_batch, make_model, make_optimizer

DRAWN = int(os.environ.get("LLMLAB_LAYOUTS", "60"))
TOLERANCE = 1e-9  # of the largest, fp64
PROMPTS = [[4], [5, 6, 7, 8, 9], [3, 3]]
CHOICES = [{}, {"use_cache": False}, {"temperature": 1.3, "top_k": 7, "seed": 3}, {"beams": 2, "end": 2}]


def spread_out(model):
    """Weights of which no two tokens are nearly alike: fresh ones would say one token for ever."""
    generator = torch.Generator().manual_seed(5)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.5, generator=generator)
    return model


def batches_of(case: Case, odd: int) -> list[tuple[torch.Tensor, ...]]:
    """The case's own batch with its positions and mask; one of a size that does not divide; one of a single token."""
    own = make_batch(case, 0)
    batches = [tuple(own[k] for k in ("tokens", "positions", "mask", "targets") if own[k] is not None)]
    tokens, targets = torch.randint(case.config.vocab_size, (2, 3, odd), generator=torch.Generator().manual_seed(odd))
    targets[1, : odd // 2] = IGNORE
    return [*batches, (tokens, targets), (tokens[:1, :1], targets[:1, :1])]


def written(one, choice: dict) -> list[list[int]]:
    return [text.tolist() for text in lab.generate(one, PROMPTS, 3, **choice)]


def alone(case: Case, odd: int, choice: dict):
    """(mean losses and an accuracy, logits, texts) of the whole model, by its own forward."""
    model, batches = spread_out(make_model(case)).eval(), batches_of(case, odd)
    losses = [lab.evaluate.mean_loss(model, [batch]) for batch in batches] + [lab.evaluate.mean_loss(model, batches)]
    accuracy = lab.evaluate.accuracy(model, batches[1:2])
    with torch.no_grad():
        logits = [model(*batch[:-1]) for batch in batches[:2]]
    return torch.tensor([*losses, accuracy], dtype=torch.float64), logits, written(model, choice)


def laid_out(world, case: Case, odd: int, choice: dict):
    """The same through the step; then a step of training, which changes nothing, and again through its bare model."""
    step = parallelize(
        spread_out(make_model(case)), make_optimizer("sgd"), case.layout, world, recompute=case.recompute,
        bucket_mb=0.004,
    )  # fmt: skip
    for group in step.optimizer.param_groups:
        group["lr"] = 0.0
    batches = batches_of(case, odd)
    losses = [step.evaluate([batch]) for batch in batches] + [step.evaluate(iter(batches))]
    accuracy = lab.evaluate.accuracy(step, batches[1:2])
    logits, texts = [step.logits(*batch[:-1]) for batch in batches[:2]], written(step, choice)
    step(**make_batch(case, 0))
    bare = lab.evaluate.mean_loss(step.model, batches[1:2]), written(step.model, choice)
    assert step.model.training
    return torch.tensor([*losses, accuracy], dtype=torch.float64), logits, texts, bare


def apart(a: torch.Tensor, b: torch.Tensor) -> float:
    return ((a - b).abs().max() / a.abs().max()).item()


def differ(one, many) -> bool:
    """Whether anything of what one rank says is not what one process says."""
    scores, logits, texts = one
    found, through, other_texts, (bare, bare_texts) = many
    same = [apart(scores, found) < TOLERANCE, abs(scores[1].item() - bare) < TOLERANCE * scores[1].item()]
    same += [a.shape == b.shape and apart(a, b) < TOLERANCE for a, b in zip(logits, through, strict=True)]
    return not all(same) or not texts == other_texts == bare_texts


def drawn(seed: int):
    """A drawn layout of few ranks, a length that most layouts do not divide, and a way to choose tokens."""
    random = Random(seed)
    while (case := draw(random.randrange(10**6))).layout.ranks > (12 if seed % 10 == 0 else 6):
        pass
    return case, random.choice([5, 7, 9, 11]), random.choice(CHOICES)


@pytest.mark.parametrize("seed", range(DRAWN))
def test_a_drawn_layout_answers_as_one_process(seed):
    case, odd, choice = drawn(seed)
    one = alone(case, odd, choice)
    results = Simulator(case.layout.ranks, kernels=False).run(laid_out, case, odd, choice).results
    assert [rank for rank, many in enumerate(results) if differ(one, many)] == [], case
