"""Sizes of well-known models by name: facts with their sources, in `data/models/models.csv`.

Only models that `Config` can express are in the table. What it cannot hold (a norm more, a bias fewer) is in the row's
note, and its `tolerance` says how far the count of parameters may then be from the published one.
"""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from typing import Any

from llmlab.arguments import instance, string
from llmlab.cost.arrays import ModelLike
from llmlab.hardware.facts import read_facts
from llmlab.model.config import Config

SIZES = ("n_layer", "d_model", "n_head", "n_kv_head", "d_ff", "vocab_size", "max_seq")
CHOICES = ("norm", "mlp", "position")
READ = ("n_layer", "d_model", "n_head", "n_kv_head", "head_dim", "d_ff", "vocab_size", "mlp")  # as in `ModelLike`
SWITCHES = ("bias", "tie_embeddings")
EXPERTS = ("n_expert", "n_expert_active", "n_expert_shared")


@dataclass(frozen=True)
class PublishedModel:
    """A model's sizes, the parameters its source counts (None: nobody has), and how far ours may be off, as a share."""

    name: str
    config: Config
    published_params: float | None
    tolerance: float
    source: str
    note: str


def model_names() -> list[str]:
    """The names that `find_config` knows, family by family."""
    return [row["name"] for row in _table().values()]


def find_config(name_or_config: str | Config) -> Config:
    """Give the sizes of a published model, `find_config("llama3-70b")`; case, blanks and dashes are forgiven.

    A Config passes as it is: whatever takes sizes takes a name too. Raises ValueError with the nearest names.
    """
    if isinstance(name_or_config, str):
        return find_model(name_or_config).config
    return instance("find_config", "config", name_or_config, Config, "or a published model's name, 'llama3-70b'")


def find_sizes(name_or_sizes: str | ModelLike) -> ModelLike:
    """Give what a closed form reads: of a name the published sizes, else what was given, if it has them."""
    if not isinstance(name_or_sizes, str) and all(hasattr(name_or_sizes, size) for size in READ):
        return name_or_sizes
    return find_config(name_or_sizes)  # type: ignore[arg-type]  # which refuses what is neither


def find_model(name: str) -> PublishedModel:
    """Give a published model with its source. Raises ValueError with the nearest names."""
    rows, key = _table(), _key(string("find_model", "name", name))
    if key not in rows:
        near = [rows[k]["name"] for k in get_close_matches(key, rows, n=3, cutoff=0.5)]
        known = f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(model_names())}"
        raise ValueError(f"no published model is called {name!r}; {known}")
    return _model(rows[key])


def _key(name: str) -> str:
    """`LLaMA-3 70B`, `llama3-70b` and `llama_3_70b` are one name."""
    return "".join(letter for letter in str(name).lower() if letter.isalnum() or letter == ".")


@cache
def _table() -> dict[str, dict[str, str]]:
    return {_key(row["name"]): row for row in read_facts("models", "models.csv")}


def _model(row: dict[str, str]) -> PublishedModel:
    sizes: dict[str, Any] = {name: int(row[name]) for name in SIZES}
    sizes |= {name: row[name] for name in CHOICES} | {name: row[name] == "yes" for name in SWITCHES}
    if row["n_expert"]:
        sizes |= {name: int(row[name]) for name in EXPERTS}
    published = float(row["published_params"]) if row["published_params"] else None
    return PublishedModel(
        row["name"], Config(**sizes), published, float(row["tolerance"] or 0), row["source"], row["note"]
    )
