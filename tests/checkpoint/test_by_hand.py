"""Hand-written loops: any model with any optimizer, under each wrapper, saves and loads as `parallelize` does."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import llmlab as lab
from llmlab import checkpoint

CONFIG = lab.Config(vocab_size=13, d_model=8, n_layer=2, n_head=2, max_seq=6, dtype=torch.float64)
OPTIMIZERS = {
    "torch's AdamW": lambda parameters: torch.optim.AdamW(parameters, lr=0.02, amsgrad=True),
    "torch's SGD": lambda parameters: torch.optim.SGD(parameters, lr=0.1, momentum=0.9),
    "RMSprop": lambda parameters: lab.optim.RMSprop(parameters, lr=0.01, centered=True),
}


def batch(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(n)
    return tuple(torch.randint(0, 13, (2, 4, 6), generator=generator))


def wrap(world, how: str, make):
    """A model laid out by hand, its optimizer, and which rows of a batch are this rank's."""
    model = lab.Transformer(CONFIG)
    everything = slice(None)
    mine = slice(world.rank * 4 // world.size, (world.rank + 1) * 4 // world.size)
    if how.startswith("zero"):
        return model, lab.zero(model, make, world, stage=int(how[4])), mine
    if how == "data":
        lab.data_parallel(model, world)
        return model, make(model.parameters()), mine
    if how == "tensor":
        lab.tensor_parallel(model, world)
    return model, make(model.parameters()), everything


def train(model, optimizer, rows, steps):
    losses = []
    for n in steps:
        tokens, targets = batch(n)
        optimizer.zero_grad()
        loss = model.loss(tokens[rows], targets[rows])
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    return losses


def first(world, how, make, folder):
    model, optimizer, rows = wrap(world, how, make)
    schedule = lab.optim.LRScheduler(optimizer, lab.optim.linear(10))
    train(model, optimizer, rows, range(2))
    schedule.step()
    extra = {"schedule": schedule.state_dict()}
    checkpoint.save(folder, model, optimizer, world=world, extra=extra, step=2)


def second(world, how, make, folder):
    model, optimizer, rows = wrap(world, how, make)
    schedule = lab.optim.LRScheduler(optimizer, lab.optim.linear(10))
    extra = checkpoint.load(folder, model, optimizer, world=world)
    schedule.load_state_dict(extra["schedule"])
    losses = torch.tensor(train(model, optimizer, rows, range(2, 4)), dtype=torch.float64)
    state = model.state_dict() if how != "tensor" else {}
    return (world.all_reduce(losses) / world.size).tolist(), state, optimizer.param_groups[0]["lr"]


@pytest.mark.parametrize(
    ("one", "other", "kind"),
    [
        ("data", "zero3", "torch's AdamW"), ("zero1", "plain", "torch's SGD"), ("zero2", "tensor", "RMSprop"),
        ("tensor", "zero1", "torch's AdamW"), ("zero3", "data", "RMSprop"),
    ],
)  # fmt: skip
def test_a_loop_goes_on_under_another_wrapper(tmp_path, one: str, other: str, kind: str) -> None:
    make = OPTIMIZERS[kind]
    sizes = {"plain": 1, "zero3": 4}
    lab.Simulator(ranks=2).run(first, one, make, tmp_path)
    found = lab.Simulator(ranks=sizes.get(other, 2)).run(second, other, make, tmp_path).results
    model = lab.Transformer(CONFIG)
    optimizer = make(model.parameters())
    schedule = lab.optim.LRScheduler(optimizer, lab.optim.linear(10))
    train(model, optimizer, slice(None), range(2))
    schedule.step()
    losses = train(model, optimizer, slice(None), range(2, 4))
    for their_losses, state, rate in found:
        assert their_losses == pytest.approx(losses, rel=1e-11)
        assert rate == optimizer.param_groups[0]["lr"]
        assert all((state[name] - value).abs().max() <= 1e-9 for name, value in model.state_dict().items() if state)


def test_any_module_saves_in_one_process(tmp_path) -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1)).bfloat16()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model(torch.ones(5, 3, dtype=torch.bfloat16)).sum().backward()
    optimizer.step()
    saving = checkpoint.save(tmp_path, model, optimizer, extra={"note": "甲"})
    torch.manual_seed(7)
    other = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 1)).bfloat16()
    theirs = torch.optim.AdamW(other.parameters(), lr=0.5)
    assert checkpoint.load(tmp_path, other, theirs) == {"step": 1, "note": "甲"}
    assert saving.path == checkpoint.newest(tmp_path)
    assert all(other.state_dict()[name].equal(value) for name, value in model.state_dict().items())
    assert theirs.param_groups[0]["lr"] == 0.1 and theirs.param_groups[0]["betas"] == (0.9, 0.999)
    for mine, loaded in zip(optimizer.state.values(), theirs.state.values(), strict=True):
        assert all(loaded[word].equal(value) and loaded[word].dtype == value.dtype for word, value in mine.items())


