"""ZeRO stage 3: weights are whole while a unit computes, and sharded in between.

    forward     all_gather -> compute -> free                                  and meanwhile all_gather
    backward    all_gather -> compute -> free; reduce_scatter the gradient     for the next unit on the way

Rajbhandari et al. 2020, section 5.3; Zhao et al. 2023, "PyTorch FSDP", section 3. Seam: `parameter.data`, and `forward`
of each unit, which is what a model calls as one: the embedding, each block, the last norm, the head. What autograd
saves of a gathered weight is replaced by a note of where it lay, so that freeing it frees it; backward gathers it again
when it first reads such a note.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.graph import saved_tensors_hooks

from llmlab.comm.call import Handle
from llmlab.parallel.families import stretches
from llmlab.parallel.flat import FlatBucket


@dataclass(eq=False)
class Gathered:
    """A bucket's weights: sharded, on their way here, or whole."""

    bucket: FlatBucket
    whole: Tensor | None = None
    coming: Handle | None = None

    def fetch(self) -> None:
        """Begin to gather them, unless they are here or on their way."""
        if self.whole is None and self.coming is None:
            self.coming = self.bucket.gather()

    def get(self) -> Tensor:
        """Shard(0) -> Replicate: have them here, [n s], and let the parameters show them."""
        if self.whole is None:
            self.fetch()
            assert self.coming is not None
            self.whole, self.coming = self.coming.wait(), None
            self.bucket.show(self.whole)  # the parameters, of their own shapes, are views of it
        return self.whole

    def free(self) -> None:
        if self.coming is not None:
            self.get()
        if self.whole is not None:
            self.whole = None
            self.bucket.hide()  # the last views of it go; what autograd saved is a note, not a view


@dataclass(eq=False)
class Units:
    """A model's units, in the order in which it calls them, and whom they tell how far backward has come.

    prefetch: fetch the next unit's weights while this one computes.  begin_backward: called, again and again, while a
    backward is under way.  reduce: called with the buckets whose gradients are complete, the same on every rank.
    """

    prefetch: bool
    begin_backward: Callable[[], None]
    reduce: Callable[[list[FlatBucket]], None]
    members: list[Unit] = field(default_factory=list)
    n_step: int = 0  # updates so far: whole weights of before one are stale after it

    def cut(self, model: nn.Module, bucket_of: Mapping[nn.Parameter, FlatBucket]) -> None:
        """Let each module that the model calls have whole weights only while it computes, in place."""
        gathered = {bucket: Gathered(bucket) for bucket in bucket_of.values()}
        for module in [module for modules, _ in stretches(model) for module in modules]:
            needs = list(dict.fromkeys(gathered[bucket_of[p]] for p in module.parameters()))
            if needs:
                self.members.append(Unit(self, module, needs, index=len(self.members)))
        self.open_for_state(model, gathered, bucket_of)
        for bucket, weights in gathered.items():
            users = [unit for unit in self.members if weights in unit.needs]
            if not users:
                raise ValueError("ZeRO stage 3 wants every parameter in a submodule, got one that is the model's own")
            users[0].last_of.append(bucket)

    def open_for_state(self, model: nn.Module, gathered: Mapping[FlatBucket, Gathered], bucket_of: Any) -> None:
        """Let `state_dict` and `load_state_dict`, of the model or of any module in it, see whole weights."""
        for module in model.modules():
            needs = list(dict.fromkeys(gathered[bucket_of[p]] for p in module.parameters()))
            if needs:
                WholeState(needs).watch(module)

    def free(self) -> None:
        for unit in self.members:
            unit.free()

    def stepped(self) -> None:
        """Let go of weights that are old now."""
        self.n_step += 1
        self.free()


@dataclass(eq=False)
class WholeState:
    """Whole weights while a module's state is read or written: a collective, so every rank must do it."""

    needs: list[Gathered]
    opened: list[Gathered] = field(default_factory=list)

    def watch(self, module: nn.Module) -> None:
        def gather(module: nn.Module, *_: Any) -> None:
            self.opened = [weights for weights in self.needs if weights.whole is None]
            for weights in self.needs:
                weights.get()

        def free(module: nn.Module, state: dict[str, Any], *_: Any) -> None:
            kept = [name for name, value in state.items() if isinstance(value, nn.Parameter)]
            for weights in self.opened:
                weights.free()
            if kept:
                raise ValueError(f"ZeRO stage 3 has no parameters to keep, got keep_vars=True: {kept[0]} would be nan")

        @torch.no_grad()
        def keep_shards(module: nn.Module, _: Any) -> None:
            for weights in self.needs:
                bucket, whole = weights.bucket, weights.get()
                bucket.shard.copy_(whole[bucket.mine])
            for weights in self.opened:
                weights.free()

        module.register_state_dict_pre_hook(gather)
        module.register_state_dict_post_hook(free)
        module.register_load_state_dict_pre_hook(gather)
        module.register_load_state_dict_post_hook(keep_shards)


