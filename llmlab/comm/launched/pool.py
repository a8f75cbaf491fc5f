"""The caller's ends of N live ranks: born together, given work together, ended together."""

from __future__ import annotations

import contextlib
import os
import selectors
import shutil
import socket
import sys
import tempfile
from dataclasses import dataclass
from typing import Any

from llmlab.comm.launched.launchers import Launcher
from llmlab.comm.launched.live_output import RankOutput
from llmlab.comm.launched.rank_process import Settings
from llmlab.comm.launched.wire import Channel


@dataclass
class RankEnds:
    """One rank, as its caller holds it."""

    number: int
    pid: int
    tasks: Channel
    control: Channel
    out: RankOutput
    err: RankOutput
    gone: float | None = None  # when its socket closed, on the monotonic clock

    @property
    def ends(self) -> tuple[Channel, Channel, RankOutput, RankOutput]:
        return self.tasks, self.control, self.out, self.err


class Pool:
    """N ranks that are alive, have met, and wait for work; or, once closed, are gone with all they started."""

    def __init__(self, size: int, launcher: Launcher, backend: str = "gloo", threads: int = 1):
        self.size, self.launcher, self.alive, self._owner = size, launcher, True, os.getpid()
        self.folder = tempfile.mkdtemp(dir=launcher.folder)
        self.selector = selectors.DefaultSelector()
        self.ranks: list[RankEnds] = []
        try:
            self._launch()
            here = dict(os.environ), os.getcwd(), list(sys.path)
            for rank in self.ranks:
                self.send(rank, Settings(rank.number, size, self.folder, backend, threads, *here))
        except BaseException:
            self.close()
            raise

    def send(self, rank: RankEnds, *message: Any) -> None:
        with contextlib.suppress(OSError):  # it has died; whoever watches sees that
            rank.tasks.send(*message)

    def send_all(self, *message: Any) -> None:
        for rank in self.ranks:
            self.send(rank, *message)

    def take_output(self) -> list[str]:
        """Show the last of what ranks wrote; give each rank's stdout."""
        for rank in self.ranks:
            rank.err.take()
        return [rank.out.take() for rank in self.ranks]

    def close(self) -> None:
        """End the ranks and all that they started, and remove what they left."""
        if not self.alive or self._owner != os.getpid():  # a forked child of the caller's has no say
            return
        self.alive = False
        try:
            self.launcher.kill([rank.pid for rank in self.ranks if rank.pid > 0])
        finally:
            self.selector.close()
            for rank in self.ranks:
                for end in rank.ends:
                    end.close()
            shutil.rmtree(self.folder, ignore_errors=True)

    def _launch(self) -> None:
        ours, theirs = [], []
        for _ in range(self.size):
            (tasks, task), (controls, control) = socket.socketpair(), socket.socketpair()
            (out, out_end), (err, err_end) = os.pipe(), os.pipe()
            ours.append((tasks, controls, out, err))
            theirs.append((task.detach(), control.detach(), out_end, err_end))
        pids: list[int] = []
        try:
            pids = self.launcher.launch(theirs)
        finally:
            for descriptor in (descriptor for ends in theirs for descriptor in ends):
                os.close(descriptor)
            # without a pid (the launch failed) an end is only kept to be closed
            for number, (tasks, controls, out, err) in enumerate(ours):
                streams = RankOutput(number, out, "stdout"), RankOutput(number, err, "stderr")
                pid = pids[number] if number < len(pids) else -1
                self.ranks.append(RankEnds(number, pid, Channel(tasks), Channel(controls), *streams))
        for rank in self.ranks:
            for end in rank.ends:
                self.selector.register(end, selectors.EVENT_READ, (rank, end))
