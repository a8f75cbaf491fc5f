"""Memory that the ranks of one group map together. It has no name, so that there is nothing to leave behind.

`memfd_create` wants no /dev/shm (64 MB in many containers) and no file: the first rank makes it, the others open it
through /proc/PID/fd, and the kernel frees it when the last of them has ended, however it ended. It is as sparse as a
file: a page that was never written to costs nothing.

What is relied upon between processes. A counter is a 64-bit word, aligned, written by one rank only and read by others:
such stores and loads are whole on every machine that torch runs on. Whoever writes data and then counts it up must be
seen to do so in this order. x86 keeps the order of stores, and of loads, by itself. On others `fence` gives it: a lock
let go and taken again orders all before it against all after it (release, then acquire). Run on x86 only so far.
"""

from __future__ import annotations

import mmap
import os
import platform
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from llmlab.comm.shared.sleeping import sleep_until_changed, wake

_KEPT_VIEWS = 2000  # tensors over the memory; past that they are made anew
_LINE = 128  # bytes that processors move together: two neighbouring lines of 64
ORDERED = platform.machine().lower() in ("x86_64", "amd64", "i686")


def available() -> bool:
    """Say whether ranks of this machine can share memory in this way."""
    if sys.platform != "linux" or not hasattr(os, "memfd_create"):
        return False
    try:
        made = os.memfd_create("llmlab")
        try:
            os.close(os.open(f"/proc/{os.getpid()}/fd/{made}", os.O_RDWR))
        finally:
            os.close(made)
    except OSError:
        return False
    return True


def host() -> str:
    """What tells this machine, as it runs now, from every other."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _no_fence() -> None:
    """x86 keeps the order of stores, and of loads."""


def _lock_fence(lock: threading.Lock) -> Callable[[], None]:
    lock.acquire()

    def fence() -> None:
        lock.release()
        lock.acquire()

    return fence


def make_fence() -> Callable[[], None]:
    """A function that keeps what was done before it before what is done after it, for one thread at a time."""
    return _no_fence if ORDERED else _lock_fence(threading.Lock())


@dataclass(frozen=True)
class Address:
    """Where another process finds a memory."""

    host: str
    process: int
    descriptor: int
    inode: int  # tells that it is the one meant, and not another's of the same numbers
    size: int


class Memory:
    """One mapped memory: its first bytes as 64-bit words, all of it as bytes of a tensor."""

    def __init__(self, descriptor: int, size: int, words: int):
        self._mapping = mmap.mmap(descriptor, size)
        self.words = memoryview(self._mapping)[: 8 * words].cast("q")
        self._bytes = torch.frombuffer(self._mapping, dtype=torch.uint8)
        self._address = self._bytes.data_ptr()
        self._views: dict[tuple[int, torch.dtype, int], Tensor] = {}
        self.fence = make_fence()
        self._asleep = 0  # the word that says whether this rank sleeps
        self._others: list[int] = []
        self._sleepers = threading.Lock()

    def place(self, asleep: list[int], rank: int) -> None:
        """Tell whose this end is, and where each rank says whether it sleeps."""
        self._asleep = asleep[rank]
        self._others = [at for each, at in enumerate(asleep) if each != rank]

    def count(self, at: int, value: int) -> None:
        """Write a counter, after all that was done before it, and wake who sleeps on it."""
        words = self.words
        if not ORDERED:
            self.fence()
        words[at] = value
        for other in self._others:
            if words[other]:
                wake(self._address + 8 * at)
                break

    def sleep(self, at: int, value: int, limit_s: float) -> None:
        """Sleep while this counter has this value, no longer than the limit."""
        self._sleeps(1)
        try:
            sleep_until_changed(self._address + 8 * at, value, limit_s)
        finally:
            self._sleeps(-1)

    def _sleeps(self, more: int) -> None:
        with self._sleepers:  # two of a process's threads may sleep
            self.words[self._asleep] += more

    def view(self, offset: int, dtype: torch.dtype, numel: int) -> Tensor:
        """`numel` numbers from this byte on. Kept: making one takes longer than copying a thousand numbers."""
        key = offset, dtype, numel
        found = self._views.get(key)
        if found is None:
            if len(self._views) >= _KEPT_VIEWS:
                self._views.clear()
            found = self._bytes[offset : offset + numel * dtype.itemsize].view(dtype)
            self._views[key] = found
        return found


def create(size: int, words: int) -> tuple[Memory, Address, int]:
    """Make a memory; also give the descriptor, to be closed when all have found it."""
    descriptor = os.memfd_create("llmlab")
    os.ftruncate(descriptor, size)
    address = Address(host(), os.getpid(), descriptor, os.fstat(descriptor).st_ino, size)
    return Memory(descriptor, size, words), address, descriptor


def attach(address: Address, words: int) -> Memory:
    """Map another process's memory. Raises ValueError where that process is on another machine."""
    instead = "use backend gloo there (transport='gloo')"
    if host() != address.host:
        raise ValueError(f"shared memory wants all ranks on one host, got ranks on two: {instead}")
    try:
        descriptor = os.open(f"/proc/{address.process}/fd/{address.descriptor}", os.O_RDWR)
    except OSError as error:
        raise ValueError(f"shared memory wants ranks that see each other in /proc, got {error}: {instead}") from error
    try:
        found = os.fstat(descriptor)
        if (found.st_ino, found.st_size) != (address.inode, address.size):
            raise ValueError(f"shared memory wants ranks that see the same processes, got two containers: {instead}")
        return Memory(descriptor, address.size, words)
    finally:
        os.close(descriptor)


def lines(words: int) -> int:
    """Words, rounded up to whole lines, so that two ranks never write into one."""
    per = _LINE // 8
    return -(-words // per) * per
