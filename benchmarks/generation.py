"""Our generation beside transformers.generate: the same random GPT-2, the same prompts, the same greedy tokens.

    python benchmarks/generation.py [--sizes 2x128 4x128 4x256] [--batch 1] [--new 64] [--rounds 15] [--threads 1]

A size is layers x width. The larger a model, the more of the time goes into the same matrix products on both sides, and
the nearer both come to each other. Needs `transformers`, one of the test extras.
--first 1 gives each turn real-time priority (it wants root).
"""

from __future__ import annotations

import argparse
from collections.abc import Callable

import torch
from gpt2 import the_same_model
from racing import race, ratios, where

import llmlab as lab
from llmlab.generation import generate

VOCAB, PROMPT = 2048, 16
WAYS = ("ours", "transformers", "ours, no cache")


def over_transformers(layers: int = 4, width: int = 256, rounds: int = 15, first: bool = False) -> list[float]:
    """Pair by pair: how many times as fast ours is as transformers', 64 new tokens, one thread."""
    torch.set_num_threads(1)
    ways, _ = make_ways(layers, width, batch=1, new=64)
    return ratios(race({name: ways[name] for name in WAYS[:2]}, rounds, first=first).wall, WAYS[1], WAYS[0])


def make_ways(layers: int, width: int, batch: int, new: int) -> tuple[dict[str, Callable[[], object]], lab.Transformer]:
    """The ways to continue the same prompts, and our model."""
    ours, theirs = the_same_model(VOCAB, width, layers, PROMPT + new)
    theirs.eval()
    prompts = torch.randint(0, VOCAB, (batch, PROMPT), generator=torch.Generator().manual_seed(0))
    everything = torch.ones_like(prompts)  # no padding
    run = (
        lambda: generate(ours, prompts, new),
        lambda: theirs.generate(
            prompts, attention_mask=everything, max_new_tokens=new, do_sample=False, pad_token_id=0
        ),
        lambda: generate(ours, prompts, new, use_cache=False),
    )
    return dict(zip(WAYS, run, strict=True)), ours


def side_by_side(layers: int, width: int, batch: int, new: int, rounds: int, first: bool) -> None:
    ways, ours = make_ways(layers, width, batch, new)
    same = torch.equal(ways["ours"](), ways["transformers"]())
    print(
        f"\n{layers} layers of {width}, {ours.config.n_param:,} parameters; {batch} x {PROMPT} tokens, {new} new, fp32"
    )
    print(f"the same tokens as transformers: {'yes' if same else 'NO'}")
    race(ways, rounds, first=first).report("ours")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", nargs="+", default=["2x128", "4x128", "4x256"])
    for name, default in {"batch": 1, "new": 64, "rounds": 15, "threads": 1, "first": 0}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(where())
    for size in options.sizes:
        layers, width = map(int, size.split("x"))
        side_by_side(layers, width, options.batch, options.new, options.rounds, bool(options.first))


if __name__ == "__main__":
    main()
