"""Reinforcement learning on answers that are so many updates old: held-out reward after a fixed number of updates.

    python benchmarks/post_training.py

A small model that was shown digits sorted either way learns, from a reward alone, to sort them downwards. Writes
data/measured/post_training.csv, which notebook 35 shows: for each staleness, with and without PPO's clipped ratio, and
for each learning rate and seed, the mean reward of answers drawn for held-out prompts. Each staleness is to be judged
at its own best rate. About three minutes of one core.
"""

from __future__ import annotations

import csv
import sys
import time
from functools import partial
from itertools import product
from pathlib import Path

import torch
from torch import Tensor

import llmlab as lab
from llmlab.comm.group import Group
from llmlab.generation.rollouts import roll_out

TARGET = Path(__file__).parents[1] / "data" / "measured" / "post_training.csv"
N, END = 4, 10  # digits to sort, and the token after them
CONFIG = lab.Config(vocab_size=11, d_model=48, n_layer=2, n_head=4, max_seq=2 * N + 1, norm="rmsnorm")
STALENESS, CLIPS, RATES, SEEDS = (0, 1, 4, 8), (0.2, None), (1e-4, 3e-4, 1e-3, 3e-3), 3
SHOWN, UPDATES = 400, 24
COLUMNS = ["task", "staleness", "clip", "lr", "seed", "updates", "reward_before", "reward", "seconds", "settings"]


def prompts(step: int, n: int = 16) -> Tensor:
    digits = torch.randint(0, 10, (n, N), generator=torch.Generator().manual_seed(step))
    return torch.cat([digits, torch.full((n, 1), END)], 1)


def reward(tokens: Tensor) -> Tensor:
    """1 for the prompt's digits in falling order, else 0."""
    return (tokens[:, -N:] == tokens[:, :N].sort(1, descending=True).values).all(1).float()


def shown(seed: int) -> dict[str, Tensor]:
    """Train on answers that are sorted upwards or downwards, by a coin."""
    model = lab.Transformer(CONFIG, seed)
    optimizer = lab.optim.AdamW(model.parameters(), lr=3e-3)
    for step in range(SHOWN):
        ask = prompts(10**6 * (seed + 1) + step, 64)
        up, coin = ask[:, :N].sort(1).values, torch.rand(64, 1, generator=torch.Generator().manual_seed(step)) < 0.5
        tokens = torch.cat([ask, torch.where(coin, up, up.flip(1))], 1)
        targets = tokens[:, 1:].clone()
        targets[:, :N] = -100
        optimizer.zero_grad()
        model.loss(tokens[:, :-1], targets).backward()
        optimizer.step()
    return model.state_dict()


def held_out(model: lab.Transformer) -> float:
    ask = prompts(-1, 512)
    return reward(roll_out(model, ask, N, list(range(len(ask))))).mean().item()


def learn(world: Group, state: dict[str, Tensor], lr: float, staleness: int, clip: float | None, seed: int) -> float:
    model = lab.Transformer(CONFIG)
    model.load_state_dict(state)
    task = lab.Task(lambda step: prompts(10**4 * (seed + 1) + step), reward, new=N, group=8)
    adam = partial(lab.optim.Adam, lr=lr)
    lab.reinforce(model, adam, task, world, steps=UPDATES, staleness=staleness, clip=clip, seed=seed)
    return held_out(model)


def main() -> None:
    torch.set_num_threads(1)
    settings = f"{SHOWN} supervised steps first; 16 prompts x 8 answers an update; Adam; two cores of a cloud machine"
    TARGET.parent.mkdir(exist_ok=True)
    with TARGET.open("w", newline="") as file:
        out = csv.writer(file, lineterminator="\n")
        out.writerow(COLUMNS)
        for seed in range(SEEDS):
            state = shown(seed)
            model = lab.Transformer(CONFIG)
            model.load_state_dict(state)
            before = held_out(model)
            for staleness, clip, lr in product(STALENESS, CLIPS, RATES):
                if staleness == 0 and clip is None:
                    continue  # on fresh answers the two are the same
                began = time.process_time()
                got = lab.Simulator(1, kernels=False).run(learn, state, lr, staleness, clip, seed).results[0]
                seconds = f"{time.process_time() - began:.1f}"
                out.writerow(["sort downwards", staleness, clip, lr, seed, UPDATES, f"{before:.3f}", f"{got:.3f}",
                              seconds, settings])  # fmt: skip
                file.flush()
            print("seed", seed, "done", file=sys.stderr)


if __name__ == "__main__":
    main()
