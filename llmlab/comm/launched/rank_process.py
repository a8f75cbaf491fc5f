"""What one real rank does: become a process of its own, meet the others, run workers, say where it is when asked."""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import gc
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import cloudpickle
import torch
import torch.distributed as dist

from llmlab.comm.launched.ledger import Entry, Ledger, State
from llmlab.comm.launched.shipping import Failure, know_sources, pack_failure, pack_result
from llmlab.comm.launched.torch_engine import TorchEngine
from llmlab.comm.launched.wire import Channel
from llmlab.comm.seeding import seed_process
from llmlab.comm.shared import register

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


@dataclass(frozen=True)
class Settings:
    """How a rank is to be. It comes with its birth: a forked rank's inherited environment may be long out of date."""

    rank: int
    ranks: int
    folder: str  # private (0700), this pool's own: the meeting place, temporary files, reports of crashes
    backend: str  # "llmlab" (shared memory), "gloo" or "nccl"
    threads: int
    environment: dict[str, str]
    directory: str
    path: list[str]


@dataclass(frozen=True)
class Outcome:
    """How one rank's part in a run ended. Times are on the machine's monotonic clock."""

    result: bytes | Failure
    state: State  # all its entries in `recent`
    not_waited: list[Entry]
    spans: list[tuple[str, float, float]]
    start: float
    stop: float
    grown: int | None  # bytes its resident memory rose by, at its peak; None where the system does not tell


def main(task: int, control: int) -> None:
    """A rank that was not forked but started as an interpreter of its own."""
    try:
        open_streams()
        serve(socket.socket(fileno=task), socket.socket(fileno=control))
    except BaseException:
        traceback.print_exc()
        flush()
    finally:
        os._exit(70)  # no finalizing: torch's threads may outlive it


def serve(task: socket.socket, control: socket.socket) -> None:
    """Live as a rank until the caller lets go of the other ends. Does not return."""
    tasks = Channel(task)
    try:
        (settings,) = tasks.receive()
        become(settings)
        note = os.open(note_file(settings.folder, settings.rank), os.O_CREAT | os.O_RDWR, 0o600)
        ledger = Ledger(settings.rank, note=note)
        parts = (Channel(control), ledger, settings.folder)
        threading.Thread(target=_answer, args=parts, name="llmlab-control", daemon=True).start()
        engine = meet(settings, ledger)
        while True:
            _run_once(tasks, engine)
    except (EOFError, BrokenPipeError):
        os._exit(0)


def note_file(folder: str, rank: int) -> str:
    """Where a rank keeps the last operation it began."""
    return os.path.join(folder, f"last-{rank}")


def become(settings: Settings) -> None:
    """Take over the caller's environment, folder and module path, and this rank's place in the world."""
    place = {
        "RANK": settings.rank, "LOCAL_RANK": settings.rank, "WORLD_SIZE": settings.ranks,
        "LOCAL_WORLD_SIZE": settings.ranks, "OMP_NUM_THREADS": settings.threads, "TMPDIR": settings.folder,
    }  # fmt: skip
    loopback = "lo0" if sys.platform == "darwin" else "lo"
    network = {"MASTER_ADDR": "127.0.0.1", "GLOO_SOCKET_IFNAME": loopback, "NCCL_SOCKET_IFNAME": loopback}
    os.environ.clear()
    os.environ.update(settings.environment | {k: str(v) for k, v in place.items()} | network)
    tempfile.tempdir = None  # ask TMPDIR again
    with contextlib.suppress(OSError):  # the caller's folder may be gone
        os.chdir(settings.directory)
    sys.path[:] = settings.path
    torch.set_num_threads(settings.threads)
    report = open(os.path.join(settings.folder, f"crash-{settings.rank}"), "w")  # noqa: SIM115, lives as long as we do
    faulthandler.enable(report)
    # works while C code holds the interpreter's lock, when the control thread cannot answer
    faulthandler.register(signal.SIGUSR1, report, all_threads=False)


