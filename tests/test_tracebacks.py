"""What a notebook shows of an error: the reader's own lines and the message, whatever lies between."""

from __future__ import annotations

import re
import sys
import traceback

import pytest
from IPython.core.interactiveshell import InteractiveShell

from llmlab.tracebacks import hide_library_frames, users_frames

WORKER = """
import torch, llmlab as lab
def worker(world):
    if world.rank == 1:
        {line}
    return world.all_reduce(torch.ones(3))
lab.Simulator(ranks=2).run(worker)
"""


@pytest.fixture
def shown(monkeypatch):
    """Run a cell in a shell of its own; give what it shows of the error."""
    shell, texts = InteractiveShell(), []
    hide_library_frames(shell)
    monkeypatch.setattr(shell, "_showtraceback", lambda kind, error, lines: texts.append("\n".join(lines)))

    def run(cell):
        shell.run_cell(cell)
        return re.sub(r"\x1b\[[0-9;]*m", "", texts[-1])

    run.shell = shell
    yield run
    for name in ("last_type", "last_value", "last_traceback"):
        if hasattr(sys, name):
            delattr(sys, name)


@pytest.mark.parametrize("line", ["raise KeyError('planted')", "world.al_reduce(3)", "world.all_reduce(torch.ones(4))"])
def test_a_worker_s_error_shows_no_frame_of_the_library(shown, line):
    text = shown(WORKER.format(line=line))
    assert "simulation.py" not in text and "scheduler.py" not in text and "rank.py" not in text
    assert "lab.Simulator(ranks=2).run(worker)" in text and len(text.splitlines()) < 40
    assert line in text


def test_a_wrong_call_shows_the_call_and_the_message_alone(shown):
    text = shown("import llmlab as lab\nlab.plan('llama3-71b', gpus=64, global_batch=64, seq=8192)")
    assert "planning.py" not in text and "did you mean llama3-70b" in text
    assert "lab.plan('llama3-71b'" in text


def test_verbose_mode_shows_every_frame_again(shown):
    shown.shell.InteractiveTB.set_mode("Verbose")
    assert "scheduler.py" in shown(WORKER.format(line="raise KeyError('planted')"))
    shown.shell.InteractiveTB.set_mode("Context")


def test_the_debugger_still_has_all_frames(shown):
    shown(WORKER.format(line="raise KeyError('planted')"))
    assert any("scheduler.py" in frame.filename for frame in traceback.extract_tb(sys.last_traceback))


def test_an_error_without_the_library_is_shown_as_ever(shown):
    text = shown("import json\njson.loads('{')")
    assert "decoder.py" in text  # a library that is not this one, called by the reader
    try:
        raise ValueError
    except ValueError as error:
        assert users_frames(error.__traceback__).tb_frame is error.__traceback__.tb_frame


def test_a_shell_keeps_a_handler_of_its_own():
    shell = InteractiveShell()
    shell.set_custom_exc((ZeroDivisionError,), lambda *_, **__: None)
    hide_library_frames(shell)
    assert shell.custom_exceptions == (ZeroDivisionError,)
