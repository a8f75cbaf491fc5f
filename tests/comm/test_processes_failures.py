"""Whatever happens to a rank ends the run with one error that names it, and the next run works."""

from __future__ import annotations

import os
import signal
import tempfile
import threading
import time
from contextlib import contextmanager

import pytest
import torch

from llmlab.comm.errors import DeadlockError, MismatchError, RankDied, RankError, RankTimeout
from llmlab.comm.mesh import Mesh
from llmlab.comm.processes import Processes


@pytest.fixture(scope="module")
def ranks():
    """Three live ranks, which every test here leaves usable."""
    with Processes(3, timeout_s=20) as live:
        yield live


@pytest.fixture(autouse=True)
def usable_afterwards(ranks):
    yield
    assert ranks.run(lambda world: world.all_reduce(torch.ones(1)).item()).results == [3, 3, 3]


@contextmanager
def within(seconds: float):
    """Fail when it takes longer. The limits are those of the promise, with room for a busy machine."""
    start = time.monotonic()
    yield
    assert time.monotonic() - start < seconds


# --- exceptions -----------------------------------------------------------------------------------------------------


def test_an_exception_comes_back_with_its_rank_its_type_and_its_line(ranks):
    def worker(world):
        if world.rank == 2:
            raise KeyError("planted")
        world.barrier()

    with within(5), pytest.raises(KeyError) as caught:
        ranks.run(worker)
    error = caught.value
    assert isinstance(error, RankError) and error.rank == 2
    assert isinstance(error.__cause__, KeyError) and error.__cause__.args == ("planted",)
    text = str(error)
    assert text.startswith("rank 2: KeyError: planted\n")
    assert 'raise KeyError("planted")' in text and "test_processes_failures.py" in text
    assert "rank_process.py" not in text and os.sep + "tests" not in text, (
        "the worker's own lines, without the machine's folders"
    )
    assert "rank 0: waits in barrier on world" in text and "world.barrier()" in text


def test_the_source_of_a_cell_is_shown(ranks):
    import linecache

    source = "def worker(world):\n    return missing_name\n"
    # as ipykernel names its cells; there is no such file
    name = os.path.join(tempfile.gettempdir(), "ipykernel_1", "42.py")
    linecache.cache[name] = (len(source), None, source.splitlines(keepends=True), name)
    space: dict = {"__name__": "__main__"}
    exec(compile(source, name, "exec"), space)
    try:
        with pytest.raises(NameError, match="return missing_name"):
            ranks.run(space["worker"])
    finally:
        del linecache.cache[name]


def test_the_same_exception_on_all_ranks_is_named_after_the_lowest(ranks):
    def worker(world):
        world.sleep(0.1 * (2 - world.rank))
        raise ValueError("all alike")

    with pytest.raises(ValueError, match="^rank 0: ValueError: all alike"):
        ranks.run(worker)


def test_the_first_of_two_errors_is_the_cause(ranks):
    def worker(world):
        if world.rank:
            world.sleep(0.2 * (2 - world.rank))
            raise RuntimeError(f"from {world.rank}")
        world.recv(torch.zeros(1), 1)

    with pytest.raises(RankError, match="^rank 2: RuntimeError: from 2"):
        ranks.run(worker)


def test_exceptions_that_cannot_travel_come_as_their_words(ranks):
    def worker(world, kind):
        class Odd(Exception):
            def __init__(self, a, b):
                super().__init__(f"{a} and {b}")

        class Holds(Exception):
            def __init__(self):
                super().__init__("holds a lock")
                self.lock = threading.Lock()

        if world.rank == 1:
            raise Odd(1, 2) if kind == "odd" else Holds()

    for kind, name, words in (("odd", "Odd", "1 and 2"), ("holds", "Holds", "holds a lock")):
        with pytest.raises(RankError, match=words) as caught:
            ranks.run(worker, kind)
        assert caught.value.rank == 1 and type(caught.value.__cause__).__name__ == name


def test_a_result_that_cannot_be_pickled_is_an_error(ranks):
    with pytest.raises(TypeError, match="^rank 0: TypeError: the worker's result .lock. cannot be sent back"):
        ranks.run(lambda world: threading.Lock())


