"""Pictures of positions: their curves are those of the model's own functions."""

from __future__ import annotations

import pytest
import torch

from llmlab.model import rotary, rotate, sinusoids
from llmlab.plot.positions import likeness, rotary_picture, sinusoid_picture


def test_the_curve_of_sinusoids_is_the_product_of_their_rows():
    table = sinusoids(torch.arange(10), 16)
    expected = (table @ table[4]) / (table[4] @ table[4])
    assert torch.allclose(torch.tensor(likeness(4, 16, 10, 10000.0), dtype=torch.float64), expected)
    figure = sinusoid_picture(4, d_model=16, seq=10)
    assert list(figure.axes[1].lines[0].get_ydata()) == likeness(4, 16, 10, 10000.0)
    assert "position 4 among 10" in figure.alt and "with itself 1.00" in figure.alt


def test_the_curve_of_rotary_positions_is_the_score_of_turned_ones():
    cos, sin = rotary(torch.arange(10), 16, 100.0, torch.float64)
    turned = rotate(torch.ones(1, 1, 10, 16, dtype=torch.float64), (cos, sin))[0, 0]
    assert torch.allclose(turned @ turned[3] / 16, torch.tensor(likeness(3, 16, 10, 100.0), dtype=torch.float64))


def test_only_the_distance_of_query_and_key_counts():
    first, second = rotary_picture(20, 17), rotary_picture(50, 47)
    assert first.alt.split(":")[-1] == second.alt.split(":")[-1] != rotary_picture(20, 3).alt.split(":")[-1]


def test_hands_stand_at_their_angles():
    axes = rotary_picture(2, 1, head_dim=8).axes[0]
    x, y = (line[-1] for line in axes.lines[0].get_data())
    assert (x, y) == pytest.approx((torch.cos(torch.tensor(2.0)).item(), torch.sin(torch.tensor(2.0)).item()), abs=1e-6)


def test_a_position_beyond_the_picture_is_refused():
    with pytest.raises(ValueError, match="key as a whole number from 0 to 63; got 64"):
        rotary_picture(0, 64)
