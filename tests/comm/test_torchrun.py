"""torchrun: the same worker inside a real job on loopback, and the job that is written for many machines."""

from __future__ import annotations

import os
import shlex
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from llmlab.comm.launched.torchrun import Job, Torchrun, job_place
from llmlab.comm.processes import Processes

SCRIPT = """
import torch
import llmlab.comm.processes as lab

def worker(world, n):
    print("hello from", world.rank)
    with world.span("step"):
        x = world.all_reduce(torch.arange(float(n)) + world.rank)
    return x.tolist(), world.recv(torch.zeros(1), 0).item() if world.rank else world.send(torch.ones(1), 1)

run = lab.Torchrun().run(worker, 3)
again = lab.Torchrun().run(worker, 1)  # a job may run several workers
if run.results[0][0] == [1, 3, 5] and len(again.trace.select(rank=1)) == 3:
    print(f"RESULT {run.results} {run.clock} {run.output} {[e.op for e in run.trace.select(rank=0)]}", flush=True)

def fails(world):
    if world.rank == 1:
        raise KeyError("planted")
    world.barrier()

lab.Torchrun().run(fails)
"""

RESULT = (
    "RESULT [([1.0, 3.0, 5.0], None), ([1.0, 3.0, 5.0], 1.0)] wall "
    "['hello from 0\\n', 'hello from 1\\n'] ['step', 'all_reduce', 'send']"
)


@pytest.fixture
def free_port():
    def find() -> int:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            return probe.getsockname()[1]

    return find


def environment() -> dict[str, str]:
    return os.environ | {
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parents[2]), *sys.path]),
        "GLOO_SOCKET_IFNAME": "lo",
        "OMP_NUM_THREADS": "1",
    }


def test_workers_run_inside_a_torchrun_job_until_one_fails_and_ends_it(tmp_path):
    script = tmp_path / "train.py"
    script.write_text(SCRIPT)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", str(script)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment())
    assert done.stdout.count(RESULT) == 2, done.stdout + done.stderr  # two processes may write on one line
    assert done.returncode != 0
    assert "KeyError: rank 1: KeyError: planted" in done.stderr


def test_a_written_job_runs_by_the_command_it_prints(tmp_path, capsys):
    def worker(world, n):
        return world.all_reduce(torch.ones(n)).tolist()

    job = Torchrun(folder=tmp_path / "job", ranks_per_machine=2, port=29577).run(worker, 2)
    assert isinstance(job, Job)
    assert capsys.readouterr().out == f"{job}\n"
    (command,) = job.commands
    with pytest.raises(ValueError, match="has not finished"):
        job.result()
    words = [sys.executable if word == "python" else word for word in shlex.split(command)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, env=environment())
    assert done.returncode == 0, done.stderr
    run = job.result()
    assert run.results == Processes(2).run(worker, 2).results == [[2, 2]] * 2
    assert run.trace.comm_bytes() == 16


def test_each_machine_gets_its_own_command_with_the_settings_that_make_it_dependable(tmp_path, capsys):
    job = Torchrun(folder=tmp_path, addresses=["10.0.0.1", "10.0.0.2"], ranks_per_machine=4, interface="eth0").run(
        print
    )
    for machine, command in enumerate(job.commands):
        for words in (
            "GLOO_SOCKET_IFNAME=eth0",
            "NCCL_SOCKET_IFNAME=eth0",
            "TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1",
            f"--rdzv-conf=is_host={1 - machine}",
            f"--local-addr=10.0.0.{machine + 1}",
            "--rdzv-endpoint=10.0.0.1:29500",
            "--nnodes=2",
            "--nproc-per-node=4",
        ):
            assert words in shlex.split(command)
    capsys.readouterr()


def test_outside_a_job_a_folder_is_wanted():
    with pytest.raises(ValueError, match="wants folder="):
        Torchrun().run(print)


def test_slurms_environment_is_a_job_too(monkeypatch):
    names = {"SLURM_PROCID": 3, "SLURM_NTASKS": 8, "SLURM_LOCALID": 1, "SLURM_NTASKS_PER_NODE": 2}
    for name, value in (names | {"MASTER_ADDR": "n1", "MASTER_PORT": 1}).items():
        monkeypatch.setenv(name, str(value))
    place = job_place()
    assert (place.rank, place.size, place.local_rank, place.local_size) == (3, 8, 1, 2)
    monkeypatch.delenv("MASTER_PORT")
    assert job_place() is None


ENDING = """
import atexit, os, sys

def count():  # registered before anything of torch's, so it runs after all of it
    print("THREADS", len(os.listdir("/proc/self/task")), flush=True)

atexit.register(count)

import torch
import llmlab.comm.processes as lab
from llmlab.comm.mesh import Mesh

kept = []

def worker(world, how):
    mesh = Mesh(world, dp=1, tp=2)
    mesh["tp"].all_reduce(torch.ones(4))
    handle = world.all_gather(torch.ones(4), async_op=True)
    if how == "keeps":
        kept.extend([world, mesh, handle])
    if how == "raises":
        raise KeyError("planted")
    handle.wait()
    return world.scatter(torch.ones(4) if world.rank == 0 else None, src=0).tolist()

lab.Torchrun().run(worker, sys.argv[1])
"""


def job(script: Path, how: str, port: int) -> list[subprocess.CompletedProcess[str]]:
    """Run a job's two ranks as a launcher would, without the launcher's own two seconds."""
    place = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    started = [
        subprocess.Popen(
            [sys.executable, str(script), how], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            env=environment() | place | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
        )
        for rank in range(2)
    ]  # fmt: skip
    ends = [process.communicate(timeout=120) for process in started]
    return [subprocess.CompletedProcess(p.args, p.returncode, *end) for p, end in zip(started, ends, strict=True)]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="threads are counted in /proc")
@pytest.mark.parametrize("how", ["returns", "keeps", "raises"])
def test_no_thread_of_torchs_outlives_a_job(tmp_path, how, free_port):
    script = tmp_path / "ending.py"
    script.write_text(ENDING)
    for done in job(script, how, free_port()):
        assert "THREADS 1\n" in done.stdout, done.stdout + done.stderr
        assert done.returncode == (1 if how == "raises" else 0), done.stderr
        assert ("KeyError: rank" in done.stderr) == (how == "raises")


# Ten jobs of two ranks, forked, so that torch is imported once for all. Each rank's interpreter ends as any other.
TEN = """
import gc, os, runpy, socket, sys
import torch.distributed
import llmlab.comm.processes, llmlab.comm.mesh

gc.collect()
gc.freeze()  # a rank's last collection would copy every page of what was imported, and most of its time go there

def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return str(probe.getsockname()[1])

assert len(os.listdir("/proc/self/task")) == 1  # or a fork would not be safe
for _ in range(10):
    place = {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    ranks = []
    for rank in "01":
        if (pid := os.fork()) == 0:
            os.environ.update(place, RANK=rank, LOCAL_RANK=rank)
            runpy.run_path(sys.argv[1], run_name="__main__")
            sys.exit(0)
        ranks.append(pid)
    print("ENDED", [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in ranks], flush=True)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="ranks are forked")
def test_ten_jobs_in_a_row_end_as_they_should(tmp_path):
    script = tmp_path / "ending.py"
    script.write_text(ENDING.replace("sys.argv[1]", repr("returns")))
    command = [sys.executable, "-c", TEN, str(script)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, env=environment())
    ended = [line for line in done.stdout.splitlines() if line.startswith("ENDED")]
    assert ended == ["ENDED [0, 0]"] * 10, done.stdout + done.stderr
