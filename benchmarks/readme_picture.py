"""Draw the README's picture: one training step on four simulated ranks, gradients sent after it and during it."""

from __future__ import annotations

from pathlib import Path

import torch

import llmlab as lab
from llmlab.comm.group import Group

PICTURE = Path(__file__).parents[1] / "data" / "pictures" / "overlap.png"
CONFIG = lab.Config(vocab_size=512, d_model=64, n_layer=4, n_head=4, max_seq=128)


def step(world: Group, overlap: bool) -> None:
    model = lab.data_parallel(lab.Transformer(CONFIG), world, bucket_mb=0.2, overlap=overlap, init_sync=False)
    tokens = torch.zeros(8, 64, dtype=torch.long, device=world.device)
    model.loss(tokens, tokens).backward()


def main() -> None:
    four = lab.Simulator(ranks=4, numerics=False)
    runs = {"after the backward pass": four.run(step, False), "during it": four.run(step, True)}
    figure = lab.plot.compare_timelines(*runs.values(), names=list(runs))
    figure.savefig(PICTURE, dpi=110)
    print(figure.alt)


if __name__ == "__main__":
    main()
