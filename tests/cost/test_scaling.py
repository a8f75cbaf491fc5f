"""The laws of Amdahl and Gustafson: against the line they come from, and the line against points made with it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmlab.cost.scaling import Scaling, amdahl, fit_scaling, gustafson

POSITIVE = st.floats(1e-6, 1e3)


@given(line=st.builds(Scaling, POSITIVE, POSITIVE), items=st.integers(1, 10**6), ranks=st.integers(1, 1024))
def test_both_laws_are_readings_of_the_same_line(line, items, ranks):
    f = line.serial_share(items)
    assert amdahl(f, ranks) == pytest.approx(line.seconds(items, 1) / line.seconds(items, ranks))
    more = items * ranks  # as many items per rank as one rank had, in the same time
    assert line.seconds(more, ranks) == pytest.approx(line.seconds(items, 1))
    assert gustafson(f, ranks) == pytest.approx(line.seconds(more, 1) / line.seconds(more, ranks))


def test_the_laws_by_hand():
    assert amdahl(0.05, 20) == pytest.approx(1 / (0.05 + 0.95 / 20)) == pytest.approx(10.256, abs=1e-3)
    assert amdahl(0.05, 10**9) == pytest.approx(20)  # 1 / f
    assert amdahl(0, 7) == gustafson(0, 7) == 7
    assert amdahl(1, 7) == gustafson(1, 7) == 1
    assert gustafson(0.004, 1024) == pytest.approx(1020, abs=0.5)  # Gustafson 1988: 0.4% serial on 1024 processors


@given(line=st.builds(Scaling, st.floats(1e-4, 1.0), st.floats(1e-9, 1e-6)))
def test_the_fit_finds_the_line_that_made_the_points(line):
    points = [(items, ranks, line.seconds(items, ranks)) for items in (10**4, 10**5, 10**6) for ranks in (1, 2)]
    found = fit_scaling(points)
    assert found.seconds(10**5, 4) == pytest.approx(line.seconds(10**5, 4), rel=1e-6)
    assert found.fixed_s == pytest.approx(line.fixed_s, rel=1e-4, abs=1e-4 * line.item_s * 1e4)


def test_a_fixed_part_below_zero_becomes_zero():
    assert fit_scaling([(10, 1, 1.0), (20, 1, 2.2)]).fixed_s == 0


def test_one_size_on_one_rank_count_is_not_enough():
    with pytest.raises(ValueError, match="two values of items / ranks"):
        fit_scaling([(100, 1, 1.0), (200, 2, 1.1)])


@pytest.mark.parametrize("law", [amdahl, gustafson])
@pytest.mark.parametrize("f, ranks", [(-0.1, 2), (1.1, 2), (0.5, 0)])
def test_a_share_outside_0_to_1_or_no_rank_is_refused(law, f, ranks):
    with pytest.raises(ValueError, match="(serial_share as a number from 0 to 1|ranks as a number of at least 1); got"):
        law(f, ranks)
