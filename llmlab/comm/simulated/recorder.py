"""Sees every torch operation of a simulated rank: charges its kernel to the clock and its storages to the memory.

The operation stream is the same on real and on meta tensors. Attention is charged once, as the fused kernel it is on a
GPU: torch runs it as one operation on a CPU and as dozens, with a T x T tensor, on meta (Dao 2023, FlashAttention-2).
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from llmlab.comm.simulated.scheduler import Aborted
from llmlab.comm.simulated.shapes import run_meta

if TYPE_CHECKING:
    from llmlab.comm.simulated.rank import Rank

aten = torch.ops.aten
ATTENTION_BACKWARD = 2.5  # FLOPs against forward: five matrix products for two, the scores computed again
MATMULS = {aten.mm, aten.addmm, aten.bmm, aten.baddbmm}
SYNCS = {  # what they give depends on values, so the host must wait for the device
    aten._local_scalar_dense, aten.nonzero, aten.masked_select, aten.equal, aten._unique2, aten.unique_dim
}  # fmt: skip
FREE = {aten.empty, aten.empty_strided, aten.empty_like, aten.new_empty, aten.new_empty_strided, aten.lift_fresh,
        aten.set_, aten.resize_}  # fmt: skip
ROWS = {aten.embedding, aten.index_select, aten.gather, aten.index}  # they read only the rows they give
CPU_ATTENTION = {  # the CPU's own kernels, where a program calls them itself; torch's table of FLOPs has not got them
    aten._scaled_dot_product_flash_attention_for_cpu: 1.0,
    aten._scaled_dot_product_flash_attention_for_cpu_backward: ATTENTION_BACKWARD,
}
STATE = {aten.zeros_like, aten.clone}  # how optimizers make what they keep; the rest of a step's tensors are passing


@dataclass(frozen=True)
class Kind:
    """What an operation is to the clock, from its name and schema alone."""

    name: str
    free: bool
    view: bool  # it is free, and gives what it was given seen otherwise: nothing to note
    makes: bool  # it is free, and what it gives takes memory nevertheless
    sync: bool
    matmul: bool
    rows: bool
    state: bool
    host_can: bool  # a tensor nothing has used yet stays on the host through it
    counts_flops: bool
    rate: str  # what the device does it at: "matmul", "attention", or "memory" where it only moves bytes
    input_name: str  # what is called after it that it takes


def kind_of(op: torch._ops.OpOverload) -> Kind:
    """What an operation is, remembered by the operation itself: to hash one takes torch longer than all the rest."""
    known: Kind | None = vars(op).get("_llmlab_kind")
    if known is None:
        known = op._llmlab_kind = _kind(op)  # type: ignore[attr-defined]
    return known


def _kind(op: torch._ops.OpOverload) -> Kind:
    packet = op.overloadpacket
    writes = any(a.alias_info is not None and a.alias_info.is_write for a in op._schema.arguments)
    aliases = any(a.alias_info is not None for a in op._schema.returns)
    matmul, free = packet in MATMULS, packet in FREE or (aliases and not writes)
    counts_flops = matmul or packet in flop_registry or packet in CPU_ATTENTION
    name = "matmul" if matmul else packet.__name__.strip("_")
    return Kind(
        name=name,
        free=free,
        view=aliases and not writes and packet not in FREE,
        makes=packet in FREE and not writes,
        sync=packet in SYNCS,
        matmul=matmul,
        rows=packet in ROWS,
        state=packet in STATE,
        host_can=free or writes or packet is aten._to_copy,
        counts_flops=counts_flops,
        rate="attention" if counts_flops and "attention" in packet.__name__ else "matmul" if counts_flops else "memory",
        input_name=f"input of {name}",
    )


class unseen:
    """`with unseen():` torch works without its recorder: what happens inside is the simulator's own business."""

    def __enter__(self) -> None:
        self._function = torch._C.DisableTorchFunction()
        self._function.__enter__()
        self._dispatch = torch._C._DisableTorchDispatch()  # in force as long as it lives

    def __exit__(self, *error: object) -> None:
        del self._dispatch
        self._function.__exit__(None, None, None)


