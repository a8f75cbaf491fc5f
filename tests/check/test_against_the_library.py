"""What the checks take for right is what the library does."""

from __future__ import annotations

from itertools import product

import torch

from llmlab.check.pipeline import pace, quickest_split
from llmlab.check.splitting import ends
from llmlab.model.moe import by_expert
from llmlab.parallel.data import shares_by_speed
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
