"""What one software's kernels move beside its matrix products, counted from its text: bytes, launches, habits.

`Library` is what large training libraries do (the tensors of Korthikanti et al. 2022, section 4; fused kernels); this
library's own software is in own.py. Comments say what is read (r) and written (w), in numbers of `Sizes.w` bytes or,
where a digit follows, in bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from llmlab.cost.sizes import Sizes

Group = Callable[..., Any]  # (bytes in all, those of experts, messages) -> seconds to gather or to scatter


@dataclass(frozen=True)
class Pass:
    """A forward or backward pass that traffic may hide behind. `free`: seconds in which its links are; `busy`: seconds
    of waiting for other traffic on the same links."""

    free: Any
    busy: Any = 0.0

    def shown(self, traffic: Any) -> Any:
        """Seconds of traffic by which the pass takes longer: what does not fit; or, meeting other traffic on its way,
        what that is delayed by."""
        share = self.busy / np.maximum(self.free + self.busy, 1e-30)
        return np.maximum(np.maximum(0.0, traffic - self.free), traffic * share)

    def times(self, times: Any) -> Pass:
        """So many passes, one after another."""
        return Pass(self.free * times, self.busy * times)


class Library:
    """Fused kernels, gradients kept from step to step, stages that wait for their messages."""

    own = False  # whether the habits below that are this library's own hold
    runtime_bytes = int(1.5 * 2**30)  # context, libraries and their buffers; a guess that fits published peaks

    def launches(self, x: Sizes) -> tuple[Any, Any]:
        """Kernels of a layer, forward and backward: fused where libraries do."""
        return 15, 30

    def forward(self, x: Sizes) -> Any:
        """Two norms (r w), two dropouts with residual sum (r r w and a mask), the context copied, the activation."""
        whole = 2 * 2 * x.w + 2 * (3 * x.w + 1)
        split = 2 * x.w + x.mlp_matrices * x.w * inner(x)  # GELU: r w; gated: r r w
        return x.n * x.config.d_model * (whole * x.split + split / x.layout.tp)

    def backward(self, x: Sizes) -> Any:
        """Norms (r r w, and r r for their weights), dropouts (r w and a mask), residual sums (r r w), biases (r)."""
        whole = 2 * 5 * x.w + 2 * (2 * x.w + 1) + 2 * 3 * x.w + 2 * x.w
        # GELU: r r w, bias r; gated: r r r w w. Then the projections' biases (r for q, k and v) and the context copied.
        split = (x.mlp_matrices + 2) * x.w * inner(x) + 5 * x.w
        return x.n * x.config.d_model * (whole * x.split + split / x.layout.tp)

    def accumulate(self, x: Sizes) -> Any:
        """Bytes for each parameter and micro-batch: add to the gradient (r w, r g, w g), unless it is the only one."""
        return np.where((x.m > 1) | (x.g != x.w), x.w + 2 * x.g, 0)

    def loss(self, x: Sizes) -> Any:
        """Bytes for each logit, beside its products; the softmax is taken in fp32."""
        # cast (r w, w 4), maximum (r 4), subtract (r 4, w 4), exponential (r 4, w 4), sum (r 4), divide (r 4, w 4);
        # backward: scaled (r 4, w 4), cast back (r 4, w w)
        return (x.w + 4 + 4 + 8 + 8 + 4 + 8) + (8 + 4 + x.w)

    def ends(self, x: Sizes, line: Any, axes: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        """Seconds by cause of one micro-batch on the first stage (the embedding) and on the last, beside the logits."""
        return {}, {}

    def optimizer(self, x: Sizes) -> Any:
        """Bytes for each parameter: Adam in fp32, with the gradients' norm clipped.

        Gradient to fp32 (r g, w 4), norm (r 4), scale (r 4, w 4), Adam (r 16, w 12), weights back (w w).
        """
        return x.g + 4 + 4 + 8 + 28 + x.w

    def spared(self, x: Sizes, line: Any, region: Any) -> Any:
        """Seconds of a layer's forward that full recomputing does not repeat; `region`: of adding up over tp."""
        return 0.0

    def gradient_hops(self, x: Sizes) -> Any:
        """Bytes of the gradients that go round the ring in backward, for each of keys and values; and whether home."""
        return 1.0, 0

    def small_messages(self, x: Sizes, axes: dict[str, Any]) -> tuple[Any, Any]:
        """Seconds of what is all latency: of a layer's two passes, and of the loss."""
        return 0.0, 0.0

    def waiting(self, x: Sizes, message: Any, whole: Any, slowest: Any) -> Any:
        """Seconds of waiting for messages between stages, every time; `message`: there and back.

        `whole`, `slowest`: seconds of a micro-batch through all stages, and through the slowest.
        """
        return message * (x.m * x.layout.virtual_stages + x.layout.pp - 1)

    def ending(self, stage: Any) -> Any:
        """The stage after which a step ends: taken to be the slowest."""
        return stage

    def host(self, x: Sizes, line: Any, step: dict[str, Any], layers: Any) -> Any:
        """Seconds that the device waits for the host: where a layer is computed sooner than launched."""
        return step["host"]

    def passes(
        self, axes: Any, compute: tuple[Any, Any], again: Any, talk: list[dict[str, Any]], hidden: Any
    ) -> list[Pass]:
        """What data traffic may hide behind. Seconds of both passes: computing, computing again, waiting for other
        traffic by axis, and context traffic that is itself hidden."""
        return [Pass(seconds + waits["tp"] + waits["ep"]) for seconds, waits in zip(compute, talk, strict=True)]

    def routed(self, x: Sizes) -> Any:
        """The share of the tokens that a tensor-parallel rank sends to their experts."""
        return x.split

    def message(self, x: Sizes) -> Any:
        """The share of the hidden values that a tensor-parallel rank sends to the next stage, to be gathered."""
        return 1 / x.layout.tp

    def regions(self, x: Sizes) -> Any:
        """How often a layer adds the hidden values up over tp, forward: after attention and after the MLP."""
        return 2

    def data_parallel(self, x: Sizes, group: Group, stage: Any, forward: Any, backward: Any) -> tuple[Any, Any]:
        """Seconds of reducing gradients and gathering sharded weights, and those not behind a forward or backward pass.

        ZeRO-3 gathers twice and scatters once in every micro-batch; the others reduce once, behind the last backward.
        `forward`, `backward`: a pass of one micro-batch through this stage's layers.
        """
        zero, experts = x.layout.zero, x.layers(stage) * x.expert_params
        gradients, weights = (group(nbytes * x.params(stage), nbytes * experts) for nbytes in (x.g, x.w))
        again = forward.shown(weights) + backward.shown(weights + gradients)
        total = np.choose(
            zero, [2 * gradients, gradients + weights, gradients + weights, x.m * (2 * weights + gradients)]
        )
        reduced = backward.shown(gradients) + weights
        return total, np.choose(zero, [backward.shown(2 * gradients), reduced, reduced, x.m * again])

    def buckets(self, x: Sizes) -> Any:
        """Bytes for each parameter and step to copy gradients into what travels, and back."""
        return 0

    def optimizer_launches(self, x: Sizes, layers: Any) -> Any:
        """Kernels of a step: fused into a few for the whole model."""
        return 0

    def optimizer_state(self, x: Sizes) -> int:
        """Bytes kept for each parameter: fp32 weights and Adam's two moments; fp32 training keeps no second copy."""
        return 12 if x.w == 2 else 2 * x.w


def inner(x: Sizes) -> Any:
    """Inner values of the MLPs that a token goes through, for each hidden one."""
    return (x.dense_mlps + x.active_experts) * x.config.d_ff / x.config.d_model
