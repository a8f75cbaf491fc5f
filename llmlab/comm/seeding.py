"""A rank's random generators: torch's equal on all ranks, so that they make the same weights; the others its own."""

from __future__ import annotations

import _random
import ctypes
import random
from dataclasses import dataclass, field
from functools import cache, lru_cache
from typing import Any

import numpy as np
import torch
from numpy.random import MT19937, BitGenerator, SeedSequence, mtrand
from torch import Tensor

# Python's own generator as the bytes it is: getstate() makes 625 numbers of them, 40 us at each switch of ranks
_HEAD = object.__basicsize__
_BYTES = ctypes.c_char * (_random.Random.__basicsize__ - _HEAD)
_SHARED: Any = random._inst  # whose methods random.random and the others are
_REMEMBERED = 2048  # seeds whose first numbers are kept for the next run, 5 KB each


@dataclass(slots=True)
class RandomState:
    """The three generators a worker may use, as they stand for one rank while others run."""

    seed: int
    rank: int
    torch: Tensor = field(init=False)
    numpy: BitGenerator = field(init=False)
    python: tuple[bytes, float | None] = field(init=False)

    def __post_init__(self) -> None:
        self.torch = _seeded(self.seed)
        self.numpy = MT19937(_Remembering(self.seed + self.rank))
        self.python = _python_seeded(self.seed + self.rank)

    def enter(self) -> None:
        """Make this rank's generators the process's own."""
        torch.default_generator.set_state(self.torch)
        mtrand.set_bit_generator(self.numpy)
        _LIVE[:], _SHARED.gauss_next = self.python

    def leave(self) -> None:
        """Keep the process's generators as they now stand."""
        self.torch = torch.default_generator.get_state()
        self.numpy = mtrand.get_bit_generator()
        self.python = bytes(_LIVE), _SHARED.gauss_next


class _Remembering(SeedSequence):
    """One whose first words are worked out once: that is most of making a generator."""

    def generate_state(self, n_words: int, dtype: Any = np.uint32) -> np.ndarray:
        if self.spawn_key:
            return super().generate_state(n_words, dtype)
        return _first_words(self.entropy, n_words, dtype)


@lru_cache(_REMEMBERED)
def _first_words(seed: Any, n_words: int, dtype: Any) -> np.ndarray:
    return SeedSequence(seed).generate_state(n_words, dtype)


@cache
def _seeded(seed: int) -> Tensor:
    """torch's generator, seeded: nobody writes to a state."""
    return torch.Generator().manual_seed(seed).get_state()


@lru_cache(_REMEMBERED)
def _python_seeded(seed: int) -> tuple[bytes, float | None]:
    """All that a generator of Python's is: its words, and the second of a pair of normal numbers."""
    generator: Any = random.Random(seed)
    return bytes(_inside(generator)), generator.gauss_next


def _inside(generator: Any) -> memoryview:
    return memoryview(_BYTES.from_address(id(generator) + _HEAD)).cast("B")


_LIVE = _inside(_SHARED)


def seed_process(seed: int, rank: int) -> None:
    """Seed a process that is one rank, its GPUs too."""
    RandomState(seed, rank).enter()
    torch.cuda.manual_seed_all(seed)
