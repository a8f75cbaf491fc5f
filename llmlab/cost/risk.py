"""How likely a layout runs out of memory that is predicted to need so much."""

from __future__ import annotations

import numpy as np

from llmlab.cost.arrays import Numbers

# One sigma of ln(measured / predicted) memory: what half of the given rows stay below (zero bubble 2%, Megatron on V100
# 7%, nanotron 11%, torchtitan 16%; `cost.scoring.read_memory_tables`), as of a normal distribution. What an allocator
# loses in fragments is in it.
SIGMA = 0.14


def risk(needed: Numbers, capacity: Numbers) -> Numbers:
    """The chance that a layout predicted to need so many bytes runs out of so many.

    Of a normal distribution, within a hundredth: the logistic function at 1.702 sigmas (Haley 1952).
    """
    return 1 / (1 + np.exp(1.702 * np.log(capacity / needed) / SIGMA))
