"""A class for a text, or for each of its tokens."""

from __future__ import annotations

import pytest
import torch

from llmlab.model import Classifier, Config, Transformer, cross_entropy
from llmlab.model.text_encoder import TextEncoder

SIZES = {"vocab_size": 13, "d_model": 8, "n_layer": 2, "n_head": 2, "max_seq": 9, "causal": False}
ROTARY = Config(**SIZES, position="rotary", dtype=torch.float64)
BERT = Config(**SIZES, norm_first=False, dtype=torch.float64)


def make(kind: str, per: str = "text", seed: int = 0) -> Classifier:
    encoder = Transformer(ROTARY, seed) if kind == "Transformer" else TextEncoder(BERT, seed=seed)
    return Classifier(encoder, 3, per, seed)


@pytest.mark.parametrize("kind", ["Transformer", "TextEncoder"])
@pytest.mark.parametrize("per", ["text", "token"])
def test_padding_changes_nothing(kind, per, agree):
    model = make(kind, per)
    tokens, lengths = torch.randint(0, 13, (4, 7)), torch.tensor([7, 5, 1, 3])
    together = model(tokens, lengths)
    assert together.shape == ((4, 3) if per == "text" else (4, 7, 3))
    alone = [model(row[None, :n]) for row, n in zip(tokens, lengths, strict=True)]
    rows = [row[None] if per == "text" else row[None, :n] for row, n in zip(together, lengths, strict=True)]
    agree(rows, alone)


def test_a_text_s_logits_are_the_head_s_of_the_mean_vector(agree):
    model = make("Transformer")
    tokens = torch.randint(0, 13, (2, 5))
    mean = model.encoder.features(tokens).mean(1)
    agree([model(tokens)], [mean @ model.head.weight.T + model.head.bias])


def test_the_loss_leaves_padding_out_and_every_parameter_learns():
    model = make("Transformer", "token")
    tokens, lengths = torch.randint(0, 13, (2, 4)), torch.tensor([4, 2])
    targets = torch.tensor([[0, 1, 2, 0], [1, 2, -100, -100]])
    logits = model(tokens, lengths)
    expected = cross_entropy(torch.cat([logits[0], logits[1, :2]]), torch.tensor([0, 1, 2, 0, 1, 2]))
    loss = model.loss(tokens, lengths, targets)
    assert loss.item() == pytest.approx(expected.item(), rel=1e-12)
    assert model.loss(tokens, lengths, targets, "sum").item() == pytest.approx(6 * expected.item(), rel=1e-12)
    loss.backward()
    without = [name for name, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum()]
    assert without == ["encoder.head.weight"][: len(without)]  # the output over words, which is not asked


def test_a_prediction_is_the_likeliest_class_without_dropout():
    config = Config(**SIZES, position="rotary", dropout=0.5)
    model = Classifier(Transformer(config), 3)
    tokens = torch.randint(0, 13, (6, 5))
    found = model.predict(tokens)
    assert model.training and not found.requires_grad
    assert torch.equal(found, model.eval()(tokens).argmax(-1)) and found.shape == (6,)


def test_the_first_weights_follow_from_the_seed():
    same, other = make("Transformer"), make("Transformer", seed=1)
    assert torch.equal(same.head.weight, make("Transformer").head.weight)
    assert not torch.equal(same.head.weight, other.head.weight)


def test_a_causal_model_is_refused():
    with pytest.raises(ValueError, match="sees? both sides, got a model with causal=True"):
        Classifier(Transformer(Config(13, 8, 2, 2, 9)), 2)
