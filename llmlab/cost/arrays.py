"""One step or many in one pass: what a closed form takes is a number, or an array of them with an entry for each step.

The formulas are the same for both, so these few types serve all of them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Protocol, TypeAlias

import numpy as np

from llmlab.parallel.layout import Layout

Numbers: TypeAlias = float | np.ndarray
Counts: TypeAlias = int | np.ndarray  # booleans among them
Words: TypeAlias = str | np.ndarray
ByName: TypeAlias = dict[str, Numbers]  # seconds by cause, bytes by category


class ModelLike(Protocol):
    """Sizes that every closed form reads: a `Config`'s, or `ModelColumns`.

    Read where they are there, else as in a dense GPT: n_expert, n_expert_active, n_expert_shared, dropout,
    tie_embeddings; what else `ModelSizes` has (leading dense layers, latent attention, windows); and position with
    max_seq, without which no table of positions is counted.
    """

    @property
    def n_layer(self) -> Counts: ...
    @property
    def d_model(self) -> Counts: ...
    @property
    def n_head(self) -> Counts: ...
    @property
    def n_kv_head(self) -> Counts: ...
    @property
    def head_dim(self) -> Numbers: ...  # of published models not always whole
    @property
    def d_ff(self) -> Counts: ...
    @property
    def vocab_size(self) -> Counts: ...
    @property
    def mlp(self) -> Words: ...


class LayoutLike(Protocol):
    """The fields of a `Layout`: of one, or of many in `LayoutColumns`."""

    @property
    def dp(self) -> Counts: ...
    @property
    def tp(self) -> Counts: ...
    @property
    def pp(self) -> Counts: ...
    @property
    def cp(self) -> Counts: ...
    @property
    def ep(self) -> Counts: ...
    @property
    def zero(self) -> Counts: ...
    @property
    def sequence_parallel(self) -> Counts: ...
    @property
    def schedule(self) -> Words: ...
    @property
    def microbatches(self) -> Counts: ...
    @property
    def virtual_stages(self) -> Counts: ...
    @property
    def context(self) -> Words: ...


@dataclass(frozen=True)
class ModelColumns:
    """The sizes of many models: one array for each, an entry for each model."""

    n_layer: np.ndarray
    d_model: np.ndarray
    n_head: np.ndarray
    n_kv_head: np.ndarray
    head_dim: np.ndarray
    d_ff: np.ndarray
    vocab_size: np.ndarray
    mlp: np.ndarray
    dropout: np.ndarray
    tie_embeddings: np.ndarray
    n_expert: np.ndarray
    n_expert_active: np.ndarray
    n_expert_shared: np.ndarray
    # what else `ModelSizes` has: none, unless a table says so
    n_dense: Counts = 0
    d_ff_dense: Counts = 0
    d_ff_shared: Counts = 0
    expert_every: Counts = 1
    q_lora_rank: Counts = 0
    kv_lora_rank: Counts = 0
    rope_head_dim: Counts = 0
    v_head_dim: Counts = 0
    window: Counts = 0
    window_every: Counts = 0


@dataclass(frozen=True)
class LayoutColumns:
    """Many layouts: one array for each field of `Layout`, an entry for each layout."""

    dp: np.ndarray
    tp: np.ndarray
    pp: np.ndarray
    cp: np.ndarray
    ep: np.ndarray
    zero: np.ndarray
    sequence_parallel: np.ndarray
    schedule: np.ndarray
    microbatches: np.ndarray
    virtual_stages: np.ndarray
    context: np.ndarray

    def __len__(self) -> int:
        return len(self.dp)

    def at(self, i: int) -> Layout:
        """The i-th as a Layout, of Python's own numbers."""
        return Layout(**{name: getattr(self, name)[i].item() for name in LAYOUT_FIELDS})

    def take(self, rows: np.ndarray) -> LayoutColumns:
        """Some of them: where `rows` is True, or those it numbers, in its order."""
        return LayoutColumns(**{name: getattr(self, name)[rows] for name in LAYOUT_FIELDS})


LAYOUT_FIELDS = tuple(field.name for field in fields(LayoutColumns))


def columns(layouts: Sequence[Layout]) -> LayoutColumns:
    """Turn layouts into columns."""
    return LayoutColumns(**{name: np.array([getattr(each, name) for each in layouts]) for name in LAYOUT_FIELDS})
