"""What ranks print: lines with their rank, odd bytes, progress bars, unfinished lines."""

from __future__ import annotations

import os

import pytest

from llmlab.comm.launched.live_output import RankOutput


@pytest.fixture
def pipe():
    """(write bytes, the rank's output)."""
    reading, writing = os.pipe()
    output = RankOutput(3, reading, "stdout")
    yield lambda data: os.write(writing, data), output
    output.close()
    os.close(writing)


def test_only_whole_lines_are_shown_until_the_end(pipe, capsys):
    write, output = pipe
    write(b"one\ntw")
    output.read()
    assert capsys.readouterr().out == "rank 3 | one\n"
    write(b"o\nthree")
    assert output.take() == "one\ntwo\nthree"
    assert capsys.readouterr().out == "rank 3 | two\nrank 3 | three\n"
    assert output.take() == "", "what was taken is not taken again"


def test_a_character_cut_in_two_is_put_together(pipe, capsys):
    write, output = pipe
    for data in "é\n".encode()[:1], "é\n".encode()[1:]:
        write(data)
        output.read()
    assert output.take() == "é\n"
    assert capsys.readouterr().out == "rank 3 | é\n"


def test_of_a_progress_bar_the_last_state_is_shown_and_all_is_kept(pipe, capsys):
    write, output = pipe
    write(b"\r10%\r50%\r100%\n")
    assert output.take() == "\r10%\r50%\r100%\n"
    assert capsys.readouterr().out == "rank 3 | 100%\n"


def test_nothing_for_now_is_told_from_the_end():
    reading, writing = os.pipe()
    output = RankOutput(0, reading, "stdout")
    with pytest.raises(BlockingIOError):
        output.read()
    os.close(writing)
    assert output.read() is False
    output.close()
