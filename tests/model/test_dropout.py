"""Dropout: a fair mask, and the same mask however the batch is cut."""

import pytest
import torch

from llmlab.model import Config, Dropout, Place, Transformer


def dropout(p=0.3, **place):
    module = Dropout(p)
    module.seed, module.path, module.place = 1, "blocks.0.mlp_dropout", Place(**place)
    return module


def test_it_drops_its_share_and_keeps_the_mean():
    y = dropout()(torch.ones(8, 256, 512))  # 2^20 draws: the share is off by sqrt(0.21 / 2^20) = 0.00045 or so
    assert (y == 0).float().mean().item() == pytest.approx(0.3, abs=4 * 0.00045)
    assert torch.allclose(y[y != 0], torch.tensor(1 / 0.7))


def test_no_two_rows_columns_features_steps_layers_or_seeds_drop_alike():
    """Any two lines of the mask agree in 0.3² + 0.7² = 58% of their places, as independent ones do."""
    mask = dropout().dropped(torch.empty(4, 64, 512))
    later, elsewhere, reseeded = dropout(step=1), dropout(), dropout()
    elsewhere.path, reseeded.seed = "blocks.1.mlp_dropout", 2
    others = [(mask, module.dropped(torch.empty(4, 64, 512))) for module in (later, elsewhere, reseeded)]
    for a, b in ((mask[0], mask[1]), (mask[:, :-1], mask[:, 1:]), (mask[..., :-1], mask[..., 1:]), *others):
        assert (a == b).float().mean().item() == pytest.approx(0.58, abs=4 * (0.2436 / a.numel()) ** 0.5)
    lines = mask.flatten(0, 1).float() - 0.3
    correlation = (lines @ lines.T / 512 / 0.21).fill_diagonal_(0)
    # 256 x 255 / 2 pairs of spread 1/sqrt(512): the largest of so many lies near 4.3 spreads
    assert correlation.abs().max().item() < 6 / 512**0.5


def test_a_slice_of_the_batch_drops_what_the_whole_drops():
    x = torch.randn(4, 12, 8)
    whole = dropout(step=5)(x)
    assert torch.equal(dropout(step=5, row=2)(x[2:]), whole[2:])
    columns = torch.tensor([0, 1, 10, 11, 4, 5])  # as a zigzag gives a rank both ends of the sequence
    assert torch.equal(dropout(step=5, columns=columns)(x[:, columns]), whole[:, columns])
    for index in range(3):
        part = dropout(step=5)
        part.part = (index, 3)
        assert torch.equal(part(x[:, 4 * index : 4 * index + 4]), whole[:, 4 * index : 4 * index + 4])
        part = dropout(step=5, columns=columns)
        part.part = (index, 3)
        assert torch.equal(part(x[:, columns[2 * index : 2 * index + 2]]), whole[:, columns[2 * index : 2 * index + 2]])


def test_every_layer_and_step_has_a_mask_of_its_own():
    model = Transformer(Config(20, 16, 2, 2, 8, dropout=0.5))
    paths = [m.path for m in model.modules() if isinstance(m, Dropout)]
    assert len(set(paths)) == 5 and "blocks.1.mlp_dropout" in paths
    tokens = torch.randint(20, (2, 8))
    first = model(tokens)
    assert torch.equal(model(tokens), first)  # the same step again, as recomputation needs it
    model.place.step = 1
    assert not torch.equal(model(tokens), first)


def test_the_gradient_passes_where_the_value_did():
    x = torch.randn(2, 5, 16, requires_grad=True)
    y = dropout()(x)
    y.sum().backward()
    assert torch.equal(x.grad == 0, y == 0) and torch.allclose(x.grad[y != 0], torch.tensor(1 / 0.7))


def test_evaluation_drops_nothing():
    x = torch.randn(2, 5, 16)
    assert torch.equal(dropout().eval()(x), x) and torch.equal(dropout(p=0.0)(x), x)
