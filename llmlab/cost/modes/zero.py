"""What ZeRO costs a rank: bytes handed over in a step, and bytes kept, by stage. P parameters of w bytes on n ranks.

    stage   handed over                                 kept, with Adam
    1       w P + w P/n                                 w (P + P + 2 P/n)
    2       the same                                    w (P + P/n + 2 P/n), and two blocks' gradients on their way
    3       w P + about 2 w P/n                         w (P/n + P/n + 2 P/n), and two blocks' weights and gradients

A reduce_scatter is handed the whole, an all_gather a shard; on a ring each then puts (n - 1)/n w P on the wire, so that
stages 1 and 2 cost what an all_reduce costs and stage 3 half as much again (Rajbhandari et al. 2020, section 7). P is
padded, bucket by bucket, to what n divides. Stages 1 and 2: for families of parameters that fit into one bucket each.
"""

from __future__ import annotations

from dataclasses import replace

from llmlab.arguments import choice, flag, real, wholes
from llmlab.cost.models import find_config
from llmlab.model import Config

STAGES = (1, 2, 3)


def step_bytes(config: str | Config, ranks: int, stage: int, microbatches: int = 1, prefetch: bool = True) -> int:
    """Bytes one rank hands over in one step; stages 2 and 3 reduce the gradients of each microbatch."""
    config = find_config(config)
    wholes("step_bytes", 1, ranks=ranks, microbatches=microbatches)
    choice("step_bytes", "stage", stage, STAGES)
    flag("step_bytes", "prefetch", prefetch)
    before, block, after = families(config)
    shards = sum(shard(size, ranks) for size in (before, after)) + config.n_layer * shard(block, ranks)
    width, times = config.dtype.itemsize, 1 if stage == 1 else microbatches
    reduced = times * shards * ranks
    if stage < 3:
        return width * (reduced + shards)
    last = after or before  # what the head reads: gathered for it, and kept for backward if fetching runs ahead
    forward = shard(before, ranks) + config.n_layer * shard(block, ranks) + shard(last, ranks)
    backward = config.n_layer * shard(block, ranks) + (0 if prefetch else shard(last, ranks))
    return width * (reduced + microbatches * (forward + backward))


def wire_bytes(n_param: float, ranks: int, stage: int, width: int) -> float:
    """Bytes one rank puts on a ring in one step, whichever way: stage 0 is data parallelism's all_reduce."""
    wholes("wire_bytes", 1, ranks=ranks, width=width)
    choice("wire_bytes", "stage", stage, (0, *STAGES))
    real("wire_bytes", "n_param", n_param, above=0)
    return (3 if stage == 3 else 2) * (ranks - 1) / ranks * width * n_param


def model_states(n_param: float, ranks: int, stage: int, width: int = 2, optimizer: int = 12) -> dict[str, float]:
    """Bytes of a model's states on each rank, by category; stage 0 is data parallelism.

    width: bytes of a weight and of a gradient.  optimizer: bytes a weight it keeps; 12 are Adam's two moments and the
    weights once more in fp32, which training in 16 bits needs (Rajbhandari et al. 2020, section 3.1 and figure 1).
    """
    wholes("model_states", 1, ranks=ranks, width=width)
    choice("model_states", "stage", stage, (0, *STAGES))
    real("model_states", "n_param", n_param, above=0)
    wholes("model_states", 0, optimizer=optimizer)
    sharded = [n_param / ranks if stage >= first else n_param for first in (3, 2, 1)]
    names, bytes_each = ("parameters", "gradients", "optimizer state"), (width, width, optimizer)
    return {name: each * n for name, each, n in zip(names, bytes_each, sharded, strict=True)}


def memory(config: str | Config, ranks: int, stage: int, prefetch: bool = True) -> dict[str, int]:
    """Peak bytes one of at least two ranks keeps in training with Adam, by category, without activations."""
    config = find_config(config)
    wholes("memory", 1, ranks=ranks)
    choice("memory", "stage", stage, STAGES)
    flag("memory", "prefetch", prefetch)
    before, block, after = families(config)
    shards = shard(before, ranks) + shard(after, ranks) + config.n_layer * shard(block, ranks)
    numbers = {
        "parameters": shards if stage == 3 else shards * ranks,
        "gradients": _gradients(config, ranks, stage),
        "optimizer state": 2 * shards,
        "communication": _on_the_way(config, ranks, stage, prefetch),
    }
    return {category: config.dtype.itemsize * number for category, number in numbers.items()}


def families(config: str | Config) -> tuple[int, int, int]:
    """Parameters before the blocks, of one block, and after the blocks; if a table is tied all of it is before."""
    config = find_config(config)
    block = replace(config, n_layer=config.n_layer + 1).n_param - config.n_param
    around = config.n_param - config.n_layer * block
    if config.tie_embeddings:
        return around, block, 0
    positions = config.max_seq * config.d_model if config.position == "learned" else 0
    before = config.vocab_size * config.d_model + positions
    return before, block, around - before


def shard(n_param: int, ranks: int) -> int:
    """Numbers each rank keeps of a bucket."""
    wholes("shard", 1, ranks=ranks)
    return -(-n_param // ranks)


def _gradients(config: Config, ranks: int, stage: int) -> int:
    """Walk backward: buckets that fill, one on its way, the shards of those before; and a gradient just made."""
    before, block, after = families(config)
    table = config.vocab_size * config.d_model
    matrix = config.d_model * max(config.d_ff, config.n_head * config.head_dim)  # the largest of a block
    filling = [(block, matrix)] * config.n_layer
    standing = 0
    if config.tie_embeddings:  # the last norm's gradient is in the table's bucket, so that one fills from the start on
        standing, filling = before, [*filling, (0, table)]
    else:
        filling = [(after, table), *filling, (before, table)]
    peak = received = on_its_way = 0
    for size, largest in filling:
        peak = max(peak, standing + received + on_its_way + size + largest)
        received += on_its_way if stage == 1 else shard(on_its_way, ranks)
        on_its_way = size
    return peak


def _on_the_way(config: Config, ranks: int, stage: int, prefetch: bool) -> int:
    """Results of collectives: two shards of gradients; in stage 3 the whole weights of a unit, or of two."""
    before, block, after = families(config)
    last, layers = after or before, config.n_layer
    order = [before] + [block] * layers + [last]
    shards = [shard(size, ranks) for size in ([after] if after else []) + [block] * layers + [before]]
    two_shards = max(a + b for a, b in zip(shards, shards[1:], strict=False))
    if stage < 3:
        return two_shards
    if not prefetch:
        return max(max(order), block + shard(block if layers > 1 else after, ranks), two_shards)
    pairs = [a + b for a, b in zip(order, order[1:], strict=False)]
    behind = shard(block if layers > 2 else after, ranks) if layers > 1 else 0
    return max(*pairs, 2 * block + behind if layers > 1 else 0, two_shards)
