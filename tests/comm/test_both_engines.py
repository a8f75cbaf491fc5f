"""What both engines say of the same mistake: one text, whichever ran the worker."""

from __future__ import annotations

import re

import pytest
import torch

import llmlab as lab
from llmlab.comm.processes import Processes


def other_reduction(world):
    world.all_reduce(torch.ones(2), "sum" if world.rank == 0 else "max")


def other_root(world):
    world.broadcast(torch.ones(2), src=world.rank)


def other_dtype(world):
    world.all_reduce(torch.ones(2, dtype=torch.float64 if world.rank else torch.float32))


def other_shape(world):
    world.all_gather(torch.ones(2 + world.rank))


def other_operation(world):
    if world.rank == 0:
        world.all_reduce(torch.ones(2))
    else:
        world.all_gather(torch.ones(2))


def other_message(world):
    if world.rank == 0:
        world.send(torch.ones(3), 1)
    else:
        world.recv(torch.ones(3, dtype=torch.float64), 0)


def nobody_takes(world):
    if world.rank == 0:
        world.isend(torch.ones(3), 1)


def crossed(world):
    world.recv(torch.ones(3), 1 - world.rank)


def one_has_returned(world):
    if world.rank == 0:
        world.barrier()


MISTAKES = {
    other_reduction: (lab.MismatchError, "the ranks of world do not agree in all_reduce: the reduction is sum and max"),
    other_root: (lab.MismatchError, "the ranks of world do not agree in broadcast: the root is 0 and 1"),
    other_dtype: (lab.MismatchError, "the ranks of world do not agree in all_reduce: the dtype is float32 and float64"),
    other_shape: (lab.MismatchError, "the ranks of world do not agree in all_gather: the shape is (2,) and (3,)"),
    other_operation: (lab.MismatchError, "the ranks of world are not in the same operation (all_gather, all_reduce)"),
    other_message: (
        lab.MismatchError,
        "a message does not fit what its receiver asked for: the dtype is float32 and float64",
    ),
    nobody_takes: (lab.MismatchError, "the ranks returned, and left what nobody took:"),
    crossed: (lab.DeadlockError, "deadlock: no rank can go on"),
    one_has_returned: (lab.DeadlockError, "deadlock: no rank can go on"),
}


def complaint(engine, worker) -> tuple[type, list[str]]:
    with pytest.raises(lab.RankError) as raised:
        engine.run(worker)
    # one of two ends, or both, may be named as the one that asked in vain
    return type(raised.value), sorted(str(raised.value).splitlines())


@pytest.fixture(scope="module")
def processes():
    with Processes(2) as ranks:
        yield ranks


@pytest.mark.parametrize("worker", MISTAKES, ids=lambda worker: worker.__name__)
def test_a_mistake_is_told_alike_by_both_engines(processes, worker):
    kind, first = MISTAKES[worker]
    simulated = complaint(lab.Simulator(ranks=2), worker)
    real = complaint(processes, worker)
    assert simulated == real
    assert simulated[0] is kind and first in simulated[1]


@pytest.mark.parametrize("worker", [other_reduction, other_root, other_dtype, other_operation])
def test_strict_ranks_tell_it_alike_too(worker):
    strict = complaint(Processes(2, strict=True), worker)
    assert strict[0] is lab.MismatchError
    assert any(MISTAKES[worker][1] in line for line in strict[1])


def test_progress_bars_are_shown_alike(capsys):
    def worker(world):
        print("10%\r50%\rdone", flush=True)
        print("unfinished", end="", flush=True)

    shown = []
    for engine in (lab.Simulator(ranks=1), Processes(1)):
        run = engine.run(worker)
        shown.append(capsys.readouterr().out)
        assert run.output == ["10%\r50%\rdone\nunfinished"]
    assert shown == ["rank 0 | done\nrank 0 | unfinished\n"] * 2


def test_ranks_draw_the_same_numbers_on_both_engines():
    def worker(world):
        import random

        import numpy as np

        return torch.rand(2).tolist(), np.random.rand(), random.random()

    simulated, real = lab.Simulator(ranks=2).run(worker), Processes(2).run(worker)
    assert simulated.results == real.results
    assert simulated.results[0][0] == simulated.results[1][0] and simulated.results[0][1:] != simulated.results[1][1:]


@pytest.mark.parametrize(
    ("x", "op", "words"),
    [
        (torch.ones(2), None, "got None"),
        (torch.ones(2), "mean", "got 'mean'"),
        (torch.ones(2, dtype=torch.complex64), "max", "complex"),
        (torch.ones(2, dtype=torch.uint8), "avg", "floating-point"),
    ],
)
def test_a_reduction_that_one_engine_lacks_is_refused_by_both(processes, x, op, words):
    texts = []
    for engine in (lab.Simulator(ranks=2), processes):
        with pytest.raises(ValueError, match=re.escape(words)) as raised:
            engine.run(lambda world: world.all_reduce(x, op))
        texts.append(str(raised.value).splitlines()[0])
    assert texts[0] == texts[1]


def test_the_line_is_the_workers_where_it_goes_through_the_standard_library(processes):
    def worker(world):
        import contextlib

        with contextlib.ExitStack() as stack:
            stack.callback(lambda: None)
            stack.enter_context(contextlib.closing(Meeting(world)))

    class Meeting:
        def __init__(self, world):
            self.world = world

        def close(self):
            if self.world.rank == 0:
                self.world.barrier()  # the innermost line of the learner's own

    for engine in (lab.Simulator(ranks=2), processes):
        with pytest.raises(lab.DeadlockError, match=r"test_both_engines.py:\d+ in close: self.world.barrier\(\)"):
            engine.run(worker)
