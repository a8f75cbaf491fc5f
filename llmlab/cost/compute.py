"""Seconds one rank computes: matrix products, attention, element-wise kernels, logits, optimizer.

Counted kernel by kernel from the model's text: FLOPs and HBM bytes on the device's roofline. Comments say what is read
(r) and written (w), in numbers of `Sizes.w` bytes or, where a digit follows, in bytes; the tensors are those of
Korthikanti et al. 2022, section 4.
"""

from __future__ import annotations

from dataclasses import dataclass

from llmlab.cost.sizes import Sizes
from llmlab.hardware import Device

KERNELS_FORWARD = 15  # launches of a layer forward, fused where libraries do; backward has twice as many
# Batched products of unfused attention (heads 64 to 128 wide) reach about half the roofline: with 0.5 the core of
# Korthikanti et al. 2022, Table 4, takes its measured 1.3 ms. The one fitted constant here, on that table alone.
BATCHED_EFFICIENCY = 0.5


@dataclass(frozen=True)
class Pass:
    """Seconds of one pass (forward, or backward) over one layer or over the logits, on one micro-batch."""

    matmul: float = 0.0
    attention: float = 0.0
    elementwise: float = 0.0
    launch: float = 0.0  # what the host needs to launch it: a floor

    @property
    def device(self) -> float:
        return self.matmul + self.attention + self.elementwise

    @property
    def host(self) -> float:
        """Seconds that the device waits for the host."""
        return max(0.0, self.launch - self.device)

    @property
    def seconds(self) -> float:
        return max(self.device, self.launch)


def layer_forward(x: Sizes, on: Device) -> Pass:
    """One layer forward on one micro-batch."""
    return Pass(_layer_matmul(x, on), _attention(x, on), _layer_elementwise_forward(x, on), _launch(x, on, 1))


def layer_backward(x: Sizes, on: Device) -> Pass:
    """One layer backward: two products for each of forward's (gradient of the input, gradient of the weight)."""
    elementwise = _layer_elementwise_backward(x, on) + _accumulate(x, on)
    return Pass(2 * _layer_matmul(x, on), _attention_backward(x, on), elementwise, _launch(x, on, 2))


def logits_forward(x: Sizes, on: Device) -> Pass:
    """Product with the embedding table and the loss, whose softmax is taken in fp32."""
    vocab = x.config.vocab_size / x.layout.tp
    # cast (r w, w 4), maximum (r 4), subtract (r 4, w 4), exponential (r 4, w 4), sum (r 4), divide (r 4, w 4)
    loss = _moved(x, on, x.n * vocab * (x.w + 4 + 4 + 8 + 8 + 4 + 8))
    return Pass(_matmul(x, on, x.n, x.config.d_model, vocab), 0.0, loss)


def logits_backward(x: Sizes, on: Device) -> Pass:
    """Two products; the gradient of the logits is scaled (r 4, w 4) and cast back (r 4, w w)."""
    vocab = x.config.vocab_size / x.layout.tp
    loss = _moved(x, on, x.n * vocab * (8 + 4 + x.w))
    return Pass(2 * _matmul(x, on, x.n, x.config.d_model, vocab), 0.0, loss)


def optimizer(x: Sizes, on: Device, params: float) -> float:
    """Adam over this rank's share of the parameters, in fp32, with the gradients' norm clipped.

    Gradient to fp32 (r g, w 4), norm (r 4), scale (r 4, w 4), Adam (r 16, w 12), weights back (w w).
    """
    return _moved(x, on, params * (x.g + 4 + 4 + 8 + 28 + x.w))


# --- one layer's parts ----------------------------------------------------------------------------------------------


def _matmul(x: Sizes, on: Device, m: float, k: float, n: float, batch: float = 1) -> float:
    moved = x.w * batch * (m * k + k * n + m * n)
    return on.kernel_seconds("matmul", 2 * batch * m * k * n, moved, x.precision)


def _moved(x: Sizes, on: Device, nbytes: float) -> float:
    return on.kernel_seconds("memory", 0, nbytes, x.precision)


