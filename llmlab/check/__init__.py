"""Exercise checks: `lab.check.ring_step(your_function)` says right or wrong, why, and one hint.

Each runs your answer on several inputs, on 2 to 4 simulated ranks where there are ranks; its docstring says what the
answer takes and gives.
"""

from llmlab.check.examine import Result
from llmlab.check.gradients import bucket_bytes, data_parallel_scale, unequal_batches
from llmlab.check.messages import all_reduce_from_send_recv, crossover_bytes, exchange, ring_bytes, ring_step
from llmlab.check.split_merge import amdahl, first_free, mean_of_parts, serial_share, split_evenly

__all__ = [
    "Result",
    "all_reduce_from_send_recv",
    "amdahl",
    "bucket_bytes",
    "crossover_bytes",
    "data_parallel_scale",
    "exchange",
    "first_free",
    "mean_of_parts",
    "ring_bytes",
    "ring_step",
    "serial_share",
    "split_evenly",
    "unequal_batches",
]
