"""Real ranks: processes on this machine (`Processes`), and torchrun's (`Torchrun`) or Ray's (`Ray`), here or on many.

caller (a notebook's kernel)                 never forked
  nanny      imported torch, one thread      forks, reaps and kills ranks; ends with the caller
    rank 0   shared memory, gloo, or NCCL    its own process group, killed with the nanny
    rank 1   ...
"""

from __future__ import annotations

import atexit
import os
import sys
import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import Any, ClassVar

import torch

from llmlab.arguments import choice, flag, real, whole
from llmlab.comm import shared
from llmlab.comm.errors import RankDied
from llmlab.comm.launched.launchers import Forks, Subprocesses
from llmlab.comm.launched.pool import Pool
from llmlab.comm.launched.ray_engine import Ray
from llmlab.comm.launched.shipping import pack_call
from llmlab.comm.launched.torchrun import Torchrun
from llmlab.comm.launched.wall_run import this_hardware, to_run
from llmlab.comm.launched.watch import Watch
from llmlab.comm.trace import Run
from llmlab.comm.turns import turn

__all__ = ["Processes", "Ray", "Torchrun"]


class Processes:
    """Real processes on this machine, one per rank: on the CPU, or over NCCL where each rank can have a GPU.

    `run` gives fresh ranks each time. Between `start()` and `close()`, or in a `with` block, the ranks stay alive, and
    with them what their modules hold; after a failure they are replaced by fresh ones.

    timeout_s: seconds that a run may take.  restarts: how often a run begins anew, on fresh ranks, after a rank has
    died: what it loses is up to the worker (`lab.checkpoint.Checkpoints`). Exceptions, deadlocks and time-outs would
    come again, so they end it at once.  threads_per_rank: torch's, within one operation.  strict: before each
    collective the ranks compare what they are about to do, at the price of a message; without it a mismatch is found
    when a rank waits in vain, or at the end.  launch: "fork" (Linux), or "warm" (interpreters started once and kept for
    later runs, which are then not quite fresh); None: "fork" where it is safe.
    """

    _warm: ClassVar[dict[tuple[Any, ...], Pool]] = {}  # at most one: ranks that were not forked are kept for later runs

    def __init__(
        self,
        ranks: int = 2,
        *,
        timeout_s: int | float = 60,
        threads_per_rank: int = 1,
        strict: bool = False,
        launch: str | None = None,
        transport: str | None = None,
        restarts: int = 0,
    ):
        wants = "Processes"
        self.ranks = whole(wants, "ranks", ranks, least=1)
        self.timeout_s = real(wants, "timeout_s", timeout_s, above=0)
        self.threads_per_rank = whole(wants, "threads_per_rank", threads_per_rank, least=1)
        self.strict = flag(wants, "strict", strict)
        self.restarts = whole(wants, "restarts", restarts, least=0)
        choice(wants, "launch", launch, (None, "fork", "warm"))
        self.transport = choice(wants, "transport", transport, (None, "shared", "gloo"))
        if sys.platform == "win32":
            raise OSError("Processes wants Linux, WSL2 or macOS, got Windows: use WSL2, or Simulator")
        self.launch = launch or ("fork" if sys.platform == "linux" else "warm")
        self._live = False
        self._pool: Pool | None = None

    def run(self, worker: Callable[..., Any], *args: Any, **kwargs: Any) -> Run:
        """Run `worker(world, *args, **kwargs)` on every rank.

        Raises a RankError that names the rank: the worker's own exception (which it is, too), RankDied, DeadlockError,
        MismatchError or RankTimeout.
        """
        with turn():
            payload, deaths = pack_call(worker, args, kwargs), list[str]()
            while True:
                try:
                    return replace(self._run(payload), restarts=tuple(deaths))
                except RankDied as death:
                    if len(deaths) == self.restarts:
                        raise
                    deaths.append(str(death).partition("\n")[0])
                    print(f"restart {len(deaths)} of {self.restarts}: {deaths[-1]}", file=sys.stderr, flush=True)

    def start(self) -> Processes:
        """Start ranks that stay alive from run to run."""
        with turn():
            self._live = True
            self._ready(self._backend())
        return self

    def close(self) -> None:
        """End the live ranks."""
        with turn():
            self._live = False
            if self._pool is not None:
                self._pool.close()
                self._pool = None

    def __enter__(self) -> Processes:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.close()

    # --- inside -------------------------------------------------------------------------------------------------------

    def _run(self, payload: bytes) -> Run:
        backend = self._backend()
        pool = self._ready(backend)
        try:
            watch = Watch(pool)
            output = watch.run(payload, self.timeout_s, self.strict)
        except BaseException:
            pool.close()
            raise
        if not self._live and self.launch == "fork":
            pool.close()
        return to_run(watch.facts.outcomes, output, this_hardware(self.ranks, backend, self.threads_per_rank))

    def _backend(self) -> str:
        """NCCL wants a GPU for each rank; with fewer, say so and use the CPU."""
        gpus = torch.cuda.device_count() if self.transport is None else 0
        if gpus >= self.ranks:
            return "nccl"
        use, words = _transport(self.transport)
        if gpus:
            print(f"{self.ranks} ranks and {gpus} GPU{'s' if gpus > 1 else ''}: running on the CPU over {words}")
        return use

    def _ready(self, backend: str) -> Pool:
        """Ranks for the next run: this object's live ones, the shared warm ones, or new ones."""
        if self._live:
            if self._pool is None or not self._pool.alive:
                self._pool = self._open(backend)
                weakref.finalize(self, self._pool.close)
            return self._pool
        return self._open(backend) if self.launch == "fork" else self._shared(backend)

    def _shared(self, backend: str) -> Pool:
        key = self.ranks, backend, self.threads_per_rank, os.getcwd(), tuple(sys.path)
        kept = Processes._warm.pop(key, None)
        close_warm()
        Processes._warm[key] = kept if kept is not None and kept.alive else self._open(backend)
        return Processes._warm[key]

    def _open(self, backend: str) -> Pool:
        launcher = Forks.shared() if self.launch == "fork" else Subprocesses()
        return Pool(self.ranks, launcher, backend, self.threads_per_rank)


def _transport(asked: str | None) -> tuple[str, str]:
    """torch's name of the backend for CPU ranks, and ours. Raises OSError where what was asked for cannot be had."""
    if asked == "gloo":
        return "gloo", "gloo"
    if shared.available():
        return shared.NAME, "shared memory"
    if asked == "shared":
        raise OSError("transport='shared' wants Linux with memfd_create and /proc: use transport='gloo'")
    return "gloo", "gloo"


@atexit.register
def close_warm() -> None:
    """End the ranks that are kept for later runs where they cannot be forked."""
    while Processes._warm:
        Processes._warm.popitem()[1].close()
