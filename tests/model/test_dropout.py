"""Dropout: a fair mask, another one in every forward, and the same one however the batch is cut."""

import copy
import pickle

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from llmlab.model import Config, Dropout, EncoderDecoder, Place, Transformer, recompute

CONFIG = Config(20, 16, 2, 2, 8, dropout=0.5)


def dropout(p=0.3, **place):
    module = Dropout(p)
    module.seed, module.path, module.place = 1, "blocks.0.mlp_dropout", Place(**place)
    return module


def tokens(rows=2):
    return torch.randint(20, (rows, 8), generator=torch.Generator().manual_seed(0))


def test_it_drops_its_share_and_keeps_the_mean():
    y = dropout()(torch.ones(8, 256, 512))  # 2^20 draws: the share is off by sqrt(0.21 / 2^20) = 0.00045 or so
    assert (y == 0).float().mean().item() == pytest.approx(0.3, abs=4 * 0.00045)
    assert torch.allclose(y[y != 0], torch.tensor(1 / 0.7))


def test_no_two_rows_columns_features_forwards_layers_or_seeds_drop_alike():
    """Any two lines of the mask agree in 0.3² + 0.7² = 58% of their places, as independent ones do."""
    same, elsewhere, reseeded = dropout(), dropout(), dropout()
    elsewhere.path, reseeded.seed = "blocks.1.mlp_dropout", 2
    mask = same.dropped(torch.empty(4, 64, 512))
    others = [(mask, module.dropped(torch.empty(4, 64, 512))) for module in (same, elsewhere, reseeded)]
    for a, b in ((mask[0], mask[1]), (mask[:, :-1], mask[:, 1:]), (mask[..., :-1], mask[..., 1:]), *others):
        assert (a == b).float().mean().item() == pytest.approx(0.58, abs=4 * (0.2436 / a.numel()) ** 0.5)
    lines = mask.flatten(0, 1).float() - 0.3
    correlation = (lines @ lines.T / 512 / 0.21).fill_diagonal_(0)
    # 256 x 255 / 2 pairs of spread 1/sqrt(512): the largest of so many lies near 4.3 spreads
    assert correlation.abs().max().item() < 6 / 512**0.5


def test_a_slice_of_the_batch_drops_what_the_whole_drops():
    x = torch.randn(4, 12, 8)
    whole = dropout(base=5)(x)
    assert torch.equal(dropout(base=5, row=1)(x[1:]), whole[1:])
    assert torch.equal(dropout(base=5, part=1, parts=2)(x[2:]), whole[2:])
    numbers = torch.tensor([0, 1, 10, 11, 4, 5])  # as a zigzag gives a rank both ends of the sequence

    def columns(t):
        return numbers

    assert torch.equal(dropout(base=5, columns=columns)(x[:, numbers]), whole[:, numbers])
    for index in range(3):
        part = dropout(base=5)
        part.part = (index, 3)
        assert torch.equal(part(x[:, 4 * index : 4 * index + 4]), whole[:, 4 * index : 4 * index + 4])
        part = dropout(base=5, columns=columns)
        part.part = (index, 3)
        assert torch.equal(part(x[:, numbers[2 * index : 2 * index + 2]]), whole[:, numbers[2 * index : 2 * index + 2]])


def test_every_forward_in_training_draws_anew_and_a_new_model_begins_again():
    model = Transformer(CONFIG)
    paths = [m.path for m in model.modules() if isinstance(m, Dropout)]
    assert len(set(paths)) == 5 and "blocks.1.mlp_dropout" in paths
    first, second = model(tokens()), model(tokens())
    assert not torch.equal(first, second)
    again = Transformer(CONFIG)
    assert torch.equal(again(tokens()), first) and torch.equal(again(tokens()), second)


def test_evaluation_drops_nothing_and_does_not_count():
    x = torch.randn(2, 5, 16)
    assert torch.equal(dropout().eval()(x), x) and torch.equal(dropout(p=0.0)(x), x)
    model, watched = Transformer(CONFIG), Transformer(CONFIG)
    for _ in range(2):
        trained = model(tokens())
        assert torch.equal(watched.train()(tokens()), trained)
        with torch.no_grad():
            watched.eval()(tokens())


def test_two_halves_of_a_model_that_reads_twice_drop_differently():
    model = EncoderDecoder(CONFIG)
    a, b = model.embedding(tokens()), model.embedding(tokens())
    assert not torch.equal(a == 0, b == 0)  # source and target go through one embedding


def test_blocks_called_by_hand_draw_anew():
    block, x = Transformer(CONFIG).blocks[0], torch.randn(2, 5, 16)
    assert not torch.equal(block(x), block(x))


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_goes_on_by_itself_from_where_it_was_made(copied):
    model = Transformer(CONFIG)
    model(tokens())
    other = copied(model)
    expected = model(tokens())
    assert torch.equal(other(tokens()), expected)
    assert other.blocks[0].mlp_dropout.place is other.place is not model.place
    assert vars(other.head.weight)["place"] is other.place


def test_a_run_that_goes_on_says_how_many_forwards_there_were():
    model, later = Transformer(CONFIG), Transformer(CONFIG)
    model(tokens()), model(tokens())
    later.place.resume(model.place.forwards)
    assert torch.equal(later(tokens()), model(tokens()))


def test_torchs_checkpoint_is_refused_and_told_of_recompute():
    model = Transformer(CONFIG)
    y = checkpoint(model.blocks[0], torch.randn(2, 5, 16, requires_grad=True), use_reentrant=False)
    with pytest.raises(ValueError, match=r"llmlab.model.recompute\(model\)"):
        y.sum().backward()
    expected = Transformer(CONFIG)
    recompute(model := Transformer(CONFIG))
    for m in (model, expected):
        m.loss(tokens(), tokens()).backward()
    assert torch.equal(model.head.weight.grad, expected.head.weight.grad)


def test_the_gradient_passes_where_the_value_did():
    x = torch.randn(2, 5, 16, requires_grad=True)
    y = dropout()(x)
    y.sum().backward()
    assert torch.equal(x.grad == 0, y == 0) and torch.allclose(x.grad[y != 0], torch.tensor(1 / 0.7))
