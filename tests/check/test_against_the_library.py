"""What the checks take for right is what the library does."""

from __future__ import annotations

from itertools import product

import pytest
import torch

from llmlab.check.pipeline import pace, quickest_split
from llmlab.check.splitting import ends
from llmlab.cost.thresholds import attending, products, threshold
from llmlab.hardware import cluster
from llmlab.model.moe import by_expert
from llmlab.parallel.data import shares_by_speed
from tests.check.answers import thresholds
from tests.check.answers.expert import counted


def test_those_kept_are_those_the_library_keeps():
    choice, n_expert = torch.randint(3, (20,)), 3
    order, sizes = by_expert(choice[:, None], n_expert, capacity_factor=0.6)  # 4 places each
    assert sorted(order.tolist()) == [i for i, kept in enumerate(counted(choice.tolist(), 4)) if kept]
    assert max(sizes) == 4


def test_no_other_shares_end_sooner():
    for n, speeds in ((7, [3, 2, 1]), (6, [5, 1, 1])):
        every = [shares for shares in product(range(n + 1), repeat=3) if sum(shares) == n]
        assert ends(shares_by_speed(n, speeds), speeds) == min(ends(shares, speeds) for shares in every)


def test_the_quickest_split_gives_a_slow_rank_less():
    assert quickest_split(12, [2, 1, 1, 2]) == [4, 2, 2, 4]
    assert pace([4, 2, 2, 4], [2, 1, 1, 2]) == 2


def test_the_thresholds_taken_for_right_are_the_librarys():
    on = cluster("h100")
    R, A = products(on), attending(on)
    W, V = (link.bytes_per_s * link.efficiency for link in (on.intra, on.inter))
    assert threshold("data", on, 8).least == pytest.approx(thresholds.data(R, W, 8, 2))
    assert threshold("zero3", on, 8).least == pytest.approx(thresholds.zero3(R, W, 8, 2, 2))
    assert threshold("tensor", on, 8, matrices=3).least == pytest.approx(thresholds.tensor(R, W, 8, 2, 3))
    assert threshold("context", on, 8, number_bytes=4).least == pytest.approx(thresholds.ring(A, W, 4, 1))
    hop = 2 * R / (72 * 4 * 4096 * W)
    assert threshold("pipeline", on, 8).least == pytest.approx(thresholds.pipeline(8, hop))
    assert threshold("expert", on, 64).least == pytest.approx(thresholds.expert(R, W, V, 64, 8))
