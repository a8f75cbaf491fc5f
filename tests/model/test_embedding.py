"""Embeddings and positions against their formulas, one number at a time."""

import math

import pytest
import torch
import torch.nn.functional as F

from llmlab.model import Config, Embedding, draw_weights, rotary, rotate, sinusoids


def test_a_factor_divides_the_frequency_of_its_pair():
    t, factors = torch.arange(5), (1.0, 2.0, 8.0)
    cos, sin = rotary(t, 6, 100.0, torch.float64, factors)
    for i, factor in enumerate(factors):
        angle = t.double() * 100.0 ** (-2 * i / 6) / factor
        torch.testing.assert_close((cos[:, i], sin[:, i]), (angle.cos(), angle.sin()), atol=1e-15, rtol=0)


def embedding(**options):
    config = Config(10, 8, 1, 2, 6, dtype=torch.float64, **options)
    module = Embedding(config)
    draw_weights(module, config, seed=0)
    return module


def test_an_embedding_is_a_product_with_a_one_hot_vector(agree):
    module, tokens = embedding(position="none"), torch.tensor([[1, 9, 1], [0, 3, 4]])
    agree([module(tokens)], [F.one_hot(tokens, 10).double() @ module.token.weight])


def test_learned_positions_are_rows_of_a_table(agree):
    module, tokens = embedding(), torch.tensor([[1, 2, 3]])
    expected = module.token.weight[1:4][None] + module.position.weight[[4, 0, 5]]
    agree([module(tokens, torch.tensor([4, 0, 5]))], [expected])
    agree([module(tokens)], [module.token.weight[1:4][None] + module.position.weight[:3]])


def test_sinusoids_are_the_papers_formula():
    table = sinusoids(torch.tensor([0, 1, 700]), 6)
    for row, t in enumerate((0, 1, 700)):
        for i in range(3):
            angle = t / 10000 ** (2 * i / 6)
            assert table[row, 2 * i].item() == pytest.approx(math.sin(angle), abs=1e-12)
            assert table[row, 2 * i + 1].item() == pytest.approx(math.cos(angle), abs=1e-12)


def test_sinusoidal_positions_meet_tokens_scaled_by_the_root_of_the_width(agree):
    module, tokens = embedding(position="sinusoidal"), torch.tensor([[1, 2, 3]])
    agree([module(tokens)], [module.token.weight[1:4][None] * math.sqrt(8) + sinusoids(torch.arange(3), 8)])


def test_rotary_multiplies_complex_numbers(agree):
    x = torch.randn(2, 3, 5, 8, dtype=torch.float64)
    positions = torch.tensor([3, 0, 7, 1, 1000])
    turned = rotate(x, rotary(positions, 8, 10000.0, x.dtype))
    angles = positions[:, None] * 10000.0 ** (-torch.arange(4, dtype=torch.float64) / 4)
    expected = torch.complex(x[..., :4], x[..., 4:]) * torch.polar(torch.ones_like(angles), angles)
    agree([turned], [torch.cat((expected.real, expected.imag), -1)])


def test_rotary_scores_depend_on_the_distance_alone(agree):
    q, k = torch.randn(1, 1, 4, 8, dtype=torch.float64), torch.randn(1, 1, 4, 8, dtype=torch.float64)
    scores = []
    for start in (0, 50):
        rotation = rotary(torch.arange(start, start + 4), 8, 10000.0, q.dtype)
        scores.append(rotate(q, rotation) @ rotate(k, rotation).mT)
    agree(scores[1:], scores[:1])


def test_rotary_takes_positions_of_each_sequence(agree):
    x = torch.randn(2, 3, 4, 8, dtype=torch.float64)
    positions = torch.tensor([[0, 1, 2, 3], [7, 8, 9, 0]])
    together = rotate(x, rotary(positions, 8, 10000.0, x.dtype))
    apart = [rotate(x[i : i + 1], rotary(positions[i], 8, 10000.0, x.dtype)) for i in range(2)]
    agree([together], [torch.cat(apart)])


@pytest.mark.parametrize(("dtype", "tables"), [(torch.bfloat16, torch.float32), (torch.float64, torch.float64)])
def test_rotary_tables_follow_the_models_dtype_and_only_16_bits_are_raised(dtype, tables):
    cos, sin = rotary(torch.arange(4), 8, 10000.0, dtype)
    assert cos.dtype == sin.dtype == tables
    assert rotate(torch.ones(1, 1, 4, 8, dtype=dtype), (cos, sin)).dtype == dtype


def test_a_token_outside_the_vocabulary_is_named():
    with pytest.raises(ValueError, match="token wants numbers from 0 to 9, got 3 to 10"):
        embedding()(torch.tensor([[3, 10]]))
    with pytest.raises(ValueError, match="token wants numbers from 0 to 9, got -1 to 3"):
        embedding()(torch.tensor([[3, -1]]))
    with pytest.raises(ValueError, match="position wants numbers from 0 to 5, got 6 to 7"):
        embedding()(torch.tensor([[3, 1]]), torch.tensor([6, 7]))
