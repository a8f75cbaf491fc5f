"""What one software's kernels move beside its matrix products, counted from its text: bytes, launches, habits.

`Library` is what large training libraries do (the tensors of Korthikanti et al. 2022, section 4; fused kernels); this
library's own software is in own.py. Comments say what is read (r) and written (w), in numbers of `Sizes.w` bytes or,
where a digit follows, in bytes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from llmlab.cost.arrays import ByName, Counts, Numbers
from llmlab.cost.memory import stage_memory
from llmlab.cost.network import Axis, hidden_values
from llmlab.cost.roofline import Roofline
from llmlab.cost.sizes import Sizes


@dataclass(frozen=True)
class Gather:
    """Gather or scatter over the ranks that share weights; experts, held by fewer, travel on an axis of their own."""

    axes: dict[str, Axis]

    def __call__(self, nbytes: Numbers, experts: Numbers, messages: Numbers = 1) -> Numbers:
        """Seconds for so many bytes in all, those of experts among them, in so many messages."""
        apart = (experts > 0) * self.axes["experts"].gather(experts)
        return self.axes["shard"].gather(nbytes - experts, messages) + apart

    def all_reduce(self, nbytes: Numbers, experts: Numbers) -> Numbers:
        """Seconds of a sum that every rank gets whole."""
        return self.axes["data"].all_reduce(nbytes - experts) + (experts > 0) * self.axes["experts"].all_reduce(experts)

    def copies(self, nbytes: Numbers) -> Numbers:
        """Seconds to sum the shards of `nbytes` over copies, where there are some."""
        axis = self.axes["copies"]
        return np.where(axis.size > 1, axis.all_reduce(nbytes / self.axes["shard"].size), 0.0)


@dataclass(frozen=True)
class Pass:
    """A forward or backward pass that traffic may hide behind. `free`: seconds in which its links are; `busy`: seconds
    of waiting for other traffic on the same links."""

    free: Numbers
    busy: Numbers = 0.0

    def shown(self, traffic: Numbers) -> Numbers:
        """Seconds of traffic by which the pass takes longer: what does not fit; or, meeting other traffic on its way,
        what that is delayed by."""
        share = self.busy / np.maximum(self.free + self.busy, 1e-30)
        return np.maximum(np.maximum(0.0, traffic - self.free), traffic * share)

    def times(self, times: Numbers) -> Pass:
        """So many passes, one after another."""
        return Pass(self.free * times, self.busy * times)


class Library:
    """Fused kernels, gradients kept from step to step, stages that wait for their messages."""

    once_a_node = True  # whether a token's copies for experts of one node travel to it once
    rings = False  # whether a collective takes the latency of every step of a ring; else of a tree

    def launches(self, x: Sizes) -> tuple[Numbers, Numbers]:
        """Kernels of a layer, forward and backward: fused where libraries do.

        Collectives are launched like kernels. A mixture has its router (a product, softmax, choice, balance: ten),
        tokens sorted for ranks and for experts, and back (eight), two exchanges with their counts (four); and a product
        for each matrix of each expert it holds.
        """
        local, summed = 2 * x.n_expert / x.layout.ep, np.where(x.layout.tp > 1, self.regions(x), 0)
        return 15 + summed + x.mixtures * (22 + local), 30 + summed + x.mixtures * (22 + 2 * local)

    def forward(self, x: Sizes) -> Numbers:
        """Two norms (r w), two dropouts with residual sum (r r w and a mask), the context copied, the activation."""
        whole = 2 * 2 * x.w + 2 * (3 * x.w + 1)
        split = 2 * x.w + x.mlp_matrices * x.w * inner(x)  # GELU: r w; gated: r r w
        return x.n * x.config.d_model * ((whole + self.sorting(x)) * x.split + split / x.layout.tp)

    def sorting(self, x: Sizes) -> Numbers:
        """Bytes for each hidden number, either pass: copies of tokens for their experts (r w), sorted by expert where
        they arrive (r w), and back (r w), and what a token's experts say summed up (r)."""
        return 7 * x.w * x.active_experts

    def backward(self, x: Sizes) -> Numbers:
        """Norms (r r w, and r r for their weights), dropouts (r w and a mask), residual sums (r r w), biases (r)."""
        whole = 2 * 5 * x.w + 2 * (2 * x.w + 1) + 2 * 3 * x.w + 2 * x.w
        # GELU: r r w, bias r; gated: r r r w w. Then the projections' biases (r for q, k and v) and the context copied.
        split = (x.mlp_matrices + 2) * x.w * inner(x) + 5 * x.w
        return x.n * x.config.d_model * ((whole + self.sorting(x)) * x.split + split / x.layout.tp)

    def accumulate(self, x: Sizes) -> Numbers:
        """Bytes for each parameter and micro-batch: add to the gradient (r w, r g, w g), unless it is the only one.

        ZeRO-3 scatters it and adds to a shard.
        """
        added = np.where((x.m > 1) | (x.g != x.w), x.w + 2 * x.g, 0)
        return np.where(np.asarray(x.layout.zero) == 3, 0, added)

    def vocabulary(self, x: Sizes) -> Numbers:
        """Logits of a token on a rank: padded to what 128 divides there, as by Megatron."""
        return 128 * np.ceil(x.config.vocab_size / x.layout.tp / 128)

    def loss(self, x: Sizes) -> Numbers:
        """Bytes for each logit, beside its products; the softmax is taken in fp32."""
        # cast (r w, w 4), maximum (r 4), subtract (r 4, w 4), exponential (r 4, w 4), sum (r 4), divide (r 4, w 4);
        # backward: scaled (r 4, w 4), cast back (r 4, w w)
        return (x.w + 4 + 4 + 8 + 8 + 4 + 8) + (8 + 4 + x.w)

    def ends(self, x: Sizes, line: Roofline, axes: dict[str, Axis]) -> tuple[ByName, ByName]:
        """Seconds by cause of one micro-batch on the first stage (the embedding) and on the last, beside the logits."""
        return {}, {}

    def optimizer(self, x: Sizes) -> Numbers:
        """Bytes for each parameter: Adam in fp32, with the gradients' norm clipped.

        Gradient to fp32 (r g, w 4), norm (r 4), scale (r 4, w 4), Adam (r 16, w 12), weights back (w w).
        """
        return x.g + 4 + 4 + 8 + 28 + x.w

    def spared(self, x: Sizes, line: Roofline, region: Numbers) -> Numbers:
        """Seconds of a layer's forward that full recomputing does not repeat; `region`: of adding up over tp.

        Products whose outputs are kept; and where recomputing ends with the last value that backward needs, the last
        product and its sum over ranks (XLA, and torch's `checkpoint` without re-entry).
        """
        kept = np.where(np.asarray(x.kept) > 0, line.product(x.w, x.n, x.config.d_model, x.kept / x.layout.tp), 0.0)
        if not np.any(x.early_stop):
            return kept
        # what is gathered is needed, what is added up is not; a mixture's router wants what its experts said
        left = np.where(x.layout.sequence_parallel, 0.5, 1.0) * region
        last = line.product(x.w, x.n, x.config.d_ff / x.layout.tp, x.config.d_model) + left
        return kept + x.early_stop * np.where(x.active_experts > 0, 0.0, x.dense_mlps * last)

    def gradient_hops(self, x: Sizes) -> tuple[Numbers, Numbers]:
        """Bytes of the gradients that go round the ring in backward, for each of keys and values; and whether home."""
        return 1.0, 0

    def merging(self, x: Sizes) -> tuple[Numbers, Numbers]:
        """Bytes that every step of a ring but the first moves, forward and backward, beside attention itself.

        Its output is added in fp32 (r w, r 4, w 4); the queries', keys' and values' gradients to theirs (r r w). Of
        causal tokens in two slices a rank three quarters of the rows are in such a step.
        """
        ahead, back = (x.w + 8) * x.q_width, 3 * x.w * (x.q_width + 2 * x.kv_width)
        return 0.75 * x.n * ahead / x.layout.tp, 0.75 * x.n * back / x.layout.tp

    def ring_again(self, x: Sizes, line: Roofline) -> Numbers:
        """Seconds that selective recomputing of a ring takes beside attention, its hops and what `merging` counts."""
        return 0.0

    def beside(self, x: Sizes) -> tuple[tuple[Numbers, int], tuple[Numbers, int]]:
        """What a hop hides behind, beside a step's attention: bytes and kernels, forward and backward."""
        ahead, back = self.merging(x)
        return (ahead, 2), (back, 3)

    def small_messages(self, x: Sizes, axes: dict[str, Axis]) -> tuple[Numbers, Numbers]:
        """Seconds of what is all latency: of a layer's two passes, and of the loss."""
        return 0.0, 0.0

    def waiting(self, x: Sizes, message: Numbers, whole: Numbers, slowest: Numbers) -> Numbers:
        """Seconds of waiting for messages between stages, every time; `message`: there and back.

        `whole`, `slowest`: seconds of a micro-batch through all stages, and through the slowest.
        """
        return message * (x.m * x.layout.virtual_stages + x.layout.pp - 1)

    def ending(self, stage: Counts) -> Counts:
        """The stage after which a step ends: taken to be the slowest."""
        return stage

    def host(self, x: Sizes, line: Roofline, step: ByName, layers: Counts) -> Numbers:
        """Seconds that the device waits for the host: where a layer is computed sooner than launched."""
        return step["host"]

    def passes(
        self,
        axes: dict[str, Axis],
        compute: tuple[Numbers, Numbers],
        again: Numbers,
        talk: list[ByName],
        hidden: tuple[Numbers, Numbers],
    ) -> tuple[Pass, Pass]:
        """What data traffic may hide behind. Seconds of both passes: computing, computing again, waiting for other
        traffic by axis, and context traffic that is itself hidden."""
        ahead, back = (Pass(seconds + waits["tp"] + waits["ep"]) for seconds, waits in zip(compute, talk, strict=True))
        return ahead, back

    def routed(self, x: Sizes) -> Numbers:
        """The share of the tokens that a tensor-parallel rank sends to their experts."""
        return x.split

    def message(self, x: Sizes) -> Numbers:
        """The share of the hidden values that a tensor-parallel rank sends to the next stage, to be gathered."""
        return 1 / x.layout.tp

    def regions(self, x: Sizes) -> Numbers:
        """How often a layer adds the hidden values up over tp, forward: after attention and after the MLP."""
        return 2

    def summed(self, x: Sizes, tp: Axis) -> Numbers:
        """Seconds of adding up over tp in a layer, forward."""
        return self.regions(x) * hidden_values(x, tp)

    def data_parallel(
        self, x: Sizes, gather: Gather, stage: Counts, forward: Pass, backward: Pass
    ) -> tuple[Numbers, Numbers]:
        """Seconds of reducing gradients and gathering sharded weights, and those not behind a forward or backward pass.

        ZeRO-3 gathers twice and scatters once in every micro-batch, ZeRO-2 scatters; others reduce once, at the end.
        `forward`, `backward`: a pass of one micro-batch through this stage's layers.
        """
        zero, experts, m = x.layout.zero, x.layers(stage) * x.expert_params, x.m
        gradients, weights = (gather(nbytes * x.params(stage), nbytes * experts) for nbytes in (x.g, x.w))
        summed = gather.all_reduce(x.g * x.params(stage), x.g * experts)
        gradients = gradients + gather.copies(x.g * x.params(stage))
        # chunks of an interleaved pipeline are reduced, and gathered, behind p (v - 1) / v passes of the others
        v = x.layout.virtual_stages
        passes = 1 + x.layout.pp * (v - 1) / v
        ahead, back = forward.times(passes * (v > 1)), backward.times(passes)
        reduced = back.shown(gradients) + ahead.shown(weights)
        shown: list[Any] = [  # by stage of ZeRO, 0 to 3; ZeRO-2 reduces every micro-batch, ZeRO-3 gathers too
            back.shown(summed), reduced, m * backward.shown(gradients) + weights,
            m * (forward.shown(weights) + backward.shown(weights + gradients)),
        ]  # fmt: skip
        total: list[Any] = [summed, gradients + weights, m * gradients + weights, m * (2 * weights + gradients)]
        return np.choose(zero, total), np.choose(zero, shown)

    def buckets(self, x: Sizes) -> Numbers:
        """Bytes for each parameter and step to copy gradients into what travels, and back."""
        return 0

    def optimizer_launches(self, x: Sizes, layers: Counts) -> Numbers:
        """Kernels of a step: fused into a few for the whole model."""
        return 0

    def memory(self, x: Sizes, stage: Counts, fused: bool, activations: float) -> ByName:
        """Bytes of a rank of this stage, by category. `activations`: a factor on those kept for backward."""
        return stage_memory(x, stage, fused, activations)


class FusedLibrary(Library):
    """A library whose product for a weight's gradient adds to the gradient that is there."""

    def accumulate(self, x: Sizes) -> Numbers:
        """Bytes beside what a product writes (w): r g, w g."""
        return np.where(super().accumulate(x) > 0, 2 * x.g - x.w, 0)


LIBRARY, FUSED = Library(), FusedLibrary()


def inner(x: Sizes) -> Numbers:
    """Inner values of the MLPs that a token goes through, for each hidden one."""
    return (x.dense_mlps + x.active_experts) * x.config.d_ff / x.config.d_model