def _layer_matmul(x: Sizes, on: Device) -> float:
    """The four (five with a gate) products of a layer forward, each split over tp."""
    c, t = x.config, x.layout.tp
    d, f = c.d_model, c.d_ff / t
    projections = _matmul(x, on, x.n, d, (d + 2 * x.kv_width) / t) + _matmul(x, on, x.n, d / t, d)
    up = _matmul(x, on, x.n, d, f * (x.mlp_matrices - 1)) + _matmul(x, on, x.n, f, d)
    return projections + x.active_experts * up


def _scores(x: Sizes) -> float:
    """Entries of T x T that one rank holds, over its heads."""
    return x.n * x.T * x.config.n_head / x.layout.tp


def _attention(x: Sizes, on: Device) -> float:
    """Scores and weighted average forward: fused, or two batched products with T x T scores in HBM between them."""
    head_dim = x.config.d_model / x.config.n_head
    if x.fused_attention:
        qkvo = x.w * x.n * 2 * (x.config.d_model + x.kv_width) / x.layout.tp
        return on.kernel_seconds("attention", 4 * _scores(x) * head_dim, qkvo, x.precision)
    heads = x.b * x.config.n_head / x.layout.tp
    product = _matmul(x, on, x.T / x.layout.cp, head_dim, x.T, batch=heads) / BATCHED_EFFICIENCY
    return 2 * product + _moved(x, on, _scores(x) * (4 * x.w + 1))  # softmax (r w), dropout (r w and its mask)


def _attention_backward(x: Sizes, on: Device) -> float:
    """Fused: the scores are computed again, five products for forward's two. Unfused: four, and the softmax's."""
    if x.fused_attention:
        return 2.5 * _attention(x, on)
    heads, head_dim = x.b * x.config.n_head / x.layout.tp, x.config.d_model / x.config.n_head
    product = _matmul(x, on, x.T / x.layout.cp, head_dim, x.T, batch=heads) / BATCHED_EFFICIENCY
    return 4 * product + _moved(x, on, _scores(x) * (5 * x.w + 1))  # dropout (r w and mask), softmax (r r w)


def _split(x: Sizes) -> float:
    """What tp leaves of the work on whole hidden vectors: all of it, unless sequence parallelism splits the tokens."""
    return 1 / x.layout.tp if x.layout.sequence_parallel else 1.0


def _layer_elementwise_forward(x: Sizes, on: Device) -> float:
    """Two norms (r w), two dropouts with residual sum (r r w and a mask), the context copied, the activation."""
    ratio = x.active_experts * x.config.d_ff / x.config.d_model
    whole = 2 * 2 * x.w + 2 * (3 * x.w + 1)
    split = 2 * x.w + x.mlp_matrices * x.w * ratio  # GELU: r w; gated: r r w
    return _moved(x, on, x.n * x.config.d_model * (whole * _split(x) + split / x.layout.tp))


def _layer_elementwise_backward(x: Sizes, on: Device) -> float:
    """Norms (r r w, and r r for their weights), dropouts (r w and a mask), residual sums (r r w), biases (r)."""
    ratio = x.active_experts * x.config.d_ff / x.config.d_model
    whole = 2 * 5 * x.w + 2 * (2 * x.w + 1) + 2 * 3 * x.w + 2 * x.w
    # GELU: r r w, bias r; gated: r r r w w. Then the projections' biases (r for q, k and v) and the context copied.
    split = (4 if x.mlp_matrices == 2 else 5) * x.w * ratio + 5 * x.w
    return _moved(x, on, x.n * x.config.d_model * (whole * _split(x) + split / x.layout.tp))


def _accumulate(x: Sizes, on: Device) -> float:
    """Add a layer's gradient to the one accumulated (r w, r g, w g); not when it is the only micro-batch's."""
    return _moved(x, on, x.layer_params * (x.w + 2 * x.g)) if x.m > 1 or x.g != x.w else 0.0


def _launch(x: Sizes, on: Device, passes: int) -> float:
    forward = KERNELS_FORWARD * on.launch_s if x.layer_launch_s is None else x.layer_launch_s
    return passes * forward
