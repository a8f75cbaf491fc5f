"""The modelled time of torch's own FSDP2 code against TorchTitan's published runs, with nothing fitted to them.

    python benchmarks/torchtitan_modelled.py  # ten minutes; writes data/measured/torch_programs.csv

Llama 3.1 8B in plain torch, as TorchTitan's eager bf16 runs have it: a unit of FSDP2 for each block, parameters
gathered in bf16 and gradients reduced in fp32, every second matrix product kept by selective activation checkpointing.
It runs on meta tensors, one rank standing for all. Beside it the closed form's prediction for the same row.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import llmlab as lab

TABLE = Path(__file__).parents[1] / "data/published/torchtitan.csv"
RESULT = Path(__file__).parents[1] / "data/measured/torch_programs.csv"
ROWS = ("TT-0001", "TT-0004")  # 8 and 128 GPUs, eager, bf16
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


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.attention, self.norm1, self.norm2 = Attention(), nn.RMSNorm(WIDTH), nn.RMSNorm(WIDTH)
        self.w1, self.w3 = (nn.Linear(WIDTH, HIDDEN, bias=False) for _ in range(2))
        self.w2 = nn.Linear(HIDDEN, WIDTH, bias=False)

    def forward(self, x: Tensor, turn: Tensor) -> Tensor:
        return kept_every_second(self.inside, x, turn)  # below FSDP2's hooks, as TorchTitan wraps it

    def inside(self, x: Tensor, turn: Tensor) -> Tensor:
        x = x + self.attention(self.norm1(x), turn)
        h = self.norm2(x)
        return x + self.w2(F.silu(self.w1(h)) * self.w3(h))


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
    """Selective activation checkpointing: of matrix products every second one is kept, the rest is done again."""
    from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

    def contexts() -> Any:
        seen: dict[bool, int] = defaultdict(int)

        def policy(ctx: Any, op: Any, *args: Any, **kwargs: Any) -> CheckpointPolicy:
            if op is not torch.ops.aten.mm.default:
                return CheckpointPolicy.PREFER_RECOMPUTE
            seen[ctx.is_recompute] += 1
            keep = seen[ctx.is_recompute] % 2
            return CheckpointPolicy.MUST_SAVE if keep else CheckpointPolicy.PREFER_RECOMPUTE

        return create_selective_checkpoint_contexts(policy)

    return checkpoint(block, x, turn, use_reentrant=False, context_fn=contexts)


def train(steps: int, layers: int, batch: int, seq: int) -> None:
    """A worker of torch.distributed: FSDP2 as TorchTitan applies it."""
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    model = Llama(layers)
    policy = MixedPrecisionPolicy(param_dtype=torch.bfloat16, reduce_dtype=torch.float32)
    for block in model.blocks:
        fully_shard(block, mp_policy=policy)
    fully_shard([model.norm, model.head], mp_policy=policy, reshard_after_forward=False)
    fully_shard(model, mp_policy=policy)
    optimizer = torch.optim.AdamW(model.parameters(), foreach=True)
    ids, turn = torch.zeros(batch, seq, dtype=torch.long), torch.zeros(1, seq, 1, WIDTH // HEADS)
    for _ in range(steps):
        logits = model(ids, turn)
        F.cross_entropy(logits.flatten(0, 1).float(), ids.flatten()).backward()
        del logits
        optimizer.step()
        optimizer.zero_grad()


def modelled(gpus: int, layers: int, batch: int, seq: int) -> tuple[float, float]:
    """Seconds of a step once it runs, and GiB at the peak."""
    options = {"numerics": False, "fold": ("world",), "out_of_memory": "record"}
    run = partial(lab.Simulator(gpus, "h100-500w", **options).run_torch, train)
    one, two = run(1, layers, batch, seq), run(2, layers, batch, seq)
    return two.seconds - one.seconds, two.memory[0].total / 2**30


def main() -> None:
    with TABLE.open(encoding="utf-8") as file:
        published = {row["row_id"]: row for row in csv.DictReader(file)}
    rows = []
    for name in ROWS:
        row = published[name]
        gpus, batch, seq = int(row["gpus"]), int(row["micro_batch"]), int(row["seq"])
        seconds, gib = modelled(gpus, int(row["layers"]), batch, seq)
        tokens = batch * seq
        closed = lab.predict(
            "llama3-8b", lab.Layout(dp=gpus, zero=3), "h100-500w", global_batch=batch * gpus, seq=seq,
            precision="bf16", recompute="selective",
        )  # fmt: skip
        measured = float(row["tokens_per_s_per_gpu"])
        rows.append(
            {
                "row": name, "gpus": gpus, "measured tokens/s/GPU": measured,
                "modelled": round(tokens / seconds, 1), "closed form": round(tokens / closed.seconds, 1),
                "modelled error": round(tokens / seconds / measured - 1, 3),
                "closed form error": round(tokens / closed.seconds / measured - 1, 3),
                "measured GB": row["memory_gb"], "modelled GiB": round(gib, 1),
            }
        )  # fmt: skip
        print(rows[-1], flush=True)
    with RESULT.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
