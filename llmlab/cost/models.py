"""Sizes of well-known models by name: facts with their sources, in `data/models/models.csv`.

Most are what `Config` can express, and can be built; of the others (latent attention, leading dense layers, windows)
there are `ModelSizes`, which the closed forms price and no engine runs. What neither holds (a norm more, a bias fewer)
is in the row's note, and its `tolerance` says how far the count of parameters may then be from the published one.
"""

from __future__ import annotations

from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from typing import Any

from llmlab.arguments import instance, string
from llmlab.cost.arrays import ModelLike
from llmlab.cost.model_sizes import ModelSizes
from llmlab.hardware.facts import read_facts
from llmlab.model.config import Config

SIZES = ("n_layer", "d_model", "n_head", "n_kv_head", "d_ff", "vocab_size")
BEYOND = (  # what a Config has no word for
    "norms", "n_dense", "d_ff_dense", "d_ff_shared", "expert_every", "q_lora_rank", "kv_lora_rank", "rope_head_dim",
    "v_head_dim", "window", "window_every",
)  # fmt: skip
CHOICES = ("norm", "mlp")
READ = ("n_layer", "d_model", "n_head", "n_kv_head", "head_dim", "d_ff", "vocab_size", "mlp")  # as in `ModelLike`
EXPERTS = ("n_expert", "n_expert_active", "n_expert_shared")


@dataclass(frozen=True)
class PublishedModel:
    """A model's sizes, the parameters its source counts (None: nobody has), and how far ours may be off, as a share.

    `published_active`: those that a token goes through, of a mixture of experts.
    """

    name: str
    config: Config | ModelSizes
    published_params: float | None
    published_active: float | None
    tolerance: float
    source: str
    note: str


def model_names() -> list[str]:
    """The names that `find_config` knows, family by family."""
    return [row["name"] for row in _table().values()]


def find_config(name_or_config: str | Config) -> Config:
    """Give the sizes of a published model, `find_config("llama3-70b")`; case, blanks and dashes are forgiven.

    A Config passes as it is: whatever takes sizes takes a name too. Raises ValueError with the nearest names, and for
    a model that no engine here can run.
    """
    if isinstance(name_or_config, str):
        name_or_config = find_model(name_or_config).config  # type: ignore[assignment]
    if isinstance(name_or_config, ModelSizes):
        raise ValueError(
            "a Config has no latent attention, leading dense layers or windows: such a model is not run here; "
            "lab.predict and lab.plan price it by its name, and llmlab.cost.models.find_sizes gives its sizes"
        )
    return instance("find_config", "config", name_or_config, Config, "or a published model's name, 'llama3-70b'")


def find_sizes(name_or_sizes: str | ModelLike) -> ModelLike:
    """Give what a closed form reads: of a name the published sizes, else what was given, if it has them."""
    if isinstance(name_or_sizes, str):
        return find_model(name_or_sizes).config
    if all(hasattr(name_or_sizes, size) for size in READ):
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
    sizes |= {name: row[name] for name in CHOICES} | {"tie_embeddings": row["tie_embeddings"] == "yes"}
    sizes |= {name: int(row[name]) for name in (*EXPERTS, "head_dim", *BEYOND) if row[name]}
    # a model whose row states how far it reaches can be built
    builds = not any(row[name] for name in BEYOND) and row["max_seq"]
    more: dict[str, Any] = {"max_seq": int(row["max_seq"]), "position": row["position"]} if builds else {}
    made = Config(**sizes, **more, bias=row["bias"] == "yes") if builds else ModelSizes(**sizes)
    return PublishedModel(
        row["name"], made, _number(row["published_params"]), _number(row["published_active"]),
        float(row["tolerance"] or 0), row["source"], row["note"],
    )  # fmt: skip


def _number(text: str) -> float | None:
    return float(text) if text else None
