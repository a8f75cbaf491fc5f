"""The simulator's ranks: their results, their errors, their surroundings. Its clock is in test_virtual_time.py."""

import gc
import random
import re
import signal
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
import torch
from torch import nn

import llmlab as lab
from llmlab.comm.simulated import printing


def run(worker, *args, ranks=2, **options):
    return lab.Simulator(ranks, **options).run(worker, *args)


def like():
    return torch.zeros(3)


# --- results ----------------------------------------------------------------------------------------------------------


def test_every_rank_gets_the_sum_and_its_input_is_left_alone():
    def worker(world):
        x = torch.full((3,), float(world.rank))
        y = world.all_reduce(x)
        return x.tolist(), y.tolist()

    assert run(worker, ranks=4).results == [([float(r)] * 3, [6.0] * 3) for r in range(4)]


def test_gradients_flow_on_each_rank_and_backward_runs_in_its_own_thread():
    def worker(world):
        seen = []
        w = torch.full((2,), world.rank + 1.0, requires_grad=True)
        (w * w).sum().backward()
        w.register_hook(lambda g: seen.append(threading.get_ident()))
        (w * w).sum().backward()
        return w.grad.tolist(), seen == [threading.get_ident()]

    assert run(worker).results == [([4.0, 4.0], True), ([8.0, 8.0], True)]


def test_ranks_get_their_own_copies_of_arguments_and_of_captured_values():
    shared, model = [], nn.Linear(2, 2)

    def worker(world, argument):
        shared.append(world.rank)
        with torch.no_grad():
            argument.weight.fill_(world.rank)
            model.weight.fill_(world.rank + 10)
        world.barrier()
        return shared, argument.weight.mean().item(), model.weight.mean().item()

    assert run(worker, nn.Linear(2, 2)).results == [([0], 0.0, 10.0), ([1], 1.0, 11.0)]
    assert shared == [] and model.weight.mean().item() not in (0.0, 1.0, 10.0, 11.0)


def test_a_recv_from_any_rank_takes_the_earliest_in_virtual_time():
    def worker(world):
        if world.rank == 0:
            return [int(world.recv(torch.zeros(1))) for _ in range(3)]
        world.sleep(0.1 * (4 - world.rank))
        return world.send(torch.full((1,), float(world.rank)), 0)

    assert run(worker, ranks=4).results[0] == [3, 2, 1]


def test_a_recv_from_any_rank_waits_for_a_rank_that_could_still_be_earlier():
    def worker(world):
        if world.rank == 0:
            return [int(world.recv(torch.zeros(1))) for _ in range(2)]
        if world.rank == 1:
            world.sleep(0.5)
        else:
            world.send(torch.zeros(1), 3)  # rank 2 needs rank 3 first, and is earlier all the same
        return world.send(torch.full((1,), float(world.rank)), 0) if world.rank < 3 else None

    def with_three(world):
        return world.recv(torch.zeros(1), 2).item() if world.rank == 3 else worker(world)

    assert run(with_three, ranks=4).results[0] == [2, 1]


def test_in_a_broadcast_only_the_source_hands_anything_over():
    trace = run(lambda world: world.broadcast(torch.zeros(10), 1), ranks=3).trace
    assert [trace.comm_bytes(rank) for rank in range(3)] == [0, 40, 0]


# --- the same every time ----------------------------------------------------------------------------------------------


def training(world):
    torch.manual_seed(7)
    model = nn.Sequential(nn.Linear(8, 16), nn.GELU(), nn.Linear(16, 8))
    for _ in range(3):
        model(torch.randn(4, 8) * (world.rank + 1)).square().mean().backward()
        for p in model.parameters():
            world.all_reduce_(p.grad, "avg")
        with torch.no_grad():
            for p in model.parameters():
                p -= 0.1 * p.grad
                p.grad = None
    return [p.tolist() for p in model.parameters()], world.clock()


def test_twenty_runs_are_equal_to_the_bit_with_and_without_load_on_the_machine():
    first = run(training, ranks=4)
    load = []
    for i in range(19):
        if i == 10:
            load = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(2)]
        again = run(training, ranks=4)
        assert (again.results, again.trace, again.memory, again.seconds) == (
            first.results, first.trace, first.memory, first.seconds,
        )  # fmt: skip
    for process in load:
        process.kill()
        process.wait()


