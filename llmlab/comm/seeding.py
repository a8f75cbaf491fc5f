"""A rank's random generators: torch's equal on all ranks, so that they make the same weights; the others its own."""

from __future__ import annotations

import _random
import ctypes
import random
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from numpy.random import MT19937, BitGenerator, mtrand
from torch import Tensor

# Python's own generator as the bytes it is: getstate() makes 625 numbers of them, 40 us at each switch of ranks
_HEAD = object.__basicsize__
_WORDS = _random.Random.__basicsize__ - _HEAD
_SHARED: Any = random._inst  # whose methods random.random and the others are


@dataclass
class RandomState:
    """The three generators a worker may use, as they stand for one rank while others run."""

    seed: int
    rank: int

    def __post_init__(self) -> None:
        self.torch = _seeded(self.seed)
        self.numpy: BitGenerator = MT19937(self.seed + self.rank)
        self.python = _inside(random.Random(self.seed + self.rank))

    def enter(self) -> None:
        """Make this rank's generators the process's own."""
        torch.default_generator.set_state(self.torch)
        mtrand.set_bit_generator(self.numpy)
        words, _SHARED.gauss_next = self.python
        ctypes.memmove(id(_SHARED) + _HEAD, words, _WORDS)

    def leave(self) -> None:
        """Keep the process's generators as they now stand."""
        self.torch = torch.default_generator.get_state()
        self.numpy = mtrand.get_bit_generator()
        self.python = _inside(_SHARED)


@cache
def _seeded(seed: int) -> Tensor:
    """torch's generator, seeded: nobody writes to a state."""
    return torch.Generator().manual_seed(seed).get_state()


def _inside(generator: Any) -> tuple[bytes, float | None]:
    """All that a generator of Python's is: its words, and the second of a pair of normal numbers."""
    return ctypes.string_at(id(generator) + _HEAD, _WORDS), generator.gauss_next


def seed_process(seed: int, rank: int) -> None:
    """Seed a process that is one rank, its GPUs too."""
    RandomState(seed, rank).enter()
    torch.cuda.manual_seed_all(seed)
