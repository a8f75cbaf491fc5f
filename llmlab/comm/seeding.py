"""A rank's random generators: torch's equal on all ranks, so that they make the same weights; the others its own."""

from __future__ import annotations

import random
from dataclasses import dataclass

import torch
from numpy.random import MT19937, BitGenerator, mtrand


@dataclass
class RandomState:
    """The three generators a worker may use, as they stand for one rank while others run."""

    seed: int
    rank: int

    def __post_init__(self) -> None:
        self.torch = torch.Generator().manual_seed(self.seed).get_state()
        self.numpy: BitGenerator = MT19937(self.seed + self.rank)
        self.python = random.Random(self.seed + self.rank).getstate()

    def enter(self) -> None:
        """Make this rank's generators the process's own."""
        torch.set_rng_state(self.torch)
        mtrand.set_bit_generator(self.numpy)
        random.setstate(self.python)

    def leave(self) -> None:
        """Keep the process's generators as they now stand."""
        self.torch = torch.get_rng_state()
        self.numpy = mtrand.get_bit_generator()
        self.python = random.getstate()


def seed_process(seed: int, rank: int) -> None:
    """Seed a process that is one rank, its GPUs too."""
    RandomState(seed, rank).enter()
    torch.cuda.manual_seed_all(seed)
