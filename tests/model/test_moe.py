"""Mixture of experts against the plain sum over every token and its experts."""

import copy

import pytest
import torch

from llmlab.model import Config, MoE, Transformer, draw_weights
from llmlab.model.moe import by_expert, update_bias


def mixture(**options):
    config = Config(8, 6, 1, 2, 32, n_expert=4, dtype=torch.float64, **options)
    moe = MoE(config)
    draw_weights(moe, config, seed=0)
    torch.nn.init.normal_(moe.router.weight)
    return moe


def plain(moe, x, dropped=()):
    """Each token alone: its k likeliest experts, weighted."""
    tokens, k = x.flatten(0, 1), moe.n_active
    outputs = []
    for i, token in enumerate(tokens):
        p = (moe.router.weight @ token).softmax(0)
        best = p.argsort(descending=True)[:k]
        total = p[best].sum() if k > 1 else 1
        terms = [p[e] / total * moe.experts[e](token) for e in best if (i, int(e)) not in dropped]
        outputs.append(sum(terms, torch.zeros_like(token)) + sum(expert(token) for expert in moe.shared))
    return torch.stack(outputs).view_as(x)


@pytest.mark.parametrize("k", [1, 2, 4])
@pytest.mark.parametrize("shared", [0, 2])
def test_a_mixture_is_the_weighted_sum_of_each_tokens_experts(agree, k, shared):
    moe = mixture(n_expert_active=k, n_expert_shared=shared)
    x = torch.randn(2, 9, 6, dtype=torch.float64, requires_grad=True)
    inputs = (x, moe.router.weight, *(expert.up.weight for expert in moe.experts))
    both = []
    for out in (moe(x), plain(moe, x)):
        both.append([out, *torch.autograd.grad(out.pow(2).sum(), inputs)])
    agree(*both)


def test_an_expert_without_tokens_gets_a_gradient_of_zero():
    moe = mixture(n_expert_active=1)
    with torch.no_grad():
        moe.router.weight.zero_()[0] = 1.0
    moe(torch.ones(1, 5, 6, dtype=torch.float64)).sum().backward()
    assert moe.experts[0].up.weight.grad.abs().sum() > 0
    assert all((expert.up.weight.grad == 0).all() for expert in list(moe.experts)[1:])


def test_beyond_its_capacity_an_expert_drops_second_choices_first_and_later_tokens_before_earlier():
    choice = torch.tensor([[0, 1], [0, 1], [1, 0], [0, 2]])  # expert 0: first choice of 0, 1, 3, second of 2
    order, sizes = by_expert(choice, 3, capacity_factor=1.1)  # ceil(1.1 x 8 / 3) = 3 each
    assert sizes == [3, 3, 1]
    pairs = [divmod(i, 2) for i in order.tolist()]  # (token, which of its choices)
    assert pairs == [(0, 0), (1, 0), (3, 0), (2, 0), (0, 1), (1, 1), (3, 1)]


def test_dropped_pairs_add_nothing(agree):
    moe = mixture(n_expert_active=2, capacity_factor=0.8)
    x = torch.randn(1, 10, 6, dtype=torch.float64)
    _, choice = moe.route(x[0])
    kept, _ = by_expert(choice, 4, 0.8)
    pairs = {divmod(i, 2) for i in kept.tolist()}
    dropped = {(i, int(choice[i, j])) for i in range(10) for j in range(2) if (i, j) not in pairs}
    assert dropped  # 4 experts x ceil(0.8 x 20 / 4) = 16 of 20 places
    agree([moe(x)], [plain(moe, x, dropped)])


def test_the_balancing_loss_is_least_when_the_load_is_even():
    moe = mixture(n_expert_active=1)
    x = torch.eye(6, dtype=torch.float64)[None, :4]
    with torch.no_grad():
        moe.router.weight.copy_(50 * torch.eye(4, 6))  # token i prefers expert i
    moe(x)
    assert moe.balance.item() == pytest.approx(1.0)
    with torch.no_grad():
        moe.router.weight.zero_()[0] = 50.0  # all prefer expert 0
    moe(x)
    assert moe.balance.item() == pytest.approx(4.0)


