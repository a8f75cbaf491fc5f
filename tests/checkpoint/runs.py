"""Runs to save and to load: a small model with dropout, its batches, and twelve ways to lay it out."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path

import torch

import llmlab as lab

DENSE = lab.Config(vocab_size=19, d_model=8, n_layer=2, n_head=2, max_seq=4, dropout=0.1, dtype=torch.float64)
EXPERTS = replace(DENSE, n_expert=2, n_expert_active=1, balance_loss=0.0)
LAYOUTS = {  # two microbatches each, so that dropouts draw as often in all of them
    "one process": lab.Layout(microbatches=2),
    "dp": lab.Layout(dp=4, microbatches=2),
    "tp": lab.Layout(tp=2, microbatches=2),
    "tp sp": lab.Layout(tp=2, sequence_parallel=True, microbatches=2),
    "pp": lab.Layout(pp=2, microbatches=2),
    "pp tp": lab.Layout(pp=2, tp=2, microbatches=2),
    "zb_h1": lab.Layout(pp=2, schedule="zb_h1", microbatches=2),
    "cp": lab.Layout(cp=2, microbatches=2),
    "zero1": lab.Layout(dp=4, zero=1, microbatches=2),
    "zero2 tp": lab.Layout(dp=2, tp=2, zero=2, microbatches=2),
    "zero3": lab.Layout(dp=2, zero=3, microbatches=2),
    "zero1 pp": lab.Layout(dp=2, pp=2, zero=1, microbatches=2),
}
SPREAD = lab.Layout(dp=2, ep=2, microbatches=2)  # for experts
SAVED_AT, STEPS = 1, 2


def ranks(layout: lab.Layout) -> int:
    return layout.dp * layout.tp * layout.pp * layout.cp


def batch(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    """[8, 4] each: rows for 1, 2 or 4 replicas of two microbatches."""
    generator = torch.Generator().manual_seed(step)
    tokens, targets = torch.randint(0, DENSE.vocab_size, (2, 8, 4), generator=generator)
    return tokens, targets


def make_optimizer(parameters):
    """Adam with weight decay on matrices only: two groups, and a state that matters."""
    parameters = list(parameters)
    matrices, rest = [p for p in parameters if p.dim() > 1], [p for p in parameters if p.dim() < 2]
    groups = [{"params": matrices, "weight_decay": 0.3}, {"params": rest, "weight_decay": 0.0}]
    return lab.optim.AdamW([group for group in groups if group["params"]], lr=0.03)


def make_step(world, layout, config=DENSE):
    return lab.parallelize(lab.Transformer(config), make_optimizer, layout, world, clip=1.0)


def save(world, layout, folder: Path, config=DENSE) -> str:
    """Train a little, and save."""
    step = make_step(world, layout, config)
    for n in range(SAVED_AT):
        step(*batch(n))
    return lab.checkpoint.save(folder, step, extra={"position": SAVED_AT}).path.name


def go_on(world, layout, folder: Path, config=DENSE):
    """Load and train to the end: losses, weights."""
    step = make_step(world, layout, config)
    extra = lab.checkpoint.load(folder, step)
    losses = [float(step(*batch(n))) for n in range(extra["position"], STEPS)]
    return losses, step.state_dict()


@cache
def undisturbed(name: str = "one process") -> tuple[list[float], dict[str, torch.Tensor]]:
    """The run that was never stopped: losses, weights."""

    def worker(world):
        step = make_step(world, LAYOUTS[name])
        losses = [float(step(*batch(n))) for n in range(STEPS)]
        return losses[SAVED_AT:], step.state_dict()

    return lab.Simulator(ranks=ranks(LAYOUTS[name]), kernels=False).run(worker).results[0]
