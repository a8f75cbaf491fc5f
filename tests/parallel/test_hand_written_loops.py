"""Hand-written loops, drawn: under every wrapper the numbers and weights of the same loop in one process."""

from __future__ import annotations

import pytest

from tests.parallel.comparing import numbers
from tests.parallel.loops import alone, distance, draw, train

N_DRAW = 117  # 13 of each wrapper


@pytest.mark.parametrize("seed", range(N_DRAW))
def test_a_loop_under_a_wrapper_is_the_single_processs(seed):
    case = draw(seed)
    results = numbers(case.ranks).run(train, case).results
    assert distance(case, alone(case), results) < 1e-9, case  # fp64: 2 steps of sums of some hundred terms
