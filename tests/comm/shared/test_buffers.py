"""Tensors that are summed where they lie: the same bits as by copies, on every rank, and nothing left behind."""

from __future__ import annotations

import gc
import os

import pytest
import torch

from llmlab.comm.errors import RankError
from llmlab.comm.processes import Processes
from llmlab.comm.shared import buffers

LARGE = buffers.LEAST // 4 + 4321  # numbers: sums end in the middle of a share, and of a part of it


@pytest.fixture(scope="module", params=[2, 3])
def ranks(request):
    with Processes(request.param, timeout_s=60, transport="shared") as live:
        yield live


def drawn(rank, n, dtype, seed=0):
    return (10 * torch.randn(n, generator=torch.Generator().manual_seed(100 * seed + rank))).to(dtype)


def test_a_sum_in_a_buffer_has_the_bits_of_one_that_was_copied(ranks):
    def worker(world):
        wrong = []
        for dtype in (torch.float32, torch.float64, torch.bfloat16, torch.int64):
            for n in (7, LARGE, 9 * LARGE):  # the first goes through the slots
                for op in ("sum", "max") + (("avg",) if dtype.is_floating_point else ()):
                    x = world.shared_empty([n + 5], dtype)[5:]  # a view will do
                    for turn in range(2):  # the second finds the others mapped already
                        mine = drawn(world.rank, n, dtype, turn)
                        x.copy_(mine)
                        handle = world.all_reduce_(x, op, async_op=True) if turn else None
                        got = world.all_reduce_(x, op) if handle is None else handle.wait()
                        if got is not x or not torch.equal(x, world.all_reduce(mine, op)):
                            wrong.append((dtype, n, op, turn))
        return wrong

    assert not any(ranks.run(worker).results)


def test_a_sum_in_a_buffer_writes_nothing_into_the_slots(ranks, monkeypatch):
    def worker(world):
        from llmlab.comm.shared.rounds import Board

        asked, slot = [], Board.slot
        Board.slot = lambda board, rank, at, dtype, numel, after=0: (  # type: ignore[method-assign]
            asked.append(numel) or slot(board, rank, at, dtype, numel, after)
        )
        try:
            world.all_reduce_(world.shared_empty([LARGE], torch.float32).fill_(1.0))
        finally:
            Board.slot = slot  # type: ignore[method-assign]
        return max(asked)

    assert ranks.run(worker).results == [buffers.ADDRESS] * ranks.ranks


def test_buffers_of_which_one_is_let_go_and_another_made_are_not_mixed_up(ranks):
    def worker(world):
        sums = []
        kept = world.shared_empty([LARGE], torch.float32)
        for turn in range(4):
            x = world.shared_empty([LARGE], torch.float32)  # perhaps where, and with the number that, the last one had
            for each in (x, kept):
                each.fill_(float(turn + world.rank))
                sums.append(world.all_reduce_(each).unique().tolist())
            del x, each
        return sums

    expected = [[float(sum(turn + rank for rank in range(ranks.ranks)))] for turn in range(4) for _ in range(2)]
    assert ranks.run(worker).results == [expected] * ranks.ranks


def test_a_buffer_ends_with_its_last_tensor(ranks):
    def worker(world):
        def held():
            with open("/proc/self/maps") as maps:
                return len(os.listdir("/proc/self/fd")), sum("memfd" in line for line in maps)

        gc.collect()
        before = held()
        x = world.shared_empty([LARGE], torch.float32).fill_(1.0)
        world.all_reduce_(x)
        during, part = held(), x[3:]
        del x
        still = held()
        del part
        return before, during, still, held()

    for before, during, still, after in ranks.run(worker).results:
        # two descriptors, one of them Python's; a mapping of its own, and of each other rank's
        assert during == still == (before[0] + 2, before[1] + ranks.ranks) and after == before


def test_ranks_of_which_one_has_no_buffer_get_an_error():
    def worker(world):
        x = world.shared_empty([LARGE], torch.float32) if world.rank else torch.empty(LARGE)
        world.all_reduce_(x.fill_(1.0))

    with pytest.raises(RankError, match="do not take part in the same operation: .*all_reduce in a buffer"):
        Processes(2, timeout_s=60, transport="shared").run(worker)


def test_elsewhere_it_is_an_ordinary_tensor():
    def worker(world):
        x = world.shared_empty([LARGE], torch.float32).fill_(world.rank + 1.0)
        return world.all_reduce_(x).unique().tolist(), buffers.buffer_of(x) is None

    assert Processes(2, timeout_s=60, transport="gloo").run(worker).results == [([3.0], True)] * 2