def test_the_bias_that_balances_experts_is_saved(tmp_path) -> None:
    config = lab.Config(vocab_size=13, d_model=8, n_layer=2, n_head=2, max_seq=6, n_expert=4, n_expert_active=1)

    def worker(world, loading: bool):
        layout = lab.Layout(pp=2) if loading else lab.Layout(dp=2, ep=2)
        step = lab.parallelize(lab.Transformer(config), lambda p: lab.optim.SGD(p, lr=0.1), layout, world)
        if loading:
            lab.checkpoint.load(tmp_path, step)
        else:
            for i, block in enumerate(step.model.blocks):
                block.mlp.bias = torch.full((4,), float(i))
            lab.checkpoint.save(tmp_path, step)
        return [block.mlp.bias.tolist() for block in step.model.blocks]

    lab.Simulator(ranks=2).run(worker, False)
    assert lab.Simulator(ranks=2).run(worker, True).results == [[[0.0] * 4], [[1.0] * 4]]


def test_random_numbers_go_on(tmp_path) -> None:
    def worker(world):
        import random

        import numpy as np

        def draw():
            return torch.rand(2).tolist(), np.random.randn(), random.gauss(0, 1), random.random()

        torch.manual_seed(world.rank)
        np.random.seed(world.rank)
        random.seed(world.rank)
        draw()
        model = nn.Linear(2, 2)
        lab.data_parallel(model, world)
        lab.checkpoint.save(tmp_path, model, world=world)
        expected = draw()
        draw()
        lab.checkpoint.load(tmp_path, model, world=world)
        return draw() == expected, expected

    results = lab.Simulator(ranks=2).run(worker).results
    assert [same for same, _ in results] == [True, True]
    assert results[0][1] != results[1][1]


def test_ranks_that_drifted_apart_are_named(tmp_path) -> None:
    def worker(world):
        model = nn.Linear(2, 2)
        lab.data_parallel(model, world)
        with torch.no_grad():
            model.bias += world.rank // 2 * 1e-6
        lab.checkpoint.save(tmp_path, model, world=world)

    with pytest.raises(ValueError, match="got others for model/bias on rank 2 than on rank 0"):
        lab.Simulator(ranks=3).run(worker)
    assert checkpoint.newest(tmp_path) is None


def other_model(size=3):
    model = nn.Linear(2, size)
    return model, torch.optim.SGD(model.parameters(), lr=0.1)


@pytest.mark.parametrize(
    ("model", "make", "problem"),
    [
        (nn.Linear(2, 4), None, r"wants weight of \[4, 2\], the checkpoint has \[3, 2\]"),
        (nn.Linear(2, 3, bias=False), None, "got one that lacks bias"),
        (nn.Linear(2, 3).double(), None, r"wants weight in torch\.float64, the checkpoint has float32"),
        (nn.Sequential(nn.Linear(2, 3)), None, r"wants 0\.weight, the checkpoint has none"),
        (nn.Linear(2, 3), torch.optim.Adam, "the optimizer is Adam, the checkpoint's was SGD"),
    ],
)
def test_another_model_or_optimizer_is_refused_and_left_alone(tmp_path, model, make, problem: str) -> None:
    checkpoint.save(tmp_path, *other_model())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=problem):
        checkpoint.load(tmp_path, model, None if make is None else make(model.parameters()))
    assert all(model.state_dict()[name].equal(value) for name, value in before.items())


def test_what_cannot_be_saved_is_refused(tmp_path) -> None:
    model, optimizer = other_model()
    with pytest.raises(ValueError, match="wants extra of numbers, texts, tensors"):
        checkpoint.save(tmp_path, model, extra={"tokens": {1, 2}})
    with pytest.raises(ValueError, match="wants names in extra as texts"):
        checkpoint.save(tmp_path, model, extra={"curve": {1: 0.5}})
    with pytest.raises(ValueError, match="keeps the name __tensor__ for itself"):
        checkpoint.save(tmp_path, model, extra={"a": [{"__tensor__": "model/weight"}]})
    with pytest.raises(ValueError, match="save wants keep as a whole number of at least 1; got 0"):
        checkpoint.save(tmp_path, model, keep=0)
    with pytest.raises(ValueError, match="save wants target as"):
        checkpoint.save(tmp_path, "model")
    with pytest.raises(FileNotFoundError, match="got none there"):
        checkpoint.load(tmp_path, model)
    checkpoint.save(tmp_path, model, optimizer)
    with pytest.raises(FileNotFoundError, match="of step 9 in .*, got those of steps 1"):
        checkpoint.load(tmp_path, model, step=9)

    def on_meta(world):
        lab.checkpoint.save(tmp_path, nn.Linear(2, 2, device=world.device), world=world)

    with pytest.raises(ValueError, match="numerics=True"):
        lab.Simulator(ranks=1, numerics=False).run(on_meta)

    def laid_out(world):
        step = lab.parallelize(lab.Transformer(CONFIG), lambda p: lab.optim.SGD(p, lr=0.1), lab.Layout(tp=2), world)
        lab.checkpoint.save(tmp_path, step.model, world=world)

    with pytest.raises(ValueError, match="save wants, of a model that parallelize has laid out, the step"):
        lab.Simulator(ranks=2).run(laid_out)

    def without_world(world):
        model = lab.Transformer(CONFIG)
        lab.tensor_parallel(model, world)
        lab.checkpoint.save(tmp_path, model)

    with pytest.raises(ValueError, match="save wants world="):
        lab.Simulator(ranks=2).run(without_world)