def test_each_rank_has_its_own_random_state_and_the_callers_is_untouched():
    def worker(world):
        first = random.random(), np.random.rand(), torch.rand(1).item()
        world.barrier()  # the others draw in between
        return first, (random.random(), np.random.rand(), torch.rand(1).item())

    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].tolist()
    a, b = run(worker).results
    alone = run(worker, ranks=1).results[0]
    assert a == alone
    assert a[0][2] == b[0][2] and a[0][0] != b[0][0] and a[0][1] != b[0][1]
    assert torch.equal(torch.get_rng_state(), before[0]) and random.getstate() == before[1]
    assert np.random.get_state()[1].tolist() == before[2]


def test_a_run_leaves_threads_collector_and_stdout_as_they_were():
    threads, collecting, out, alive = torch.get_num_threads(), gc.isenabled(), sys.stdout, len(sys._current_frames())
    run(training)
    with pytest.raises(lab.DeadlockError):
        run(lambda world: world.recv(like(), 1 - world.rank))
    assert (torch.get_num_threads(), gc.isenabled(), sys.stdout) == (threads, collecting, out)
    assert len(sys._current_frames()) == alive


# --- prints -----------------------------------------------------------------------------------------------------------


def dawdle(world):
    time.sleep(0.3)
    return world.all_reduce(torch.ones(1)).item()


def test_very_many_ranks_give_a_sign_of_life(capsys, monkeypatch):
    monkeypatch.setattr(printing, "MANY_RANKS", 3)
    monkeypatch.setattr(printing, "SAY_EVERY_S", 0.2)
    assert run(dawdle, ranks=2).results == [2.0, 2.0] and capsys.readouterr().out == ""
    result = run(dawdle, ranks=4)
    said = capsys.readouterr().out.splitlines()
    assert result.results == [4.0] * 4 and result.output == [""] * 4
    assert said and all(re.fullmatch(r"\d of 4 simulated ranks have begun, \d have returned", line) for line in said)


def test_prints_are_labelled_with_their_rank_and_kept(capsys):
    def worker(world):
        print("hello", world.rank)
        world.barrier()
        print("no newline", end="")

    assert run(worker).output == ["hello 0\nno newline", "hello 1\nno newline"]
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["rank 0 | hello 0", "rank 1 | hello 1", "rank 0 | no newline", "rank 1 | no newline"]


# --- errors -----------------------------------------------------------------------------------------------------------


def both_recv(world):
    world.recv(like(), 1 - world.rank)
    world.send(like(), 1 - world.rank)


def both_send(world):
    world.send(like(), 1 - world.rank)
    world.recv(like(), 1 - world.rank)


def one_missing(world):
    if world.rank != 1:
        world.all_reduce(like())


def other_shape(world):
    world.all_reduce(torch.zeros(3 + world.rank))


def other_dtype(world):
    world.all_reduce(torch.zeros(3, dtype=(torch.float32, torch.float64)[world.rank]))


def other_operation(world):
    world.all_reduce(like()) if world.rank else world.all_gather(like())


def other_root(world):
    world.broadcast(like(), world.rank)


def message_of_another_shape(world):
    world.send(torch.zeros(4), 1) if world.rank == 0 else world.recv(like(), 0)


def changed_before_wait(world):
    x = like()
    handle = world.all_reduce(x, async_op=True)
    x += 1
    handle.wait()


def sent_and_changed(world):
    if world.rank == 0:
        x = like()
        handle = world.isend(x, 1)
        x.zero_()
        handle.wait()
    else:
        world.recv(like(), 0)


def read_before_wait(world):
    x = like()
    handle = world.all_reduce_(x, async_op=True)
    x + 1
    handle.wait()


