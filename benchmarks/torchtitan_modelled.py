"""The modelled time of torch's own FSDP2 and tensor-parallel code against TorchTitan's published runs, nothing fitted.

    python benchmarks/torchtitan_modelled.py          # ten minutes; writes data/measured/torch_programs.csv
    python benchmarks/torchtitan_modelled.py TT-0025  # this row alone, the others kept

Llama 3.1 8B in plain torch, as TorchTitan's bf16 runs have it: a unit of FSDP2 for each block, parameters gathered in
bf16 and gradients reduced in fp32, every second matrix product kept by selective activation checkpointing. With tp
above 1, its plan of tensor and sequence parallelism, the loss split along the vocabulary. It runs on meta tensors, one
rank standing for all, and eagerly; TT-0025 was compiled. Beside it the closed form's prediction for the same row.
"""

from __future__ import annotations

import csv
import sys
from collections import defaultdict
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import llmlab as lab

TABLE = Path(__file__).parents[1] / "data/published/torchtitan.csv"
RESULT = Path(__file__).parents[1] / "data/measured/torch_programs.csv"
ROWS = ("TT-0001", "TT-0004", "TT-0025")  # bf16: 8 and 128 GPUs, eager; 8 x 8 with tensor parallelism, compiled
WIDTH, HEADS, KV_HEADS, HIDDEN, VOCABULARY = 4096, 32, 8, 14336, 128256


