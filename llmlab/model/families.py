"""GPT-2, Llama and BERT in our modules: what each calls its sizes and its weights.

Settings are read strictly: a switch that changes the computation in a way not known here is refused, not passed over.
Names are those of Hugging Face's files, and for GGUF those of llama.cpp. Dropout is not carried over: it is a choice
of whoever trains.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from llmlab.model.config import Config
from llmlab.model.origins import Origins, per_block, same, third, transposed, unpaired, weight_and_bias
from llmlab.model.text_encoder import TextEncoder
from llmlab.model.transformer import Transformer

Settings = Mapping[str, Any]
ACTIVATIONS = {"gelu": "gelu", "gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "relu": "relu"}


@dataclass(frozen=True)
class Family:
    """How models of a family are made and named. `prefix` may precede names; what is `ignored` is no weight of ours."""

    config: Callable[[Settings, torch.dtype], Config]
    build: Callable[[Settings, Config], nn.Module]
    origins: Callable[[Config], Origins]
    prefix: str = ""
    ignored: str = r"$^"

    def drops(self, name: str, config: Config) -> bool:
        """Whether a stored tensor is a constant, a head for a task, or a second copy of a tied table."""
        return bool(re.fullmatch(self.ignored, name)) or (config.tie_embeddings and name == "lm_head.weight")


def decoder(settings: Settings, config: Config) -> nn.Module:
    return Transformer(config)


# --- reading settings -------------------------------------------------------------------------------------------------


def need(settings: Settings, name: str) -> Any:
    """Give a setting that has no default."""
    if settings.get(name) is None:
        raise ValueError(f"the model's settings must give {name!r}, got {sorted(settings)[:40]}")
    return settings[name]


def size(settings: Settings, name: str, default: int | None = None) -> int:
    """Give a setting that is a count."""
    value = need(settings, name) if default is None else settings.get(name) or default
    if type(value) is not int or value < 1:
        raise ValueError(f"{name} must be an integer of at least 1, got {value!r}")
    return value


def flag(settings: Settings, name: str, default: bool) -> bool:
    """Give a setting that is a switch."""
    if not isinstance(value := settings.get(name, default), bool):
        raise ValueError(f"{name} must be true or false, got {value!r}")
    return value


def fixed(settings: Settings, **wanted: Any) -> None:
    """Refuse settings that differ from the only value known here, which is also what a missing one means."""
    for name, value in wanted.items():
        if settings.get(name, value) not in (value, None):
            raise ValueError(
                f"{name} must be {value!r} for the modules here to compute the same, got {settings[name]!r}"
            )


def number(settings: Settings, name: str, default: float) -> float:
    """Give a setting that is a positive number."""
    value = settings.get(name, default)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 < value < float("inf"):
        raise ValueError(f"{name} must be a number above 0, got {value!r}")
    return float(value)


def activation(settings: Settings, name: str) -> str:
    """Give our name of an activation."""
    if (theirs := need(settings, name)) not in list(ACTIVATIONS):
        raise ValueError(f"{name} must be one of {', '.join(ACTIVATIONS)}; got {theirs!r}")
    return ACTIVATIONS[theirs]


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


# --- Llama (Touvron et al. 2023) --------------------------------------------------------------------------------------


def llama_config(settings: Settings, dtype: torch.dtype) -> Config:
    n_head = size(settings, "num_attention_heads")
    biased = flag(settings, "attention_bias", False)
    rope = {**settings, **(settings.get("rope_scaling") or {}), **(settings.get("rope_parameters") or {})}
    fixed(rope, rope_type="default", type="default", partial_rotary_factor=1.0)
    fixed(settings, hidden_act="silu", mlp_bias=biased)
    config = Config(
        vocab_size=size(settings, "vocab_size"),
        d_model=size(settings, "hidden_size"),
        n_layer=size(settings, "num_hidden_layers"),
        n_head=n_head,
        n_kv_head=size(settings, "num_key_value_heads", n_head),
        d_ff=size(settings, "intermediate_size"),
        max_seq=size(settings, "max_position_embeddings"),
        norm_eps=number(settings, "rms_norm_eps", 1e-6),
        rotary_base=number(rope, "rope_theta", 10000.0),
        bias=biased,
        tie_embeddings=flag(settings, "tie_word_embeddings", False),
        dtype=dtype,
        **LLAMA,
    )
    fixed(settings, head_dim=config.head_dim)
    return config


LLAMA: dict[str, Any] = {"norm": "rmsnorm", "mlp": "swiglu", "position": "rotary"}


def llama_origins(config: Config) -> Origins:
    linears = {
        "attention.query": same("self_attn.q_proj"),
        "attention.key": same("self_attn.k_proj"),
        "attention.value": same("self_attn.v_proj"),
        "attention.output": same("self_attn.o_proj"),
        "mlp.gate": same("mlp.gate_proj"),
        "mlp.up": same("mlp.up_proj"),
        "mlp.down": same("mlp.down_proj"),
    }
    norms = {"attention_norm": same("input_layernorm"), "mlp_norm": same("post_attention_layernorm")}
    block = weight_and_bias(linears, config.bias) | weight_and_bias(norms, bias=False)
    return {
        "embedding.token.weight": same("embed_tokens.weight"),
        **per_block(config.n_layer, "layers.{}.", block),
        "norm.weight": same("norm.weight"),
        **({} if config.tie_embeddings else {"head.weight": same("lm_head.weight")}),
    }


def gguf_config(facts: Settings, tied: bool, dtype: torch.dtype) -> Config:
    """Read a Llama's sizes from the facts of a GGUF file; it has its own output layer unless `tied`."""
    fixed(facts, **{"general.architecture": "llama", "llama.rope.scaling.type": "none"})
    n_head = size(facts, "llama.attention.head_count")
    config = Config(
        vocab_size=len(need(facts, "tokenizer.ggml.tokens")),
        d_model=size(facts, "llama.embedding_length"),
        n_layer=size(facts, "llama.block_count"),
        n_head=n_head,
        n_kv_head=size(facts, "llama.attention.head_count_kv", n_head),
        d_ff=size(facts, "llama.feed_forward_length"),
        max_seq=size(facts, "llama.context_length"),
        norm_eps=number(facts, "llama.attention.layer_norm_rms_epsilon", 1e-5),
        rotary_base=number(facts, "llama.rope.freq_base", 10000.0),
        bias=False,
        tie_embeddings=tied,
        dtype=dtype,
        **LLAMA,
    )
    fixed(facts, **{"llama.rope.dimension_count": config.head_dim, "llama.attention.key_length": config.head_dim})
    return config


def gguf_origins(config: Config) -> Origins:
    layers = {
        "attention_norm": same("attn_norm"),
        "attention.query": unpaired("attn_q", config.n_head),
        "attention.key": unpaired("attn_k", config.n_kv_head),
        "attention.value": same("attn_v"),
        "attention.output": same("attn_output"),
        "mlp_norm": same("ffn_norm"),
        "mlp.gate": same("ffn_gate"),
        "mlp.up": same("ffn_up"),
        "mlp.down": same("ffn_down"),
    }
    return {
        "embedding.token.weight": same("token_embd.weight"),
        **per_block(config.n_layer, "blk.{}.", weight_and_bias(layers, bias=False)),
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


FAMILIES = {
    "gpt2": Family(gpt2_config, decoder, gpt2_origins, "transformer.", r"h\.\d+\.attn\.(masked_)?bias"),
    "llama": Family(llama_config, decoder, llama_origins, "model.", r"layers\.\d+\.self_attn\.rotary_emb\.inv_freq"),
    "bert": Family(bert_config, bert_encoder, bert_origins, "bert.", r"pooler\..*|cls\..*|embeddings\.position_ids"),
}
