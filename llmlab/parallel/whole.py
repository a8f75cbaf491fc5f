"""A split model used as the whole one: logits, losses and texts of all of it, on every rank, forward only.

    tokens [B, T] on every rank --> this rank's tokens --> stage after stage --> logits [B, t, v] on the last stage
                                                                                 | cp: put the tokens in order
    logits [B, T, V] on every rank  <-- pp, dp: broadcast  <-- [B, T, V] <-------' tp: gather the vocabulary

A loss needs no logits elsewhere: the ranks' sums are added up. A length that does not split is filled up at its end,
where nobody looks. Each mode notes on the model how it is split now (`note_split`). Seam: `whole`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from math import lcm
from typing import Any, NoReturn

import torch
from torch import Tensor, nn

from llmlab.comm.group import Group
from llmlab.evaluate import evaluating
from llmlab.model import KVCache, Transformer
from llmlab.parallel.microbatches import Microbatch, check_batch
from llmlab.parallel.stages import Stage
from llmlab.parallel.vocabulary import whole_logits

Read = Callable[[Microbatch, Tensor], Tensor]  # (a microbatch, what the output layer reads of it) -> what is wanted
Caches = Mapping[nn.Module, KVCache]  # of each block held here


@dataclass(eq=False)
class SplitModel:
    """What a model's ranks do together as one. All call alike, with the same arguments, and all get the same.

    tp: splits the vocabulary, and with `sequence_parallel` the tokens between the regions.  cp, columns, slices: splits
    every sequence, which `slices` must divide, into the tokens `columns(length)`.  pp, last, run, pieces: stages, the
    last one on rank `last`, through which `run` takes up to `pieces` microbatches.  dp: shares out the rows of what is
    scored.  autocast: computes in this dtype.
    """

    model: Transformer
    tp: Group | None = None
    sequence_parallel: bool = False
    cp: Group | None = None
    columns: Callable[[int], Tensor] = torch.arange
    slices: int = 1
    pp: Group | None = None
    last: int = 0
    run: Callable[[Sequence[Microbatch], Read, Caches | None], list[Tensor]] | None = None
    pieces: int = 1
    dp: Group | None = None
    autocast: torch.dtype | None = None

    def __repr__(self) -> str:
        groups = {"tp": self.tp, "cp": self.cp, "pp": self.pp, "dp": self.dp}
        degrees = [f"{name}={group.size}" for name, group in groups.items() if group is not None]
        return f"SplitModel({', '.join(degrees + ['sequence_parallel'] * self.sequence_parallel)})"

    def logits(self, tokens: Tensor, positions: Tensor | None = None, mask: Tensor | None = None) -> Tensor:
        """[B, T] -> [B, T, V], in evaluation mode and without gradients: to train, there is the step.

        positions: [T] or [B, T].  mask: [B or 1, 1, T or 1, T].  Raises ValueError, on every rank, for what does not
        fit.
        """
        return self._logits(self._batch(tokens, tokens, positions, mask), slice(None))

    def last_logits(
        self,
        tokens: Tensor,
        positions: Tensor | None = None,
        mask: Tensor | None = None,
        caches: Sequence[KVCache] | None = None,
        rows: Tensor | None = None,
    ) -> Tensor:
        """Compute the logits of the token after the last, [B, T] -> [B, V]; `caches` hold what came before.

        rows: the logits of these sequences only, [C, V], as one piece.
        """
        before = caches[0].length if caches else 0
        batch = self._batch(tokens, tokens, positions, mask, before)
        known = dict(zip(self.model.blocks, caches, strict=True)) if caches else None
        return self._logits(batch, slice(-1, None), known, rows)[:, 0]

    def loss_sum(
        self, tokens: Tensor, targets: Tensor, positions: Tensor | None = None, mask: Tensor | None = None
    ) -> Tensor:
        """Compute the cross-entropy in nats, summed over the targets: no label smoothing, no balancing loss."""
        batch = self._batch(tokens, targets, positions, mask)
        if self.dp is not None:
            batch = batch.share(self.dp.rank, self.dp.size)
        batch, _ = self._cut(batch)
        model, found = self.model, torch.zeros((), dtype=self._sum_dtype(), device=self._device())

        def read(part: Microbatch, x: Tensor) -> Tensor:
            return model.cross_entropy(model.head(x), part.targets, label_smoothing=0.0, reduction="sum")

        for loss in self._forward(batch, read):
            found += loss
        for group in (self.cp, self.pp, self.dp):
            found = found if group is None else group.all_reduce(found)
        return found

    def make_caches(self, batch: int, length: int) -> list[KVCache] | None:
        """Make an empty cache for each block held here, of this rank's key heads.

        None where the tokens of a text are spread over ranks (context and sequence parallelism): it is read anew for
        every token.
        """
        if self._splits_tokens:
            return None
        config, like = self.model.config, next(self.model.parameters())
        n_head = config.n_kv_head if self.tp is None else max(1, config.n_kv_head // self.tp.size)
        shape = (batch, n_head, length, config.head_dim)
        return [KVCache(like.new_empty(shape), like.new_empty(shape)) for _ in self.model.blocks]

    # --- inside -----------------------------------------------------------------------------------------------------

    @property
    def _splits_tokens(self) -> bool:
        return self.cp is not None or self.sequence_parallel

    def _batch(
        self, tokens: Tensor, targets: Tensor, positions: Tensor | None, mask: Tensor | None, before: int = 0
    ) -> Microbatch:
        """Fill in what was left out, and refuse what does not fit: on every rank alike, before anything is sent."""
        if mask is not None and mask.dim() == 4 and mask.shape[2] == 1:
            mask = mask.expand(-1, -1, tokens.shape[-1], -1)
        check_batch(self.model, Microbatch(tokens, targets, positions, mask), before)
        if positions is None:
            positions = torch.arange(before, before + tokens.shape[1])
        return Microbatch(tokens, targets, positions, mask)

    def _cut(self, batch: Microbatch) -> tuple[Microbatch, Tensor]:
        """Give this rank's tokens of every sequence, and their numbers."""
        if not self._splits_tokens:
            return batch.on(self._device()), torch.arange(batch.tokens.shape[1])
        regions = self.tp.size if self.tp is not None and self.sequence_parallel else 1
        multiple = lcm(self.slices, regions * (1 if self.cp is None else self.cp.size))
        batch = batch.filled_up(multiple, hidden=not self.model.config.causal)
        held = self.columns(batch.tokens.shape[1])
        return batch.columns(held).on(self._device()), held

    def _logits(
        self, batch: Microbatch, wanted: slice, caches: Caches | None = None, rows: Tensor | None = None
    ) -> Tensor:
        """Give the logits of the wanted columns [B, w, V], or of some rows [C, w, V], on every rank."""
        model, vocab_size = self.model, self.model.config.vocab_size
        kept = torch.arange(batch.tokens.shape[1])[wanted]
        here, held = self._cut(batch)

        def read(part: Microbatch, x: Tensor) -> Tensor:
            x = x if rows is None else x[rows]
            y = self._in_order(model.head(x), held, kept) if self._splits_tokens else model.head(x[:, wanted])
            return y if self.tp is None else whole_logits(y, vocab_size, self.tp)

        found = self._forward(here, read, caches, in_pieces=caches is None and rows is None)
        n = len(batch.tokens) if rows is None else len(rows)
        logits = torch.empty(n, len(kept), vocab_size, dtype=self._dtype(), device=self._device())
        logits = torch.cat(found).to(logits.dtype) if found else logits
        if self.pp is not None:
            logits = self.pp.broadcast(logits, self.last)
        # replicas have the same, unless their kernels add up in another order: whoever chooses by it chooses alike
        return logits if self.dp is None else self.dp.broadcast(logits, 0)

    def _in_order(self, y: Tensor, held: Tensor, kept: Tensor) -> Tensor:
        """Shard(1) of the tokens `held` -> Replicate, of the tokens `kept`: one rank has it, the others add 0."""
        if self.cp is None:
            return y[:, kept]
        whole = y.new_zeros(y.shape[0], y.shape[1] * self.cp.size, y.shape[2])
        whole[:, held] = y
        return self.cp.all_reduce(whole[:, kept])

    def _forward(
        self, batch: Microbatch, read: Read, caches: Caches | None = None, in_pieces: bool = True
    ) -> list[Tensor]:
        """Take a batch forward, in evaluation mode; give what `read` makes of each microbatch, on the last stage."""
        rows = torch.arange(len(batch.tokens))
        pieces = rows.tensor_split(min(self.pieces, len(rows))) if in_pieces else [rows]
        batches = [batch.rows(slice(int(piece[0]), int(piece[-1]) + 1)) for piece in pieces]
        with ExitStack() as stack:
            stack.enter_context(evaluating(self.model))
            if self.autocast is not None:
                stack.enter_context(torch.autocast(self._device().type, self.autocast))
            run = partial(forward_alone, self.model) if self.run is None else self.run
            return run(batches, read, caches)

    def _device(self) -> torch.device:
        return next(self.model.parameters()).device

    def _dtype(self) -> torch.dtype:
        return next(self.model.parameters()).dtype

    def _sum_dtype(self) -> torch.dtype:
        return torch.promote_types(self._dtype(), torch.float32)


