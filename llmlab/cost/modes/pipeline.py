"""Pipeline parallelism in closed form: the bubble, the bytes a rank hands over in a step, what it holds at its peak.

p ranks, v stages on each, m microbatches. F, B, W: seconds a rank takes for a microbatch's forward and for the two
halves of its backward, the gradients of the inputs and those of the weights.

    bubble, seconds a rank waits in a step
        gpipe, 1f1b   (p - 1) (F + B + W)                              Narayanan et al. 2021, section 2.2
        interleaved   (p - 1) (F + B + W) / v
        zb_h1         (p - 1) (F + B) - (min(m, p) - 1) W              W <= F and W <= B; for m >= p it is
                                                                       (p - 1) (F + B - W): Qi et al. 2023, section 2.3
        zb_2p         0                                                the same, section 2.2: it holds 2 p - 1
        dualpipe      (p / 2 - 1) (F + 2 B - W)                        DeepSeek-AI 2024, V3's report, table 2: it holds
                                                                       p + 1, and two stages' parameters
    messages                                   2 (p v - 1) m in all, of b t D numbers each
    microbatches held by rank r                gpipe m, 1f1b p - r, zb_h1 p, at most m
"""

from __future__ import annotations

from collections.abc import Sequence

from llmlab.arguments import instance, listing, reals, whole, wholes
from llmlab.cost.models import find_config
from llmlab.model.config import Config
from llmlab.parallel.schedules import Schedule, schedule_name


def bubble(
    name: str, ranks: int, microbatches: int, forward: float, backward: float, weights: float, virtual_stages: int = 1
) -> float:
    """Seconds each rank waits in a step of equal stages with free messages.

    backward: without the weights' gradients, which take `weights` seconds, whether a schedule puts them off or not.
    """
    wholes("bubble", 1, ranks=ranks, microbatches=microbatches, virtual_stages=virtual_stages)
    name = schedule_name("bubble", "name", name, priced=True)
    reals("bubble", 0, forward=forward, backward=backward, weights=weights)
    if virtual_stages > 1 and name != "interleaved":
        raise ValueError(f"virtual_stages={virtual_stages} wants schedule='interleaved', got {name!r}")
    if name == "zb_h1":
        # filled with the W of microbatches that have come back; of a W longer than F or B the rest delays the others
        filled = (min(microbatches, ranks) - 1) * min(forward, backward, weights)
        return (ranks - 1) * (forward + backward) - filled
    if name == "zb_2p":
        return 0.0
    if name == "dualpipe":  # its table's B is whole: F + (B + W) + (B + W) - 3 W
        return max(0.0, (ranks / 2 - 1) * (forward + 2 * backward - weights))
    return (ranks - 1) * (forward + backward + weights) / virtual_stages


def bubble_share(name: str, ranks: int, microbatches: int, virtual_stages: int = 1) -> float:
    """The share of a step in which a rank waits, where forward and both halves of backward take as long."""
    wholes("bubble_share", 1, ranks=ranks, microbatches=microbatches, virtual_stages=virtual_stages)
    waits = bubble(name, ranks, microbatches, 1, 1, 1, virtual_stages)
    return waits / (waits + 3 * microbatches)


def pipeline_bytes(config: str | Config, schedule: Schedule, rank: int, batch: int, seq: int) -> int:
    """Bytes this rank hands over in one `forward_backward` of the whole batch: activations, gradients, table, loss."""
    config = find_config(config)
    wholes("pipeline_bytes", 1, batch=batch, seq=seq)
    instance("pipeline_bytes", "schedule", schedule, Schedule, "make_schedule(name, ranks, microbatches)")
    w, ranks = config.dtype.itemsize, len(schedule.actions)
    whole("pipeline_bytes", "rank", rank, least=0, most=ranks - 1)
    if ranks == 1:
        return 0
    taken = [(action, schedule.feeds(action)) for action in schedule.actions[rank]]
    messages = sum(taker is not None and schedule.place[taker][0] != rank for _, taker in taken)
    hidden = batch // schedule.microbatches * seq * config.d_model * w
    ends = {schedule.rank_of(0), schedule.rank_of(schedule.stages - 1)}
    table = config.vocab_size * config.d_model * w if config.tie_embeddings and rank in ends and len(ends) == 2 else 0
    return messages * hidden + table + max(w, 4)


