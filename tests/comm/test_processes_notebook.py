"""In a real Jupyter kernel: prints land in the cell, errors show its line, interrupt and restart leave nothing."""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

import pytest
from jupyter_client.manager import start_new_kernel

SETUP = """
import os, time, torch
from llmlab.comm.processes import Processes
ranks = Processes(2, timeout_s=30).start()
"""


class Cell:
    """What a cell showed."""

    def __init__(self) -> None:
        self.streams = {"stdout": "", "stderr": ""}
        self.error: tuple[str, str] | None = None


class Notebook:
    """A kernel, driven as a front end drives it."""

    def __init__(self) -> None:
        self.manager, self.client = start_new_kernel(
            kernel_name="python3", env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
        )

    def start(self, source: str) -> str:
        return self.client.execute(source)

    def finish(self, cell: str, timeout: float = 60) -> Cell:
        """Collect what a cell sends until the kernel is idle again."""
        shown, end = Cell(), time.monotonic() + timeout
        while time.monotonic() < end:
            message = self.client.get_iopub_msg(timeout=timeout)
            if message["parent_header"].get("msg_id") != cell:
                continue
            kind, content = message["header"]["msg_type"], message["content"]
            if kind == "stream":
                shown.streams[content["name"]] += content["text"]
            elif kind == "error":
                shown.error = content["ename"], content["evalue"]
            elif kind == "status" and content["execution_state"] == "idle":
                return shown
        raise TimeoutError("the cell did not end")

    def run(self, source: str) -> Cell:
        return self.finish(self.start(source))

    def wait_for_output(self, cell: str, text: str) -> None:
        while True:
            message = self.client.get_iopub_msg(timeout=30)
            if message["header"]["msg_type"] == "stream" and text in message["content"]["text"]:
                return


@pytest.fixture(scope="module")
def notebook():
    kernel = Notebook()
    assert kernel.run(SETUP).error is None
    yield kernel
    kernel.client.stop_channels()
    kernel.manager.shutdown_kernel(now=True)


def test_a_function_of_a_cell_runs_and_its_prints_land_in_the_cell(notebook):
    cell = notebook.run(
        "def worker(world):\n"
        "    if world.rank == 1:\n"
        "        print('hello from', world.rank)\n"
        "    return world.all_reduce(torch.ones(1)).item()\n"
        "print(ranks.run(worker).results)"
    )
    assert cell.error is None
    assert cell.streams["stdout"] == "rank 1 | hello from 1\n[2.0, 2.0]\n"


def test_prints_are_live(notebook):
    started = notebook.start(
        "def worker(world):\n    if world.rank == 0:\n        print('early')\n    time.sleep(2)\n"
        "ranks.run(worker); print('end')"
    )
    begun = time.monotonic()
    notebook.wait_for_output(started, "rank 0 | early")
    assert time.monotonic() - begun < 1.8
    assert notebook.finish(started).streams["stdout"] == "end\n"


def test_an_error_shows_the_line_of_the_cell(notebook):
    cell = notebook.run("def worker(world):\n    x = 1\n    return {}['planted']\nranks.run(worker)")
    name, text = cell.error
    assert name == "KeyError" and text.startswith("rank 0: KeyError: planted")
    assert "return {}['planted']" in text


def test_a_deadlock_names_the_line_of_the_cell(notebook):
    cell = notebook.run("def worker(world):\n    world.recv(torch.zeros(1), 1 - world.rank)\nranks.run(worker)")
    name, text = cell.error
    assert name == "DeadlockError" and "cell:2 in worker: world.recv(torch.zeros(1), 1 - world.rank)" in text


@pytest.mark.parametrize("hang", ["world.barrier() if world.rank else time.sleep(60)", "while True: pass"])
def test_interrupting_the_cell_ends_the_run_and_the_next_works(notebook, hang):
    started = notebook.start(f"def worker(world):\n    print('on')\n    {hang}\nranks.run(worker)")
    notebook.wait_for_output(started, "| on")
    time.sleep(0.3)
    begun = time.monotonic()
    notebook.manager.interrupt_kernel()
    cell = notebook.finish(started)
    assert time.monotonic() - begun < 5
    assert cell.error[0] == "KeyboardInterrupt"
    assert "cell:3 in worker" in cell.streams["stderr"]
    assert notebook.run("print(ranks.run(lambda world: world.rank).results)").streams["stdout"] == "[0, 1]\n"


def test_restarting_the_kernel_in_a_hang_leaves_no_rank(notebook):
    started = notebook.start(
        "def worker(world):\n    print('pid', os.getpid(), os.getppid())\n    time.sleep(60)\nranks.run(worker)"
    )
    pids: set[int] = set()
    while len(pids) < 3:
        message = notebook.client.get_iopub_msg(timeout=30)
        if message["header"]["msg_type"] == "stream" and message["parent_header"].get("msg_id") == started:
            pids |= {int(word) for word in message["content"]["text"].split() if word.isdigit()} - {0, 1}
    notebook.manager.restart_kernel(now=True)
    end = time.monotonic() + 5
    while any(map(running, pids)) and time.monotonic() < end:
        time.sleep(0.05)
    assert not any(map(running, pids))
    notebook.client.wait_for_ready(timeout=60)


def running(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    return False
