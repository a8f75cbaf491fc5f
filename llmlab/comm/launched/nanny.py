"""The process that forks ranks. It has imported torch, done nothing with it, and has one thread: its forks are safe.

A notebook's kernel must never fork itself: after one matrix product its OpenMP threads are gone in the child, and the
child's first matrix product waits for them for ever. The nanny answers three requests over a private socket pair:

    ("fork",) + 4 descriptors     ->  ("forked", pid)          the rank's task and control sockets, stdout, stderr
    ("kill", pids)                ->  ("gone", pids)           with all that these ranks ever started
                                      ("exit", pid, status)    unasked, whenever a rank ends

When the caller is gone, however it went, the nanny kills every process below it and removes its folder. Linux only.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import os
import pickle
import select
import shutil
import signal
import socket
import sys
import tempfile
from typing import Any

_PR_SET_CHILD_SUBREAPER = 36  # linux/prctl.h
PACKET = 1 << 16  # bytes of the longest message


def main(descriptor: int) -> None:
    """Serve the caller at the other end of this socket until it goes away."""
    caller = socket.socket(fileno=descriptor)
    parent = os.getppid()
    folder = tempfile.mkdtemp(prefix="llmlab-")  # mode 0700
    try:
        from llmlab.comm.launched import rank_process  # noqa: F401  torch comes with it: here, once, and not in every rank

        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1)  # what ranks leave behind becomes ours
        gc.collect()
        gc.freeze()  # a collection in a rank would touch, and so copy, every page it shares with us
        Nanny(caller, folder, parent).serve()
    finally:
        shutil.rmtree(folder, ignore_errors=True)


class Nanny:
    """One thread, one loop."""

    def __init__(self, caller: socket.socket, folder: str, parent: int):
        self.caller, self.folder, self.parent = caller, folder, parent
        self.ranks: set[int] = set()
        self._wake, wake = os.pipe()
        for end in (self._wake, wake):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # the caller decides what an interrupt means
        self._door = caller.fileno()
        self._inner = (self._door, self._wake, wake)

    def serve(self) -> None:
        self._say("ready", self.folder)
        try:
            while os.getppid() == self.parent:  # a fork of the caller's own may hold its end of the socket open
                readable, _, _ = select.select([self._door, self._wake], [], [], 1.0)
                if self._wake in readable:
                    with contextlib.suppress(BlockingIOError):
                        os.read(self._wake, 4096)
                self._reap()
                if self._door in readable and not self._answer():
                    return
        finally:
            self._kill(set(self.ranks))

    def _answer(self) -> bool:
        """Do what the caller asks; False when it is gone."""
        data, descriptors, _, _ = socket.recv_fds(self.caller, PACKET, 8)
        if not data:
            return False
        request, *arguments = pickle.loads(data)
        if request == "fork":
            self._say("forked", self._fork(descriptors))
        else:
            self._kill(set(arguments[0]))
            self._say("gone", arguments[0])
        return True

    def _fork(self, descriptors: list[int]) -> int:
        threads = os.listdir("/proc/self/task")
        assert len(threads) == 1, f"a fork is safe from one thread only, the nanny has {len(threads)}"
        nanny = os.getpid()
        pid = os.fork()
        if pid == 0:
            _be_a_rank(nanny, descriptors, self._inner)
        self.ranks.add(pid)
        with contextlib.suppress(OSError):  # the rank does it too; whoever is first
            os.setpgid(pid, pid)
        for descriptor in descriptors:
            os.close(descriptor)
        return pid

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if pid == 0:
                return
            if pid in self.ranks:
                self.ranks.discard(pid)
                self._say("exit", pid, status)

    def _kill(self, pids: set[int]) -> None:
        """Kill these ranks' process groups, wait for the ranks, then end what they orphaned."""
        alive = pids & self.ranks  # an ended rank's number may be somebody else's by now
        for pid in alive:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
        for pid in alive:
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)
            self.ranks.discard(pid)
        while orphans := [pid for pid in _children() if pid not in self.ranks]:
            for pid in orphans:  # the children of those we kill become ours, hence the loop
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)

    def _say(self, *message: Any) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the loop sees that the caller is gone
            self.caller.send(pickle.dumps(message))


def _be_a_rank(nanny: int, descriptors: list[int], inner: tuple[int, ...]) -> None:
    """What a forked child does first. Does not return."""
    from llmlab.comm.launched import rank_process

    try:
        os.setpgid(0, 0)
        rank_process.die_with_parent(nanny)
        signal.set_wakeup_fd(-1)
        for number in (signal.SIGCHLD, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        task, control, out, err = descriptors
        os.dup2(out, 1)
        os.dup2(err, 2)
        for descriptor in (out, err, *inner):
            os.close(descriptor)
        rank_process.open_streams()
        rank_process.serve(socket.socket(fileno=task), socket.socket(fileno=control))
    except BaseException:
        import traceback

        traceback.print_exc()
        sys.stderr.flush()
    finally:
        os._exit(70)


def _children() -> list[int]:
    """The processes whose parent is this one, zombies included."""
    me, found = os.getpid(), []
    for name in os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError), open(f"/proc/{name}/stat") as file:
                # pid (command) state parent ...; the command may hold spaces and brackets
                if int(file.read().rpartition(")")[2].split()[1]) == me:
                    found.append(int(name))
    return found
