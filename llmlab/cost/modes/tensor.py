"""Tensor and sequence parallelism in closed form: the bytes a rank hands over, and what it holds.

One step on B sequences of T tokens, n = B T; p ranks; w bytes a number, a = max(w, 4) bytes a number of the loss.

    a region            tensor:   n D w forward, where it is left, and n D w backward, where it was entered
                        sequence: n D w (1 + 1/p) forward and again backward; an all_gather hands over 1/p
    embedding           n D w forward; sequence: n D w / p backward
    loss                n a forward to find the maximum, 2 n a for the sums (3 n a with label smoothing)
    partial gradients   once a step: sequence: norms and row biases; key heads that several ranks hold

Regions: attention and the MLP of each block (an expert sees n k / E tokens), and the output layer, which is entered but
not left. What travels under sequence parallelism is the same on the wire: a ring's all_reduce of N bytes is worth a
reduce_scatter of N and an all_gather of N / p.
"""

from __future__ import annotations

from llmlab.arguments import flag, wholes
from llmlab.cost.models import find_config
from llmlab.model.config import Config


def tensor_bytes(config: str | Config, batch: int, seq: int, tp: int, sequence_parallel: bool = False) -> int:
    """Bytes a rank hands over in one step: forward, backward, and `sum_partial`. No capacity, no recomputation."""
    config = find_config(config)
    wholes("tensor_bytes", 1, batch=batch, seq=seq, tp=tp)
    flag("tensor_bytes", "sequence_parallel", sequence_parallel)
    if tp == 1:
        return 0
    w, a, n = config.dtype.itemsize, max(config.dtype.itemsize, 4), batch * seq
    hidden = n * config.d_model * w
    door = hidden // tp + hidden if sequence_parallel else hidden  # in and out of a region, forward or backward
    head = door
    embedding = hidden + hidden // tp * sequence_parallel
    loss = n * a * _loss_numbers(config)
    block = 2 * door + _mlp_bytes(config, hidden, door, tp, sequence_parallel)
    return config.n_layer * block + embedding + head + loss + w * partial_params(config, tp, sequence_parallel)


def partial_params(config: str | Config, tp: int, sequence_parallel: bool = False) -> int:
    """Parameters whose gradients have to be added up over the ranks after backward."""
    config = find_config(config)
    wholes("partial_params", 1, tp=tp)
    flag("partial_params", "sequence_parallel", sequence_parallel)
    bias, norm = int(config.bias), config.d_model * (2 if config.norm == "layernorm" and config.bias else 1)
    kv = 2 * (config.d_model + config.qkv_bias) * config.n_kv_head * config.head_dim
    block = kv if config.n_kv_head % tp else 0
    if not sequence_parallel:
        return config.n_layer * block
    row_biases = config.output_bias + (0 if config.n_expert else bias)  # experts are no sequence-parallel regions
    return config.n_layer * (block + 2 * norm + row_biases * config.d_model) + norm * config.norm_first


