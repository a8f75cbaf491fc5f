"""Sizes of models that the closed forms price and the engine does not build: what `Config` has no word for.

Latent attention and leading dense layers (DeepSeek-AI 2024, arXiv:2405.04434, section 2), experts in every second layer
(Llama 4), windows in most layers (Gemma 3; gpt-oss). `lab.predict` and `lab.plan` take them by name; a `Transformer`
refuses them.
"""

from __future__ import annotations

from dataclasses import dataclass

from llmlab.arguments import choice, flag, whole
from llmlab.model.config import MLPS, NORMS

LEAST = {"n_layer": 1, "d_model": 1, "n_head": 1, "n_kv_head": 1, "head_dim": 1, "d_ff": 1, "vocab_size": 1,
         "expert_every": 1}  # fmt: skip


@dataclass(frozen=True)
class ModelSizes:
    """As in `Config`, and beyond it; nothing is filled in. Raises ValueError for sizes that make no model.

    `n_dense`: leading layers without experts, of width `d_ff_dense` (0: d_ff), as have the layers between where only
    every `expert_every`-th has experts. `d_ff_shared`: width of one shared expert (0: d_ff). Latent attention, where
    `kv_lora_rank` is not 0: the latents' widths (`q_lora_rank` 0: queries are made directly), `rope_head_dim` beside a
    key's `head_dim`, `v_head_dim` of a value (0: head_dim). `window`: tokens that a query sees in all layers but every
    `window_every`-th (0: in all of them). `norms`: of a block.
    """

    vocab_size: int
    d_model: int
    n_layer: int
    n_head: int
    n_kv_head: int
    head_dim: int
    d_ff: int
    mlp: str = "swiglu"
    norm: str = "rmsnorm"
    norms: int = 2
    tie_embeddings: bool = False
    n_expert: int = 0
    n_expert_active: int = 0
    n_expert_shared: int = 0
    n_dense: int = 0
    d_ff_dense: int = 0
    d_ff_shared: int = 0
    expert_every: int = 1
    q_lora_rank: int = 0
    kv_lora_rank: int = 0
    rope_head_dim: int = 0
    v_head_dim: int = 0
    window: int = 0
    window_every: int = 0

    def __post_init__(self) -> None:
        for name in self.__dataclass_fields__:
            if name not in ("mlp", "norm", "tie_embeddings"):
                whole("ModelSizes", name, getattr(self, name), least=LEAST.get(name, 0))
        choice("ModelSizes", "mlp", self.mlp, MLPS)
        choice("ModelSizes", "norm", self.norm, NORMS)
        flag("ModelSizes", "tie_embeddings", self.tie_embeddings)
        if self.n_expert_active > self.n_expert or (self.n_expert and not self.n_expert_active):
            raise ValueError(
                f"n_expert_active wants 1 to n_expert={self.n_expert}, got {self.n_expert_active}; 0 of 0 without any"
            )
        if self.n_dense and self.expert_every > 1:
            raise ValueError(f"n_dense={self.n_dense} and expert_every={self.expert_every}: give one of them")
        if self.n_dense > self.n_layer:
            raise ValueError(f"n_dense wants at most n_layer={self.n_layer}, got {self.n_dense}")

    @property
    def n_mixture(self) -> int:
        """Layers with experts."""
        return 0 if not self.n_expert else (self.n_layer - self.n_dense) // self.expert_every

    @property
    def n_param(self) -> int:
        """Parameters of the model; a tied table is counted once. Biases are left out."""
        return self._count(self.n_expert)

    @property
    def n_active(self) -> int:
        """Parameters that a token goes through, both tables among them."""
        return self._count(self.n_expert_active)

    def cache_numbers(self, seq: int) -> int:
        """Numbers that generation keeps of `seq` tokens: keys and values of all layers, as far back as each sees; of
        latent attention one latent, and the rotary part, for all heads."""
        seq = whole("cache_numbers", "seq", seq, least=1)
        token = 2 * self.n_kv_head * self.head_dim
        if self.kv_lora_rank:
            token = self.kv_lora_rank + self.rope_head_dim
        full = self.n_layer if not self.window else self.n_layer // self.window_every if self.window_every else 0
        return token * (full * seq + (self.n_layer - full) * min(seq, self.window or seq))

    def _count(self, experts: int) -> int:
        table = self.vocab_size * self.d_model * (1 if self.tie_embeddings else 2)
        inner = self.n_layer - self.n_mixture, self.d_ff_dense or self.d_ff
        mixture = experts * self.d_ff + self.n_expert_shared * (self.d_ff_shared or self.d_ff)
        matrices = 3 if self.mlp == "swiglu" else 2
        mlps = matrices * self.d_model * (inner[0] * inner[1] + self.n_mixture * mixture)
        router = self.n_mixture * self.d_model * self.n_expert
        norm = self.d_model * (2 if self.norm == "layernorm" else 1)
        return table + mlps + router + self.n_layer * (self._attention + self.norms * norm) + norm

    @property
    def _attention(self) -> int:
        """Weights of one layer's projections, and the latents' norms."""
        heads, value = self.n_head, self.v_head_dim or self.head_dim
        if not self.kv_lora_rank:
            return 2 * self.d_model * self.head_dim * (heads + self.n_kv_head)
        key = self.head_dim + self.rope_head_dim
        queries = self.d_model * heads * key
        if self.q_lora_rank:
            queries = self.q_lora_rank * (self.d_model + heads * key + 1)
        keys = self.d_model * (self.kv_lora_rank + self.rope_head_dim)
        up = self.kv_lora_rank * (heads * (self.head_dim + value) + 1)
        return queries + keys + up + heads * value * self.d_model
