"""A pipeline's stages: which blocks a rank keeps, and what one stage computes of a microbatch. Seam: `blocks`.

    stage 0: embedding, blocks | stage 1: blocks | ... | last stage: blocks, final norm, output layer

Huang et al. 2019, "GPipe", section 2.1 (a partition of consecutive layers).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import accumulate

from torch import Tensor, nn

from llmlab.arguments import listing, whole, wholes
from llmlab.model import IGNORE, KVCache, Transformer
from llmlab.parallel.microbatches import Microbatch
from llmlab.parallel.schedules import Schedule


@dataclass
class Stage:
    """Consecutive blocks, and what of embedding, norm and output layer goes with them."""

    model: Transformer
    blocks: list[nn.Module]
    first: bool
    last: bool
    parameters: list[nn.Parameter] = field(default_factory=list)

    def forward(self, batch: Microbatch, x: Tensor | None) -> tuple[Tensor | None, Tensor | None]:
        """Compute (what the next stage takes, this stage's part of the loss sum); None where there is no such thing.

        x: [b, t, D] from the stage before; the first stage takes the tokens. The last stage's part is the
        cross-entropy; a stage with experts adds their balancing loss.
        """
        model, x = self.model, self.features(batch, x)
        if not self.last:
            return x, model.balance_loss(batch.targets, "sum", self.blocks)
        return None, model.loss_of(model.head(x), batch.targets, "sum", self.blocks)

    def features(
        self, batch: Microbatch, x: Tensor | None, caches: Mapping[nn.Module, KVCache] | None = None
    ) -> Tensor:
        """Compute what the next stage takes, or on the last the output layer: [b, t, D]."""
        model, positions = self.model, batch.positions
        assert positions is not None
        if self.first:
            x = model.embedding(batch.tokens, positions)
        assert x is not None
        held = None if caches is None else [caches[block] for block in self.blocks]
        with model.place.counting(batch.targets != IGNORE):
            x = model.through(self.blocks, x, positions, batch.mask, held)
        return model.norm(x) if self.last else x


def split_layers(n_layer: int, stages: int, split: Sequence[int] | None = None) -> list[int]:
    """Give the number of blocks of each stage: as even as can be, the first ones longer, or `split` if it fits."""
    wholes("split_layers", 1, n_layer=n_layer, stages=stages)
    share, rest = divmod(n_layer, stages)
    even = [share + (stage < rest) for stage in range(stages)]
    given = even if split is None else listing("a pipeline", "split", split, "layers for each stage")
    sizes = [whole("a pipeline", "split", size) for size in given]
    if len(sizes) != stages or sum(sizes) != n_layer or min(sizes) < 1:
        raise ValueError(
            f"split wants {stages} numbers of at least 1 that add up to n_layer={n_layer}, a stage each; got {sizes}"
        )
    return sizes


def cut(model: Transformer, schedule: Schedule, rank: int, sizes: Sequence[int]) -> dict[int, Stage]:
    """Make this rank's stages and let the model forget all else. Names stay: block 3 is `blocks.3` wherever it is."""
    blocks, starts, end = list(model.blocks), [0, *accumulate(sizes)], schedule.stages - 1
    here = [stage for stage in range(schedule.stages) if schedule.rank_of(stage) == rank]
    stages = {s: Stage(model, blocks[starts[s] : starts[s + 1]], s == 0, s == end) for s in here}
    kept = {block for stage in stages.values() for block in stage.blocks}
    for name, block in list(model.blocks.named_children()):
        if block not in kept:
            del model.blocks._modules[name]  # `del model.blocks[i]` would number the others anew
    for name, stage in (("embedding", 0), ("norm", end), ("head", end)):
        if stage not in stages:
            setattr(model, name, None)
    note_parameters(stages)
    return stages


def note_parameters(stages: Mapping[int, Stage]) -> None:
    """Note each stage's parameters; a tied table that two stages of one rank hold belongs to the first."""
    seen: set[nn.Parameter] = set()
    for _, stage in sorted(stages.items()):
        ends = [stage.model.embedding] * stage.first + [stage.model.norm, stage.model.head] * stage.last
        for parameter in [p for module in [*ends, *stage.blocks] for p in module.parameters()]:
            if parameter not in seen:
                seen.add(parameter)
                stage.parameters.append(parameter)
