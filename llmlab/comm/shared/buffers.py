"""Tensors in memory that other ranks can map: what is handed over again and again is read, and summed, where it lies.

A rank makes one for itself and asks nobody. When a collective meets it, its address goes through the rank's slot; the
others map it, once, and keep it for as long as the buffer of their own that they used with it lives. Like a group's
memory it has no name: nothing is left behind.
"""

from __future__ import annotations

import mmap
import os
import weakref
from collections.abc import Sequence

import torch
from torch import Tensor

ADDRESS = 5  # numbers: process, descriptor, inode, bytes, and where in them a tensor begins
LEAST = 256 << 10  # bytes from which on it pays: below, a copy takes less time than a second round


class Buffer:
    """One memory of this process's, and those of others that were used together with it."""

    def __init__(self, nbytes: int):
        self._descriptor = os.memfd_create("llmlab")
        try:
            os.ftruncate(self._descriptor, nbytes)
            mapping = mmap.mmap(self._descriptor, nbytes)
        except (OSError, ValueError):
            os.close(self._descriptor)
            raise
        self._inode, self._nbytes = os.fstat(self._descriptor).st_ino, nbytes
        self._others: dict[int, tuple[tuple[int, ...], Tensor]] = {}  # by process: which, and its bytes
        bytes_ = torch.frombuffer(mapping, dtype=torch.uint8)
        self.begin = bytes_.data_ptr()
        _HERE[self.begin] = self
        # the tensors made of it hold the mapping, and nothing else does
        weakref.finalize(mapping, self._end).atexit = False
        self._first: Tensor | None = bytes_

    def take(self) -> Tensor:
        """Its bytes, of which nothing is kept here. Once."""
        assert self._first is not None
        taken, self._first = self._first, None
        return taken

    def _end(self) -> None:
        del _HERE[self.begin]
        os.close(self._descriptor)
        self._others.clear()

    def address(self, x: Tensor) -> list[int]:
        return [os.getpid(), self._descriptor, self._inode, self._nbytes, x.data_ptr() - self.begin]

    def other(self, address: Sequence[int], dtype: torch.dtype, numel: int) -> Tensor:
        """The tensor at another rank's address."""
        process, *which, start = address
        known = self._others.get(process)
        if known is None or known[0] != tuple(which):
            known = self._others[process] = tuple(which), _map(process, *which)
        return known[1][start : start + numel * dtype.itemsize].view(dtype)


_HERE: dict[int, Buffer] = {}  # this process's, by where they begin


def shared_empty(shape: Sequence[int], dtype: torch.dtype) -> Tensor:
    """Make an empty tensor that other ranks can map."""
    numel = torch.Size(shape).numel()
    if not numel:
        return torch.empty(shape, dtype=dtype)
    return Buffer(numel * dtype.itemsize).take().view(dtype).view(shape)


def buffer_of(x: Tensor) -> Buffer | None:
    """The buffer in which a tensor lies, whatever view of it this is."""
    return _HERE.get(x.untyped_storage().data_ptr())


def _map(process: int, descriptor: int, inode: int, nbytes: int) -> Tensor:
    opened = os.open(f"/proc/{process}/fd/{descriptor}", os.O_RDWR)
    try:
        if os.fstat(opened).st_ino != inode:
            raise RuntimeError(f"process {process} of the group has let go of the tensor it hands over")
        # unlike Python's, this mapping keeps no descriptor open
        return torch.from_file(f"/proc/self/fd/{opened}", shared=True, size=nbytes, dtype=torch.uint8)
    finally:
        os.close(opened)
