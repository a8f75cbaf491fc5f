"""What both engines say of the same mistake: one text, whichever ran the worker."""

from __future__ import annotations

import functools
import re
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

import llmlab as lab
from llmlab.comm.copying import Copies
from llmlab.comm.launched.shipping import importable, pack_call
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


def nobody_waits(world):
    world.all_reduce(torch.ones(3), async_op=True)


def two_of_three_are_left(world):
    x = torch.ones(2)
    if world.rank == 0:
        world.isend(x, 1)
        world.isend(x, 1)
        world.isend(x, 1)
    else:
        world.recv(x, 0)


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
    nobody_waits: (lab.MismatchError, "the ranks returned, and left what nobody waited for:"),
    two_of_three_are_left: (lab.MismatchError, "the ranks returned, and left what nobody took:"),
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


def test_a_mistake_is_told_by_a_rank_that_is_slow_to_say_where_it_is(processes):
    def worker(world):
        import ctypes

        if world.rank == 0:
            world.isend(torch.ones(3), 1)
            ctypes.PyDLL(None).usleep(1_200_000)  # PyDLL keeps Python's lock: nobody answers for this rank
        else:
            world.recv(torch.ones(3, dtype=torch.float64), 0)

    with pytest.raises(lab.MismatchError, match="the dtype is float32 and float64"):
        processes.run(worker)


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
        (torch.ones(2).to(torch.float8_e5m2), "sum", "float8_e5m2"),
        (torch.ones(2, dtype=torch.uint16), "sum", "uint16"),
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


class Coded(Exception):
    """An exception whose constructor takes other arguments than it keeps."""

    def __init__(self, code: int, *, where: str):
        super().__init__(f"code {code}")
        self.code, self.where = code, where


class Spelled(ValueError):
    def __init__(self, code: int):
        self.code = code  # its arguments are the code alone: Exception.__new__ kept them

    def __str__(self) -> str:
        return f"spelled {self.code}"


def test_an_exception_keeps_its_type_its_words_and_its_attributes(processes):
    def worker(world, which):
        if world.rank == 1:
            raise Coded(7, where="here") if which == "coded" else Spelled(3)

    for which, kind, words, code in (("coded", Coded, "code 7", 7), ("spelled", Spelled, "spelled 3", 3)):
        first_lines = []
        for engine in (lab.Simulator(ranks=2), processes):
            with pytest.raises(kind) as raised:
                engine.run(worker, which)
            assert raised.value.rank == 1 and raised.value.code == code
            assert type(raised.value.__cause__) is kind and raised.value.__cause__.code == code
            first_lines.append(str(raised.value).splitlines()[0])
        assert first_lines == [f"rank 1: {kind.__name__}: {words}"] * 2


def test_a_worker_that_would_not_run_is_refused(processes):
    async def later(world):
        return world.rank

    def yields(world):
        yield world.rank

    for engine in (lab.Simulator(ranks=2), processes):
        with pytest.raises(ValueError, match="later, which is async"):
            engine.run(later)
        with pytest.raises(ValueError, match="yields, which is a generator"):
            engine.run(functools.partial(yields))
        with pytest.raises(TypeError, match="returned a coroutine"):
            engine.run(lambda world: later(world))
        with pytest.raises(TypeError, match="returned a generator"):
            engine.run(lambda world: (i for i in range(3)))


ODD = [torch.uint16, torch.uint32, torch.uint64, torch.float8_e4m3fn, torch.float8_e5m2]


@pytest.mark.parametrize("dtype", ODD, ids=str)
def test_every_dtype_is_an_argument_a_captured_value_a_message_and_a_result(processes, dtype):
    sent = torch.tensor([[1, 2], [3, 4]]).to(dtype)
    captured = torch.tensor(5).to(dtype)

    def worker(world, x):
        got = world.all_gather(x)
        return got.to(torch.float32).tolist(), captured.float().item(), got[1:3]

    for engine in (lab.Simulator(ranks=2), processes):
        for values, five, got in engine.run(worker, sent).results:
            assert values == [[1, 2], [3, 4]] * 2 and five == 5
            assert got.dtype is dtype and got.float().tolist() == [[3, 4], [1, 2]]


