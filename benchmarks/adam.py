"""Our AdamW beside torch's, plain and fused: one update of all of a model's parameters, in fp32, on one thread.

    python benchmarks/adam.py [--rounds 15] [--layers 4] [--width 256] [--first 1]

Ours is the formula, operation by operation: each of its eight goes through memory once for every parameter. torch's
plain one does the same, in lists; its fused one does all of it in one pass, which is what ours cannot reach as long as
it is to be read as a formula. All three must come to the same weights. --first 1 gives each turn real-time priority (it
wants root).
"""

from __future__ import annotations

from functools import partial

import torch
from racing import Race, check_same, race, ratios, read_options, where

import llmlab as lab
from llmlab import optim

OURS, PLAIN, FUSED = "ours", "torch", "torch, fused"
MAKERS = {OURS: optim.AdamW, PLAIN: torch.optim.AdamW, FUSED: partial(torch.optim.AdamW, fused=True)}


def update_all(config: lab.Config, rounds: int, first: bool) -> Race:
    """Race the three, from the same weights with the same gradients."""
    torch.set_num_threads(1)
    models = {name: lab.Transformer(config) for name in MAKERS}
    optimizers = {name: MAKERS[name](model.parameters(), lr=1e-3) for name, model in models.items()}
    for model in models.values():
        draw = torch.Generator().manual_seed(0)
        for p in model.parameters():
            p.grad = torch.randn(p.shape, generator=draw)
    seconds = race({name: each.step for name, each in optimizers.items()}, rounds, first=first)
    wanted = torch.nn.utils.parameters_to_vector(models[OURS].parameters()).detach()
    for name, model in models.items():
        got = torch.nn.utils.parameters_to_vector(model.parameters()).detach()
        check_same(name, got, wanted, tolerance=1e-6 * (2 * rounds + 4))  # fp32: some roundings an update
    return seconds


def over_torch(rounds: int = 15, first: bool = False) -> dict[str, list[float]]:
    """Round by round: how many times as fast ours is as torch's, plain and fused."""
    wall = update_all(model_of(), rounds, first).wall
    return {name: ratios(wall, name, OURS) for name in (PLAIN, FUSED)}


def model_of(layers: int = 4, width: int = 256) -> lab.Config:
    return lab.Config(vocab_size=2048, d_model=width, n_layer=layers, n_head=width // 32, max_seq=128)


def main() -> None:
    options = read_options(__doc__, rounds=15, layers=4, width=256, first=0)
    config = model_of(options.layers, options.width)
    print(f"{config.n_param:,} parameters, AdamW, fp32; on {where()}\n")
    update_all(config, options.rounds, bool(options.first)).report(OURS)


if __name__ == "__main__":
    main()