@pytest.mark.parametrize(
    ("worker", "error", "words"),
    [
        (both_recv, lab.DeadlockError, ["rank 0: waits in recv from rank 1", "rank 1: waits in recv from rank 0"]),
        (both_send, lab.DeadlockError, ["rank 0: waits in send to rank 1", "rank 1: waits in send to rank 0"]),
        (one_missing, lab.DeadlockError, ["rank 0: waits in all_reduce", "rank 1: has returned"]),
        (other_shape, lab.MismatchError, ["all_reduce(sum) on world ((3,)", "all_reduce(sum) on world ((4,)"]),
        (other_dtype, lab.MismatchError, ["float32", "float64"]),
        (other_operation, lab.MismatchError, ["rank 0: all_gather", "rank 1: all_reduce"]),
        (other_root, lab.MismatchError, ["rank 0: broadcast", "rank 1: broadcast"]),
        (message_of_another_shape, lab.MismatchError, ["rank 0: send to rank 1", "rank 1: recv from rank 0"]),
        (changed_before_wait, lab.RaceError, ["changed a buffer", "x, async_op=True"]),
        (sent_and_changed, lab.RaceError, ["changed a buffer", "send to rank 1", "world.isend(x, 1)"]),
        (read_before_wait, lab.RaceError, ["touched a buffer", "rank 0: is at", "x + 1"]),
    ],
)
def test_a_wrong_pattern_is_an_error_that_names_every_rank_its_operation_and_its_line(worker, error, words):
    began = time.monotonic()
    with pytest.raises(error) as raised:
        run(worker)
    text = str(raised.value)
    for word in [*words, "rank 0"]:
        assert word in text, text
    first = worker.__code__.co_firstlineno
    last = max(line for _, _, line in worker.__code__.co_lines() if line)
    named = [int(number) for number in re.findall(rf"test_simulator.py:(\d+) in {worker.__name__}: ", text)]
    assert named and all(first < number <= last for number in named), text
    assert time.monotonic() - began < 5  # found, not timed out


def test_what_is_left_over_is_an_error():
    def nobody_takes(world):
        if world.rank == 0:
            world.isend(like(), 1)

    def nobody_waits(world):
        world.all_reduce(like(), async_op=True)

    with pytest.raises(lab.MismatchError, match="nobody took"):
        run(nobody_takes)
    with pytest.raises(lab.MismatchError, match="nobody waited for"):
        run(nobody_waits)


def test_a_workers_exception_keeps_its_type_and_names_its_rank():
    def worker(world):
        if world.rank == 1:
            raise KeyError("planted")
        world.barrier()

    with pytest.raises(KeyError) as raised:
        run(worker)
    assert isinstance(raised.value, lab.RankError) and raised.value.rank == 1
    assert str(raised.value).startswith("rank 1: KeyError: planted")
    assert "rank 0: waits in barrier" in str(raised.value)
    assert type(raised.value.__cause__) is KeyError


def test_an_exception_with_a_constructor_of_its_own_arrives():
    class Picky(Exception):
        def __init__(self, a, b):
            super().__init__(a)
            self.b = b

    def worker(world):
        raise Picky("one", "two")

    with pytest.raises(lab.RankError, match="rank 0: Picky: one"):
        run(worker, ranks=1)


def test_finally_blocks_of_all_ranks_run_after_a_failure(capsys):
    def worker(world):
        try:
            world.recv(like(), 1 - world.rank)
        finally:
            print("closed")

    with pytest.raises(lab.DeadlockError):
        run(worker)
    assert capsys.readouterr().out == "rank 0 | closed\nrank 1 | closed\n"