def test_a_view_travels_without_the_rest_of_its_storage(processes):
    def worker(world, x):
        flat = torch.arange(1_000_000.0)
        weight = torch.nn.Parameter(flat[10:13])
        weight.placement = "shard"
        return x.untyped_storage().nbytes(), flat[:3], weight, flat.view(1000, 1000).T

    large = torch.zeros(1_000_000)
    assert len(pack_call(worker, (large[:10],), {})) < 20_000
    for held, few, weight, whole in processes.run(worker, large[:10]).results:
        assert held == 40
        assert few.tolist() == [0, 1, 2] and few.untyped_storage().nbytes() == 12
        assert isinstance(weight, torch.nn.Parameter) and weight.placement == "shard"
        assert weight.tolist() == [10, 11, 12] and weight.untyped_storage().nbytes() == 12
        assert whole.stride() == (1, 1000) and whole[1, 2] == 2001


def test_a_copied_worker_holds_no_export_of_a_buffer():
    # Python 3.13's collector prints "BufferError: Existing exports of data" for one that is kept
    assert isinstance(Copies(lambda world: None, (), {}).payload, bytes)


def test_runs_from_several_threads_take_turns(capsys):
    def worker(world, number):
        print(number)
        return world.all_reduce(torch.tensor([number])).item()

    engines = [Processes(2), lab.Simulator(ranks=2), Processes(2), lab.Simulator(ranks=2), Processes(2)] * 2
    with ThreadPoolExecutor(len(engines)) as pool:
        runs = list(pool.map(lambda item: item[1].run(worker, item[0]), enumerate(engines)))
    assert [run.results for run in runs] == [[2 * n, 2 * n] for n in range(len(engines))]
    assert [run.output for run in runs] == [[f"{n}\n"] * 2 for n in range(len(engines))]


def test_a_simulated_rank_cannot_start_a_run_of_its_own():
    for engine in (lab.Simulator(ranks=1), Processes(1)):
        with pytest.raises(ValueError, match="cannot start a run of its own"):
            lab.Simulator(ranks=2).run(lambda world, inner: inner.run(lambda w: None), engine)


def test_a_class_of_this_package_is_the_ranks_own_however_it_was_installed(monkeypatch):
    own = sys.modules[lab.Simulator.__module__]
    nowhere = classmethod(lambda *args, **kwargs: None)  # as of an editable install, which has a finder of its own
    monkeypatch.setattr("importlib.machinery.PathFinder.find_spec", nowhere)
    assert importable(own)


@pytest.mark.parametrize(
    ("said", "meant"), [("al_reduce", "all_reduce"), ("allgather", "all_gather"), ("brodcast", "broadcast")]
)
@pytest.mark.parametrize("engine", [lab.Simulator(ranks=2), Processes(ranks=2)])
def test_a_misspelt_collective_gets_the_name_that_was_meant(engine, said, meant):
    with pytest.raises(AttributeError, match=f"a Group has no '{said}'; did you mean '{meant}'"):
        engine.run(misspelt, said)


def misspelt(world, said):
    getattr(world, said)(torch.ones(2))


@pytest.mark.parametrize("engine", [lab.Simulator(ranks=2), Processes(ranks=2)])
def test_a_worker_may_use_torchs_own_kinds_of_module(engine):
    aten, config = torch.ops.aten, torch.distributed.config  # no plain modules; the first cannot be imported

    def worker(world):
        return aten is torch.ops.aten and config is torch.distributed.config and aten.add(torch.ones(1), 1).item()

    assert engine.run(worker).results == [2.0, 2.0]
