"""The law of Hoffmann et al. 2022: its optimum is the lowest point of a budget, and Chinchilla's is close to it."""

from __future__ import annotations

import numpy as np
import pytest

from llmlab.cost.compute_optimal import BESIROGLU, HOFFMANN, affordable_flops

CHINCHILLA = 5.76e23  # FLOPs: 70 billion parameters, 1.4 trillion tokens


@pytest.mark.parametrize("law", [HOFFMANN, BESIROGLU], ids=lambda law: law.name)
@pytest.mark.parametrize("flops", [1e19, CHINCHILLA, 1e26])
def test_no_other_size_of_the_same_budget_has_a_lower_loss(law, flops):
    n_param, tokens = law.optimum(flops)
    assert 6 * n_param * tokens == pytest.approx(flops)
    others = n_param * np.geomspace(0.2, 5, 41)
    assert min(law.loss(n, flops / (6 * n)) for n in others) >= law.loss(n_param, tokens) - 1e-12
    assert law.loss(1.1 * n_param, tokens / 1.1) > law.loss(n_param, tokens)


def test_the_second_fit_gives_chinchilla_its_own_size_and_the_printed_constants_do_not():
    n_param, tokens = BESIROGLU.optimum(CHINCHILLA)
    assert n_param == pytest.approx(70e9, rel=0.05) and tokens / n_param == pytest.approx(20, rel=0.15)
    n_param, tokens = HOFFMANN.optimum(CHINCHILLA)
    assert tokens / n_param > 60


def test_more_of_either_lowers_the_loss_towards_the_text_s_own_entropy():
    law = BESIROGLU
    assert law.E < law.loss(1e12, 1e14) < law.loss(1e12, 1e13) < law.loss(1e11, 1e13)


def test_gpu_hours_buy_flops():
    assert affordable_flops(2.0, 1e15, mfu=0.4) == pytest.approx(2 * 3600 * 4e14)


@pytest.mark.parametrize("flops", [0, -1.0, float("nan")])
def test_no_flops_are_refused(flops):
    with pytest.raises(ValueError, match="flops as a number above 0"):
        BESIROGLU.optimum(flops)
