"""Activation checkpointing changes what is kept, never what comes out."""

import copy

import cloudpickle
import pytest
import torch
import torch.nn.functional as F
from torch.overrides import TorchFunctionMode

from llmlab.model import Config, Transformer, recompute


def grads(model, batches):
    """Forward all batches, then backward in that order, as a pipeline may: each is recomputed when another was last."""
    losses = []
    for tokens in batches:
        losses.append(model.loss(tokens, tokens))
    for loss in losses:
        loss.backward()
    return [p.grad for p in model.parameters()]


@pytest.mark.parametrize("what", ["full", "selective"])
@pytest.mark.parametrize(
    "options",
    [
        {"dropout": 0.2},
        {"position": "rotary", "norm": "rmsnorm", "mlp": "swiglu", "n_kv_head": 2},
        {"n_expert": 4},
    ],
)
def test_gradients_are_the_same_to_the_bit(what, options):
    config = Config(20, 16, 2, 4, 8, **options)
    batches = [torch.randint(20, (2, 8)) for _ in range(3)]
    expected = grads(Transformer(config), batches)
    got = grads(recompute(Transformer(config), what), batches)
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


def test_a_mixture_keeps_no_graph_of_what_backward_computed_again():
    model = recompute(Transformer(Config(20, 16, 2, 4, 8, n_expert=4)), "full")
    tokens = torch.randint(20, (2, 8))
    loss = model.loss(tokens, tokens)
    forward = [block.mlp.balance for block in model.blocks]
    loss.backward()
    assert all(block.mlp.balance is kept for block, kept in zip(model.blocks, forward, strict=True))


def kept_numbers(model):
    """How many numbers of activations backward is waiting with."""
    kept = {}

    def pack(x):
        if not isinstance(x, torch.nn.Parameter):
            kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes() // x.element_size()
        return x

    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    tokens = torch.zeros(1, 64, dtype=torch.long)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        loss = model.loss(tokens, tokens)
    del loss
    return sum(n for pointer, n in kept.items() if pointer not in weights)


def test_full_keeps_the_least_and_selective_less_than_all():
    config = Config(20, 64, 4, 4, 64)
    everything = kept_numbers(Transformer(config))
    selective = kept_numbers(recompute(Transformer(config), "selective"))
    full = kept_numbers(recompute(Transformer(config), "full"))
    assert full < selective < everything


@pytest.mark.parametrize("what", ["full", "selective"])
def test_copies_compute_with_their_own_weights(what):
    model, tokens = recompute(Transformer(Config(20, 16, 2, 4, 8)), what), torch.zeros(2, 8, dtype=torch.long)
    for twin in (copy.deepcopy(model), cloudpickle.loads(cloudpickle.dumps(model))):
        twin.loss(tokens, tokens).backward()
        assert all(p.grad is not None for p in twin.parameters())
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("what", ["full", "selective"])
def test_whoever_watches_torchs_functions_sees_them_run_again(what):
    """As the simulator does, which takes attention for one kernel, forward and recomputed."""

    class Watch(TorchFunctionMode):
        seen = 0

        def __torch_function__(self, func, types, args=(), kwargs=None):
            self.seen += func is F.scaled_dot_product_attention
            return func(*args, **(kwargs or {}))

    model, tokens = recompute(Transformer(Config(20, 16, 3, 4, 8)), what), torch.zeros(2, 8, dtype=torch.long)
    with Watch() as watch:
        loss = model.loss(tokens, tokens)
        assert watch.seen == 3
        loss.backward()
    assert watch.seen == 6


def test_it_works_without_numbers():
    with torch.device("meta"):
        model, tokens = recompute(Transformer(Config(20, 16, 2, 4, 8))), torch.zeros(2, 8, dtype=torch.long)
    model.loss(tokens, tokens).backward()
    assert all(p.grad is not None and p.grad.is_meta for p in model.parameters())


def test_another_word_is_refused():
    with pytest.raises(ValueError, match="got 'some'"):
        recompute(Transformer(Config(20, 16, 1, 4, 8)), "some")