def test_sys_exit_is_an_error(ranks):
    def worker(world):
        if world.rank == 1:
            raise SystemExit(3)
        world.barrier()

    with within(5), pytest.raises(RankError, match="^rank 1: SystemExit: 3"):
        ranks.run(worker)


def test_an_argument_that_cannot_be_unpickled_is_an_error(ranks):
    class Refuses:
        def __reduce__(self):
            return (int, ("no number",))

    with pytest.raises(ValueError, match="^rank 0: ValueError: invalid literal"):
        ranks.run(lambda world, x: None, Refuses())


# --- deaths ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("victim", [0, 1, 2])
def test_a_killed_rank_is_named_and_not_its_echo(ranks, victim):
    def worker(world, victim):
        world.barrier()
        if world.rank == victim:
            os.kill(os.getpid(), signal.SIGKILL)
        while True:
            world.all_reduce(torch.ones(1000))

    with within(5), pytest.raises(RankDied, match=f"^rank {victim}: its process was killed by SIGKILL") as caught:
        ranks.run(worker, victim)
    assert caught.value.rank == victim
    assert "the last it began: barrier on world  at test_processes_failures.py" in str(caught.value)


def test_a_rank_that_ends_itself_is_named_with_its_code(ranks):
    def worker(world):
        if world.rank == 1:
            os._exit(3)
        world.barrier()

    with within(5), pytest.raises(RankDied, match="^rank 1: its process ended itself with exit code 3"):
        ranks.run(worker)


def test_a_crash_in_c_shows_the_signal_and_the_line(ranks):
    def worker(world):
        import ctypes

        if world.rank == 0:
            ctypes.string_at(0)  # reads at address 0
        world.barrier()

    with within(5), pytest.raises(RankDied, match="^rank 0: its process was killed by SIGSEGV") as caught:
        ranks.run(worker)
    assert "Fatal Python error: Segmentation fault" in str(caught.value)
    assert "test_processes_failures.py" in str(caught.value)


def test_a_dead_rank_whose_child_lives_on_is_noticed(ranks):
    def worker(world):
        if world.rank == 0:
            if os.fork() == 0:
                time.sleep(30)  # holds copies of all its parent's sockets
            os._exit(1)
        world.barrier()

    with within(5), pytest.raises(RankDied, match="^rank 0"):
        ranks.run(worker)


def test_what_a_rank_printed_before_it_died_is_shown(ranks, capsys):
    def worker(world):
        if world.rank == 1:
            print("last words")
            os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(RankDied):
        ranks.run(worker)
    assert "rank 1 | last words\n" in capsys.readouterr().out


# --- hangs ----------------------------------------------------------------------------------------------------------


def test_crossed_receives_are_a_deadlock_that_names_every_rank(ranks):
    def worker(world):
        if world.rank < 2:
            world.recv(torch.zeros(2), 1 - world.rank)
        else:
            world.barrier()

    with within(5), pytest.raises(DeadlockError) as caught:
        ranks.run(worker)
    text = str(caught.value)
    for line in (
        "rank 0: waits in recv from rank 1 on world ((2,) float32)",
        "rank 1: waits in recv from rank 0",
        "rank 2: waits in barrier",
    ):
        assert line in text
    assert "world.recv(torch.zeros(2), 1 - world.rank)" in text


def test_crossed_sends_are_a_deadlock(ranks):
    def worker(world):
        if world.rank < 2:
            world.send(torch.zeros(1), 1 - world.rank)
            world.recv(torch.zeros(1), 1 - world.rank)

    with within(5), pytest.raises(DeadlockError, match="rank 1: waits in send to rank 0"):
        ranks.run(worker)


def test_a_collective_that_one_rank_never_calls_is_a_deadlock(ranks):
    def worker(world):
        if world.rank != 1:
            world.all_reduce(torch.ones(4))

    with within(5), pytest.raises(DeadlockError) as caught:
        ranks.run(worker)
    assert "rank 1: has returned" in str(caught.value)
    assert "rank 2: waits in all_reduce(sum) on world ((4,) float32)" in str(caught.value)


