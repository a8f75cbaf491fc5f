"""The list of the gallery: each fault's program, what it is found as, and the words its evidence must have."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from llmlab.gallery import hangs, wrong_numbers
from llmlab.gallery.examining import Finding, examine


@dataclass(frozen=True)
class Fault:
    """A program with a fault. kind: what `examine` finds.  says: words of its evidence.  cure: in one sentence."""

    program: Callable[..., Any]
    kind: str
    says: str
    cure: str

    @property
    def name(self) -> str:
        return self.program.__name__

    @property
    def story(self) -> str:
        """What was meant, and what happens."""
        return (self.program.__doc__ or "").strip()

    def examine(self, cured: bool = False) -> Finding:
        """Run it on two simulated ranks, as it was found or cured."""
        return examine(self.program, cured)


@cache
def faults() -> dict[str, Fault]:
    """All faults by name."""
    found = (
        Fault(
            hangs.skipped_collective,
            "missing rank",
            "dist.all_reduce(",
            "every rank calls it, with a value that counts as nothing",
        ),
        Fault(
            hangs.unequal_batches,
            "missing rank",
            "loss.backward()",
            "with Join([model]): who has ended shadows the others' collectives",
        ),
        Fault(hangs.crossed_groups, "crossed order", "group 2", "all ranks enter groups in one order"),
        Fault(
            hangs.both_send_first,
            "circle of messages",
            "dist.send(mine, other)",
            "batch_isend_irecv begins both, then waits",
        ),
        Fault(hangs.saved_by_one_rank, "not the same operation", "full_tensor()", "all ranks gather, and one writes"),
        Fault(
            hangs.last_batch_is_smaller,
            "not the same operation",
            "the shape is (8,) and (6,)",
            "pad to one shape, and drop the padding after",
        ),
        Fault(
            hangs.other_dtype,
            "not the same operation",
            "the dtype is int64 and float32",
            "one dtype, said and not inferred",
        ),
        Fault(hangs.read_before_wait, "used before its wait", "gradient", "wait, then use"),
        Fault(hangs.forgotten_wait, "left open", "nobody waited for", "keep the handle, and wait for it"),
        Fault(hangs.unused_layer, "an error", "find_unused_parameters", "find_unused_parameters=True"),
        Fault(wrong_numbers.other_seeds, "ranks differ", "rank 1", "broadcast the weights of rank 0, as DDP does"),
        Fault(
            wrong_numbers.summed_gradients, "another answer", "one process", "ReduceOp.AVG, or divide by the world size"
        ),
        Fault(wrong_numbers.same_data, "another answer", "one process", "a DistributedSampler: each rank its own rows"),
        Fault(
            wrong_numbers.mean_of_means,
            "another answer",
            "one process",
            "divide the sum of errors by the targets of all ranks",
        ),
        Fault(
            wrong_numbers.clipped_shards,
            "another answer",
            "one process",
            "clip_grad_norm_ of the DTensors takes the norm of all shards",
        ),
        Fault(
            wrong_numbers.tied_weight_twice,
            "ranks differ",
            "rank 1",
            "all_reduce the tied weight's gradient between its stages",
        ),
        Fault(
            wrong_numbers.forgotten_no_sync, "too much traffic", "4.0 times", "with model.no_sync() in all but the last"
        ),
    )
    return {fault.name: fault for fault in found}
