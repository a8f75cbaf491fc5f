"""What goes wrong on shared memory: a rank that ends or never comes, ranks that do not agree, hosts that are two.

Under `Processes` its own watch sees deaths first (`test_processes_failures.py`); here ranks are on their own, as under
torchrun.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest
import torch
import torch.distributed as dist

from llmlab.comm import processes
from llmlab.comm.processes import Processes
from llmlab.comm.shared import joining, memory

ALONE = """
import os, signal, sys, time
from datetime import timedelta
import torch
import torch.distributed as dist
import llmlab.comm.shared

rank = 0 if os.fork() else 1
torch.set_num_threads(1)
# what torchrun tells each of a job's processes
place = {"RANK": rank, "WORLD_SIZE": 2, "LOCAL_RANK": rank, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": sys.argv[1]}
os.environ.update({name: str(value) for name, value in place.items()})
dist.init_process_group("llmlab")
hasty = dist.new_group(timeout=timedelta(seconds=0.4))


def fails(what):
    start = time.monotonic()
    try:
        what()
    except RuntimeError as error:
        print(f"{time.monotonic() - start < 3} {error}", flush=True)


if rank == 0:
    fails(lambda: dist.all_reduce(torch.ones(4), group=hasty))
    dist.barrier()
    slept = time.process_time()
    fails(lambda: dist.recv(torch.ones(4), 1))
    print("burnt", time.process_time() - slept < 0.5, flush=True)
    fails(lambda: dist.all_reduce(torch.ones(3_000_000)))
    print(sorted(name for name in os.listdir("/dev/shm") if "llmlab" in name))
else:
    time.sleep(1.0)
    dist.barrier()
    time.sleep(1.0)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_ranks_on_their_own_notice_the_dead_and_the_late_and_sleep_meanwhile():
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-c", ALONE, str(port)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)
    late, dead, burnt, after, left = done.stdout.splitlines()
    assert late == "True all_reduce waited 0.4 s for other ranks in vain"
    assert dead.startswith("True recv waits in vain: rank 1 of the group (process ") and dead.endswith("has ended")
    assert burnt == "burnt True"
    assert after.startswith("True all_reduce waits in vain: rank 1 of the group")
    assert left == "[]" and done.stderr == ""


@pytest.fixture(scope="module")
def two():
    with Processes(2, timeout_s=60, transport="shared") as live:
        yield live


def test_the_memory_has_no_name_and_stays_out_of_dev_shm(two):
    def worker(world):
        with open("/proc/self/maps") as maps:
            return [line.split(maxsplit=5)[5].strip() for line in maps if "llmlab" in line and "memfd" in line]

    assert two.run(worker).results == [["/memfd:llmlab (deleted)"]] * 2


def test_ranks_that_disagree_get_an_error_and_not_each_others_numbers(two):
    def worker(world, case):
        group = dist.new_group(backend="llmlab")  # this one does not outlive the error
        x = torch.full((4,), float(world.rank))
        mistakes = {
            "operation": lambda: (dist.all_reduce if world.rank else _broadcast)(x, group=group),
            "size": lambda: dist.all_reduce(x[: 3 + world.rank], group=group),
            "dtype": lambda: dist.all_reduce(x.int() if world.rank else x, group=group),
            "reduction": lambda: dist.all_reduce(x, [dist.ReduceOp.SUM, dist.ReduceOp.MAX][world.rank], group=group),
            "root": lambda: dist.reduce(x, world.rank, group=group),
        }

        def _broadcast(x, group):
            dist.reduce(x, 0, group=group)

        said = []
        for _ in range(2):  # what is broken stays broken
            try:
                mistakes[case]()
                dist.barrier(group=group)
            except RuntimeError as error:
                said.append(str(error))
        return said

    for case, word in {
        "operation": "all_reduce(sum) of 16 bytes of torch.float32",
        "size": "all_reduce(sum) of 12 bytes",
        "dtype": "all_reduce(sum) of 16 bytes of torch.int32",
        "reduction": "all_reduce(max)",
        "root": "reduce(sum, root 1)",
    }.items():
        for said in two.run(worker, case).results:
            assert len(said) == 2 and all("do not take part in the same operation" in each for each in said)
            assert word in said[0], (case, said[0])


def test_an_operation_goes_on_while_its_caller_computes(two):
    """Rank 0 begins long operations and then never calls in again until rank 1 has finished its side."""

    def worker(world):
        xs = [torch.full((3_000_000,), float(world.rank + 1)), torch.full((2_000_000,), 5.0 * world.rank)]
        if world.rank == 0:
            works = [dist.all_reduce(xs[0], async_op=True), dist.irecv(xs[1], 1)]
            end = time.monotonic() + 20
            while not os.path.exists("done") and time.monotonic() < end:
                sum(range(1000))  # the interpreter is busy, too
            in_time = os.path.exists("done")
            for work in works:
                work.wait()
            return in_time, xs[0].unique().tolist(), xs[1].unique().tolist()
        dist.all_reduce(xs[0])
        dist.send(xs[1], 0)
        open("done", "w").close()
        return xs[0].unique().tolist()

    def in_own_folder(world):
        os.chdir(os.environ["TMPDIR"])
        return worker(world)

    assert two.run(in_own_folder).results == [(True, [3.0], [5.0]), [3.0]]


def test_many_messages_of_several_tags_wait_for_a_receiver_who_wants_the_last_first(two):
    def worker(world, n):
        if world.rank == 0:
            works = [dist.isend(torch.full((3,), float(i)), 1, tag=7) for i in range(n)]
            works.append(dist.isend(torch.full((200_000,), -1.0), 1, tag=9))
            for work in works:
                work.wait()
            return None
        last = torch.zeros(200_000)
        dist.recv(last, 0, tag=9)
        got = torch.zeros(3)
        order = []
        for _ in range(n):
            dist.recv(got, tag=7)  # from any
            order.append(got[0].item())
        return last.unique().tolist(), order

    assert two.run(worker, 20).results[1] == ([-1.0], [float(i) for i in range(20)])


def test_two_groups_used_in_another_order_do_not_stop_each_other(two):
    def worker(world):
        groups = [dist.new_group(backend="llmlab") for _ in range(2)]
        xs = [
            torch.ones(2_000_000) for _ in groups
        ]  # longer than all slots: each rank must do its part again and again
        order = (0, 1) if world.rank else (1, 0)
        works = {i: dist.all_reduce(xs[i], group=groups[i], async_op=True) for i in order}
        for i in order:
            works[i].wait()
        return [x.unique().tolist() for x in xs]

    assert two.run(worker).results == [[[2.0], [2.0]]] * 2


def test_ranks_on_two_hosts_are_all_refused(monkeypatch):
    store, said = dist.HashStore(), {}

    def join(rank):
        try:
            joining.meet(store, rank, 2, joining.Layout(2), 20.0)
        except ValueError as error:
            said[rank] = str(error)

    elsewhere = memory.attach
    monkeypatch.setattr(joining, "attach", lambda address, words: elsewhere(replace(address, host="another"), words))
    ranks = [threading.Thread(target=join, args=(rank,)) for rank in range(2)]
    for thread in ranks:
        thread.start()
    for thread in ranks:
        thread.join()
    assert set(said) == {0, 1} and all(
        "wants all ranks on one host" in each and "gloo" in each for each in said.values()
    )


def test_another_process_of_the_same_number_is_not_taken_for_the_one_meant():
    made, address, descriptor = memory.create(8192, 16)
    try:
        with pytest.raises(ValueError, match="two containers"):
            memory.attach(replace(address, inode=address.inode + 1), 16)
        found = memory.attach(address, 16)
        made.words[3] = 12
        assert found.words[3] == 12
    finally:
        os.close(descriptor)


def test_a_machine_without_it_uses_gloo_unless_told_otherwise(monkeypatch, capsys):
    monkeypatch.setattr(processes.shared, "available", lambda: False)
    run = Processes(1).run(lambda world: dist.get_backend())
    assert run.results == ["gloo"] and "over gloo" in run.hardware
    with pytest.raises(OSError, match="use transport='gloo'"):
        Processes(1, transport="shared").run(lambda world: None)
    with pytest.raises(ValueError, match="Processes wants transport as one of None, 'shared', 'gloo'; got 'sockets'"):
        Processes(1, transport="sockets")