def params_per_rank(config: str | Config, tp: int) -> int:
    """Parameters one rank holds, the vocabulary's padding included."""
    config = find_config(config)
    wholes("params_per_rank", 1, tp=tp)
    D, bias = config.d_model, int(config.bias)
    kv_heads = config.n_kv_head if config.n_kv_head % tp else config.n_kv_head // tp
    q, kv = (heads * config.head_dim for heads in (config.n_head // tp, kv_heads))
    attention = (D + config.qkv_bias) * (q + 2 * kv) + D * (q + config.output_bias)
    columns = (2 if config.mlp == "swiglu" else 1) * config.d_ff // tp
    mlp = (D + bias) * columns + D * (config.d_ff // tp + bias)
    mlps = config.n_expert + config.n_expert_shared if config.n_expert else 1
    norm = D * (2 if config.norm == "layernorm" and bias else 1)
    tables = (1 if config.tie_embeddings else 2) * -(-config.vocab_size // tp) * D
    positions = config.max_seq * D if config.position == "learned" else 0
    block = attention + mlps * mlp + D * config.n_expert + 2 * norm
    return config.n_layer * block + norm * config.norm_first + tables + positions


def activation_bytes(config: str | Config, batch: int, seq: int, tp: int, sequence_parallel: bool = False) -> int:
    """Bytes of activations one rank of tp > 1 holds at its peak: in the loss, if V is well above d_ff and H K.

    Attention fused, a dense MLP, no dropout. Each norm and each region keeps its input: under sequence parallelism the
    one is a slice and the other whole (Megatron keeps a slice there too, and gathers it a second time in backward).
    torch computes an RMSNorm on a CPU step by step, and keeps what stood before the gain as well; attention's output it
    lays out as the queries, and rotated ones are in another order than the product after them wants: kept twice. Inputs
    that are still the messages they came in are `received_bytes`.
    """
    config = find_config(config)
    wholes("activation_bytes", 1, batch=batch, seq=seq, tp=tp)
    flag("activation_bytes", "sequence_parallel", sequence_parallel)
    D, w, a = config.d_model, config.dtype.itemsize, max(config.dtype.itemsize, 4)
    slice_ = D // tp if sequence_parallel else D
    norm, before_gain = (2, 0) if config.norm == "layernorm" else (1, slice_)
    kv_heads = max(config.n_kv_head // tp, 1)
    outputs = 2 if config.position == "rotary" else 1
    attention = ((1 + outputs) * config.n_head // tp + 2 * kv_heads) * config.head_dim  # queries, outputs; keys, values
    mlp = (4 if config.mlp == "swiglu" else 2) * config.d_ff // tp
    whole = 0 if sequence_parallel and batch == 1 else D  # a region's input
    block = (2 * (slice_ + before_gain + whole) + attention + mlp) * w + (config.n_head // tp + 2 * norm) * a
    last_norm = (slice_ + before_gain) * config.norm_first
    first = D if not sequence_parallel and _keeps_embedding(config) else 0
    logits = 2 * -(-config.vocab_size // tp)  # their softmax, and their gradient
    return batch * seq * (config.n_layer * block + (last_norm + whole - first) * w + logits * a)


def received_bytes(config: str | Config, batch: int, seq: int, tp: int, sequence_parallel: bool = False) -> int:
    """Bytes of received messages a rank still needs, at most, with a dense MLP.

    One [n, D], and the embedding as long as no positions and no dropout made a new tensor of it. Under sequence
    parallelism the copy that orders gathered tokens makes one; a single sequence is in order as it comes, and what each
    region gathered is needed until backward, when the loss's sums are there too. With few tokens the partial gradients,
    which are added up at the end, may be more than all that.
    """
    config = find_config(config)
    wholes("received_bytes", 1, batch=batch, seq=seq, tp=tp)
    flag("received_bytes", "sequence_parallel", sequence_parallel)
    if tp == 1:
        return 0
    w, a = config.dtype.itemsize, max(config.dtype.itemsize, 4)
    hidden = batch * seq * config.d_model * w
    if sequence_parallel and batch == 1:
        messages = (2 * config.n_layer + 1) * hidden + _loss_numbers(config) * seq * a
    else:
        messages = (2 if not sequence_parallel and _keeps_embedding(config) else 1) * hidden
    return max(messages, w * partial_params(config, tp, sequence_parallel))


def _keeps_embedding(config: Config) -> bool:
    """Whether the first block works on the sum over the ranks as it was received."""
    return config.position in ("rotary", "none") and not config.dropout


def _loss_numbers(config: Config) -> int:
    """Numbers of the loss that are added up, for each token: a maximum, two sums, one more with label smoothing."""
    return 4 if config.label_smoothing else 3


def _mlp_bytes(config: Config, hidden: int, door: int, tp: int, sequence_parallel: bool) -> int:
    """Forward and backward of one block's MLP, or of its experts, each a tensor-parallel region of its own."""
    if not config.n_expert:
        return 2 * door
    regions = 2 * hidden * (config.n_expert_active + config.n_expert_shared)
    return regions + 2 * (hidden // tp) * sequence_parallel  # gathered for the router, and back in backward