class Attention(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        head = WIDTH // HEADS
        self.wq, self.wo = nn.Linear(WIDTH, WIDTH, bias=False), nn.Linear(WIDTH, WIDTH, bias=False)
        self.wk, self.wv = (nn.Linear(WIDTH, KV_HEADS * head, bias=False) for _ in range(2))

    def forward(self, x: Tensor, turn: Tensor) -> Tensor:
        q, k, v = (w(x).unflatten(-1, (-1, WIDTH // HEADS)) for w in (self.wq, self.wk, self.wv))
        q, k = rotated(q, turn), rotated(k, turn)
        k, v = (y.repeat_interleave(HEADS // KV_HEADS, dim=2) for y in (k, v))
        out = F.scaled_dot_product_attention(*(y.transpose(1, 2) for y in (q, k, v)), is_causal=True)
        return self.wo(out.transpose(1, 2).flatten(2))


def rotated(x: Tensor, turn: Tensor) -> Tensor:
    """Rotary positions, in fp32 as TorchTitan's complex product is."""
    a, b = x.float().chunk(2, dim=-1)
    cos, sin = turn.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1).to(x.dtype)


class FeedForward(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.w1, self.w3 = (nn.Linear(WIDTH, HIDDEN, bias=False) for _ in range(2))
        self.w2 = nn.Linear(HIDDEN, WIDTH, bias=False)

    def forward(self, h: Tensor) -> Tensor:
        return self.w2(F.silu(self.w1(h)) * self.w3(h))


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm1, self.attention = nn.RMSNorm(WIDTH), Attention()
        self.norm2, self.feed_forward = nn.RMSNorm(WIDTH), FeedForward()

    def forward(self, x: Tensor, turn: Tensor) -> Tensor:
        return kept_every_second(self.inside, x, turn)  # below FSDP2's hooks, as TorchTitan wraps it

    def inside(self, x: Tensor, turn: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x), turn)
        return x + self.feed_forward(self.norm2(x))


class Llama(nn.Module):
    def __init__(self, layers: int) -> None:
        super().__init__()
        self.embed, self.norm = nn.Embedding(VOCABULARY, WIDTH), nn.RMSNorm(WIDTH)
        self.blocks = nn.ModuleList(Block() for _ in range(layers))
        self.head = nn.Linear(WIDTH, VOCABULARY, bias=False)

    def forward(self, ids: Tensor, turn: Tensor) -> Tensor:
        x = self.embed(ids)
        for block in self.blocks:
            x = block(x, turn)
        return self.head(self.norm(x))


def kept_every_second(block: Callable[..., Tensor], x: Tensor, turn: Tensor) -> Tensor:
    """Selective activation checkpointing: every second matrix product is kept, and what was reduce-scattered."""
    from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

    def contexts() -> Any:
        seen: dict[bool, int] = defaultdict(int)

        def policy(ctx: Any, op: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
            if op is torch.ops._c10d_functional.reduce_scatter_tensor.default:
                return CheckpointPolicy.MUST_SAVE
            if op is not torch.ops.aten.mm.default:
                return CheckpointPolicy.PREFER_RECOMPUTE
            seen[ctx.is_recompute] += 1
            keep = seen[ctx.is_recompute] % 2
            return CheckpointPolicy.MUST_SAVE if keep else CheckpointPolicy.PREFER_RECOMPUTE

        return create_selective_checkpoint_contexts(policy)

    return checkpoint(block, x, turn, use_reentrant=False, context_fn=contexts)


def split_tensors(model: Llama, mesh: Any) -> None:
    """TorchTitan's plan: column and row, the norms and the residual stream split along the sequence."""
    from torch.distributed.tensor import Replicate, Shard
    from torch.distributed.tensor.parallel import (
        ColwiseParallel,
        PrepareModuleInput,
        RowwiseParallel,
        SequenceParallel,
        parallelize_module,
    )

    sequence, whole = Shard(1), Replicate()
    ends = {
        "embed": RowwiseParallel(input_layouts=whole, output_layouts=sequence),
        "norm": SequenceParallel(),
        "head": ColwiseParallel(input_layouts=sequence, output_layouts=Shard(-1), use_local_output=False),
    }
    parallelize_module(model, mesh, ends)
    plan: dict[str, Any] = {"norm1": SequenceParallel(), "norm2": SequenceParallel()}
    plan["attention"] = PrepareModuleInput(input_layouts=(sequence, None), desired_input_layouts=(whole, None))
    plan["feed_forward"] = PrepareModuleInput(input_layouts=(sequence,), desired_input_layouts=(whole,))
    plan |= {f"attention.{name}": ColwiseParallel() for name in ("wq", "wk", "wv")}
    plan |= {f"feed_forward.{name}": ColwiseParallel() for name in ("w1", "w3")}
    plan |= {f"{name}": RowwiseParallel(output_layouts=sequence) for name in ("attention.wo", "feed_forward.w2")}
    for block in model.blocks:
        parallelize_module(block, mesh, plan)


def train(steps: int, layers: int, tp: int, batch: int, seq: int) -> None:
    """A worker of torch.distributed: FSDP2, over tensor parallelism if tp > 1, as TorchTitan applies it."""
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
    from torch.distributed.tensor.parallel import loss_parallel

    mesh = init_device_mesh("cpu", (dist.get_world_size() // tp, tp), mesh_dim_names=("dp", "tp"))
    model = Llama(layers)
    if tp > 1:
        split_tensors(model, mesh["tp"])
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    for block in model.blocks:
        fully_shard(block, mesh=mesh["dp"], mp_policy=policy)
    fully_shard([model.norm, model.head], mesh=mesh["dp"], mp_policy=policy, reshard_after_forward=False)
    fully_shard(model, mesh=mesh["dp"], mp_policy=policy)
    optimizer = torch.optim.AdamW(model.parameters(), foreach=True)
    ids, turn = torch.zeros(batch, seq, dtype=torch.long), torch.zeros(1, seq, 1, WIDTH // HEADS)
    for _ in range(steps):
        with loss_parallel() if tp > 1 else nullcontext():
            logits = model(ids, turn)
            F.cross_entropy(logits.flatten(0, 1).float(), ids.flatten()).backward()
        del logits
        optimizer.step()
        optimizer.zero_grad()


def modelled(gpus: int, layers: int, tp: int, batch: int, seq: int) -> tuple[float, float]:
    """Seconds of a step once it runs, and GiB at the peak."""
    options = {"numerics": False, "fold": ("world",), "out_of_memory": "record"}
    run = partial(lab.Simulator(gpus, "h100-500w", **options).run_torch, train)
    one, two = (run(steps, layers, tp, batch, seq) for steps in (1, 2))
    return two.seconds - one.seconds, two.memory[0].total / 2**30


def compared(row: dict[str, str]) -> dict[str, Any]:
    """One published run: measured, modelled, and predicted by the closed form."""
    gpus, tp, batch, seq = (int(row[name]) for name in ("gpus", "tp", "micro_batch", "seq"))
    seconds, gib = modelled(gpus, int(row["layers"]), tp, batch, seq)
    layout = lab.Layout(dp=gpus // tp, tp=tp, zero=3, sequence_parallel=tp > 1)
    closed = lab.predict(
        "llama3-8b", layout, "h100-500w", global_batch=batch * layout.dp, seq=seq, precision="bf16",
        recompute="selective",
    )  # fmt: skip
    tokens, measured = batch * seq / tp, float(row["tokens_per_s_per_gpu"])  # of a GPU: its tp ranks share a batch
    return {
        "row": row["row_id"], "gpus": gpus, "tp": tp, "measured tokens/s/GPU": measured,
        "modelled": round(tokens / seconds, 1), "closed form": round(tokens / closed.seconds, 1),
        "modelled error": round(tokens / seconds / measured - 1, 3),
        "closed form error": round(tokens / closed.seconds / measured - 1, 3),
        "measured GB": row["memory_gb"], "modelled GiB": round(gib, 1),
    }  # fmt: skip


def main() -> None:
    with TABLE.open(encoding="utf-8") as file:
        published = {row["row_id"]: row for row in csv.DictReader(file)}
    with RESULT.open(encoding="utf-8") as file:
        recorded: dict[str, dict[str, Any]] = {row["row"]: row for row in csv.DictReader(file)}
    for name in sys.argv[1:] or ROWS:
        recorded[name] = compared(published[name])
        print(recorded[name], flush=True)
        with RESULT.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, recorded[name], restval="")
            writer.writeheader()
            writer.writerows(recorded[each] for each in ROWS if each in recorded)


if __name__ == "__main__":
    main()