def test_an_interrupt_stops_ranks_that_loop_in_python_and_the_next_run_works(interruptible):
    def forever(world):
        while True:
            pass

    timer = threading.Timer(0.3, lambda: signal.raise_signal(signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        run(forever)
    assert run(training).results


@pytest.mark.parametrize(
    "options",
    [
        {"ranks": 0},
        {"ranks": 2, "cluster": "h1000"},
        {"ranks": 2, "fold": ("dp",)},
        {"ranks": 2, "fold": "dp", "numerics": False},
        {"ranks": 2, "cost_dtype": "int4"},
        {"ranks": 2, "speeds": {2: 0.5}},
        {"ranks": 2, "comm_slows_matmul": 1.0},
    ],
)
def test_options_that_make_no_sense_are_refused(options):
    with pytest.raises(ValueError, match="want|is one of"):
        lab.Simulator(**options)


@pytest.mark.parametrize(
    "call",
    [
        lambda w: w.all_reduce([1.0]),
        lambda w: w.all_reduce(torch.zeros(2), "mean"),
        lambda w: w.all_reduce(torch.zeros(2, dtype=torch.int64), "avg"),
        lambda w: w.all_reduce(torch.zeros(2, requires_grad=True)),
        lambda w: w.reduce_scatter(torch.zeros(3)),
        lambda w: w.all_gather(torch.tensor(1.0)),
        lambda w: w.all_to_all([torch.zeros(2)]),
        lambda w: w.all_to_all(torch.zeros(2)),
        lambda w: w.broadcast(torch.zeros(2), 2),
        lambda w: w.send(torch.zeros(2), w.rank),
        lambda w: w.recv(torch.zeros(2), -1),
        lambda w: w.scatter(None, w.rank),
        lambda w: w.all_gather_into_tensor(torch.zeros(3), torch.zeros(2)),
        lambda w: w.sleep(-1.0),
        lambda w: lab.Mesh(w, dp=2, tp=2),
        lambda w: lab.Mesh(w, dp=2)["tp"],
        lambda w: w.all_reduce(torch.zeros(2), algorithm="teleport"),
    ],
)
def test_bad_input_is_a_value_error_before_anything_is_sent(call):
    def worker(world):
        with pytest.raises(ValueError, match="want|works|splits|has"):
            call(world)

    assert len(run(worker).trace.select(stream="comm")) == 0


# --- meshes -----------------------------------------------------------------------------------------------------------


def test_a_mesh_gives_each_rank_its_neighbours_along_each_axis():
    def worker(world):
        mesh = lab.Mesh(world, pp=2, dp=2, tp=2)
        return mesh["tp"].members, mesh["dp"].members, mesh["pp"].members, mesh["dp", "tp"].members, mesh.coordinate

    results = run(worker, ranks=8).results
    assert results[5] == ((4, 5), (5, 7), (1, 5), (4, 5, 6, 7), {"tp": 1, "dp": 0, "pp": 1})


def test_collectives_of_different_groups_do_not_mix():
    def worker(world):
        mesh = lab.Mesh(world, dp=2, tp=2)
        x = torch.tensor([float(world.rank)])
        a = mesh["tp"].all_reduce(x, async_op=True)
        b = mesh["dp"].all_reduce(x, async_op=True)
        return b.wait().item(), a.wait().item(), world.all_reduce(x).item()

    assert run(worker, ranks=4).results == [(2.0, 1.0, 6.0), (4.0, 1.0, 6.0), (2.0, 5.0, 6.0), (4.0, 5.0, 6.0)]


def test_a_generator_of_pythons_goes_on_where_it_was_whoever_drew_meanwhile():
    """Between the two of a pair of normal numbers too, and where Python's words run out (after 624 of them)."""

    def worker(world):
        drawn = []
        for n in (1, 623, 2, 700):
            drawn += [random.random() for _ in range(n)] + [random.gauss(0, 1)]
            world.barrier()
        return drawn

    def alone(seed):
        generator = random.Random(seed)
        return [x for n in (1, 623, 2, 700) for x in [generator.random() for _ in range(n)] + [generator.gauss(0, 1)]]

    before = random.getstate()
    assert lab.Simulator(3, seed=5).run(worker).results == [alone(5), alone(6), alone(7)]
    assert random.getstate() == before


def test_numpys_generator_is_the_one_of_the_ranks_seed_in_every_run():
    def worker(world):
        first = np.random.rand(700).tolist()
        world.barrier()
        children = np.random.get_bit_generator().spawn(2)
        return first + np.random.rand(700).tolist(), [child.random_raw() for child in children]

    def alone(seed):
        bits = np.random.MT19937(seed)
        return np.random.RandomState(bits).rand(1400).tolist(), [child.random_raw() for child in bits.spawn(2)]

    for _ in range(2):  # the second remembers the seed's first words
        assert run(worker, ranks=3, seed=11).results == [alone(11 + rank) for rank in range(3)]