def test_a_deadlock_of_some_is_found_while_another_computes(ranks):
    def worker(world):
        if world.rank == 2:
            world.sleep(15)
        world.recv(torch.zeros(1), 1 - world.rank)

    with within(6), pytest.raises(DeadlockError, match="some ranks never can go on") as caught:
        ranks.run(worker)
    assert "rank 2: is at test_processes_failures.py" in str(caught.value)


def test_receiving_from_any_of_ranks_that_have_returned_is_a_deadlock(ranks):
    def worker(world):
        if world.rank == 0:
            world.recv(torch.zeros(1))

    with within(5), pytest.raises(DeadlockError, match="rank 0: waits in recv from any rank"):
        ranks.run(worker)


def test_crossed_groups_are_a_deadlock():
    def worker(world):
        mesh = Mesh(world, dp=2, tp=2)
        first, second = ("dp", "tp") if world.rank in (0, 3) else ("tp", "dp")
        mesh[first].barrier()
        mesh[second].barrier()

    with within(6), pytest.raises(DeadlockError, match="rank 1: waits in barrier on tp"):
        Processes(4).run(worker)


def test_a_mesh_that_one_rank_does_not_make_is_a_deadlock(ranks):
    def worker(world):
        if world.rank != 0:
            Mesh(world, dp=3)

    with within(5), pytest.raises(DeadlockError, match="rank 1: waits in Mesh on the making of dp"):
        ranks.run(worker)


def test_a_slow_peer_is_not_a_deadlock(ranks):
    def worker(world):
        if world.rank == 0:
            end = time.monotonic() + 1.5
            while time.monotonic() < end:  # computes; the others wait in the same place all the while
                sum(range(1000))
        world.barrier()
        if world.rank == 1:
            world.sleep(1.0)
            world.send(torch.ones(1), 0)
        elif world.rank == 0:
            return world.recv(torch.zeros(1)).item()

    assert ranks.run(worker).results[0] == 1


def test_a_thread_that_will_send_is_not_a_deadlock(ranks):
    def worker(world):
        if world.rank == 2:
            return None
        if world.rank == 1:
            later = threading.Timer(1.3, lambda: world.send(torch.ones(1), 0))
            later.start()
            got = world.recv(torch.zeros(1), 0).item()
            later.join()
            return got
        got = world.recv(torch.zeros(1), 1).item()
        world.send(torch.ones(1) + got, 1)
        return got

    assert ranks.run(worker).results == [1, 2, None]


def test_a_run_has_a_time_limit_and_says_what_each_rank_did():
    def worker(world):
        if world.rank == 0:
            while True:
                time.sleep(0.01)
        world.recv(torch.zeros(1), 0)

    with within(6), pytest.raises(RankTimeout, match="^rank 0 took more than 1 s to return") as caught:
        Processes(2, timeout_s=1).run(worker)
    text = str(caught.value)
    assert "rank 0: is at test_processes_failures.py" in text and "time.sleep(0.01)" in text
    assert "rank 1: waits in recv from rank 0" in text


def test_a_rank_that_holds_pythons_lock_in_c_is_named_at_the_limit():
    def worker(world):
        import ctypes

        if world.rank == 1:
            ctypes.PyDLL(None).sleep(60)  # PyDLL keeps the lock

    with within(7), pytest.raises(RankTimeout, match="rank 1: does not answer: C code holds Python's lock") as caught:
        Processes(2, timeout_s=1).run(worker)
    assert "test_processes_failures.py" in str(caught.value)


def test_a_rank_that_swallows_every_exception_ends_too():
    def worker(world):
        while True:
            try:
                time.sleep(1)
            except BaseException:
                continue

    with within(5), pytest.raises(RankTimeout):
        Processes(2, timeout_s=1).run(worker)


# --- ranks that do not agree ----------------------------------------------------------------------------------------


def test_different_collectives_are_a_mismatch(ranks):
    def worker(world):
        if world.rank == 1:
            world.broadcast(torch.ones(4), 0)
        else:
            world.all_reduce(torch.ones(4))

    with within(6), pytest.raises(MismatchError) as caught:
        ranks.run(worker)
    text = str(caught.value)
    assert "rank 0: all_reduce(sum) on world ((4,) float32)" in text and "rank 1: broadcast(root 0) on world" in text
    assert "world.broadcast(torch.ones(4), 0)" in text


