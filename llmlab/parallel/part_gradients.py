"""Gradients of which a rank holds a part, and their norm: the whole's, whoever asks for it in whatever way.

    |g|_p = ( |g_0|_p^p + |g_1|_p^p + ... )^(1/p)        g_r: what rank r holds

`torch.nn.utils.clip_grad_norm_(model.parameters(), c)` reads `p.grad` and takes its norm. Where a rank holds a slice
(tensor_parallel), other ranks' experts are elsewhere (expert_parallel) or the gradient is spread over ranks (ZeRO), the
norm of what is here would be another on every rank, and clipping by it would drive the ranks apart. So `p.grad` is then
a tensor whose norm asks the other ranks: every rank must take it, as with any collective. All else it does as a tensor
does, on what is here. Seam: parameter gradients.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from llmlab.comm.group import Group

_GRAD: Any = Tensor.grad  # the descriptor itself, past what a subclass makes of it


class Part(Protocol):
    """What a parameter knows of its gradient."""

    def show(self, parameter: nn.Parameter) -> Tensor | None:
        """What whoever reads `parameter.grad` gets."""

    def replace(self, parameter: nn.Parameter, grad: Tensor | None) -> None:
        """`parameter.grad = grad`."""


class PartParameter(nn.Parameter):
    """A parameter whose `grad` is shown by the Part noted on it. Autograd itself does not come by here."""

    @property
    def grad(self) -> Tensor | None:
        return held_grad(self) if in_backward() else vars(self)["part"].show(self)

    @grad.setter
    def grad(self, grad: Tensor | None) -> None:
        if in_backward():
            hold_grad(self, grad)
        else:
            vars(self)["part"].replace(self, grad)

    def __deepcopy__(self, memo: dict[int, Any]) -> PartParameter:
        raise ValueError(
            "copy.deepcopy wants a model that is not spread over ranks: its copy would have lost what sums its "
            "gradients; copy it before, or keep its state_dict()"
        )

    def __reduce_ex__(self, protocol: Any) -> Any:  # pickled it is a parameter like others
        state = {name: value for name, value in vars(self).items() if name != "part"}
        rebuild = torch._utils._rebuild_parameter_with_state
        return rebuild, (self.data, self.requires_grad, OrderedDict(), state)


def held_grad(parameter: Tensor) -> Tensor | None:
    """What autograd has put here."""
    found: Tensor | None = _GRAD.__get__(parameter)
    return found


def hold_grad(parameter: Tensor, grad: Tensor | None) -> None:
    _GRAD.__set__(parameter, grad)


def in_backward() -> bool:
    return torch._C._current_graph_task_id() != -1


def note_part(parameter: nn.Parameter, part: Part) -> None:
    vars(parameter)["part"] = part
    parameter.__class__ = PartParameter


class Slice:
    """A gradient that is whole on no rank of these groups: what is here is its slice."""

    def __init__(self, over: tuple[Group, ...]):
        self.over = over

    def show(self, parameter: nn.Parameter) -> Tensor | None:
        grad = held_grad(parameter)
        return None if grad is None else PartGradient.of(grad, self.over)

    def replace(self, parameter: nn.Parameter, grad: Tensor | None) -> None:
        hold_grad(parameter, None if grad is None else plain(grad))


class OneStage:
    """A gradient that is whole here, of a model whose other gradients are on other ranks: they know their norms."""

    def show(self, parameter: nn.Parameter) -> Tensor | None:
        grad = held_grad(parameter)
        return None if grad is None else PartGradient.of(grad, (), norm=NO_NORM)

    def replace(self, parameter: nn.Parameter, grad: Tensor | None) -> None:
        hold_grad(parameter, None if grad is None else plain(grad))


NO_NORM = (
    "the norm of a gradient wants the whole model's, got one pipeline stage's: every rank would clip by another. "
    "lab.parallelize(model, make_optimizer, lab.Layout(pp=...), world, clip=...) clips by the whole's; "
    "p.grad.detach() has a norm of its own"
)


def make_plain(parameters: Iterable[nn.Parameter]) -> None:
    """For those who know themselves what is where, and whose optimizers know torch's own parameters best."""
    for parameter in parameters:
        parameter.__class__ = nn.Parameter


def slice_over(parameter: nn.Parameter, group: Group) -> None:
    """Note that other ranks of the group hold other parts of what this is a part of."""
    before: tuple[Group, ...] = over(parameter)
    if group.size > 1:
        note_part(parameter, Slice((*before, group)))


def over(parameter: Tensor) -> tuple[Group, ...]:
    """The groups over which this parameter, or what it is one of, is sliced."""
    part = vars(parameter).get("part")
    return part.over if isinstance(part, Slice) else ()


