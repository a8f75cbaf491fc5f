"""The first nan or inf is named where it appears: module, parameter or loss, forward or backward, and on which rank."""

from __future__ import annotations

import pytest
import torch

import llmlab as lab
from llmlab.comm.errors import RankError
from llmlab.finite import check_finite

CONFIG = lab.Config(vocab_size=13, d_model=8, n_layer=4, n_head=2, max_seq=8)
TOKENS = torch.arange(16).reshape(2, 8) % 13


def sgd(parameters):
    return lab.optim.SGD(parameters, lr=0.1)


def broken(name: str, value: float = float("inf")) -> lab.Transformer:
    model = lab.Transformer(CONFIG)
    with torch.no_grad():
        model.get_parameter(name).view(-1)[0] = value
    return model


def test_a_broken_weight_is_named_with_its_layer_and_not_those_after_it():
    model = broken("blocks.2.mlp.up.weight")
    with pytest.raises(ValueError) as said, check_finite(model):
        model.loss(TOKENS, TOKENS)
    assert "what blocks.2.mlp.up gave: forward 1" in str(said.value)
    assert "its weight has 0 nan and 1 inf" in str(said.value) and "what went in: from " in str(said.value)


def test_it_says_in_which_forward():
    model = lab.Transformer(CONFIG)
    with check_finite(model), pytest.raises(ValueError, match=r"what blocks\.0\.attention\.query gave: forward 3"):
        for i in range(3):
            if i == 2:
                model.blocks[0].attention.query.weight.data[0, 0] = float("nan")
            model(TOKENS)


def test_a_nan_that_only_backward_makes_is_named_with_the_last_that_was_finite():
    model = lab.Transformer(CONFIG)

    class Root(torch.autograd.Function):  # 0 forward, and infinitely steep there
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            return grad * float("nan")

    plain = model.blocks[1].mlp.forward
    model.blocks[1].mlp.forward = lambda x: Root.apply(plain(x))
    with check_finite(model):
        loss = model.loss(TOKENS, TOKENS)
        with pytest.raises(ValueError, match=r"the gradient of .*blocks\.1\.mlp.*: backward; .*blocks\.[12]"):
            loss.backward()


def test_a_batch_without_targets_is_told_as_that():
    model = lab.Transformer(CONFIG)
    with check_finite(model), pytest.raises(ValueError, match="in the loss: forward; all targets are -100"):
        model.loss(TOKENS, torch.full_like(TOKENS, -100))


def test_what_is_finite_stays_as_it_is_and_nothing_is_left_behind():
    plain, watched = lab.Transformer(CONFIG), lab.Transformer(CONFIG)
    before = plain.loss(TOKENS, TOKENS)
    before.backward()
    with check_finite(watched):
        loss = watched.loss(TOKENS, TOKENS)
        loss.backward()
    assert torch.equal(loss, before)
    assert all(torch.equal(a.grad, b.grad) for a, b in zip(plain.parameters(), watched.parameters(), strict=True))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in watched.modules())
    watched.blocks[0].mlp.up.weight.data.fill_(float("nan"))
    assert watched.loss(TOKENS, TOKENS).isnan()  # nobody looks any more


def test_gradients_are_left_alone_where_a_scaler_expects_them_to_overflow():
    def worker(world):
        step = lab.parallelize(lab.Transformer(CONFIG), sgd, lab.Layout(), world, scaler=lab.optim.LossScaler())
        return check_finite(step).gradients, check_finite(step, gradients=True).gradients

    assert lab.Simulator(1).run(worker).results == [(False, True)]


def train(world, layout, rank, name):
    step = lab.parallelize(lab.Transformer(CONFIG), sgd, layout, world)
    with check_finite(step):
        step(TOKENS, TOKENS)
        if world.rank == rank:
            dict(step.model.named_parameters())[name].data.view(-1)[0] = float("inf")
        step(TOKENS, TOKENS)


@pytest.mark.parametrize(
    ("layout", "rank", "name"),
    [
        (lab.Layout(tp=2), 1, "blocks.2.mlp.up.weight"),
        (lab.Layout(pp=2), 1, "blocks.3.mlp.down.weight"),
        (lab.Layout(dp=2), 1, "blocks.1.attention.value.weight"),
        (lab.Layout(cp=2), 0, "blocks.1.attention.query.weight"),
    ],
)
def test_in_a_layout_the_rank_that_made_it_says_so_by_the_whole_models_names(layout, rank, name):
    with pytest.raises(ValueError) as said:
        lab.Simulator(2, kernels=False).run(train, layout, rank, name)
    assert f"rank {rank}: " in str(said.value) and f"what {name.removesuffix('.weight')} gave" in str(said.value)


def test_real_ranks_end_with_the_same_error():
    with pytest.raises((ValueError, RankError), match=r"rank 1: .*what blocks\.2\.mlp\.up gave"):
        lab.Processes(2).run(train, lab.Layout(tp=2), 1, "blocks.2.mlp.up.weight")


def test_what_is_no_model_is_refused():
    with pytest.raises(ValueError, match="check_finite wants model as a Module; got 'm'"):
        check_finite("m")
