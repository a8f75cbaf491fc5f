"""Exercise checks: `lab.check.ring_step(your_function)` says right or wrong, why, and one hint.

Each runs your answer on several inputs, on 2 to 4 simulated ranks where there are ranks; its docstring says what the
answer takes and gives. A notebook's patients are here too: `lab.check.ward()`.
"""

from llmlab.check.attending import (
    attention,
    cache_bytes,
    causal_weights,
    combine_tiles,
    previous_token_head,
    sink_heads,
)
from llmlab.check.budgets import best_group, largest_microbatch, product_seconds, step_flops, training_state_bytes
from llmlab.check.context import combine_blocks, longest_context, ring_attention, ring_attention_bytes, zigzag
from llmlab.check.embeddings import look_up, nearest_row, score_left, sinusoid, split_look_up, turn
from llmlab.check.examine import Result
from llmlab.check.expert import bias_step, exchange_bytes, expert_capacity, expert_gradient, kept_tokens
from llmlab.check.generation import beam_step, clipped_precision, kv_cache_bytes, perplexity, tempered, top_p_kept
from llmlab.check.gradients import bucket_bytes, data_parallel_scale, unequal_batches
from llmlab.check.layouts import eight_ranks, global_norm, gradient_ranks, mesh_place, world_size
from llmlab.check.low_communication import error_feedback, federated_average, local_sgd_bytes, masked_upload
from llmlab.check.messages import all_reduce_from_send_recv, crossover_bytes, exchange, ring_bytes, ring_step
from llmlab.check.patients import laid_out, ward
from llmlab.check.pipeline import (
    bubble_share,
    held_microbatches,
    message_count,
    microbatches_needed,
    own_schedule,
    split_by_speed,
    zero_bubble_wait,
)
from llmlab.check.planning import (
    best_size,
    cheapest,
    fewest_gpus,
    inside_interval,
    mfu_of_hfu,
    regret,
    skill,
    training_gpu_hours,
)
from llmlab.check.server import server_against_ring, server_bytes, stale_bounded, stale_descent
from llmlab.check.split_merge import amdahl, first_free, mean_of_parts, serial_share, split_evenly
from llmlab.check.splitting import shares_by_speed
from llmlab.check.stages import interleaved_bubble, stage_bytes
from llmlab.check.tensor import gain_gradient, tensor_block_bytes, tensor_mlp, vocabulary_loss, waiting_share
from llmlab.check.thresholds import (
    data_threshold,
    expert_threshold,
    pipeline_threshold,
    ring_threshold,
    tensor_threshold,
    zero3_threshold,
)
from llmlab.check.timelines import CAUSES, exposed_seconds, mfu, refuted, seventh_cause, seventh_split, third_layout
from llmlab.check.tokens import bpe_merge, jaccard, merges_to_join, packed_targets, padding_share, table_parameters
from llmlab.check.training import (
    adam_step,
    bent_valley,
    clipped,
    decayed_step,
    largest_rate,
    nesterov_step,
    warm_up_cosine,
)
from llmlab.check.transformer import (
    block_parameters,
    decoder_inputs,
    layer_norm,
    next_token_loss,
    prefix_mask,
    sorted_digits,
)
from llmlab.check.zero import lowest_stage, shard_bounds, sharded_step, zero_ring_bytes, zero_state_bytes

__all__ = [
    "CAUSES",
    "Result",
    "adam_step",
    "all_reduce_from_send_recv",
    "amdahl",
    "attention",
    "beam_step",
    "bent_valley",
    "best_group",
    "best_size",
    "bias_step",
    "block_parameters",
    "bpe_merge",
    "bubble_share",
    "bucket_bytes",
    "cache_bytes",
    "causal_weights",
    "cheapest",
    "clipped",
    "clipped_precision",
    "combine_blocks",
    "combine_tiles",
    "crossover_bytes",
    "data_parallel_scale",
    "data_threshold",
    "decayed_step",
    "decoder_inputs",
    "eight_ranks",
    "error_feedback",
    "exchange",
    "exchange_bytes",
    "expert_capacity",
    "expert_gradient",
    "expert_threshold",
    "exposed_seconds",
    "federated_average",
    "fewest_gpus",
    "first_free",
    "gain_gradient",
    "global_norm",
    "gradient_ranks",
    "held_microbatches",
    "inside_interval",
    "interleaved_bubble",
    "jaccard",
    "kept_tokens",
    "kv_cache_bytes",
    "laid_out",
    "largest_microbatch",
    "largest_rate",
    "layer_norm",
    "local_sgd_bytes",
    "longest_context",
    "look_up",
    "lowest_stage",
    "masked_upload",
    "mean_of_parts",
    "merges_to_join",
    "mesh_place",
    "message_count",
    "mfu",
    "mfu_of_hfu",
    "microbatches_needed",
    "nearest_row",
    "nesterov_step",
    "next_token_loss",
    "own_schedule",
    "packed_targets",
    "padding_share",
    "perplexity",
    "pipeline_threshold",
    "prefix_mask",
    "previous_token_head",
    "product_seconds",
    "refuted",
    "regret",
    "ring_attention",
    "ring_attention_bytes",
    "ring_bytes",
    "ring_step",
    "ring_threshold",
    "score_left",
    "serial_share",
    "server_against_ring",
    "server_bytes",
    "seventh_cause",
    "seventh_split",
    "shard_bounds",
    "sharded_step",
    "shares_by_speed",
    "sink_heads",
    "sinusoid",
    "skill",
    "sorted_digits",
    "split_by_speed",
    "split_evenly",
    "split_look_up",
    "stage_bytes",
    "stale_bounded",
    "stale_descent",
    "step_flops",
    "table_parameters",
    "tempered",
    "tensor_block_bytes",
    "tensor_mlp",
    "tensor_threshold",
    "third_layout",
    "top_p_kept",
    "training_gpu_hours",
    "training_state_bytes",
    "turn",
    "unequal_batches",
    "vocabulary_loss",
    "waiting_share",
    "ward",
    "warm_up_cosine",
    "world_size",
    "zero3_threshold",
    "zero_bubble_wait",
    "zero_ring_bytes",
    "zero_state_bytes",
    "zigzag",
]
