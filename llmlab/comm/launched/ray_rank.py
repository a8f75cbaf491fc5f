"""What a rank is on Ray: an actor. One of its threads runs the worker, and another says meanwhile where that is."""

from __future__ import annotations

import io
import os
import shutil
import socket
import sys
import tempfile
import time
from contextlib import redirect_stdout
from typing import Any

import torch.distributed as dist

from llmlab.comm.launched.ledger import Ledger, State
from llmlab.comm.launched.rank_process import Outcome, Settings, become, do, meet, note_file
from llmlab.comm.launched.torch_engine import TorchEngine


class RayRank:
    """One rank's process, and what its caller asks of it."""

    engine: TorchEngine

    def __init__(self, rank: int, ranks: int, threads: int):
        self.rank, self.ranks, self.threads = rank, ranks, threads
        self._own: str | None = None
        self._printed = _Printed()

    def machine(self) -> tuple[str, str]:
        """Where this rank has been put: the node's number, and its address."""
        import ray

        return ray.get_runtime_context().get_node_id(), ray.util.get_node_ip_address()

    def offer(self, address: str) -> int:
        """Open the store in which ranks of several machines meet, at this address alone; give its port."""
        door = socket.create_server((address, 0))
        self._store = dist.TCPStore(
            address, door.getsockname()[1], self.ranks, is_master=True, wait_for_workers=False,
            master_listen_fd=door.detach(),
        )  # fmt: skip
        return self._store.port

    def settle(self, folder: str | None, store: tuple[str, int] | None, interface: str | None) -> None:
        """Become the rank and meet the others: through a file in their folder, or through rank 0's store."""
        if folder is None:
            folder = self._own = tempfile.mkdtemp(prefix="llmlab-")
        here = dict(os.environ), os.getcwd(), list(sys.path)
        settings = Settings(self.rank, self.ranks, folder, "gloo", self.threads, *here)
        become(settings)
        if interface is not None:
            os.environ["GLOO_SOCKET_IFNAME"] = interface
        note = os.open(note_file(folder, self.rank), os.O_CREAT | os.O_RDWR, 0o600)
        self.ledger = Ledger(self.rank, note=note)
        self.engine = meet(settings, self.ledger, None if store is None else self._find(*store))

    def run(self, payload: bytes, sources: dict[str, list[str]], strict: bool) -> Outcome:
        """Run the worker. What it raises comes back as its result."""
        self.engine.strict = strict
        with redirect_stdout(self._printed):
            return do(self.engine, payload, sources, self._begin)

    def where(self) -> tuple[State, str]:
        """Say where the rank is, and what it has printed since last asked. Answered by a thread of its own."""
        return self.ledger.state(), self._printed.take()

    def close(self) -> None:
        if self._own is not None:
            shutil.rmtree(self._own, ignore_errors=True)

    def _find(self, address: str, port: int) -> Any:
        return self._store if self.rank == 0 else dist.TCPStore(address, port, self.ranks, wait_for_workers=False)

    def _begin(self) -> float:
        self.engine.world().barrier()  # recorded, and forgotten when the engine begins
        return time.monotonic()


class _Printed(io.TextIOBase):
    """Keeps what is printed until it is taken, by another thread."""

    def __init__(self) -> None:
        self._pieces: list[str] = []

    def write(self, text: str) -> int:
        self._pieces.append(text)
        return len(text)

    def take(self) -> str:
        taken, self._pieces = self._pieces, []
        return "".join(taken)
