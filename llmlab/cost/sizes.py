"""What a layout leaves of a step for one rank: the sizes that every closed form here is written in.

Letters as in `model/config.py`; lower case is one rank's, for one micro-batch. Every number may be a NumPy array, one
entry per layout: the formulas are the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import numpy as np

NUMBER_BYTES = {"fp8": 2, "bf16": 2, "fp16": 2, "fp32": 4, "fp64": 8}  # fp8 products keep 16-bit activations
LAYOUT_FIELDS = (
    "dp", "tp", "pp", "cp", "ep", "zero", "sequence_parallel", "schedule", "microbatches", "virtual_stages", "context",
)  # fmt: skip


def columns(layouts: list[Any]) -> SimpleNamespace:
    """Turn layouts into columns: one array per field of `Layout`."""
    return SimpleNamespace(**{name: np.array([getattr(layout, name) for layout in layouts]) for name in LAYOUT_FIELDS})


@dataclass(frozen=True)
class Sizes:
    """Steps on one rank. `w`: bytes of an activation or a weight; `g`: bytes of an accumulated gradient.

    `recompute` is 0 for none, 1 for selective, 2 for full.
    """

    config: Any
    layout: Any
    b: Any  # sequences in a micro-batch
    T: Any  # tokens in a sequence
    w: int
    g: Any
    recompute: Any = 0

    @property
    def n(self) -> Any:
        """Tokens of one micro-batch on one rank."""
        return self.b * self.T / self.layout.cp

    @property
    def m(self) -> Any:
        return self.layout.microbatches

    @property
    def split(self) -> Any:
        """What tp leaves of work on whole hidden vectors: all, unless sequence parallelism splits the tokens."""
        return np.where(self.layout.sequence_parallel, 1 / self.layout.tp, 1.0)

    @property
    def q_width(self) -> Any:
        """Width of the queries over all heads: D in most models."""
        return self.config.n_head * self.config.head_dim

    @property
    def kv_width(self) -> Any:
        """Width of the keys (and of the values) over all heads: as the queries', or less when grouped."""
        return self.config.n_kv_head * self.config.head_dim

    @property
    def mlp_matrices(self) -> Any:
        """Three with a gate, two without."""
        return np.where(np.asarray(self.config.mlp) == "swiglu", 3, 2)

    @property
    def n_expert(self) -> Any:
        return getattr(self.config, "n_expert", 0)

    @property
    def dense_mlps(self) -> Any:
        """MLPs that every token goes through: one without experts, the shared ones with."""
        return np.where(np.asarray(self.n_expert) > 0, getattr(self.config, "n_expert_shared", 0), 1)

    @property
    def active_experts(self) -> Any:
        """Routed experts that a token goes through."""
        return np.where(np.asarray(self.n_expert) > 0, getattr(self.config, "n_expert_active", 0), 0)

    @property
    def attention_weights(self) -> Any:
        """Weights of one layer's four projections."""
        return 2 * self.config.d_model * (self.q_width + self.kv_width)

    @property
    def mlp_weights(self) -> Any:
        """Weights of one MLP (of one expert)."""
        return self.mlp_matrices * self.config.d_model * self.config.d_ff

    @property
    def expert_params(self) -> Any:
        """Parameters of one layer's routed experts on one rank."""
        return self.n_expert / self.layout.ep * self.mlp_weights / self.layout.tp

    @property
    def layer_params(self) -> Any:
        """Parameters of one layer on one rank; norms and biases (a thousandth) left out."""
        dense = (self.attention_weights + self.dense_mlps * self.mlp_weights) / self.layout.tp
        return dense + self.expert_params

    def layers(self, stage: Any) -> Any:
        """Layers of a stage, over its virtual stages. What is left over goes to the middle: the ends have tables."""
        even, spare = np.divmod(self.config.n_layer, self.layout.pp)
        last = self.layout.pp - 1
        first = even + ((spare == last) & (last > 0))
        return np.where(stage == last, even, np.where(stage == 0, first, even + (stage <= spare)))

    def params(self, stage: Any) -> Any:
        """Parameters of a rank of this stage: its layers, the embedding table on the first and the last, positions."""
        last = self.layout.pp - 1
        ends = (stage == 0) | (stage == last)
        tables = np.where(last == 0, 2 - np.asarray(getattr(self.config, "tie_embeddings", True)), ends)
        table = self.config.vocab_size * self.config.d_model / self.layout.tp
        return self.layers(stage) * self.layer_params + tables * table + (stage == 0) * self.positions

    @property
    def positions(self) -> Any:
        """Parameters of a learned table of positions, which tp does not split; 0 where a model does not say."""
        learned = getattr(self.config, "position", "") == "learned"
        return self.config.max_seq * self.config.d_model if learned else 0

    def sharded_params(self, stage: Any) -> Any:
        """A rank's share when ZeRO shards over dp x cp; experts are already split over ep of these."""
        replicated_experts = self.layers(stage) * self.expert_params * (self.layout.ep - 1)
        return (self.params(stage) + replicated_experts) / (self.layout.dp * self.layout.cp)

    @property
    def layer_flops(self) -> Any:
        """FLOPs of one layer's forward on the whole global batch, the whole T x T counted (Narayanan et al. 2021)."""
        mlps = (self.dense_mlps + self.active_experts) * self.mlp_weights
        return (
            2 * self._tokens * (self.attention_weights + mlps + self.config.d_model * self.n_expert) + self.core_flops
        )

    @property
    def core_flops(self) -> Any:
        """Scores and weighted averages of one layer's forward on the whole global batch."""
        return 4 * self._tokens * self.T * self.q_width

    @property
    def model_flops(self) -> Any:
        """FLOPs of forward and backward of the whole global batch."""
        logits = 2 * self._tokens * self.config.vocab_size * self.config.d_model
        return 3 * (self.config.n_layer * self.layer_flops + logits)

    @property
    def recomputed_flops(self) -> Any:
        """FLOPs of what is computed a second time."""
        again = np.choose(self.recompute, [0.0, self.core_flops, self.layer_flops])
        return self.config.n_layer * again

    @property
    def _tokens(self) -> Any:
        return self.b * self.T * self.m * self.layout.dp
