"""A model trained here, in Hugging Face's layout: `transformers` opens it, and so does `lab.load_pretrained`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from llmlab.arguments import instance
from llmlab.checkpoint.exchange import everyones
from llmlab.checkpoint.storing import write_tensors
from llmlab.model import Config, Transformer
from llmlab.model.families import LLAMA, llama_config, llama_origins
from llmlab.parallel.step import Step

WANTED = "Config(norm='rmsnorm', mlp='swiglu', position='rotary', bias=False)"


def export(folder: str | Path, target: Step | Transformer) -> Path:
    """Write config.json and model.safetensors of a model of Llama's kind; every rank of a step calls it, rank 0 writes.

    The tokenizer is yours to keep beside it. Raises ValueError for a model that Llama's layout cannot say, and for a
    folder that holds one already.
    """
    instance("export", "folder", folder, (str, Path))
    instance("export", "target", target, (Step, Transformer), "the step that `parallelize` gave, or a whole model")
    step = isinstance(target, Step)
    model = target.model if isinstance(target, Step) else target
    if not step and "layout" in vars(model):
        raise ValueError("export wants, of a model that parallelize has laid out, the step that it gave")
    settings = settings_of(model.config)
    world = target.axes.world if isinstance(target, Step) else None
    path, error = Path(folder), None
    weights = target.state_dict()  # on every rank: it is gathered
    if world is None or world.rank == 0:
        try:
            _write(path, settings, weights, model.config)
        except OSError as found:
            error = str(found)
    if error := everyones(world, error)[0]:
        raise OSError(f"the model was not exported: {error}")
    return path


def settings_of(config: Config) -> dict[str, Any]:
    """What config.json of a Llama says for these sizes. Raises ValueError where Llama has no word for it."""
    found = {
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu",
        "vocab_size": config.vocab_size, "hidden_size": config.d_model, "num_hidden_layers": config.n_layer,
        "num_attention_heads": config.n_head, "num_key_value_heads": config.n_kv_head, "head_dim": int(config.head_dim),
        "intermediate_size": config.d_ff, "max_position_embeddings": config.max_seq, "rms_norm_eps": config.norm_eps,
        "rope_theta": config.rotary_base, "mlp_bias": config.bias, "attention_bias": config.output_bias,
        "tie_word_embeddings": config.tie_embeddings, "torch_dtype": str(config.dtype).removeprefix("torch."),
    }  # fmt: skip
    if any(getattr(config, name) != value for name, value in LLAMA.items()) or config.n_expert:
        raise ValueError(f"export wants a model of Llama's kind, such as {WANTED}; got {config}")
    if config.rotary_factors or not config.causal or config.qkv_bias != config.output_bias:
        raise ValueError(f"export wants a causal model with plain rotary positions and biases alike; got {config}")
    again = llama_config(found, config.dtype)
    for name in ("n_param", "d_ff", "n_kv_head", "head_dim"):
        assert getattr(again, name) == getattr(config, name), name
    return found


def _write(folder: Path, settings: dict[str, Any], weights: dict[str, Tensor], config: Config) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "config.json").open("x", encoding="utf-8") as file:
        json.dump(settings, file, indent=1)
    origins = llama_origins(config)
    stored = {
        origin.name if origin.name == "lm_head.weight" else f"model.{origin.name}": weights[ours]
        for ours, origin in origins.items()
    }
    with torch.no_grad():
        write_tensors(folder / "model.safetensors", stored)
