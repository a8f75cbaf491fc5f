"""What a layout leaves of a step for one rank: the sizes that every closed form here is written in.

Letters as in `model/config.py`; lower case is one rank's, for one micro-batch. Every number may be an array, an entry
for each layout (see arrays.py): the formulas are the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from llmlab.cost.arrays import Counts, LayoutLike, ModelLike, Numbers

# narrow products keep 16-bit activations
NUMBER_BYTES = {"nvfp4": 2, "mxfp8": 2, "fp8": 2, "bf16": 2, "fp16": 2, "fp32": 4, "fp64": 8}


@dataclass(frozen=True)
class Sizes:
    """Steps on one rank. `w`: bytes of an activation or a weight; `g`: bytes of an accumulated gradient.

    `recompute` is 0 for none, 1 for selective, 2 for full.
    """

    config: ModelLike
    layout: LayoutLike
    b: Numbers  # sequences in a micro-batch
    T: Counts  # tokens in a sequence
    w: int
    g: Counts
    recompute: Counts = 0
    again: Numbers = 1.0  # share of the layers that `recompute` is of
    capacity: Numbers = 1.0  # tokens an expert computes, over its fair share
    shard: Counts = 0  # ranks that ZeRO shards one copy over; 0: all of dp x cp

    @property
    def n(self) -> Numbers:
        """Tokens of one micro-batch on one rank."""
        return self.b * self.T / self.layout.cp

    @property
    def m(self) -> Counts:
        return self.layout.microbatches

    @property
    def split(self) -> Numbers:
        """What tp leaves of work on whole hidden vectors: all, unless sequence parallelism splits the tokens."""
        return np.where(self.layout.sequence_parallel, 1 / self.layout.tp, 1.0)

    @property
    def q_width(self) -> Numbers:
        """Width of the queries over all heads: D in most models."""
        return self.config.n_head * self.config.head_dim

    @property
    def kv_width(self) -> Numbers:
        """Width of the keys (and of the values) over all heads: as the queries', or less when grouped."""
        return self.config.n_kv_head * self.config.head_dim

    @property
    def mlp_matrices(self) -> Counts:
        """Three with a gate, two without."""
        return np.where(np.asarray(self.config.mlp) == "swiglu", 3, 2)

    @property
    def n_expert(self) -> Counts:
        return getattr(self.config, "n_expert", 0)

    @property
    def dense_mlps(self) -> Counts:
        """MLPs that every token goes through: one without experts, the shared ones with."""
        return np.where(np.asarray(self.n_expert) > 0, getattr(self.config, "n_expert_shared", 0), 1)

    @property
    def active_experts(self) -> Counts:
        """Routed experts that a token goes through."""
        return np.where(np.asarray(self.n_expert) > 0, self.capacity * getattr(self.config, "n_expert_active", 0), 0)

    @property
    def attention_weights(self) -> Numbers:
        """Weights of one layer's four projections."""
        return 2 * self.config.d_model * (self.q_width + self.kv_width)

    @property
    def mlp_weights(self) -> Numbers:
        """Weights of one MLP (of one expert)."""
        return self.mlp_matrices * self.config.d_model * self.config.d_ff

    @property
    def expert_params(self) -> Numbers:
        """Parameters of one layer's routed experts on one rank."""
        return self.n_expert / self.layout.ep * self.mlp_weights / self.layout.tp

    @property
    def layer_params(self) -> Numbers:
        """Parameters of one layer on one rank; norms and biases (a thousandth) left out."""
        dense = (self.attention_weights + self.dense_mlps * self.mlp_weights) / self.layout.tp
        return dense + self.expert_params

    def layers(self, stage: Counts) -> Counts:
        """Layers of a stage, over its virtual stages. What is left over goes to the middle: the ends have tables."""
        even, spare = np.divmod(self.config.n_layer, self.layout.pp)
        last = self.layout.pp - 1
        first = even + ((spare == last) & (last > 0))
        return np.where(stage == last, even, np.where(stage == 0, first, even + (stage <= spare)))

    def params(self, stage: Counts) -> Numbers:
        """Parameters of a rank of this stage: its layers, the embedding table on the first and the last, positions."""
        last = self.layout.pp - 1
        ends = (stage == 0) | (stage == last)
        tables = np.where(last == 0, 2 - np.asarray(getattr(self.config, "tie_embeddings", True)), ends)
        table = self.config.vocab_size * self.config.d_model / self.layout.tp
        return self.layers(stage) * self.layer_params + tables * table + (stage == 0) * self.positions

    @property
    def positions(self) -> Numbers:
        """Parameters of a learned table of positions, which tp does not split; 0 where a model does not say."""
        config: Any = self.config  # published rows have neither a `position` nor a `max_seq`
        return config.max_seq * config.d_model if getattr(config, "position", "") == "learned" else 0

    def sharded_params(self, stage: Counts) -> Numbers:
        """A rank's share when ZeRO shards over dp x cp; experts are already split over ep of these."""
        replicated_experts = self.layers(stage) * self.expert_params * (self.layout.ep - 1)
        return (self.params(stage) + replicated_experts) / self.sharers

    @property
    def sharers(self) -> Counts:
        """Ranks that ZeRO shards over."""
        ranks = self.layout.dp * self.layout.cp
        return np.where(np.asarray(self.shard) > 0, np.minimum(self.shard, ranks), ranks)

    @property
    def layer_flops(self) -> Numbers:
        """FLOPs of one layer's forward on the whole global batch, the whole T x T counted (Narayanan et al. 2021)."""
        mlps = (self.dense_mlps + self.active_experts) * self.mlp_weights
        return (
            2 * self._tokens * (self.attention_weights + mlps + self.config.d_model * self.n_expert) + self.core_flops
        )

    @property
    def core_flops(self) -> Numbers:
        """Scores and weighted averages of one layer's forward on the whole global batch."""
        return 4 * self._tokens * self.T * self.q_width

    @property
    def model_flops(self) -> Numbers:
        """FLOPs of forward and backward of the whole global batch."""
        logits = 2 * self._tokens * self.config.vocab_size * self.config.d_model
        return 3 * (self.config.n_layer * self.layer_flops + logits)

    @property
    def recomputed_flops(self) -> Numbers:
        """FLOPs of what is computed a second time."""
        again = np.choose(self.recompute, [0.0, self.core_flops, self.layer_flops])
        return self.again * self.config.n_layer * again

    @property
    def _tokens(self) -> Numbers:
        return 1.0 * self.b * self.T * self.m * self.layout.dp  # a float: 2^63 FLOPs are a step of thousands of GPUs
