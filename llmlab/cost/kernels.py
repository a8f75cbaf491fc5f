"""One layer's kernels by name: what each computes and moves, to be laid on a device's roofline.

Forward, on one rank's share of the layer. Unlike `cost.compute`, which adds up seconds, this keeps the kernels apart.
"""

from __future__ import annotations

from dataclasses import dataclass

from llmlab.arguments import instance, real, wholes
from llmlab.cost.models import find_config
from llmlab.hardware import Device
from llmlab.model.config import Config


@dataclass(frozen=True)
class Kernel:
    """One kernel. `kind` is the device's: matmul, attention or memory."""

    name: str
    kind: str
    flops: float
    nbytes: float

    @property
    def intensity(self) -> float:
        """FLOPs for each byte of memory traffic."""
        return self.flops / self.nbytes

    def seconds(self, device: Device, dtype: str = "bf16") -> float:
        """Device seconds, modelled: the longer of computing and moving, at the shares of the peaks that are reached."""
        instance("seconds", "device", device, Device, "lab.hardware.device('h100')")
        return device.kernel_seconds(self.kind, self.flops, self.nbytes, dtype)

    def flops_per_s(self, device: Device, dtype: str = "bf16") -> float:
        return self.flops / self.seconds(device, dtype)


def layer_kernels(config: str | Config, batch: float, seq: int, *, tp: int = 1, number_bytes: int = 2) -> list[Kernel]:
    """List the kernels of a layer's forward, and of the logits, on `batch` sequences: one rank's of `tp`.

    Attention is fused: its T x T scores never reach memory. A routed expert sees its share of the tokens. Element-wise
    work is counted as one operation for each number read.
    """
    wholes("layer_kernels", 1, seq=seq, tp=tp, number_bytes=number_bytes)
    c, n = find_config(config), real("layer_kernels", "batch", batch, above=0) * seq
    d, q, kv = c.d_model, c.n_head * c.head_dim / tp, c.n_kv_head * c.head_dim / tp
    f = c.d_ff / tp
    up = f * (2 if c.mlp == "swiglu" else 1)

    def product(name: str, rows: float, k: float, columns: float, copies: float = 1) -> Kernel:
        moved = number_bytes * copies * (rows * k + k * columns + rows * columns)
        return Kernel(name, "matmul", 2 * copies * rows * k * columns, moved)

    def elementwise(name: str, read: float, written: float) -> Kernel:
        return Kernel(name, "memory", read, number_bytes * (read + written))

    kernels = [
        elementwise("norm", n * d, n * d),
        product("query, key, value", n, d, q + 2 * kv),
        Kernel("attention", "attention", 4 * n * seq * q, number_bytes * n * 2 * (q + kv)),
        product("output projection", n, q, d),
    ]
    shared = c.n_expert_shared if c.n_expert else 1
    if shared:
        kernels += [product("MLP up", n, d, up, shared), product("MLP down", n, f, d, shared)]
    if c.n_expert:
        rows = n * c.n_expert_active / c.n_expert  # routing taken as balanced
        kernels += [product("experts up", rows, d, up, c.n_expert), product("experts down", rows, f, d, c.n_expert)]
    active = shared + (c.n_expert_active if c.n_expert else 0)
    kernels.append(elementwise("activation", active * n * up, active * n * f))
    return [*kernels, product("logits", n, d, c.vocab_size / tp)]