def activation_bytes(
    config: str | Config, schedule: Schedule, rank: int, batch: int, seq: int, sizes: Sequence[int]
) -> int:
    """Bytes of activations this rank holds at its peak, for blocks without experts, dropout or recomputation.

    sizes: blocks per stage. Walks the rank's list: F takes, B gives back what W does not need, W the rest. On top comes
    what B works with: gradients of the MLP's inner values and of the stream, of the logits where they are. Messages
    just received are not counted, so a stage's own input only where it is the first.
    """
    config = find_config(config)
    wholes("activation_bytes", 1, batch=batch, seq=seq)
    instance("activation_bytes", "schedule", schedule, Schedule, "make_schedule(name, ranks, microbatches)")
    sizes = listing("activation_bytes", "sizes", sizes, "blocks per stage")
    if len(sizes) != schedule.stages:
        raise ValueError(f"activation_bytes wants sizes as a number for each of {schedule.stages} stages; got {sizes}")
    whole("activation_bytes", "rank", rank, least=0, most=len(schedule.actions) - 1)
    held, peak, n = 0, 0, batch // schedule.microbatches * seq
    for action in schedule.actions[rank]:
        blocks, end = sizes[action.stage], schedule.stages - 1
        after = {
            "F": stage_bytes(config, n, blocks, action.stage, end),
            "B": owed_bytes(config, n, blocks, action.stage, end) if schedule.splits_backward else 0,
            "W": 0,
        }
        held += after[action.kind] - (after[{"B": "F", "W": "B"}[action.kind]] if action.kind != "F" else 0)
        peak = max(peak, held)
    logits = 2 * config.vocab_size * (schedule.rank_of(schedule.stages - 1) == rank)
    return peak + n * max(logits, config.d_ff + 2 * config.d_model) * config.dtype.itemsize


def stage_bytes(config: str | Config, tokens: int, blocks: int, stage: int, end: int) -> int:
    """Bytes a stage keeps of one microbatch of so many tokens from its forward to its backward. end: the last stage.

    What goes out is kept until its gradient comes back; what came in is the stage before's affair, or a message's.
    """
    config = find_config(config)
    wholes("stage_bytes", 1, tokens=tokens, blocks=blocks)
    wholes("stage_bytes", 0, end=end)
    w, D = config.dtype.itemsize, config.d_model
    kept = blocks * block_numbers(config) + D * (stage == 0)
    if stage == end:
        kept += D * config.norm_first + config.vocab_size * max(w, 4) // w
    return tokens * kept * w


def owed_bytes(config: str | Config, tokens: int, blocks: int, stage: int, end: int) -> int:
    """Bytes a stage keeps of one microbatch between B and W: of each product the input and the output's gradient."""
    config = find_config(config)
    wholes("owed_bytes", 1, tokens=tokens, blocks=blocks)
    wholes("owed_bytes", 0, end=end)
    D, heads, kv = config.d_model, config.n_head * config.head_dim, config.n_kv_head * config.head_dim
    inputs = D + heads + D + config.d_ff  # q, k and v share theirs, and so do gate and up
    gradients = heads + 2 * kv + D + config.d_ff * (2 if config.mlp == "swiglu" else 1) + D
    head = (D + config.vocab_size) * (stage == end)
    return tokens * (blocks * (inputs + gradients) + head) * config.dtype.itemsize


def block_numbers(config: str | Config) -> int:
    """Numbers a block keeps for its backward, per token: the inputs of its products, norms, attention and activation.

    Its input, both norms' outputs and the sum between them; q, k, v, attention's output (of rotated queries twice: as
    the heads have it, and as the product after them wants it) and its log-sum; the MLP's inner values before and after
    the activation (SwiGLU: gate, up, silu(gate), their product). torch's RMSNorm is made of parts, and keeps x / rms as
    well; LayerNorm keeps a mean and a deviation per token.
    """
    config = find_config(config)
    D, inner = config.d_model, 4 if config.mlp == "swiglu" else 2
    norms = 2 * (D + 1) + 2 * (D if config.norm == "rmsnorm" else 1)
    outputs = 2 if config.position == "rotary" else 1
    heads = ((1 + outputs) * config.n_head + 2 * config.n_kv_head) * config.head_dim
    return 2 * D + norms + heads + config.n_head + inner * config.d_ff