def test_the_models_loss_holds_the_balancing_loss():
    config = Config(8, 6, 2, 2, 32, n_expert=4, balance_loss=0.5)
    model, tokens = Transformer(config), torch.randint(8, (2, 7))
    total = model.loss(tokens, tokens)
    balance = sum(block.mlp.balance for block in model.blocks)
    plain = model.cross_entropy(model(tokens), tokens)
    assert torch.allclose(total, plain + 0.5 * balance)
    assert torch.allclose(model.loss(tokens, tokens, reduction="sum"), 14 * total)
    total.backward()
    assert model.blocks[0].mlp.router.weight.grad.abs().sum() > 0


def test_a_model_in_the_midst_of_training_can_be_copied():
    model, tokens = Transformer(Config(8, 6, 1, 2, 32, n_expert=4)), torch.randint(8, (2, 7))
    loss = model.loss(tokens, tokens)
    assert torch.equal(copy.deepcopy(model).loss(tokens, tokens), loss)


def test_a_bias_decides_who_is_chosen_and_not_what_it_weighs(agree):
    moe = mixture(n_expert_active=1)
    tokens = torch.randn(7, 6, dtype=torch.float64)
    p = (tokens @ moe.router.weight.T).softmax(-1)
    moe.bias = torch.tensor([0.0, 0.0, 2.0, 0.0], dtype=torch.float64)
    weights, choice = moe.route(tokens)
    assert (choice == 2).all() and (p.argmax(-1) != 2).any()
    agree([weights], [p[:, 2:3]])


def test_a_step_of_the_bias_goes_against_the_load():
    moe = mixture(n_expert_active=1)
    with torch.no_grad():
        moe.router.weight.zero_()[1] = 50.0
    before = moe.state_dict().keys()
    moe(torch.ones(1, 8, 6, dtype=torch.float64))  # all choose expert 1
    update_bias(moe, 0.1)
    update_bias(moe, 0.1)
    assert moe.bias.tolist() == pytest.approx([0.2, -0.2, 0.2, 0.2])
    assert moe.state_dict().keys() - before == {"bias"}
    assert "bias" not in dict(moe.named_parameters())


def test_steps_of_the_bias_make_the_load_even():
    moe = mixture(n_expert_active=2)
    with torch.no_grad():
        moe.router.weight[0, 0] += 1.0  # expert 0 is liked more than the others
    x = torch.randn(1, 400, 6, dtype=torch.float64) + torch.eye(6, dtype=torch.float64)[0]
    moe(x)
    first = moe.load.max().item()
    for _ in range(100):
        update_bias(moe, 0.01)
        moe(x)
    assert first > 0.35 and moe.load.max() < 0.27


def test_places_without_a_target_change_neither_balance_nor_load():
    """However many there are, and whatever tokens stand there: no sum has a term of theirs, and none is rounded."""
    model = Transformer(Config(20, 16, 2, 2, 16, n_expert=4, dtype=torch.float64))
    tokens = torch.randint(20, (3, 6), generator=torch.Generator().manual_seed(0))
    expected, load = model.loss(tokens, tokens), model.blocks[0].mlp.load
    for filler in (0, 7):  # causal, so that what is appended changes nothing before it
        padded = torch.cat([tokens, torch.full((3, 5), filler)], 1)
        targets = torch.cat([tokens, torch.full((3, 5), -100)], 1)
        loss = model.loss(padded, targets)
        assert loss.item() == pytest.approx(expected.item(), abs=1e-12)  # fp64, sums of 18 terms
        assert torch.allclose(model.blocks[0].mlp.load, load, rtol=0, atol=1e-15)


def test_capacity_limits_training_only_so_that_a_cache_changes_no_text():
    model = Transformer(Config(20, 16, 2, 2, 24, n_expert=4, capacity_factor=0.5, dtype=torch.float64))
    tokens = torch.randint(20, (3, 9), generator=torch.Generator().manual_seed(0))
    limited, free = model(tokens), model.eval()(tokens)
    assert not torch.allclose(limited, free)
    caches = model.make_caches(3)
    pieces = [model(tokens[:, i : i + 1], caches=caches) for i in range(9)]
    assert torch.allclose(torch.cat(pieces, 1), free, rtol=0, atol=1e-12)
