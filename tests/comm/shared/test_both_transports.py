"""A worker gets the same from `Processes` over shared memory and over gloo, its results and its errors."""

from __future__ import annotations

import os
import signal

import pytest
import torch

from llmlab.comm.errors import DeadlockError, RankDied
from llmlab.comm.mesh import Mesh
from llmlab.comm.processes import Processes


@pytest.fixture(scope="module")
def transports():
    """Two live ranks on each."""
    with Processes(2, timeout_s=60, transport="shared") as ours, Processes(2, timeout_s=60, transport="gloo") as theirs:
        yield ours, theirs


def test_every_operation_gives_the_same_bits(transports):
    def worker(world):
        """With two ranks every sum has one order, whatever the transport."""

        def x(dtype, *shape):
            made = torch.randn(shape, generator=torch.Generator().manual_seed(world.rank))
            return (10 * made).to(dtype)

        got = {}
        for dtype in (
            torch.float32,
            torch.float64,
            torch.bfloat16,
            torch.float16,
            torch.int64,
            torch.int16,
            torch.bool,
        ):
            for op in ("sum", "max", "min", "prod") + (("avg",) if dtype.is_floating_point else ()):
                got[f"all_reduce {dtype} {op}"] = world.all_reduce(x(dtype, 3, 5), op)
                got[f"reduce_scatter {dtype} {op}"] = world.reduce_scatter(x(dtype, 4, 5), op)
                got[f"reduce {dtype} {op}"] = world.reduce(x(dtype, 7), 1, op)
            got[f"all_gather {dtype}"] = world.all_gather(x(dtype, 2, 3))
            got[f"broadcast {dtype}"] = world.broadcast(x(dtype, 3), 1)
            got[f"all_to_all {dtype}"] = torch.cat(world.all_to_all([x(dtype, 1 + world.rank, 2)] * 2))
            got[f"scatter {dtype}"] = world.scatter(x(dtype, 4) if world.rank == 0 else None, 0)
            got[f"gather {dtype}"] = world.gather(x(dtype, 4), 0)
        got["complex"] = world.all_reduce(torch.complex(x(torch.float32, 6), x(torch.float32, 6)), "avg")
        got["large"] = world.all_reduce(x(torch.float32, 500_000))
        handle = world.isend(x(torch.float32, 300_000), 1 - world.rank)
        got["message"] = world.recv(torch.empty(300_000), 1 - world.rank)
        handle.wait()
        inner = Mesh(world, tp=2)["tp"]
        got["in a mesh"] = inner.reduce_scatter(x(torch.float32, 200_000))
        return got

    ours, theirs = (live.run(worker).results for live in transports)
    for mine, other in zip(ours, theirs, strict=True):
        assert mine.keys() == other.keys() and len(mine) > 100
        for name, value in mine.items():
            same = value is other[name] is None or (value.dtype == other[name].dtype and value.equal(other[name]))
            assert same, name


def test_deaths_and_deadlocks_are_told_alike(transports):
    def dies(world):
        if world.rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        world.all_reduce(torch.ones(1000))

    def hangs(world):
        world.recv(torch.zeros(2), 1 - world.rank)

    for worker, kind in ((dies, RankDied), (hangs, DeadlockError)):
        said = []
        for live in transports:
            with pytest.raises(kind) as caught:
                live.run(worker)
            said.append([line for line in str(caught.value).splitlines() if "raised" not in line])
        assert said[0][0] == said[1][0]
        if kind is DeadlockError:
            assert said[0] == said[1]
