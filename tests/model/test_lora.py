"""Low-rank adapters: what they compute, what trains, and that merged and apart are one model."""

from __future__ import annotations

import copy

import pytest
import torch

from llmlab.model import Config, Transformer, add_lora, lora_state, merge_lora
from llmlab.model.lora import adapters

CONFIG = Config(vocab_size=17, d_model=12, n_layer=2, n_head=2, max_seq=6, dtype=torch.float64)
TOKENS = torch.randint(0, 17, (2, 3, 6), generator=torch.Generator().manual_seed(0))


def trained(**options):
    """A model whose adapters have made two steps, so that B is no longer zero."""
    model = add_lora(Transformer(CONFIG), **options)
    optimizer = torch.optim.SGD((p for p in model.parameters() if p.requires_grad), lr=1.0)
    for _ in range(2):
        model.loss(*TOKENS).backward()
        optimizer.step()
        optimizer.zero_grad()
    return model


def test_a_new_adapter_changes_nothing() -> None:
    before = Transformer(CONFIG)
    assert torch.equal(add_lora(Transformer(CONFIG))(TOKENS[0]), before(TOKENS[0]))


def test_an_adapted_layer_is_the_papers_formula() -> None:
    for linear, low_rank in adapters(trained(rank=3, alpha=5.0)):
        x = torch.randn(4, linear.in_features, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
        w, a, b = linear.weight, low_rank.lora_a, low_rank.lora_b
        wanted = x @ w.T + 5.0 / 3 * (x @ a.T @ b.T) + linear.bias
        assert b.abs().max() > 0
        assert torch.allclose(linear(x), wanted, rtol=0, atol=1e-14)  # fp64: sums of 12 terms of about 1


def test_merged_equals_apart_to_1e_12() -> None:
    model = trained(rank=2, targets=("query", "value", "up", "down", "output"))
    apart, state = model(TOKENS[0]), lora_state(model)
    assert (apart - Transformer(CONFIG)(TOKENS[0])).abs().max() > 1e-3  # or equality would say nothing
    merged = merge_lora(model)
    assert (merged(TOKENS[0]) - apart).abs().max() < 1e-12
    assert list(merged.state_dict()) == list(Transformer(CONFIG).state_dict())
    assert all(p.requires_grad for p in merged.parameters())
    assert len(state) == 2 * 2 * 5


def test_only_adapters_train_and_their_number_is_r_times_in_plus_out() -> None:
    model = trained(rank=4, targets=("query", "down"))
    sizes = [4 * (12 + 12), 4 * (48 + 12)] * 2
    assert sum(p.numel() for p in model.parameters() if p.requires_grad) == sum(sizes)
    fresh = dict(Transformer(CONFIG).named_parameters())
    for name, parameter in model.named_parameters():
        if name in fresh:
            assert parameter.grad is None
            assert torch.equal(parameter, fresh[name])


def test_a_copy_and_a_stored_state_are_the_same_model() -> None:
    model = trained()
    twin = copy.deepcopy(model)
    other = add_lora(Transformer(CONFIG))
    other.load_state_dict(lora_state(model), strict=False)
    for each in (twin, other):
        assert torch.equal(each(TOKENS[0]), model(TOKENS[0]))


def test_what_has_no_meaning_is_refused() -> None:
    with pytest.raises(ValueError, match="query"):
        add_lora(Transformer(CONFIG), targets=("q_proj",))
    with pytest.raises(ValueError, match="merge_lora"):
        add_lora(add_lora(Transformer(CONFIG)))
    with pytest.raises(ValueError, match="with adapters"):
        merge_lora(Transformer(CONFIG))
    with pytest.raises(ValueError, match="rank"):
        add_lora(Transformer(CONFIG), rank=0)