class Recorder(TorchDispatchMode):
    """One rank's recorder, in force in that rank's thread."""

    def __init__(self, rank: Rank):
        super().__init__()
        self.rank = rank

    def __torch_dispatch__(
        self, op: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        rank, kind = self.rank, kind_of(op)
        if rank.scheduler.aborting:
            raise Aborted
        inputs = [] if kind.view else tensors_in(args)
        if rank.in_flight and not kind.free:  # what only looks, or makes room, reads nothing
            rank.check_race(inputs)
        result = run_meta(op, args, kwargs or {}) if rank.on_meta else op(*args, **kwargs or {})
        if not kind.view:
            self._account(kind, op, args, inputs, result)
        return result

    def _account(self, kind: Kind, op: Any, args: tuple[Any, ...], inputs: list[Tensor], result: Any) -> None:
        rank, meter = self.rank, self.rank.meter
        outputs = [result] if type(result) is Tensor else tensors_in((result,))
        if (kind.host_can or not inputs) and meter.all_on_host(inputs):
            for x in outputs:  # fresh, or filled in place on the host: not on the device yet
                if not meter.on_host(x):
                    meter.keep_on_host(x)
            return
        if kind.free:
            meter.names.operation = kind.name
            for x in outputs if kind.makes else ():
                meter.place(x)
            return
        meter.names.operation = kind.input_name
        meter.place_all(inputs)
        meter.names.operation = kind.name
        state = "optimizer state" if rank.in_optimizer and kind.state else None
        if state is None:
            meter.place_all(outputs)
        else:
            for x in outputs:
                meter.place(x, state)
        flops = _flops(kind, op, args, result) if kind.counts_flops else 0
        nbytes = rank.priced_bytes(outputs if kind.rows else [*outputs, *inputs])
        dtype = outputs[0].dtype if len(outputs) == 1 else widest(outputs or inputs)
        rank.kernel(kind.name, kind.rate, flops, nbytes, dtype)
        if kind.sync:
            rank.synchronize()


_CAUGHT: dict[Any, str] = {
    F.scaled_dot_product_attention: "attention", Tensor.to: "to", Tensor.item: "value", Tensor.__float__: "value",
}  # fmt: skip


class Interceptor(TorchFunctionMode):
    """Catches the few calls whose meaning is lost below: attention, placing on the device, reading a value."""

    def __init__(self, rank: Rank):
        super().__init__()
        self.rank = rank

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        caught = _CAUGHT.get(func)
        if caught is None:
            return func(*args, **kwargs) if kwargs else func(*args)
        kwargs = kwargs or {}
        if caught == "attention":
            return attention(self.rank, *args, **kwargs)
        if caught == "to" and names_device(args[1:], kwargs):
            return self._to(func(*args, **kwargs))
        if caught == "value" and args[0].is_meta:
            return self._no_value(args[0])
        return func(*args, **kwargs)

    def _to(self, x: Tensor) -> Tensor:
        if x.device.type == self.rank.device.type:
            self.rank.meter.names.operation = "input of to"
            self.rank.meter.place(x)
        return x

    def _no_value(self, x: Tensor) -> float:
        if not x.is_floating_point():
            raise ValueError(f"numerics=False has no values: an integer was asked of a {x.dtype} tensor")
        self.rank.kernel("local_scalar_dense", "memory", 0, self.rank.priced_bytes([x]), x.dtype)
        self.rank.synchronize()
        return float("nan")


def attention(
    rank: Rank,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Run torch's attention unseen and charge it as one kernel, forward and backward."""
    options = {"dropout_p": dropout_p, "is_causal": is_causal, "scale": scale, "enable_gqa": enable_gqa}
    return _Attention.apply(rank, options, query, key, value, attn_mask)


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, rank: Rank, options: dict[str, Any], q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None
    ) -> Tensor:
        ctx.rank, ctx.flops = rank, attention_flops(q, k, v)
        inputs = [x.detach().requires_grad_(x.requires_grad) for x in (q, k, v)]
        with unseen():
            same = q.shape[-1] == v.shape[-1]  # laid out as the queries are, as the fused kernels do
            out = torch.empty_like(q) if same else q.new_empty(*q.shape[:-1], v.shape[-1])
            if not q.is_meta:
                # activation checkpointing must not count what is saved in here; detached, so that nothing saves itself
                with torch.enable_grad(), saved_tensors_hooks(Tensor.detach, Tensor.detach):
                    inner = F.scaled_dot_product_attention(inputs[0], inputs[1], inputs[2], mask, **options)
                ctx.inner = inputs, inner
                out.copy_(inner.detach())
            logsumexp = q.new_empty(q.shape[:-1], dtype=torch.float32)
        charge_attention(rank, "attention", ctx.flops, [q, k, v], [out, logsumexp])
        ctx.save_for_backward(q, k, v, out, logsumexp)
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Any, ...]:
        rank, (q, k, v, out, _) = ctx.rank, ctx.saved_tensors
        wanted = ctx.needs_input_grad[2:5]
        with unseen():
            if grad.is_meta:
                grads = [torch.empty_like(x) if w else None for x, w in zip((q, k, v), wanted, strict=True)]
            else:
                inputs, inner = ctx.inner
                found = iter(
                    torch.autograd.grad(inner, [x for x in inputs if x.requires_grad], grad, retain_graph=True)
                )
                grads = [next(found) if w else None for w in wanted]
        made = [g for g in grads if g is not None]
        charge_attention(rank, "attention_backward", int(ATTENTION_BACKWARD * ctx.flops), [q, k, v, out, grad], made)
        return None, None, *grads, None


