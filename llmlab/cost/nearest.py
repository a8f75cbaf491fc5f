"""The nearest request that is possible, where one is not: another batch, or the fewest GPUs on which a layout fits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from llmlab.cost.candidates import Choices, Workload, candidates, splits

MOST_GPUS = 2**17


def nearest_batch(workload: Workload, choices: Choices) -> list[int]:
    """Give the nearest batches below and above for which these GPUs have a legal layout."""
    below, above = [], []
    sizes = choices.microbatch_sizes or [1]
    for split in splits(workload):
        for size in sizes:
            step = split.dp * size
            if replace(workload, global_batch=step).illegal(split):
                continue
            below.append(workload.global_batch // step * step)
            above.append(below[-1] + step)
    legal = {max(below, default=0), min(above, default=0)} - {0, workload.global_batch}
    return sorted(legal)


def nearest_gpus(workload: Workload, choices: Choices, kinds: Sequence[str], usable: float) -> int | None:
    """Give the fewest GPUs, whole nodes beyond one, on which a layout fits the same batch; None up to MOST_GPUS."""
    thrifty = replace(
        choices,
        zero=[max(choices.zero)],
        schedules=["1f1b"] if "1f1b" in choices.schedules else choices.schedules,
        microbatch_sizes=[min(choices.microbatch_sizes or [1])],
    )
    for n in _doublings(workload.gpus):
        if _fits(workload, n, thrifty, kinds, usable):
            fewer = (k for k in _whole_nodes(n // 2 + 1, n, workload.cluster.devices_per_node) if k > workload.gpus)
            return next((k for k in fewer if _fits(workload, k, thrifty, kinds, usable)), n)
    return None


def _doublings(gpus: int) -> Iterator[int]:
    n = 1 << gpus.bit_length()  # the power of two above
    while n <= MOST_GPUS:
        yield n
        n *= 2


def _whole_nodes(first: int, last: int, node: int) -> Iterator[int]:
    """Counts from first to last: any within a node, whole nodes beyond, about thirty of them at most."""
    step = node * max(1, (last - first) // (30 * node)) if last > node else 1
    yield from range(-(-first // step) * step, last, step)


def _fits(workload: Workload, gpus: int, thrifty: Choices, kinds: Sequence[str], usable: float) -> bool:
    """Whether some layout of the thriftiest ways fits: sequences one at a time, everything sharded."""
    larger = replace(workload, gpus=gpus)
    found, _ = candidates(larger, thrifty)
    return len(found) > 0 and any(bool(np.any(larger.predict(found, kind).memory_bytes <= usable)) for kind in kinds)