def test_different_shapes_are_a_mismatch(ranks):
    def worker(world):
        world.all_reduce(torch.ones(4 + world.rank))
        world.barrier()

    with within(6), pytest.raises(MismatchError, match=r"rank 2: all_reduce\(sum\) on world \(\(6,\) float32\)"):
        ranks.run(worker)


@pytest.mark.parametrize("what", ["root", "op", "dtype", "shape"])
def test_what_gloo_accepts_silently_is_still_a_mismatch(ranks, what):
    def worker(world, what):
        me = world.rank == 2
        x = torch.ones(4, dtype=torch.int32 if what == "dtype" and me else torch.float32)
        x = x.reshape(2, 2) if what == "shape" and me else x
        if what == "root":
            return world.broadcast(x, 0 if me else 0) if not me else world.broadcast(x.reshape(2, 2), 0)
        return world.all_reduce(x, "max" if what == "op" and me else "sum")

    with within(6), pytest.raises(MismatchError, match="rank 2: "):
        ranks.run(worker, what)


def test_a_message_that_does_not_fit_is_a_mismatch(ranks):
    def worker(world):
        if world.rank == 0:
            world.send(torch.ones(4), 1)
        elif world.rank == 1:
            world.recv(torch.ones(2, 2), 0)

    with within(6), pytest.raises(MismatchError, match="does not fit what its receiver asked for"):
        ranks.run(worker)


def test_a_message_too_long_for_its_receiver_is_a_mismatch(ranks):
    def worker(world):
        if world.rank == 0:
            world.send(torch.ones(400), 1)
        elif world.rank == 1:
            world.recv(torch.ones(4), 0)

    with within(6), pytest.raises(MismatchError, match="does not fit what its receiver asked for"):
        ranks.run(worker)


def test_strict_ranks_compare_before_they_act(capsys):
    def worker(world):
        world.all_reduce(torch.ones(2))
        x = torch.full((3,), 7.0)
        try:
            world.all_reduce_(x, "max" if world.rank else "sum")
        except MismatchError:
            print("untouched", x.tolist())
            raise

    with pytest.raises(MismatchError) as caught:
        Processes(2, strict=True).run(worker)
    assert "rank 0: all_reduce(sum) on world ((3,) float32)" in str(caught.value)
    assert "rank 1: all_reduce(max) on world ((3,) float32)" in str(caught.value)
    said = capsys.readouterr().out.splitlines()  # a rank that hears of it last may be ended before it prints
    assert said and {line.split(" | ")[1] for line in said} == {"untouched [7.0, 7.0, 7.0]"}


def test_what_is_left_over_at_the_end_is_a_mismatch(ranks):
    def worker(world):
        if world.rank == 0:
            world.isend(torch.ones(1), 1)

    with pytest.raises(MismatchError, match="left what nobody took"):
        ranks.run(worker)


def test_a_handle_nobody_waited_for_is_a_mismatch(ranks):
    def worker(world):
        handle = world.all_reduce(torch.ones(1), async_op=True)
        if world.rank != 1:
            handle.wait()
        world.barrier()

    with pytest.raises(MismatchError, match="left what nobody waited for") as caught:
        ranks.run(worker)
    assert "rank 1: all_reduce" in str(caught.value)


# --- interrupts -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state", ["collective", "loop", "lock"])
def test_an_interrupt_stays_an_interrupt_and_says_where_the_ranks_were(ranks, state, capsys, interruptible):
    def worker(world, state):
        import ctypes

        if world.rank == 0:
            world.sleep(30)
        elif state == "collective":
            world.barrier()
        elif state == "lock":
            ctypes.PyDLL(None).sleep(30)
        while True:
            pass

    ranks.run(lambda world: None)  # alive, so that the interrupt finds the worker running
    timer = threading.Timer(0.5, lambda: signal.raise_signal(signal.SIGINT))
    timer.start()
    with within(5), pytest.raises(KeyboardInterrupt):
        ranks.run(worker, state)
    timer.join()
    shown = capsys.readouterr().err
    assert "rank 0: is at test_processes_failures.py" in shown
    if state == "collective":
        assert "rank 1: waits in barrier" in shown