def charge_attention(rank: Rank, name: str, flops: int, inputs: list[Tensor], outputs: list[Tensor]) -> None:
    """Put one fused kernel of attention on the clock."""
    for tensors, made_by in ((inputs, f"input of {name}"), (outputs, name)):
        rank.meter.names.operation = made_by
        for x in tensors:
            rank.meter.place(x)
    rank.kernel(name, "attention", flops, sum(rank.priced_bytes([x]) for x in inputs + outputs), widest(outputs))


def names_device(args: tuple, kwargs: dict) -> bool:
    """Whether a call of Tensor.to says where to, and not only in which dtype."""
    return "device" in kwargs or any(isinstance(a, (str, int, torch.device, Tensor)) for a in args[:1])


def tensors_in(values: Any) -> list[Tensor]:
    """The tensors among some arguments, one level of lists deep (as the foreach operations pass them)."""
    found: list[Tensor] = []
    for value in values:
        if type(value) is Tensor or isinstance(value, Tensor):  # the first is quicker, and most of them
            found.append(value)
        elif isinstance(value, (list, tuple)):
            found += [inner for inner in value if isinstance(inner, Tensor)]
    return found


def widest(tensors: list[Tensor]) -> torch.dtype:
    """The dtype that sets a kernel's rate."""
    dtypes = {x.dtype for x in tensors} or {torch.float32}
    return dtypes.pop() if len(dtypes) == 1 else max(dtypes, key=lambda d: (d.is_floating_point, d.itemsize))


def _flops(kind: Kind, op: Any, args: tuple[Any, ...], result: Any) -> int:
    """FLOPs of the matrix unit."""
    if kind.matmul:
        a, b = args[-2:] if op.overloadpacket in (aten.mm, aten.bmm) else args[1:3]
        return 2 * a.numel() * b.shape[-1]
    packet = op.overloadpacket
    if packet in CPU_ATTENTION:
        q, k, v = args[1:4] if packet.__name__.endswith("backward") else args[:3]  # the gradient comes first
        return int(CPU_ATTENTION[packet] * attention_flops(q, k, v))
    return int(flop_registry[packet](*args, out_val=result))


def attention_flops(q: Tensor, k: Tensor, v: Tensor) -> int:
    """Scores, and their products with the values, [B, h, T, d] each."""
    return 2 * prod(q.shape[:-1]) * k.shape[-2] * (q.shape[-1] + v.shape[-1])
