"""How the ranks of a group come to share memory: one makes it, the others find it, all wait until every one has it."""

from __future__ import annotations

import json
import os
import time
from dataclasses import asdict
from typing import Any

from llmlab.comm.shared import mailbox, messages, rounds
from llmlab.comm.shared.memory import Address, Memory, attach, create, lines
from llmlab.comm.shared.waiting import alive

# One round's: large enough that what Python adds to a round does not count (8 MB in 0.5 MB slots took 1.5 times as long
# as in these), and all slots of two ranks together fit the last cache of most processors.
_SLOT_BYTES, _LEAST_SLOT_BYTES, _SLOTS_BYTES = 4 << 20, 512 << 10, 128 << 20  # the last: of all ranks' slots
_PIECE_BYTES, _LEAST_PIECE_BYTES = 1 << 20, 16 << 10  # of a message
_COMPARTMENTS_BYTES = 2 << 30  # of addresses, for all compartments; pages that nobody writes to cost nothing


class Layout:
    """Where each thing is in a group's memory: counters first, slots and compartments after them."""

    def __init__(self, size: int):
        self.processes = rounds.RANK_WORDS * size
        self.asleep = self.processes + lines(size)
        self.boxes = self.asleep + lines(1) * size
        self.words = self.boxes + mailbox.BOX_WORDS * size * size
        fits = _COMPARTMENTS_BYTES // messages.data_bytes(size, 1) // 4096 * 4096
        self.piece_bytes = max(_LEAST_PIECE_BYTES, min(_PIECE_BYTES, fits))
        self.slot_bytes = max(_LEAST_SLOT_BYTES, min(_SLOT_BYTES, _SLOTS_BYTES // (rounds.SLOTS * size)))
        self.slots = -(-8 * self.words // 4096) * 4096
        self.compartments = self.slots + self.slot_bytes * rounds.SLOTS * size
        self.total = self.compartments + messages.data_bytes(size, self.piece_bytes)


def meet(store: Any, rank: int, size: int, layout: Layout, limit_s: float) -> tuple[Memory, list[int]]:
    """Map one memory on all ranks. When this returns, every rank has it, and it has no name."""
    descriptor = None
    if rank == 0:
        memory, address, descriptor = create(layout.total, layout.words)
        store.set("memory", json.dumps(asdict(address)))
    else:
        address = Address(**json.loads(store.get("memory")))
        try:
            memory = attach(address, layout.words)
        except ValueError as error:
            store.set("refused", str(error))
            raise
    memory.place([layout.asleep + lines(1) * each for each in range(size)], rank)
    memory.words[layout.processes + rank] = os.getpid()
    try:
        return memory, _wait_for_all(memory, store, layout.processes, size, limit_s)
    finally:
        if descriptor is not None:
            os.close(descriptor)


def _wait_for_all(memory: Memory, store: Any, at: int, size: int, limit_s: float) -> list[int]:
    began, asked = time.monotonic(), time.monotonic()
    while 0 in (processes := list(memory.words[at : at + size])):
        time.sleep(0.0005)
        now = time.monotonic()
        if now - asked > 0.1:
            asked = now
            if store.check(["refused"]):
                raise ValueError(store.get("refused").decode())
            dead = [rank for rank, process in enumerate(processes) if process and not alive(process)]
            if dead:
                raise RuntimeError(f"rank {dead[0]} of the group ended while it was made")
        if now - began > limit_s:
            raise RuntimeError(f"ranks {[r for r, p in enumerate(processes) if not p]} did not come in {limit_s:g} s")
    return processes