class PartGradient(Tensor):
    """The part of a gradient that is here; a norm of it is the norm of all parts together.

    complete: called before its numbers are read, for those on their way.  refuse: what to say where the numbers here
    are not of this tensor's shape, so that it can only be scaled and measured.  norm: what to say where it has none.
    """

    over: tuple[Group, ...]
    complete: Callable[[], Tensor] | None
    refuse: str | None
    norm_refused: str | None

    @staticmethod
    def of(
        like: Tensor,
        over: tuple[Group, ...],
        complete: Callable[[], Tensor] | None = None,
        refuse: str | None = None,
        norm: str | None = None,
    ) -> PartGradient:
        gradient = like.detach().as_subclass(PartGradient)
        gradient.over, gradient.complete, gradient.refuse, gradient.norm_refused = over, complete, refuse, norm
        return gradient

    @classmethod
    def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__name__", "") == "__get__" or func in ASK_NOTHING:  # shape, dtype, device ...
            with torch._C.DisableTorchFunctionSubclass():
                return func(*args, **kwargs)
        if func in NORMS:
            return NORMS[func](*args, **kwargs)
        if func in SCALES:
            func(plain(args[0]), *map(_each, args[1:]))
            return args[0]
        if func in SCALE_ALL:
            return func([plain(x) for x in args[0]], *map(_each, args[1:]))
        with torch._C.DisableTorchFunctionSubclass():
            return func(*_each(args), **{name: _each(value) for name, value in kwargs.items()})


def plain(x: Any, whole: bool = False) -> Any:
    """The numbers themselves, complete. whole: they must be of the shape that is shown."""
    if not isinstance(x, PartGradient):
        return x
    if whole and x.refuse is not None:
        raise ValueError(x.refuse)
    if x.complete is not None:
        return x.complete()
    with torch._C.DisableTorchFunctionSubclass():
        return x.as_subclass(Tensor)


def _each(x: Any) -> Any:
    if isinstance(x, (list, tuple)):
        return type(x)(_each(item) for item in x)
    return plain(x, whole=True)


# --- norms ------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def whole_norms(grads: Sequence[Tensor], ord: float = 2.0) -> list[Tensor]:
    """The norm of each gradient over all ranks that hold a part: one message for all that are spread alike."""
    for g in grads:
        if isinstance(g, PartGradient) and g.norm_refused is not None:
            raise ValueError(g.norm_refused)
    if not ord > 0:
        raise ValueError(f"the norm of a gradient spread over ranks wants an order above 0, got {ord}")
    parts = [plain(g) for g in grads]
    norms = [torch.linalg.vector_norm(x, ord) if x.numel() else x.new_zeros(()) for x in parts]
    alike: dict[tuple[tuple[Group, ...], torch.dtype], list[int]] = {}
    for i, g in enumerate(grads):
        if isinstance(g, PartGradient) and g.over:
            alike.setdefault((g.over, norms[i].dtype), []).append(i)
    for (groups, _), numbers in alike.items():
        found = torch.stack([norms[i] for i in numbers])
        for group in groups:
            found = torch.linalg.vector_norm(group.all_gather(found[None]), ord, dim=0)  # [p, n] -> [n]
        for i, norm in zip(numbers, found, strict=True):
            norms[i] = norm
    return norms


def _norm(x: Tensor, ord: Any = 2, dim: Any = None, keepdim: bool = False, **more: Any) -> Tensor:
    if dim is not None or keepdim or more or isinstance(ord, str) and ord != "fro":
        raise ValueError("a gradient spread over ranks has a norm of all its numbers only: dim, keepdim and dtype none")
    return whole_norms([x], 2.0 if ord in (None, "fro") else float(ord))[0]


def _foreach_norm(grads: Sequence[Tensor], ord: float = 2) -> list[Tensor]:
    return whole_norms(grads, float(ord))


NORMS: dict[Any, Callable[..., Any]] = {
    torch.linalg.vector_norm: _norm,
    torch.linalg.norm: _norm,
    torch.norm: _norm,
    Tensor.norm: _norm,
    torch._foreach_norm: _foreach_norm,
}
SCALES = (Tensor.mul_, Tensor.div_, Tensor.__imul__, Tensor.__itruediv__, Tensor.zero_)
SCALE_ALL = (torch._foreach_mul_, torch._foreach_div_, torch._foreach_zero_)  # of a list
ASK_NOTHING = (Tensor.size, Tensor.dim, Tensor.numel, Tensor.is_floating_point, Tensor.is_complex, Tensor.stride)
