"""What one kernel takes on a device: as long as its computing or its memory traffic, whichever is longer.

Williams, Waterman and Patterson 2009, "Roofline: an insightful visual performance model for multicore architectures".
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from llmlab.cost.arrays import Numbers

ALIGNED = 64  # matrix units want widths that this divides, and heads that 8 divides
# The share of the rate that other widths reach; fitted to BLOOM's trials (data/published/bloom_prequel.csv).
MISALIGNED = 0.75


@dataclass(frozen=True)
class Roofline:
    """A device as one stack uses it: FLOP/s and bytes/s that its kernels reach."""

    matmul: float
    attention: float
    memory: float
    ramp_s: float
    launch_s: float

    def product(self, w: int, m: Numbers, k: Numbers, n: Numbers, batch: Numbers = 1) -> Numbers:
        """Seconds of [m, k] @ [k, n], `batch` times: computing or moving, whichever is longer."""
        computing = (
            2 * batch * m * k * n / (self.matmul * np.where((k % ALIGNED == 0) & (n % ALIGNED == 0), 1.0, MISALIGNED))
        )
        return np.maximum(computing, self.moving(w * batch * (m * k + k * n + m * n)))

    def moving(self, nbytes: Numbers) -> Numbers:
        return nbytes / self.memory