def forward_alone(
    model: Transformer, batches: Sequence[Microbatch], read: Read, caches: Caches | None = None
) -> list[Tensor]:
    """Take microbatches forward through a model that is one stage."""
    stage = Stage(model, list(model.blocks), first=True, last=True)
    return [read(batch, stage.features(batch, None, caches)) for batch in batches]


# --- what a model knows of it -----------------------------------------------------------------------------------------


def note_split(model: Transformer, **how: Any) -> None:
    """Note on the model how it is split now: the fields of a `SplitModel`."""
    known = model.whole if isinstance(model.whole, SplitModel) else SplitModel(model)
    model.whole = replace(known, **how)


def check_not_split(call: str, model: Transformer, axis: str) -> None:
    """Refuse to split along one axis twice: a part would be taken for the whole."""
    if getattr(model.whole, axis, None) is not None:
        raise ValueError(f"{call} wants a model it has not split already, got {model.whole!r}")


def use_as_whole(model: Transformer, whole: SplitModel) -> None:
    """Let the split model itself give the whole one's logits, and refuse what would give but a part of the answer."""
    model.whole = whole
    model.forward = whole.logits  # type: ignore[method-assign, assignment]
    for name in ("loss", "features", "last_logits", "make_caches"):
        setattr(model, name, partial(refused, name, whole))


def refused(name: str, whole: SplitModel, *args: Any, **kwargs: Any) -> NoReturn:
    raise ValueError(
        f"model.{name} wants a model in one piece, got a part of one, {whole!r}: to train, call step(tokens, targets); "
        "for the loss, step.evaluate(batches); for logits, step.logits(tokens); for text, step.generate(prompt_ids)"
    )


def refuse_state(model: nn.Module, *args: Any) -> NoReturn:
    """Stand before the state_dict of a model of which a rank holds a part."""
    raise ValueError(
        "model.state_dict wants a model in one piece, got a part of one: "
        "step.state_dict() gives the whole model's weights"
    )
