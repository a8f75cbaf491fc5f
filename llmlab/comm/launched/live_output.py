"""What ranks print, shown in the caller line by line with the rank's number, and kept."""

from __future__ import annotations

import codecs
import contextlib
import os
import sys

from llmlab.comm.lines import RankLines

_READ = 1 << 18  # bytes


class RankOutput:
    """One rank's stdout or stderr: the reading end of a pipe.

    A pipe and not a Python object, so that C++ warnings, child processes and the last words of a dying rank arrive too.
    """

    def __init__(self, rank: int, descriptor: int, name: str):
        self.rank, self.name, self._descriptor = rank, name, descriptor
        os.set_blocking(descriptor, False)
        self._decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")
        self._pieces: list[str] = []
        self._lines = RankLines(rank)

    def fileno(self) -> int:
        return self._descriptor

    def read(self) -> bool:
        """Show what has come; False at the end of the pipe. Raises BlockingIOError when there is nothing for now."""
        data = os.read(self._descriptor, _READ)
        self._show(self._decoder.decode(data))
        return bool(data)

    def take(self) -> str:
        """All that came since the last take, an unfinished last line too."""
        with contextlib.suppress(BlockingIOError):
            while self.read():
                pass
        self._write(self._lines.rest())
        text, self._pieces = "".join(self._pieces), []
        return text

    def close(self) -> None:
        os.close(self._descriptor)

    def _show(self, text: str) -> None:
        self._pieces.append(text)
        self._write(self._lines.add(text))

    def _write(self, lines: str) -> None:
        """Write in the calling thread: a notebook puts it in the cell that runs."""
        if lines:
            stream = getattr(sys, self.name)
            stream.write(lines)
            stream.flush()