@dataclass(eq=False)
class Unit:
    """A module whose weights are whole while it computes.

    needs: its buckets.  last_of: those it is the first to use, so that their gradients are complete after its backward.
    saved: those that backward reads.
    """

    units: Units
    module: nn.Module
    needs: list[Gathered]
    index: int
    last_of: list[FlatBucket] = field(default_factory=list)
    saved: set[Gathered] = field(default_factory=set)

    def __post_init__(self) -> None:
        self.forward: Callable[..., Any] = self.module.forward
        self.module.forward = self.with_whole_weights

    def with_whole_weights(self, *args: Any, **kwargs: Any) -> Any:
        """The module's forward, between gathering its weights and letting go of them."""
        self.arrive()
        if not in_backward():
            self._notice_backward(args)
        with saved_tensors_hooks(*self._notes()):
            try:
                return self.forward(*args, **kwargs)
            finally:
                self._leave()

    def arrive(self) -> None:
        """Have this unit's weights here; begin to fetch what the next one on the way will need."""
        for weights in self.needs:
            if not in_backward() or weights in self.saved:
                weights.get()
        ahead = self._next()
        if self.units.prefetch and ahead is not None:
            for weights in ahead.needs:
                if not in_backward() or weights in ahead.saved:
                    weights.fetch()

    def free(self, kept: set[Gathered] | None = None) -> None:
        for weights in self.needs:
            if weights not in (kept or set()):
                weights.free()

    # --- inside -----------------------------------------------------------------------------------------------------

    def _next(self) -> Unit | None:
        """The unit after this one, in the direction in which we go."""
        index = self.index + (-1 if in_backward() else 1)
        return self.units.members[index] if 0 <= index < len(self.units.members) else None

    def _leave(self) -> None:
        """After forward: free what is not needed at once. The last unit's weights are, as backward begins with it."""
        if in_backward():  # computed again for backward, which comes next
            return
        ahead = self._next()
        if ahead is not None:
            self.free(kept=set(ahead.needs))
        elif not (self.units.prefetch and torch.is_grad_enabled() and self.saved):
            self.free()

    def _notice_backward(self, args: tuple[Any, ...]) -> None:
        """Know when backward is through: when the gradient of the unit's input is complete.

        A unit whose input needs no gradient is the last in backward, whose end is told apart.
        """

        def gone_through(grad: Tensor) -> None:
            ahead = self._next()
            self.free(kept=ahead.saved if ahead else None)
            self.units.reduce(self.last_of)

        x = args[0] if args else None
        if isinstance(x, Tensor) and x.requires_grad and torch.is_grad_enabled():
            x.register_hook(gone_through)

    def _notes(self) -> tuple[Callable[[Tensor], Any], Callable[[Any], Tensor]]:
        """What to save instead of a tensor, and back. What is no weight goes to whoever watched before us."""
        watching: Any = torch._C._autograd._top_saved_tensors_default_hooks(False)
        outer = watching or (Tensor.detach, Tensor.detach)  # detached, so that nothing saves itself
        # a saved tensor is known by its memory: it may be a slice or transpose of a parameter, itself a view of `whole`
        here = {weights.get().untyped_storage()._cdata: weights for weights in self.needs if weights.whole is not None}

        def pack(x: Tensor) -> Any:
            weights = here.get(x.untyped_storage()._cdata)
            if weights is None:
                return outer[0](x)
            self.saved.add(weights)
            # size and strides are x's own, the offset counts in the whole buffer [n s]
            return Saved(self, weights, self.units.n_step, x.size(), x.stride(), int(x.storage_offset()))

        def unpack(saved: Any) -> Tensor:
            return saved.find() if isinstance(saved, Saved) else outer[1](saved)

        return pack, unpack


@dataclass(frozen=True)
class Saved:
    """Where a saved tensor lay in a bucket's whole weights, and at which step."""

    unit: Unit
    weights: Gathered
    step: int
    size: torch.Size
    stride: tuple[int, ...]
    offset: int

    def find(self) -> Tensor:
        """Gather the weights again, if they are not here."""
        units = self.unit.units
        if self.step != units.n_step:
            raise RuntimeError("backward wants the weights its forward used, but the optimizer has stepped since")
        units.begin_backward()
        if self.weights.whole is None:
            self.unit.arrive()
        return self.weights.get().as_strided(self.size, self.stride, self.offset)


def in_backward() -> bool:
    return torch._C._current_graph_task_id() != -1
