"""Parameters side by side in one buffer, cut into as many equal pieces as a group has ranks: what ZeRO shards.

    parameters   |  w_1   |    w_2     | w_3 |pad|      flat, [n s]
    ranks        |   0   |   1   |   2   |   3   |      each keeps s numbers, wherever a parameter begins or ends

Rajbhandari et al. 2020, section 5.1: the partition is of the flat buffer, so it is even whatever the shapes are.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, nn

from llmlab.comm.call import Handle
from llmlab.comm.group import Group
from llmlab.parallel.part_gradients import held_grad, hold_grad


class FlatBucket:
    """Parameters whose weights and gradients travel together. One dtype, one group, all trained or all frozen.

    whole: whether every rank keeps all the weights (`flat`), or its own shard only.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], group: Group, whole: bool):
        self.parameters, self.group = list(parameters), group
        sizes = [p.numel() for p in parameters]
        self.starts, self.numel = [0, *accumulate(sizes)], sum(sizes)  # where each parameter begins, and the last ends
        self.part = -(-self.numel // group.size)  # numbers a rank keeps, padding included
        self.dtype, self.trained = parameters[0].dtype, parameters[0].requires_grad
        self.gradient: Tensor | None = None  # whole: [n s]
        nothing = hollow((self.part * group.size,), self.dtype, group.device)
        self._whole = placed(nn.Parameter(nothing), group.device)  # what `gradient` is the gradient of
        self._gradient_of: dict[nn.Parameter, Tensor] = {}
        self._sending: tuple[Tensor, Handle] | None = None
        self._take(whole)
        self.owned = {p: self._own(p, piece) for p, piece in zip(parameters, self.pieces(self.shard), strict=True)}

    @property
    def mine(self) -> slice:
        """This rank's share of a whole buffer."""
        return slice(self.group.rank * self.part, (self.group.rank + 1) * self.part)

    def views(self, flat: Tensor) -> list[Tensor]:
        """Each parameter's whole, in a whole buffer [n s]."""
        ends = zip(self.parameters, self.starts, self.starts[1:], strict=False)
        return [flat[start:stop].view(p.shape) for p, start, stop in ends]

    def pieces(self, shard: Tensor) -> list[Tensor]:
        """The part of each parameter, flat and maybe empty, that lies in this rank's shard [s]."""
        start, stop = self.mine.start, self.mine.stop
        cut = [min(max(at, start), stop) - start for at in self.starts]  # borders outside the shard fall on its ends
        return [shard[low:high] for low, high in zip(cut, cut[1:], strict=False)]

    def extent(self, p: nn.Parameter) -> tuple[int, int]:
        """Which elements of this parameter, flat, lie in this rank's shard: from, to. Maybe none."""
        start = dict(zip(self.parameters, self.starts, strict=False))[p]
        low, high = (min(max(at - start, 0), p.numel()) for at in (self.mine.start, self.mine.stop))
        return low, high

    # --- weights ----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def _take(self, whole: bool) -> None:
        """Move the parameters' numbers here, and let the parameters show them if the whole is kept."""
        device = self.group.device
        flat = torch.empty(self._whole.shape, dtype=self.dtype, device=self.parameters[0].device)  # [n s]
        flat[self.numel :].zero_()
        for p, view in zip(self.parameters, self.views(flat), strict=True):
            view.copy_(p)
            p.data = hollow(p.shape, p.dtype, device)  # let go of one before the next is copied
            placed(p, device)
        flat = flat if flat.device.type == device.type else flat.to(device)
        # [s]: a view of the whole that is kept, or a copy, so that the whole can be freed
        shard = flat[self.mine] if whole else torch.empty_like(flat[self.mine]).copy_(flat[self.mine])
        self.shard = placed(nn.Parameter(shard, requires_grad=self.trained), device)
        self.flat = flat if whole else None
        self._nothing = torch.full((), torch.nan, dtype=self.dtype, device=device)
        if whole:
            self.show(flat)
        else:
            self.hide()

    def show(self, flat: Tensor) -> None:
        """Let the parameters be views of a whole buffer."""
        for p, view in zip(self.parameters, self.views(flat), strict=True):
            self._check_own(p, p.dtype != self.dtype)
            p.data = view

    def hide(self) -> None:
        """Leave the parameters their shapes, and nan wherever they are looked at."""
        for p in self.parameters:
            p.data = self._nothing.expand(p.shape)  # one number, with strides of 0

    def _own(self, p: nn.Parameter, piece: Tensor) -> nn.Parameter:
        """What an optimizer updates in p's place; it carries the placement noted on p."""
        owned = nn.Parameter(piece.detach(), requires_grad=self.trained)  # flat, on the shard's own memory
        vars(owned).update(vars(p))
        return owned

    def gather(self) -> Handle:
        """Shard(0) -> Replicate: begin to fetch the whole weights [n s] from all ranks."""
        return self.group.all_gather(self.shard.detach(), async_op=True)

    def publish(self) -> Handle:
        """Shard(0) -> Replicate, into the whole weights every rank keeps."""
        assert self.flat is not None
        if not self.flat.is_meta:
            for p, view in zip(self.parameters, self.views(self.flat), strict=True):
                self._check_own(p, p.dtype != self.dtype or p.data_ptr() != view.data_ptr())
        return self.group.all_gather_into_tensor(self.flat, self.shard.detach(), async_op=True)

    def _check_own(self, p: nn.Parameter, replaced: bool) -> None:
        if replaced:
            raise ValueError(
                f"ZeRO wants the weights it has cut, of {self.dtype}, got others in their place, of {p.dtype}: convert "
                "or move a model (.double(), .half(), .to()) before it is sharded, and write into weights in place"
            )

    def whole(self, p: nn.Parameter) -> Tensor:
        """Shard(0) -> Replicate: one parameter's weights."""
        return p.detach() if self.flat is not None else self._find(p, self.gather().wait())

    def whole_gradient(self, p: nn.Parameter) -> Tensor:
        """Shard(0) -> Replicate: one parameter's gradient, from the owned pieces'."""
        shard = torch.zeros_like(self.shard.detach())
        for owned, piece in zip(self.owned.values(), self.pieces(shard), strict=True):
            if (grad := held_grad(owned)) is not None:
                piece.copy_(grad)
        return self._find(p, self.group.all_gather(shard))

    def _find(self, p: nn.Parameter, flat: Tensor) -> Tensor:
        return dict(zip(self.parameters, self.views(flat), strict=True))[p].clone()

    # --- gradients --------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def collect(self, p: nn.Parameter) -> None:
        """Move the gradient autograd made for p to its place in the buffer; what comes later is added there."""
        self._make_room()
        view = self._gradient_of[p]
        grad = held_grad(p)
        if grad is not None and grad is not view:
            hold_grad(p, view.copy_(grad))  # of p's shape still, but its memory is the buffer's: backward adds in place

    @property
    def piled(self) -> bool:
        """Whether gradients are here that were not sent."""
        return self.gradient is not None or any(held_grad(p) is not None for p in self.parameters)

    def _make_room(self) -> None:
        if self.gradient is None:
            self.gradient = torch.empty(self._whole.shape, dtype=self.dtype, device=self.group.device)
            announce(self._whole, self.gradient)
            self._gradient_of = dict(zip(self.parameters, self.views(self.gradient), strict=True))

    @torch.no_grad()
    def send(self, op: str) -> None:
        """Partial -> Shard(0): begin to reduce what has piled up; what has not come counts as zero."""
        self._make_room()
        for p, view in self._gradient_of.items():
            grad = held_grad(p)
            if grad is None:
                view.zero_()
            elif grad is not view:
                view.copy_(grad)
            hold_grad(p, None)
        assert self.gradient is not None
        if self.numel < self.gradient.shape[0]:
            self.gradient[self.numel :].zero_()
        self._sending = self.gradient, self.group.reduce_scatter(self.gradient, op, async_op=True)  # [n s] -> [s]
        self.gradient, self._gradient_of = None, {}

    @torch.no_grad()
    def receive(self) -> None:
        """Wait for what was sent, and add it to the gradients of the owned pieces."""
        if self._sending is None:
            return
        received = self._sending[1].wait()
        self._sending = None
        announce(self.shard, received)
        sums = []
        for owned, piece in zip(self.owned.values(), self.pieces(received), strict=True):
            if (grad := held_grad(owned)) is None:
                hold_grad(owned, piece)  # of what was received, not copied
            else:
                sums.append((grad, piece))
        if sums:
            torch._foreach_add_([to for to, _ in sums], [piece for _, piece in sums])


def hollow(shape: Sequence[int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Make a tensor that has a shape and no memory: it must not be read."""
    x = torch.empty((), dtype=dtype, device=device).expand(shape)
    x.untyped_storage().resize_(0)
    return x


def placed(p: nn.Parameter, device: torch.device) -> nn.Parameter:
    """Say that a parameter is on the device: the simulator counts it, and its gradients, from then on."""
    p.to(device)
    return p


def announce(p: nn.Parameter, grad: Tensor) -> None:
    """Say that this is a gradient of p's, as autograd does after it has added one. It is p's no longer than that."""
    p.grad = grad
    hooks: dict[int, Callable[..., Any]] = p._post_accumulate_grad_hooks or {}
    for hook in list(hooks.values()):
        hook(p)
    p.grad = None
