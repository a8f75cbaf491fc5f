"""Two ways to start ranks: forked by a warm nanny (Linux), or as interpreters that are kept (where fork is unsafe)."""

from __future__ import annotations

import atexit
import contextlib
import os
import pickle
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from typing import Any, ClassVar, Protocol, runtime_checkable

from llmlab.comm.launched import nanny

_START_S = 120  # the first import of torch on a busy machine


@runtime_checkable
class Launcher(Protocol):
    """Starts ranks, knows when they end, ends them."""

    folder: str  # private; pools make their own folders in it

    def launch(self, ends: Sequence[Sequence[int]]) -> list[int]:
        """Start a rank for each four descriptors (task, control, stdout, stderr); give their process ids."""

    def ended(self, pid: int) -> int | None:
        """A rank's wait status, None while it lives."""

    def kill(self, pids: Sequence[int]) -> None:
        """End these ranks and all that they started; return when they are gone."""


class Forks:
    """The caller's end of the nanny, one per process, started when first needed and kept."""

    _shared: ClassVar[Forks | None] = None

    def __init__(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket, self._caller = ours, os.getpid()
        self._process = _python("llmlab.comm.launched.nanny", "main", [theirs.fileno()], stderr=subprocess.PIPE)
        theirs.close()
        self._ended: dict[int, int] = {}
        self._alive = True
        try:
            self._socket.settimeout(_START_S)
            (self.folder,) = self._ask(b"", (), "ready")
        except (OSError, EOFError) as error:
            raise RuntimeError(f"the process that forks ranks did not start: {error}\n{self._words}") from error
        atexit.register(self.close)

    @classmethod
    def shared(cls) -> Forks:
        """This process's nanny. A dead one is replaced; a forked child of ours gets its own."""
        kept = cls._shared
        if kept is None or not kept._alive or kept._caller != os.getpid() or kept._process.poll() is not None:
            if kept is not None and kept._caller == os.getpid():
                kept.close()
            cls._shared = kept = cls()
        return kept

    def launch(self, ends: Sequence[Sequence[int]]) -> list[int]:
        pids = []
        for descriptors in ends:
            pids += self._ask(pickle.dumps(("fork",)), descriptors, "forked")
        return pids

    def ended(self, pid: int) -> int | None:
        self._listen()
        if pid not in self._ended and not self._alive:
            return signal.SIGKILL  # ranks die with the nanny
        return self._ended.get(pid)

    def kill(self, pids: Sequence[int]) -> None:
        try:
            for start in range(0, len(pids), 1000):  # a message has room for a few thousand
                self._ask(pickle.dumps(("kill", list(pids[start : start + 1000]))), (), "gone")
        except (OSError, EOFError):  # the nanny is gone: its ranks die with it, their children are ours to end
            self._alive = False
            for pid in pids:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(pid, signal.SIGKILL)
        for pid in pids:
            self._ended.pop(pid, None)

    def close(self) -> None:
        """Let the nanny go; it ends every rank that is left."""
        if self._caller != os.getpid() or self._socket.fileno() < 0:
            return
        self._alive = False
        atexit.unregister(self.close)
        self._socket.close()
        try:
            self._words = self._process.communicate(timeout=10)[1].decode(errors="replace")
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._words = self._process.communicate()[1].decode(errors="replace")
        if hasattr(self, "folder"):
            shutil.rmtree(self.folder, ignore_errors=True)  # a nanny that was killed could not

    def _ask(self, request: bytes, descriptors: Sequence[int], wanted: str) -> list[Any]:
        """Send a request, if there is one, and wait for its answer, noting the ends of ranks that come before it."""
        try:
            if request:
                socket.send_fds(self._socket, [request], list(descriptors))
            while True:
                kind, *rest = self._receive()
                if kind == wanted:
                    return rest
                self._note(kind, rest)
        except BaseException:  # interrupted between question and answer, they would never match again
            self.close()
            raise

    def _listen(self) -> None:
        """Note what the nanny has said unasked."""
        if not self._alive:
            return
        self._socket.setblocking(False)
        try:
            while True:
                kind, *rest = self._receive()
                self._note(kind, rest)
        except BlockingIOError:
            pass
        except (OSError, EOFError):
            self._alive = False
        finally:
            self._socket.settimeout(_START_S)

    def _note(self, kind: str, rest: list[Any]) -> None:
        assert kind == "exit", kind
        self._ended[rest[0]] = rest[1]

    def _receive(self) -> tuple[Any, ...]:
        data = self._socket.recv(nanny.PACKET)
        if not data:
            raise EOFError("the process that forks ranks is gone")
        return pickle.loads(data)


class Subprocesses:
    """A fresh interpreter per rank: seconds to start, so one pool is kept warm. For macOS; Linux can be told to use it.

    Run on Linux only: nothing here has been run on macOS yet.
    """

    def __init__(self) -> None:
        self.folder = tempfile.mkdtemp(prefix="llmlab-")  # mode 0700
        self._processes: dict[int, subprocess.Popen[bytes]] = {}

    def launch(self, ends: Sequence[Sequence[int]]) -> list[int]:
        started = []
        for task, control, out, err in ends:
            process = _python("llmlab.comm.launched.rank_process", "main", [task, control], stdout=out, stderr=err)
            self._processes[process.pid] = process
            started.append(process.pid)
        return started

    def ended(self, pid: int) -> int | None:
        code = self._processes[pid].poll()
        return None if code is None else (-code if code < 0 else code << 8)  # as waitpid would say it

    def kill(self, pids: Sequence[int]) -> None:
        """End them all: a launcher of this kind has one pool."""
        for pid in self._processes:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(pid, signal.SIGKILL)
        while self._processes:
            self._processes.popitem()[1].wait()
        shutil.rmtree(self.folder, ignore_errors=True)


def _python(
    module: str, function: str, descriptors: Sequence[int], stdout: int = subprocess.DEVNULL, stderr: int | None = None
) -> subprocess.Popen[bytes]:
    """Start an interpreter in a session of its own, where the terminal's and Jupyter's signals do not reach it."""
    code = (
        f"import sys; sys.path[:] = {sys.path!r}; from {module} import {function}; {function}(*{list(descriptors)!r})"
    )
    # numpy's and torch's thread pools would make the nanny unfit to fork
    one_thread = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    asleep = {"OMP_WAIT_POLICY": "passive"}  # a rank's idle threads must not spin on a core that another rank needs
    return subprocess.Popen(
        [sys.executable, "-c", code], env=asleep | os.environ | one_thread, pass_fds=list(descriptors),
        start_new_session=True, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr,
    )  # fmt: skip
