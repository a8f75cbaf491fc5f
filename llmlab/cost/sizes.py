"""What a layout leaves of a step for one rank: the sizes that every closed form here is written in.

Letters as in `model/config.py`; lower case is one rank's, for one micro-batch. Every number may be an array, an entry
for each layout (see arrays.py): the formulas are the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from llmlab.cost.arrays import Counts, LayoutLike, ModelLike, Numbers

# narrow products keep 16-bit activations
NUMBER_BYTES = {"nvfp4": 2, "mxfp8": 2, "fp8": 2, "bf16": 2, "fp16": 2, "fp32": 4, "fp64": 8}


@dataclass(frozen=True)
class Sizes:
    """Steps on one rank. `w`: bytes of an activation or a weight; `g`: bytes of an accumulated gradient.

    `recompute` is 0 for none, 1 for selective, 2 for full; of a full one `kept` is the width of the products' outputs
    that are not computed again, and `kept_core` says whether attention is not either.
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
    kept: Numbers = 0.0
    kept_core: Counts = False
    early_stop: Counts = False  # recomputing ends with the last value that backward needs
    by_cost: Counts = False  # stages are filled by their products' cost, the output table's among them

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

    @cached_property
    def q_width(self) -> Numbers:
        """Width of the queries over all heads: D in most models. Of latent attention the mean of queries and values."""
        return self.config.n_head * self._head

    @cached_property
    def kv_width(self) -> Numbers:
        """Width of the keys (and of the values) over all heads: as the queries', or less when grouped."""
        return self.config.n_kv_head * self._head

    @cached_property
    def latents(self) -> Numbers:
        """Numbers of a token that latent attention makes its heads of: the queries', the keys' and values', and the
        rotary part that all heads' keys share (DeepSeek-AI 2024, section 2.1). 0 where there are none."""
        return self._of("q_lora_rank") + self._of("kv_lora_rank") + self._of("rope_head_dim")

    @property
    def latent_widths(self) -> tuple[Numbers, Numbers, Numbers, Numbers]:
        """Of latent attention: the queries' latent, the keys' and values', and over all heads keys and values."""
        key = self.config.head_dim + self._of("rope_head_dim")
        heads = self.config.n_head
        return self._of("q_lora_rank"), self._of("kv_lora_rank"), heads * key, heads * self._value

    @cached_property
    def attended(self) -> Numbers:
        """Tokens that a query scores, mean over layers, as the whole T x T is counted: causal ones twice.

        Within a window of W of T tokens T W - W^2 / 2 pairs are causal, of T^2 / 2 in all: 2 W - W^2 / T count.
        """
        window = np.minimum(self._of("window"), self.T)
        near = np.where(window > 0, 2 * window - window**2 / self.T, self.T)
        every = np.asarray(self._of("window_every"))
        return near + np.where(every > 0, (self.T - near) / np.maximum(every, 1), 0.0)

    @cached_property
    def mlp_matrices(self) -> Counts:
        """Three with a gate, two without."""
        return np.where(np.asarray(self.config.mlp) == "swiglu", 3, 2)

    @property
    def n_expert(self) -> Counts:
        return self._of("n_expert")

    @cached_property
    def mixtures(self) -> Numbers:
        """The share of layers that have experts: all, but leading dense ones and those between."""
        every = np.maximum(self._of("expert_every", 1), 1)
        share = 1 / every - self._of("n_dense") / self.config.n_layer
        return np.where(np.asarray(self.n_expert) > 0, share, 0.0)

    @cached_property
    def dense_mlps(self) -> Numbers:
        """MLPs that every token goes through, mean over layers, counted in widths of d_ff: one without experts, the
        shared ones with; in layers without experts one of its own width."""
        wide = self._of("d_ff_shared")
        shared = self._of("n_expert_shared") * np.where(np.asarray(wide) > 0, wide / self.config.d_ff, 1.0)
        return self.mixtures * shared + (1 - self.mixtures) * self.dense_width

    @property
    def dense_width(self) -> Numbers:
        """Width of the MLP of a layer without experts, in widths of d_ff."""
        wide = np.asarray(self._of("d_ff_dense"))
        return np.where(wide > 0, wide / self.config.d_ff, 1.0)

    @cached_property
    def active_experts(self) -> Numbers:
        """Routed experts that a token goes through, mean over layers; `capacity`: filled up to a fixed number."""
        return self.mixtures * self.capacity * self._of("n_expert_active")

    @cached_property
    def attention_weights(self) -> Numbers:
        """Weights of one layer's projections: four, or latent attention's five."""
        c = self.config
        q, kv, key, value = self.latent_widths
        plain = 2 * c.d_model * (self.q_width + self.kv_width)
        queries = np.where(q > 0, q * (c.d_model + key), c.d_model * key)
        keys = c.d_model * (self.latents - q) + kv * (c.n_head * c.head_dim + value)
        return np.where(kv > 0, queries + keys + value * c.d_model, plain)

    @property
    def mlp_weights(self) -> Numbers:
        """Weights of one MLP (of one expert)."""
        return self.mlp_matrices * self.config.d_model * self.config.d_ff

    @property
    def expert_params(self) -> Numbers:
        """Parameters of one layer's routed experts on one rank, mean over layers."""
        return self.mixtures * self.n_expert / self.layout.ep * self.mlp_weights / self.layout.tp

    @cached_property
    def layer_params(self) -> Numbers:
        """Parameters of one layer on one rank, mean over layers; norms and biases (a thousandth) left out."""
        dense = (self.attention_weights + self.dense_mlps * self.mlp_weights) / self.layout.tp
        return dense + self.expert_params

    def layers(self, stage: Counts) -> Counts:
        """Layers of a stage, over its virtual stages. What is left over goes to the middle: the ends have tables."""
        even, spare = np.divmod(self.config.n_layer, self.layout.pp)
        last = self.layout.pp - 1
        first = even + ((spare == last) & (last > 0))
        usual = np.where(stage == last, even, np.where(stage == 0, first, even + (stage <= spare)))
        if not np.any(self.by_cost):
            return usual
        return np.where(self.by_cost, self.layers_up_to(stage) - self.layers_up_to(stage - 1), usual)

    def layers_up_to(self, stage: Counts) -> Counts:
        """Layers of the stages up to this one where each takes them until it passes its share of the cost: with the
        output table at the end, the first stages have more than the last (nanotron's `build_model`)."""
        layers = self.config.n_layer
        share = (layers + self.table_layers) / self.layout.pp
        filled = np.minimum(layers, np.floor((stage + 1) * share + 1e-9) + 1)
        return np.where(stage < 0, 0, np.where(stage == self.layout.pp - 1, layers, filled))

    @property
    def table_layers(self) -> Numbers:
        """The output table's product, in products of a layer."""
        return self.config.vocab_size * self.config.d_model / (self.layer_params * self.layout.tp)

    @property
    def empty_stages(self) -> Counts:
        """Stages with nothing of the model, where they are filled by cost: after the table's come at most two more, for
        the logits' cast and for the loss. Such a run fails."""
        share = (self.config.n_layer + self.table_layers) / self.layout.pp
        filled = np.ceil(self.config.n_layer / share - 1e-9) + 2
        return np.where(
            self.by_cost, np.maximum(0, self.layout.pp - filled), np.maximum(0, self.layout.pp - self.config.n_layer)
        )

    def params(self, stage: Counts) -> Numbers:
        """Parameters of a rank of this stage; in DualPipe it has the stage as far from the other end, too."""
        last, both = self.layout.pp - 1, np.asarray(self.layout.schedule) == "dualpipe"
        if not np.any(both):
            return self.stage_params(stage)
        return self.stage_params(stage) + (both & (last > 0)) * self.stage_params(last - stage)

    def stage_params(self, stage: Counts) -> Numbers:
        """Parameters of a stage: its layers, the embedding table on the first and the last, positions."""
        last = self.layout.pp - 1
        ends = (stage == 0) | (stage == last)
        tables = np.where(last == 0, 2 - np.asarray(getattr(self.config, "tie_embeddings", True)), ends)
        table = self.config.vocab_size * self.config.d_model / self.layout.tp
        own = self.layers(stage) * self.layer_params + self.leading(stage)
        return own + tables * table + (stage == 0) * self.positions

    def leading(self, stage: Counts) -> Numbers:
        """What a stage holds less (or more) than so many mean layers, as leading dense layers are on the first stages.

        Experts are most of a layer's parameters, so the stages that begin a model are the lighter ones.
        """
        leads = np.asarray(self._of("n_dense"))
        chunk = self.config.n_layer / (self.layout.pp * self.layout.virtual_stages)
        here = np.clip(leads - stage * chunk, 0, chunk)
        mixture = self.expert_params + self._shared_params
        plain = self.dense_width * self.mlp_weights / self.layout.tp
        # of a layer with experts; the mean spreads them over all layers
        mixture = mixture / np.maximum(self.mixtures, 1e-9)
        spread = self.layers(stage) * leads / self.config.n_layer
        return np.where(leads > 0, (spread - here) * (mixture - plain), 0.0)

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
            2 * self._tokens * (self.attention_weights + mlps + self.config.d_model * self.mixtures * self.n_expert)
            + self.core_flops
        )

    @property
    def core_flops(self) -> Numbers:
        """Scores and weighted averages of one layer's forward on the whole global batch."""
        return 4 * self._tokens * self.attended * self.q_width

    @property
    def model_flops(self) -> Numbers:
        """FLOPs of forward and backward of the whole global batch."""
        logits = 2 * self._tokens * self.config.vocab_size * self.config.d_model
        return 3 * (self.config.n_layer * self.layer_flops + logits)

    @property
    def recomputed_flops(self) -> Numbers:
        """FLOPs of what is computed a second time."""
        products = 2 * self._tokens * self.config.d_model * self.kept
        full = self.layer_flops - products - self.kept_core * self.core_flops
        again = np.choose(self.recompute, [0.0, self.core_flops, full])
        return self.again * self.config.n_layer * again

    @property
    def _tokens(self) -> Numbers:
        return 1.0 * self.b * self.T * self.m * self.layout.dp  # a float: 2^63 FLOPs are a step of thousands of GPUs

    @property
    def _shared_params(self) -> Numbers:
        """Parameters of one layer's shared experts on one rank, mean over layers."""
        own = (1 - self.mixtures) * self.dense_width
        return (self.dense_mlps - own) * self.mlp_weights / self.layout.tp

    @cached_property
    def _head(self) -> Numbers:
        """Width of a head: with latent attention the mean of its keys (a rotary part included) and its values."""
        wide = (self.config.head_dim + self._of("rope_head_dim") + self._value) / 2
        return np.where(self._of("kv_lora_rank") > 0, wide, self.config.head_dim)

    @property
    def _value(self) -> Numbers:
        given = self._of("v_head_dim")
        return np.where(np.asarray(given) > 0, given, self.config.head_dim)

    def _of(self, name: str, usual: int = 0) -> Counts:
        """A size that most models do not have."""
        return np.asarray(getattr(self.config, name, usual))
