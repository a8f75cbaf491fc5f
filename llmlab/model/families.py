"""GPT-2, Llama (with Mistral and Qwen2) and BERT in our modules: what each calls its sizes and its weights.

Settings are read strictly: a switch that changes the computation in a way not known here is refused, not passed over.
Names are those of Hugging Face's files, and for GGUF those of llama.cpp. Dropout is not carried over: it is a choice
of whoever trains.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn

from llmlab.model.config import Config
from llmlab.model.embedding import llama3_factors
from llmlab.model.origins import Origins, per_block, same, third, transposed, unpaired, weight_and_bias
from llmlab.model.settings import Settings, activation, fixed, flag, need, number, size
from llmlab.model.text_encoder import TextEncoder
from llmlab.model.transformer import Transformer


@dataclass(frozen=True)
class Family:
    """How models of a family are made and named. `prefix` may precede names; what is `ignored` is no weight of ours."""

    config: Callable[[Settings, torch.dtype], Config]
    build: Callable[[Settings, Config], nn.Module]
    origins: Callable[[Config], Origins]
    table: str  # the bare name of the embedding
    prefix: str = ""
    ignored: str = r"$^"

    def drops(self, name: str, config: Config) -> bool:
        """Whether a stored tensor is a constant, a head for a task, or a second copy of a tied table."""
        return bool(re.fullmatch(self.ignored, name)) or (config.tie_embeddings and name == "lm_head.weight")


def decoder(settings: Settings, config: Config) -> nn.Module:
    return Transformer(config)


# --- GPT-2 (Radford et al. 2019) --------------------------------------------------------------------------------------


def gpt2_config(settings: Settings, dtype: torch.dtype) -> Config:
    d_model = size(settings, "n_embd")
    fixed(settings, scale_attn_weights=True, scale_attn_by_inverse_layer_idx=False, add_cross_attention=False)
    return Config(
        vocab_size=size(settings, "vocab_size"),
        d_model=d_model,
        n_layer=size(settings, "n_layer"),
        n_head=size(settings, "n_head"),
        max_seq=size(settings, "n_positions"),
        d_ff=size(settings, "n_inner", 4 * d_model),
        norm_eps=number(settings, "layer_norm_epsilon", 1e-5),
        mlp=activation({"activation_function": "gelu_new", **settings}, "activation_function"),
        tie_embeddings=flag(settings, "tie_word_embeddings", True),
        dtype=dtype,
    )


def gpt2_origins(config: Config) -> Origins:
    block = weight_and_bias(
        {
            "attention_norm": same("ln_1"),
            "attention.query": third("attn.c_attn", 0),
            "attention.key": third("attn.c_attn", 1),
            "attention.value": third("attn.c_attn", 2),
            "attention.output": transposed("attn.c_proj"),
            "mlp_norm": same("ln_2"),
            "mlp.up": transposed("mlp.c_fc"),
            "mlp.down": transposed("mlp.c_proj"),
        }
    )
    return {
        "embedding.token.weight": same("wte.weight"),
        "embedding.position.weight": same("wpe.weight"),
        **per_block(config.n_layer, "h.{}.", block),
        **weight_and_bias({"norm": same("ln_f")}),
        **({} if config.tie_embeddings else {"head.weight": same("lm_head.weight")}),
    }


# --- Llama (Touvron et al. 2023), and what differs from it in biases or defaults alone --------------------------------

LLAMA: dict[str, Any] = {"norm": "rmsnorm", "mlp": "swiglu", "position": "rotary"}


def llama_config(settings: Settings, dtype: torch.dtype) -> Config:
    biased, mlp_bias = flag(settings, "attention_bias", False), flag(settings, "mlp_bias", False)
    return llama_like(
        settings, dtype, mlp_bias, attention_bias=None if biased == mlp_bias else "all" if biased else "none"
    )


def mistral_config(settings: Settings, dtype: torch.dtype) -> Config:
    settings = {"num_key_value_heads": 8, "sliding_window": 4096, **settings}  # what a missing one means
    check_window(settings, "sliding_window", "max_position_embeddings")
    return llama_like(settings, dtype)


def qwen2_config(settings: Settings, dtype: torch.dtype) -> Config:
    settings = {"num_key_value_heads": 32, "sliding_window": 4096, **settings}
    if flag(settings, "use_sliding_window", False):
        check_window(settings, "sliding_window", "max_position_embeddings")
    return llama_like(settings, dtype, attention_bias="qkv")


def llama_like(settings: Settings, dtype: torch.dtype, bias: bool = False, attention_bias: str | None = None) -> Config:
    fixed(settings, hidden_act="silu")
    base, rule = rope_of(settings)
    d_model, n_head = size(settings, "hidden_size"), size(settings, "num_attention_heads")
    head_dim = settings.get("head_dim") and size(settings, "head_dim")
    config = Config(
        vocab_size=size(settings, "vocab_size"),
        d_model=d_model,
        n_layer=size(settings, "num_hidden_layers"),
        n_head=n_head,
        head_dim=head_dim if head_dim and head_dim * n_head != d_model else 0,
        n_kv_head=size(settings, "num_key_value_heads", n_head),
        d_ff=size(settings, "intermediate_size"),
        max_seq=size(settings, "max_position_embeddings"),
        norm_eps=number(settings, "rms_norm_eps", 1e-6),
        rotary_base=base,
        bias=bias,
        attention_bias=attention_bias,
        tie_embeddings=flag(settings, "tie_word_embeddings", False),
        dtype=dtype,
        **LLAMA,
    )
    return replace(config, rotary_factors=rule(config.head_dim))


def check_window(settings: Settings, window: str, longest: str) -> None:
    """Refuse attention to the last few tokens only; a window as long as the longest sequence is none."""
    if settings.get(window) is not None and (few := size(settings, window)) < (most := size(settings, longest)):
        raise ValueError(
            f"{window} must be at least {longest}={most}, for here attention reaches back to the beginning; got {few}. "
            f"Up to {few} tokens both are the same: write {longest}={few} into the model's settings"
        )


def rope_of(settings: Settings) -> tuple[float, Callable[[int], tuple[float, ...]]]:
    """Give the base of the rotary positions, and a function that gives a head's factors (see `Config`).

    They stand in `rope_theta` and `rope_scaling`, or since transformers 5 together in `rope_parameters`.
    """
    rope = {"rope_theta": settings.get("rope_theta", 10000.0)}
    kinds = set()
    for name in ("rope_scaling", "rope_parameters"):
        if not isinstance(part := settings.get(name) or {}, Mapping):
            raise ValueError(f"{name} must be a JSON object, got {part!r}")
        if part:
            rope |= part
            kinds.add(str(part.get("rope_type") or part.get("type") or "default"))
    if len(kinds) > 1:
        raise ValueError(f"rope_scaling and rope_parameters must be of one rope_type, got {sorted(kinds)}")
    fixed({**settings, **rope}, partial_rotary_factor=1.0)
    base, kind = number(rope, "rope_theta", 10000.0), next(iter(kinds), "default")
    if kind == "default":
        return base, lambda head_dim: ()
    if kind == "linear":
        factor = number(rope, "factor")
        return base, lambda head_dim: (factor,) * (head_dim // 2)
    if kind == "llama3":
        names = ("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings")
        factor, low, high, trained = (number(rope, name) for name in names)
        if not low < high:
            raise ValueError(f"low_freq_factor must be below high_freq_factor, got {low} and {high}")
        return base, lambda head_dim: llama3_factors(head_dim, base, factor, low, high, trained)
    raise ValueError(f"rope_type must be one of default, linear, llama3; got {kind!r}")


def llama_origins(config: Config) -> Origins:
    norms = {"attention_norm": same("input_layernorm"), "mlp_norm": same("post_attention_layernorm")}
    heads = {f"attention.{ours}": same(f"self_attn.{ours[0]}_proj") for ours in ("query", "key", "value")}
    mlp = {f"mlp.{name}": same(f"mlp.{name}_proj") for name in ("gate", "up", "down")}
    block = {
        **weight_and_bias(heads, config.qkv_bias),
        **weight_and_bias({"attention.output": same("self_attn.o_proj")}, config.output_bias),
        **weight_and_bias(mlp, config.bias),
        **weight_and_bias(norms, bias=False),
    }
    return {
        "embedding.token.weight": same("embed_tokens.weight"),
        **per_block(config.n_layer, "layers.{}.", block),
        "norm.weight": same("norm.weight"),
        **({} if config.tie_embeddings else {"head.weight": same("lm_head.weight")}),
    }


# --- the same in GGUF -------------------------------------------------------------------------------------------------

ROPE_FREQS = "rope_freqs.weight"  # Llama 3's factors, in the file itself
ARCHITECTURES = ("llama", "qwen2")
BIASES = {"blk.0.attn_output.bias": "all", "blk.0.attn_q.bias": "qkv"}  # what a tensor says of the others


def gguf_config(facts: Settings, names: Collection[str], factors: Sequence[float], dtype: torch.dtype) -> Config:
    """Read the sizes of a Llama or Qwen2 from the facts of a GGUF file.

    names: of its tensors; it has its own output layer if there is one.  factors: what stands in `rope_freqs.weight`.
    """
    if (kind := facts.get("general.architecture")) not in ARCHITECTURES:
        raise ValueError(f"general.architecture must be one of {', '.join(ARCHITECTURES)}; got {kind!r}")
    its = {name.removeprefix(f"{kind}."): value for name, value in facts.items() if name.startswith(f"{kind}.")}
    scaling = its.get("rope.scaling.type")
    if scaling not in (None, "none", "linear"):
        raise ValueError(f"{kind}.rope.scaling.type must be none or linear, got {scaling!r}")
    fixed(its, expert_count=0)
    d_model, n_head = size(its, "embedding_length"), size(its, "attention.head_count")
    head_dim = size(its, "attention.key_length", d_model // n_head)
    config = Config(
        vocab_size=len(need(facts, "tokenizer.ggml.tokens")),
        d_model=d_model,
        n_layer=size(its, "block_count"),
        n_head=n_head,
        head_dim=head_dim if head_dim * n_head != d_model else 0,
        n_kv_head=size(its, "attention.head_count_kv", n_head),
        d_ff=size(its, "feed_forward_length"),
        max_seq=size(its, "context_length"),
        norm_eps=number(its, "attention.layer_norm_rms_epsilon", 1e-5),
        rotary_base=number(its, "rope.freq_base", 10000.0),
        bias=False,
        attention_bias=next((biased for name, biased in BIASES.items() if name in names), None),
        tie_embeddings="output.weight" not in names,
        dtype=dtype,
        **LLAMA,
    )
    fixed(its, **{"rope.dimension_count": head_dim, "attention.value_length": head_dim})
    check_window(its, "attention.sliding_window", "context_length")
    stretch = number(its, "rope.scaling.factor") if scaling == "linear" else 1.0
    both = tuple(stretch * factor for factor in factors or [1.0] * (head_dim // 2))
    return config if set(both) == {1.0} else replace(config, rotary_factors=both)


def gguf_origins(config: Config, kind: str) -> Origins:
    """Name the tensors; the files of a Llama hold the rows of queries and keys in an order of their own."""
    query, key = same("attn_q"), same("attn_k")
    if kind == "llama":
        query, key = unpaired("attn_q", config.n_head), unpaired("attn_k", config.n_kv_head)
    heads = {"attention.query": query, "attention.key": key, "attention.value": same("attn_v")}
    others = {
        "attention_norm": same("attn_norm"),
        "mlp_norm": same("ffn_norm"),
        "mlp.gate": same("ffn_gate"),
        "mlp.up": same("ffn_up"),
        "mlp.down": same("ffn_down"),
    }
    block = {
        **weight_and_bias(heads, config.qkv_bias),
        **weight_and_bias({"attention.output": same("attn_output")}, config.output_bias),
        **weight_and_bias(others, bias=False),
    }
    return {
        "embedding.token.weight": same("token_embd.weight"),
        **per_block(config.n_layer, "blk.{}.", block),
        "norm.weight": same("output_norm.weight"),
        **({} if config.tie_embeddings else {"head.weight": same("output.weight")}),
    }


# --- BERT (Devlin et al. 2019) ----------------------------------------------------------------------------------------


def bert_config(settings: Settings, dtype: torch.dtype) -> Config:
    fixed(settings, position_embedding_type="absolute", is_decoder=False)
    return Config(
        vocab_size=size(settings, "vocab_size"),
        d_model=size(settings, "hidden_size"),
        n_layer=size(settings, "num_hidden_layers"),
        n_head=size(settings, "num_attention_heads"),
        d_ff=size(settings, "intermediate_size"),
        max_seq=size(settings, "max_position_embeddings"),
        norm_first=False,
        norm_eps=number(settings, "layer_norm_eps", 1e-12),
        mlp=activation(settings, "hidden_act"),
        causal=False,
        dtype=dtype,
    )


def bert_encoder(settings: Settings, config: Config) -> nn.Module:
    return TextEncoder(config, n_segment=size(settings, "type_vocab_size", 2))


def bert_origins(config: Config) -> Origins:
    block = weight_and_bias(
        {
            "attention.query": same("attention.self.query"),
            "attention.key": same("attention.self.key"),
            "attention.value": same("attention.self.value"),
            "attention.output": same("attention.output.dense"),
            "attention_norm": same("attention.output.LayerNorm"),
            "mlp.up": same("intermediate.dense"),
            "mlp.down": same("output.dense"),
            "mlp_norm": same("output.LayerNorm"),
        }
    )
    return {
        "embedding.token.weight": same("embeddings.word_embeddings.weight"),
        "embedding.position.weight": same("embeddings.position_embeddings.weight"),
        "segment.weight": same("embeddings.token_type_embeddings.weight"),
        **weight_and_bias({"embedding_norm": same("embeddings.LayerNorm")}),
        **per_block(config.n_layer, "encoder.layer.{}.", block),
    }


ROTARY = r"layers\.\d+\.self_attn\.rotary_emb\.inv_freq"
FAMILIES = {
    "gpt2": Family(gpt2_config, decoder, gpt2_origins, "wte.weight", "transformer.", r"h\.\d+\.attn\.(masked_)?bias"),
    "llama": Family(llama_config, decoder, llama_origins, "embed_tokens.weight", "model.", ROTARY),
    "mistral": Family(mistral_config, decoder, llama_origins, "embed_tokens.weight", "model.", ROTARY),
    "qwen2": Family(qwen2_config, decoder, llama_origins, "embed_tokens.weight", "model.", ROTARY),
    "bert": Family(
        bert_config,
        bert_encoder,
        bert_origins,
        "embeddings.word_embeddings.weight",
        "bert.",
        r"pooler\..*|cls\..*|embeddings\.position_ids",
    ),
}
