"""Nothing stays: no process, descriptor, file, shared memory or socket, and nothing listens beyond loopback."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from llmlab.comm.errors import RankError
from llmlab.comm.launched.launchers import Forks
from llmlab.comm.processes import Processes


def descendants(of: int) -> set[int]:
    """The processes below one, from /proc."""
    parents = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError):
                parents[int(name)] = int(Path(f"/proc/{name}/stat").read_text().rpartition(")")[2].split()[1])
    found, new = set(), {of}
    while new:
        new = {pid for pid, parent in parents.items() if parent in new} - found
        found |= new
    return found


def left_behind() -> dict[str, object]:
    nanny = Forks.shared()
    return {
        "processes": descendants(os.getpid()),
        "descriptors": len(os.listdir("/proc/self/fd")),
        "nanny's descriptors": len(os.listdir(f"/proc/{nanny._process.pid}/fd")),
        "threads": threading.active_count(),
        "files": sorted(os.listdir(nanny.folder)),
        "shared memory": sorted(name for name in os.listdir("/dev/shm") if name.startswith(("torch", "llmlab", "psm"))),
        "listening": listening({os.getpid(), *descendants(os.getpid())}),
    }


def listening(pids: set[int]) -> list[str]:
    """Local addresses (hexadecimal, as in /proc/net/tcp) on which these processes listen."""
    inodes = set()
    for pid in pids:
        with contextlib.suppress(OSError):
            for name in os.listdir(f"/proc/{pid}/fd"):
                with contextlib.suppress(OSError):
                    target = os.readlink(f"/proc/{pid}/fd/{name}")
                    inodes |= {target[8:-1]} if target.startswith("socket:[") else set()
    rows = [
        line.split() for table in ("tcp", "tcp6") for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]
    ]
    return [row[1] for row in rows if row[3] == "0A" and row[9] in inodes]  # 0A: LISTEN


def test_a_hundred_runs_leave_nothing():
    def worker(world):
        return world.all_reduce(torch.ones(1)).item()

    Processes(2).run(worker)
    before = left_behind()
    for _ in range(100):
        assert Processes(2).run(worker).results == [2, 2]
    assert left_behind() == before


def test_failing_runs_leave_nothing():
    def worker(world, how):
        if world.rank == 1:
            if how == "exception":
                raise ValueError("planted")
            os._exit(3) if how == "exit" else os.kill(os.getpid(), signal.SIGKILL)
        world.barrier()

    Processes(2).run(lambda world: None)
    before = left_behind()
    for how in ["exception", "exit", "kill"] * 4:
        with pytest.raises((RankError, ValueError)):
            Processes(2).run(worker, how)
    assert left_behind() == before


def test_what_a_worker_starts_ends_with_it(tmp_path):
    def worker(world):
        import subprocess

        subprocess.Popen(["sleep", "300"])
        subprocess.Popen(["setsid", "sleep", "300"])
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:  # a daemon: no parent, no session
                time.sleep(300)
            os._exit(0)
        import tempfile

        return tempfile.mkdtemp()

    Processes(2).run(lambda world: None)
    before = left_behind()
    folders = Processes(2).run(worker).results
    assert left_behind() == before
    assert not any(os.path.exists(folder) for folder in folders)


@pytest.mark.parametrize("transport", ["shared", "gloo"])
def test_at_most_loopback_is_listened_on_whatever_the_environment_says(monkeypatch, transport):
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "eth0")

    def worker(world):
        world.barrier()
        time.sleep(0.3)

    seen: set[str] = set()
    done = threading.Event()

    def look():
        while not done.is_set():
            seen.update(listening(descendants(os.getpid())))
            time.sleep(0.02)

    looker = threading.Thread(target=look)
    looker.start()
    try:
        Processes(2, transport=transport).run(worker)
    finally:
        done.set()
        looker.join()
    assert bool(seen) == (transport == "gloo"), "gloo's own sockets are seen, and shared memory needs none"
    assert all(address.startswith("0100007F:") for address in seen), seen  # 127.0.0.1, low byte first


def test_the_meeting_place_is_private():
    folder = Forks.shared().folder
    assert os.stat(folder).st_mode & 0o777 == 0o700
    run = Processes(2).run(lambda world: oct(os.stat(os.environ["TMPDIR"]).st_mode & 0o777))
    assert run.results == ["0o700"] * 2


def test_the_nanny_has_one_thread():
    Processes(2).run(lambda world: None)
    assert len(os.listdir(f"/proc/{Forks.shared()._process.pid}/task")) == 1


CALLER = """
import os, subprocess, sys, time
from llmlab.comm.processes import Processes

def worker(world, launch):
    if launch == "fork":
        subprocess.Popen(["setsid", "sleep", "300"])
    print("pid", os.getpid(), flush=True)
    time.sleep(300)

Processes(2, timeout_s=300, launch=sys.argv[1]).run(worker, sys.argv[1])
"""


@pytest.mark.parametrize("launch", ["fork", "warm"])
def test_a_killed_caller_takes_everything_with_it(tmp_path, launch):
    script = tmp_path / "caller.py"
    script.write_text(CALLER)
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "TMPDIR": str(tmp_path)}
    with subprocess.Popen(
        [sys.executable, script, launch], stdout=subprocess.PIPE, env=environment, text=True
    ) as caller:
        for _ in range(2):
            assert "pid" in caller.stdout.readline()
        below = descendants(caller.pid)
        assert len(below) >= (5 if launch == "fork" else 2)
        caller.kill()
    end = time.monotonic() + 5
    while (alive := {pid for pid in below if running(pid)}) and time.monotonic() < end:
        time.sleep(0.05)
    assert not alive
    assert not list(tmp_path.glob("llmlab-*"))


def running(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False


def test_a_killed_nanny_is_replaced():
    Processes(2).run(lambda world: None)
    nanny = Forks.shared()

    def worker(world, nanny):
        if world.rank == 0:
            os.kill(nanny, signal.SIGKILL)
        time.sleep(60)

    with pytest.raises(RankError):
        Processes(2, timeout_s=20).run(worker, nanny._process.pid)
    assert Processes(2).run(lambda world: world.rank).results == [0, 1]
    assert Forks.shared() is not nanny
    assert not os.path.exists(nanny.folder)


def test_live_ranks_end_when_nobody_holds_them():
    engine = Processes(2).start()
    pids = engine.run(lambda world: os.getpid()).results
    del engine
    end = time.monotonic() + 5
    while any(map(running, pids)) and time.monotonic() < end:
        time.sleep(0.02)
    assert not any(map(running, pids))