def open_streams() -> None:
    """Print by lines, in UTF-8, to whatever descriptors 1 and 2 are now."""
    sys.stdin = open(os.devnull)  # noqa: SIM115, these live as long as we do
    sys.stdout = open(1, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)  # noqa: SIM115


def die_with_parent(parent: int) -> None:
    """Linux: be killed when the parent dies, however it dies."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before we asked
            os._exit(0)


def meet(settings: Settings, ledger: Ledger, store: dist.Store | None = None) -> TorchEngine:
    """Find the other ranks: None: through a file in the private folder, so that no store listens anywhere."""
    device = torch.device("cpu")
    if settings.backend == "nccl":
        device = torch.device("cuda", settings.rank)
        torch.cuda.set_device(device)
    store = store or dist.FileStore(os.path.join(settings.folder, "store"), settings.ranks)
    register()
    forever = timedelta(days=7)  # the caller watches the clock
    dist.init_process_group(
        settings.backend, store=store, rank=settings.rank, world_size=settings.ranks, timeout=forever
    )
    return TorchEngine(ledger, settings.ranks, device)


def _run_once(tasks: Channel, engine: TorchEngine) -> None:
    payload, sources, engine.strict = tasks.receive()

    def begin() -> float:
        try:
            tasks.send("ready")
            (began,) = tasks.receive()
        except (EOFError, BrokenPipeError):  # the caller is gone: not the worker's fault
            os._exit(0)
        return began

    tasks.send("done", do(engine, payload, sources, begin))


def do(engine: TorchEngine, payload: bytes, sources: dict[str, list[str]], begin: Callable[[], float]) -> Outcome:
    """Run a packed call as this rank, from the moment that `begin` waits for; what it raises is its result."""
    know_sources(sources)
    before = peak_bytes_from_now()
    result: bytes | Failure
    try:
        worker, args, kwargs = cloudpickle.loads(payload)
        seed_process(0, engine.ledger.rank)
        engine.begin(begin())
        result = _call(worker, engine, args, kwargs)
    except BaseException as error:
        result = pack_failure(error, time.monotonic())
    return outcome(engine, result, before)


def _call(worker: Any, engine: TorchEngine, args: tuple[Any, ...], kwargs: dict[str, Any]) -> bytes:
    return pack_result(worker(engine.world(), *args, **kwargs))


def outcome(engine: TorchEngine, result: bytes | Failure, resident_before: int | None) -> Outcome:
    """Sum up this rank's part, once its worker has returned or raised."""
    stop = time.monotonic()
    flush()
    engine.ledger.waiting = None
    state = engine.ledger.state(whole=True)
    peak = peak_bytes()
    grown = None if peak is None or resident_before is None else max(0, peak - resident_before)
    return Outcome(result, state, engine.not_waited(), engine.ledger.spans, engine.began, stop, grown)


def flush() -> None:
    """Push out what Python and C hold back, so that it is all in the pipe before the result is."""
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(Exception):  # the worker may have replaced or closed them
            stream.flush()
    ctypes.CDLL(None).fflush(None)


def _answer(control: Channel, ledger: Ledger, folder: str) -> None:
    """The control thread: say where the rank is, and end it when the caller is gone, however it went."""
    try:
        while True:
            control.receive()
            control.send(ledger.state())
    except (EOFError, OSError):
        shutil.rmtree(os.path.dirname(folder), ignore_errors=True)
        os._exit(0)


def peak_bytes_from_now() -> int | None:
    """Resident memory now; from here on its peak is counted anew. None where the system does not tell."""
    gc.collect()
    with contextlib.suppress(OSError), open("/proc/self/clear_refs", "w") as file:
        file.write("5")
    return peak_bytes()


def peak_bytes() -> int | None:
    """The highest resident memory since it was last counted anew."""
    with contextlib.suppress(OSError), open("/proc/self/status") as file:
        for line in file:
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    return None
