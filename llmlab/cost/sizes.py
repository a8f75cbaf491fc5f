"""What a layout leaves of a step for one rank: the sizes that every closed form here is written in.

Letters as in `model/config.py`; lower case is one rank's, for one micro-batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from llmlab.parallel.layout import Layout

NUMBER_BYTES = {"fp8": 2, "bf16": 2, "fp16": 2, "fp32": 4, "fp64": 8}  # fp8 products keep 16-bit activations


@dataclass(frozen=True)
class Sizes:
    """One step on one rank. `w`: bytes of an activation or a weight; `g`: bytes of an accumulated gradient."""

    config: Any
    layout: Layout
    b: float  # sequences in a micro-batch
    T: float  # tokens in a sequence
    w: int
    g: int
    precision: str
    fused_attention: bool = True
    layer_launch_s: float | None = None

    @property
    def n(self) -> float:
        """Tokens of one micro-batch on one rank."""
        return self.b * self.T / self.layout.cp

    @property
    def m(self) -> int:
        return self.layout.microbatches

    @property
    def kv_width(self) -> float:
        """Width of the keys (and of the values) over all heads: D for multi-head attention, less when grouped."""
        return self.config.d_model * self.config.n_kv_head / self.config.n_head

    @property
    def mlp_matrices(self) -> int:
        return 3 if self.config.mlp == "swiglu" else 2

    @property
    def n_expert(self) -> int:
        return getattr(self.config, "n_expert", 0)

    @property
    def active_experts(self) -> int:
        """MLPs that a token goes through."""
        if not self.n_expert:
            return 1
        return self.config.n_expert_active + self.config.n_expert_shared

    @property
    def attention_weights(self) -> float:
        """Weights of one layer's four projections."""
        return 2 * self.config.d_model * (self.config.d_model + self.kv_width)

    @property
    def mlp_weights(self) -> float:
        """Weights of one MLP (of one expert)."""
        return self.mlp_matrices * self.config.d_model * self.config.d_ff

    @property
    def dense_params(self) -> float:
        """Parameters of one layer on one rank without its routed experts; norms and biases (a thousandth) left out."""
        mlps = self.config.n_expert_shared if self.n_expert else 1
        return (self.attention_weights + mlps * self.mlp_weights) / self.layout.tp

    @property
    def expert_params(self) -> float:
        """Parameters of one layer's routed experts on one rank."""
        return self.n_expert / self.layout.ep * self.mlp_weights / self.layout.tp

    @property
    def layer_params(self) -> float:
        return self.dense_params + self.expert_params

    def layers(self, stage: int) -> int:
        """Layers of a stage, over its virtual stages. What is left over goes to the middle: the ends have tables."""
        even, spare = divmod(self.config.n_layer, self.layout.pp)
        if stage == self.layout.pp - 1:
            return even
        return even + (stage <= spare if stage else spare == self.layout.pp - 1)

    def params(self, stage: int) -> float:
        """Parameters of a rank of this stage: its layers, and the embedding table on the first and the last."""
        last = self.layout.pp - 1
        tied = getattr(self.config, "tie_embeddings", True)
        tables = (2 - tied) if last == 0 else (stage in (0, last))
        table = self.config.vocab_size * self.config.d_model / self.layout.tp
        return self.layers(stage) * self.layer_params + tables * table

    def sharded_params(self, stage: int) -> float:
        """A rank's share when ZeRO shards over dp x cp; experts are already split over ep of these."""
        replicated_experts = self.layers(stage) * self.expert_params * (self.layout.ep - 1)
        return (self.params(stage) + replicated_experts) / (self.layout.dp * self.layout.cp)

    @property
    def model_flops(self) -> float:
        """FLOPs of forward and backward of the whole global batch, the whole T x T counted (Narayanan et al. 2021)."""
        c = self.config
        tokens = self.b * self.T * self.m * self.layout.dp
        weights = self.attention_weights + self.active_experts * self.mlp_weights + c.d_model * self.n_expert
        return 6 * tokens * (c.n_layer * (weights + 2 * self.T * c.d_model) + c.vocab_size * c.d_model)
