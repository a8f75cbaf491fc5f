"""What `check_alike` costs: a data-parallel training step that is compared each time beside the same step without.

    python benchmarks/check_alike.py [--rounds 40]

Two real processes, one thread each, in turns; printed is the median of the paired ratios of processor time with its
quartiles, for few and many tokens in a step. Compared every 10 steps it is a tenth of what is added here.
"""

from __future__ import annotations

from functools import partial

import torch
from racing import Race, race, ratios, read_options, spread, where

import llmlab as lab

CONFIG = lab.Config(vocab_size=512, d_model=128, n_layer=4, n_head=4, max_seq=128)


def take_step(step, alike, tokens: torch.Tensor) -> None:
    step(tokens, tokens)
    if alike is not None:
        alike(tokens=tokens)


def worker(world, batch: int, rounds: int) -> Race:
    ways = {}
    for name in ("plain", "compared"):
        make = partial(lab.optim.SGD, lr=0.01)
        step = lab.parallelize(lab.Transformer(CONFIG), make, lab.Layout(dp=2), world)
        alike = lab.check_alike(step, every=1) if name == "compared" else None
        ways[name] = partial(take_step, step, alike, torch.zeros(batch, 100, dtype=torch.long))
    return race(ways, rounds)


def main() -> None:
    options = read_options(__doc__, rounds=40)
    print(f"{CONFIG.n_param:,} parameters, fp32, 2 ranks; on {where()}\n")
    for batch in (4, 32):
        run = lab.Processes(ranks=2, timeout_s=600).run(worker, batch, options.rounds)
        found = spread(ratios(run.results[0].processor, "compared", "plain"))
        print(f"MEASURED  {100 * batch:,} tokens: a step that is compared takes {found} times")


if __name__ == "__main__":
    main()
