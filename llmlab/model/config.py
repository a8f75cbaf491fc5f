"""Every size of the model in one place, and what follows from the sizes alone: parameters and FLOPs by formula.

The one legend of letters, used in every shape of the library. Capital: the whole model's; lower case: this part's.

    B batch          T sequence       D d_model       L n_layer
    H n_head         K head_dim       G n_kv_head     F d_ff
    V vocabulary     E experts        S sequence attended to (T, unless there is a cache or a memory)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from llmlab.arguments import choice, flag, listing, real, string, whole

NORMS = ("layernorm", "rmsnorm")
MLPS = ("gelu", "gelu_tanh", "relu", "swiglu")
POSITIONS = ("learned", "sinusoidal", "rotary", "none")
SIZES = ("vocab_size", "d_model", "n_layer", "n_head", "max_seq")
MAY_BE_ZERO = ("n_kv_head", "d_ff", "n_expert", "n_expert_active", "n_expert_shared")
NUMBERS: dict[str, dict[str, Any]] = {
    "norm_eps": {"above": 0}, "rotary_base": {"above": 0}, "balance_loss": {"least": 0},
    "dropout": {"least": 0, "below": 1}, "label_smoothing": {"least": 0, "below": 1},
}  # fmt: skip
ATTENTION_BIASES = (None, "all", "qkv", "none")


class Derived(int):
    """A size that follows from others: where `dataclasses.replace` hands it on, it follows from the new ones."""


@dataclass(frozen=True)
class Config:
    """The sizes of a Transformer; what is not given is as in GPT-2 (Radford et al. 2019).

    n_kv_head and d_ff are filled in at once, so `dataclasses.replace` keeps them: give them again, or 0, with a new
    d_model or n_head; a head_dim that was not given follows by itself. Raises ValueError for sizes that make no model.
    """

    vocab_size: int
    d_model: int
    n_layer: int
    n_head: int
    max_seq: int
    n_kv_head: int = 0  # 0: n_head; fewer than n_head: grouped-query attention (Ainslie et al. 2023)
    d_ff: int = 0  # 0: 4 d_model; for swiglu 8/3 d_model, rounded up to a multiple of 32
    norm: str = "layernorm"
    norm_first: bool = True  # False: after the residual sum, as in Vaswani et al. 2017
    norm_eps: float = 1e-5
    mlp: str = "gelu"
    position: str = "learned"
    rotary_base: float = 10000.0
    causal: bool = True  # False: an encoder
    n_expert: int = 0  # 0: a dense MLP
    n_expert_active: int = 2  # experts per token
    n_expert_shared: int = 0  # experts every token also goes through
    capacity_factor: float | None = None  # None: no token is dropped
    balance_loss: float = 0.01
    dropout: float = 0.0  # of the embedding and of what each sublayer adds (Vaswani et al. 2017, section 5.4)
    bias: bool = True
    tie_embeddings: bool = True
    label_smoothing: float = 0.0
    dtype: torch.dtype = torch.float32
    head_dim: int = 0  # 0: d_model / n_head, after `replace` too
    attention_bias: str | None = None  # None: as `bias`; "all", "qkv" (query, key and value, as in Qwen2) or "none"
    rotary_factors: tuple[float, ...] = ()  # divide the K/2 rotary frequencies, to reach further; (): by nothing

    def __post_init__(self) -> None:
        self._check_kinds()
        if not self.n_kv_head:
            object.__setattr__(self, "n_kv_head", self.n_head)
        if not self.d_ff:
            width = -(-8 * self.d_model // 96) * 32 if self.mlp == "swiglu" else 4 * self.d_model
            object.__setattr__(self, "d_ff", width)
        if isinstance(self.head_dim, Derived) or not self.head_dim:
            object.__setattr__(self, "head_dim", Derived(self.d_model // self.n_head))
        self._check_sizes()
        self._check_heads()

    @property
    def qkv_bias(self) -> bool:
        """Whether query, key and value have biases."""
        return self.bias if self.attention_bias is None else self.attention_bias != "none"

    @property
    def output_bias(self) -> bool:
        """Whether the output of attention has a bias."""
        return self.bias if self.attention_bias is None else self.attention_bias == "all"

    # --- counts ---------------------------------------------------------------------------------------------------

    @property
    def n_param(self) -> int:
        """Parameters of the model; a tied table is counted once."""
        table = self.vocab_size * self.d_model
        positions = self.max_seq * self.d_model if self.position == "learned" else 0
        head = 0 if self.tie_embeddings else table
        final_norm = self._norm_params if self.norm_first else 0
        return table + positions + self.n_layer * self.n_param_block + final_norm + head

    @property
    def n_param_block(self) -> int:
        """Parameters of one block."""
        experts = self.n_expert + self.n_expert_shared if self.n_expert else 1
        router = self.d_model * self.n_expert
        return self._attention_params + experts * self._mlp_params + router + 2 * self._norm_params

    def flops_per_token(self, seq: int | None = None, *, backward: bool = True) -> int:
        """FLOPs per token of a training step (of the forward alone if not `backward`), matrix products only.

        A product of m x k by k x n is 2 m k n. Attention is counted over the whole T x T, masked or not, as in
        Narayanan et al. 2021, appendix; backward is twice forward. `seq` defaults to max_seq.
        """
        seq = self.max_seq if seq is None else whole("flops_per_token", "seq", seq, least=1)
        active = self.n_expert_active + self.n_expert_shared if self.n_expert else 1
        weights = self._attention_weights + active * self._mlp_weights + self.d_model * self.n_expert
        scores_and_average = 4 * seq * self.n_head * self.head_dim
        head = 2 * self.d_model * self.vocab_size
        forward = self.n_layer * (2 * weights + scores_and_average) + head
        return 3 * forward if flag("flops_per_token", "backward", backward) else forward

    @property
    def _attention_weights(self) -> int:
        return 2 * self.d_model * self.head_dim * (self.n_head + self.n_kv_head)  # query and output, key and value

    @property
    def _attention_params(self) -> int:
        qkv = self.head_dim * (self.n_head + 2 * self.n_kv_head)
        return self._attention_weights + qkv * self.qkv_bias + self.d_model * self.output_bias

    @property
    def _mlp_weights(self) -> int:
        return self.d_model * self.d_ff * (3 if self.mlp == "swiglu" else 2)

    @property
    def _mlp_params(self) -> int:
        biases = self.d_ff * (2 if self.mlp == "swiglu" else 1) + self.d_model
        return self._mlp_weights + biases * self.bias

    @property
    def _norm_params(self) -> int:
        return self.d_model * (2 if self.norm == "layernorm" and self.bias else 1)

    # --- rules ------------------------------------------------------------------------------------------------------

    def _check_kinds(self) -> None:
        """Each field by itself; counts are kept as Python's ints, whoever's they were."""
        for names, least in ((SIZES, 1), (MAY_BE_ZERO, 0)):
            for name in names:
                object.__setattr__(self, name, whole("Config", name, getattr(self, name), least))
        whole("Config", "head_dim", self.head_dim, 0)  # kept as it came: it may be a Derived one
        for name, choices in (("norm", NORMS), ("mlp", MLPS), ("position", POSITIONS)):
            choice("Config", name, string("Config", name, getattr(self, name)), choices)
        choice("Config", "attention_bias", self.attention_bias, ATTENTION_BIASES)
        for name in ("norm_first", "causal", "bias", "tie_embeddings"):
            flag("Config", name, getattr(self, name))
        for name, bounds in NUMBERS.items():
            real("Config", name, getattr(self, name), **bounds)
        factors = listing("Config", "rotary_factors", self.rotary_factors, "numbers")
        factors = [real("Config", "each of rotary_factors", factor, above=0) for factor in factors]
        object.__setattr__(self, "rotary_factors", tuple(factors))
        if self.capacity_factor is not None:
            real("Config", "capacity_factor (or None)", self.capacity_factor, above=0)
        if not (isinstance(self.dtype, torch.dtype) and self.dtype.is_floating_point):
            raise ValueError(f"Config wants dtype as a floating-point torch.dtype; got {self.dtype!r}")

    def _check_sizes(self) -> None:
        if self.n_head % self.n_kv_head:
            raise ValueError(f"n_kv_head wants a divisor of n_head={self.n_head}, got {self.n_kv_head}")
        if self.position == "sinusoidal" and self.d_model % 2:
            raise ValueError(f"sinusoidal positions come in pairs and want an even d_model, got {self.d_model}")
        if self.n_expert and not 1 <= self.n_expert_active <= self.n_expert:
            raise ValueError(f"n_expert_active wants 1 to n_expert={self.n_expert}, got {self.n_expert_active}")

    def _check_heads(self) -> None:
        if isinstance(self.head_dim, Derived) and self.d_model % self.n_head:
            raise ValueError(
                f"d_model wants a multiple of n_head={self.n_head}, got {self.d_model}: change it, or give a head_dim"
            )
        if self.position == "rotary" and self.head_dim % 2:
            raise ValueError(f"rotary positions turn pairs and want an even head_dim, got {self.head_dim}")
        factors = self.rotary_factors
        if factors and (self.position != "rotary" or len(factors) != self.head_dim // 2):
            raise ValueError(
                f"rotary_factors wants position='rotary' and one for each of head_dim/2={self.head_dim // 2} "
                f"frequencies, got position={self.position!r} and {len(factors)} factors"
            )
