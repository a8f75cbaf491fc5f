"""What one kernel takes on a device: as long as its computing or its memory traffic, whichever is longer.

Williams, Waterman and Patterson 2009, "Roofline: an insightful visual performance model for multicore architectures".
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from llmlab.cost.arrays import Numbers

ALIGNED, OF_HEADS = 64, 8  # matrix units want widths that the one divides, and heads that the other does
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
    cast: float = 0.0  # bytes for each number that goes into a product of fewer bits: read, written both ways round

    def product(
        self, w: int, m: Numbers, k: Numbers, n: Numbers, batch: Numbers = 1, aligned: int = ALIGNED
    ) -> Numbers:
        """Seconds of [m, k] @ [k, n], `batch` times: computing or moving, whichever is longer."""
        share = np.where((k % aligned == 0) & (n % aligned == 0), 1.0, MISALIGNED)
        computing = 2.0 * batch * m * k * n / (self.matmul * share)
        return np.maximum(computing, self.moving(w * batch * (m * k + k * n + m * n)))

    def moving(self, nbytes: Numbers) -> Numbers:
        return nbytes / self.memory
