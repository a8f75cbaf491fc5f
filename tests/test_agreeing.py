"""What should be alike on several ranks is compared: no false alarm in any layout, and each planted error is named."""

from __future__ import annotations

import pytest
import torch

import llmlab as lab
from tests.checkpoint.runs import DENSE, LAYOUTS, batch, make_step, ranks


def train(world, layout, plant=None, every=1, steps=2):
    step = make_step(world, layout)
    alike = lab.check_alike(step, every=every)
    for n in range(steps):
        step(*batch(n))
        if plant is not None:
            plant(step, world.rank, n)
        alike(tokens=batch(n)[0], seed=1)
    return len(alike.shared), alike.seconds


@pytest.mark.parametrize("name", [name for name in LAYOUTS if name not in ("tp", "zb_h1", "zero2 tp")])
def test_no_layout_gives_a_false_alarm(name: str) -> None:
    layout = LAYOUTS[name]
    for shared, seconds in lab.Simulator(ranks(layout), kernels=False).run(train, layout, steps=1).results:
        assert bool(shared) == (name not in ("one process", "zero3"))  # two stages share the table of embeddings
        assert bool(seconds) == (name != "one process")


def flip(x: torch.Tensor) -> None:
    """Turn the lowest bit of the last number."""
    with torch.no_grad():
        x.view(-1)[-1:].view(torch.int64).bitwise_xor_(1)


def flip_a_weight(step, rank, n):
    if rank == 2 and n == 1:
        flip(step.model.blocks[0].mlp.up.weight)


def flip_a_gradient(step, rank, n):
    if rank == 1 and n == 0:
        flip(step.model.blocks[1].mlp.down.weight.grad)


def miss_an_update(step, rank, n):
    if rank == 3 and n == 0:
        with torch.no_grad():
            for p in step.model.parameters():
                p -= 1e-9


PLANTED = [
    (
        flip_a_weight,
        r"after step 2 blocks\.0\.mlp\.up\.weight is not the same .*: rank 2 not as ranks 0, 1, 3",
    ),
    (flip_a_gradient, r"after step 1 blocks\.1\.mlp\.down\.weight's gradient is not .* rank 1 not as ranks 0, 2, 3"),
    (miss_an_update, "after step 1 .* rank 3 not as ranks 0, 1, 2"),
]


@pytest.mark.parametrize(("plant", "told"), PLANTED)
def test_a_planted_error_is_named_by_rank_step_and_tensor(plant, told: str) -> None:
    with pytest.raises(lab.RanksDiffer, match=told):
        lab.Simulator(4, kernels=False).run(train, LAYOUTS["dp"], plant)


def test_every_second_step_is_compared_and_a_pair_that_differs_is_told_as_such() -> None:
    def plant(step, rank, n):
        if rank == 1 and n == 0:
            flip(next(step.model.parameters()))

    with pytest.raises(lab.RanksDiffer, match=r"after step 2 .*: rank 1 not as rank 0 \(compared every 2 steps\)"):
        lab.Simulator(2, kernels=False).run(train, lab.Layout(dp=2, microbatches=2), plant, 2)


def test_another_seed_or_another_order_of_data_is_named() -> None:
    def worker(world, what):
        model = lab.Transformer(DENSE)
        lab.data_parallel(model, world)
        alike = lab.check_alike(model, world=world, every=1)
        order = torch.randperm(10, generator=torch.Generator().manual_seed(int(world.rank == 2 and what == "order")))
        alike(order=order, seed=world.rank // 2 if what == "seed" else 0)

    for what, told in (("seed", "ranks 2, 3 not as ranks 0, 1"), ("order", "rank 2 not as ranks 0, 1, 3")):
        with pytest.raises(lab.RanksDiffer, match=f"after step 1 {what} is not the same on all ranks: {told}"):
            lab.Simulator(4).run(worker, what)
    with pytest.raises(ValueError, match="check_alike wants world="):
        lab.Simulator(2).run(lambda world: lab.check_alike(lab.data_parallel(lab.Transformer(DENSE), world)))
