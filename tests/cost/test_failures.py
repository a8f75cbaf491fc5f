"""How often to save: the formulas against failures that are drawn, and the best interval against all others."""

from __future__ import annotations

import pytest

import llmlab as lab
from llmlab.cost import daly, draw_time_lost, time_lost, young


@pytest.mark.parametrize(("save", "mtbf", "restart"), [(10.0, 3600.0, 60.0), (60.0, 600.0, 0.0), (5.0, 20.0, 3.0)])
def test_what_is_expected_to_be_lost_is_what_drawn_failures_lose(save: float, mtbf: float, restart: float) -> None:
    for interval in (daly(save, mtbf) / 3, daly(save, mtbf), 2 * daly(save, mtbf)):
        drawn = draw_time_lost(interval, save, mtbf, restart, saves=30_000)
        # the mean of about 30,000 x (interval + save) / mtbf failures and more, each with a spread of its own size
        assert 1 + drawn == pytest.approx(1 + time_lost(interval, save, mtbf, restart), rel=0.02)


@pytest.mark.parametrize(("save", "mtbf"), [(1.0, 1e4), (10.0, 1000.0), (100.0, 1000.0)])
def test_dalys_interval_loses_least_and_youngs_nearly_so(save: float, mtbf: float) -> None:
    best = time_lost(daly(save, mtbf), save, mtbf)
    tried = [time_lost(daly(save, mtbf) * 1.1**i, save, mtbf) for i in range(-20, 21)]
    assert best <= min(tried) * 1.001
    assert best <= time_lost(young(save, mtbf), save, mtbf) <= 1.1 * best
    assert young(2.0, 100.0) == 20.0
    assert daly(300.0, 100.0) == 100.0 and time_lost(1e6, 1.0, 1.0) == float("inf")


def test_the_picture_shows_the_valley_and_says_its_floor() -> None:
    lived = {100.0: 0.2, 300.0: 0.1}
    figure = lab.plot.checkpoint_interval(10.0, 3600.0, 60.0, lived)
    axes = figure.axes[0]
    curve, points, floor = axes.lines
    assert min(curve.get_ydata()) == pytest.approx(time_lost(daly(10.0, 3600.0), 10.0, 3600.0, 60.0), rel=1e-3)
    assert list(points.get_xdata()) == [100.0, 300.0] and floor.get_xdata()[0] == daly(10.0, 3600.0)
    with pytest.raises(ValueError, match="time_lost wants mtbf_s as"):
        time_lost(1.0, 1.0, 0.0)


# --- faults on the virtual clock --------------------------------------------------------------------------------------


def messages(world):
    import torch

    for _ in range(4):
        world.all_reduce(torch.ones(250_000))
        if world.rank == 0:
            world.send(torch.ones(250_000), 1)
        elif world.rank == 1:
            world.recv(torch.ones(250_000), 0)
    return world.clock()


def seconds(**how) -> float:
    return lab.Simulator(3, **how).run(messages).seconds


def test_a_slow_link_a_lost_message_and_a_straggler_cost_what_they_must() -> None:
    plain, slow = seconds(), seconds(faults=[lab.SlowLink(2, 4)])
    assert 2 * plain < slow < 4 * plain  # four times the transfer of each all_reduce; latency and messages as before
    assert seconds(faults=[lab.SlowLink(0, 4)]) > slow  # its messages to rank 1, too
    assert seconds(faults=[lab.Lost(2, n=1, resend_s=0.5)]) == pytest.approx(plain + 0.5, rel=1e-9)
    assert seconds(faults=[lab.Lost(2, n=99)]) == plain


def test_a_rank_dies_at_its_time_the_run_ends_and_another_goes_on() -> None:
    end = seconds()
    with pytest.raises(lab.RankDied, match=r"rank 1: it died at .* s, as faults= wanted") as caught:
        seconds(faults=[lab.Dies(1, at_s=end / 2)])
    assert caught.value.rank == 1
    assert seconds(faults=[lab.Dies(1, at_s=2 * end)]) == pytest.approx(end, rel=0.01)  # its host waits for its device
    with pytest.raises(ValueError, match="each fault's rank as a whole number from 0 to 2"):
        lab.Simulator(3, faults=[lab.Dies(3, at_s=0)])
    with pytest.raises(ValueError, match="leave fold out"):
        lab.Simulator(3, faults=[lab.Dies(1, at_s=0)], fold=("world",), numerics=False)
