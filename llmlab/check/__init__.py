"""Exercise checks: `lab.check.ring_step(your_function)` says right or wrong, why, and one hint.

Each runs your answer on several inputs, on 2 to 4 simulated ranks where there are ranks; its docstring says what the
answer takes and gives.
"""

from llmlab.check.attending import attention, cache_bytes, causal_weights, combine_tiles
from llmlab.check.budgets import best_group, largest_microbatch, product_seconds, step_flops, training_state_bytes
from llmlab.check.context import combine_blocks, longest_context, ring_attention, ring_attention_bytes, zigzag
from llmlab.check.embeddings import look_up, sinusoid, split_look_up, turn
from llmlab.check.examine import Result
from llmlab.check.expert import bias_step, exchange_bytes, expert_capacity, expert_gradient, kept_tokens
from llmlab.check.generation import clipped_precision, kv_cache_bytes, perplexity, tempered, top_p_kept
from llmlab.check.gradients import bucket_bytes, data_parallel_scale, unequal_batches
from llmlab.check.jobs import fills_hole, first_come_starts, mean_response
from llmlab.check.layouts import global_norm, gradient_ranks, world_size
from llmlab.check.low_communication import error_feedback, federated_average, local_sgd_bytes, masked_upload
from llmlab.check.messages import all_reduce_from_send_recv, crossover_bytes, exchange, ring_bytes, ring_step
from llmlab.check.pipeline import (
    bubble_share,
    held_microbatches,
    message_count,
    microbatches_needed,
    own_schedule,
    split_by_speed,
    zero_bubble_wait,
)
from llmlab.check.planning import best_size, cheapest, mfu_of_hfu, skill, training_gpu_hours
from llmlab.check.server import server_against_ring, server_bytes, stale_bounded, stale_descent
from llmlab.check.split_merge import amdahl, first_free, mean_of_parts, serial_share, split_evenly, work_for_speedup
from llmlab.check.splitting import shares_by_speed
from llmlab.check.tensor import gain_gradient, tensor_block_bytes, tensor_mlp, vocabulary_loss
from llmlab.check.timelines import exposed_seconds, mfu, seventh_cause, seventh_split
from llmlab.check.tokens import bpe_merge, jaccard, packed_targets, table_parameters
from llmlab.check.training import adam_step, clipped, largest_rate, warm_up_cosine
from llmlab.check.transformer import block_parameters, decoder_inputs, layer_norm, next_token_loss
from llmlab.check.zero import shard_bounds, sharded_step, zero_ring_bytes, zero_state_bytes

__all__ = [
    "Result",
    "adam_step",
    "all_reduce_from_send_recv",
    "amdahl",
    "attention",
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
    "decoder_inputs",
    "error_feedback",
    "exchange",
    "exchange_bytes",
    "expert_capacity",
    "expert_gradient",
    "exposed_seconds",
    "federated_average",
    "fills_hole",
    "first_come_starts",
    "first_free",
    "gain_gradient",
    "global_norm",
    "gradient_ranks",
    "held_microbatches",
    "jaccard",
    "kept_tokens",
    "kv_cache_bytes",
    "largest_microbatch",
    "largest_rate",
    "layer_norm",
    "local_sgd_bytes",
    "longest_context",
    "look_up",
    "masked_upload",
    "mean_of_parts",
    "mean_response",
    "message_count",
    "mfu",
    "mfu_of_hfu",
    "microbatches_needed",
    "next_token_loss",
    "own_schedule",
    "packed_targets",
    "perplexity",
    "product_seconds",
    "ring_attention",
    "ring_attention_bytes",
    "ring_bytes",
    "ring_step",
    "serial_share",
    "server_against_ring",
    "server_bytes",
    "seventh_cause",
    "seventh_split",
    "shard_bounds",
    "sharded_step",
    "shares_by_speed",
    "sinusoid",
    "skill",
    "split_by_speed",
    "split_evenly",
    "split_look_up",
    "stale_bounded",
    "stale_descent",
    "step_flops",
    "table_parameters",
    "tempered",
    "tensor_block_bytes",
    "tensor_mlp",
    "top_p_kept",
    "training_gpu_hours",
    "training_state_bytes",
    "turn",
    "unequal_batches",
    "vocabulary_loss",
    "warm_up_cosine",
    "work_for_speedup",
    "world_size",
    "zero_bubble_wait",
    "zero_ring_bytes",
    "zero_state_bytes",
    "zigzag",
]
