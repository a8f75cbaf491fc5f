"""What `check_finite` costs: a training step with it beside the same step without.

    python benchmarks/check_finite.py [--rounds 40]

One process, one thread, in turns; printed is the median of the paired ratios with its quartiles, for few and many
tokens in a step.
"""

from __future__ import annotations

from functools import partial

import torch
from racing import race, ratios, read_options, spread, where

import llmlab as lab


def take_step(model: lab.Transformer, optimizer: torch.optim.Optimizer, tokens: torch.Tensor) -> None:
    optimizer.zero_grad()
    model.loss(tokens, tokens).backward()
    optimizer.step()


def main() -> None:
    options = read_options(__doc__, rounds=40)
    torch.set_num_threads(1)
    config = lab.Config(vocab_size=512, d_model=128, n_layer=4, n_head=4, max_seq=128)
    print(f"{config.n_param:,} parameters, fp32; on {where()}\n")
    for batch in (2, 16):
        ways = {}
        for name in ("plain", "watched"):
            model = lab.Transformer(config)
            optimizer = lab.optim.SGD(model.parameters(), lr=0.01)
            ways[name] = partial(take_step, model, optimizer, torch.zeros(batch, 100, dtype=torch.long))
            if name == "watched":
                lab.check_finite(model)
        found = race(ways, options.rounds).processor
        print(
            f"MEASURED  {100 * batch:,} tokens: a watched step takes {spread(ratios(found, 'watched', 'plain'))} times"
        )


if __name__ == "__main__":
    main()
