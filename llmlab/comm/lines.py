"""What ranks print, put into lines that begin with the rank's number."""

from __future__ import annotations


class RankLines:
    """Takes a rank's text as it comes and gives its whole lines, `rank 2 | loss 3.1`."""

    def __init__(self, rank: int):
        self.rank = rank
        self._partial = ""

    def add(self, text: str) -> str:
        """Give the lines that are now whole."""
        *whole, self._partial = (self._partial + text).split("\n")
        return "".join(self._line(line) for line in whole)

    def rest(self) -> str:
        """Give the last line, which nothing ended."""
        line, self._partial = self._partial, ""
        return self._line(line) if line else ""

    def _line(self, line: str) -> str:
        """Of a progress bar that rewrites its line with carriage returns, only the last state is worth a line."""
        return f"rank {self.rank} | {line.rstrip(chr(13)).rpartition(chr(13))[2]}\n"
