"""Our generation beside transformers.generate: the same random GPT-2, the same prompts, the same greedy tokens.

    python benchmarks/generation.py [--layers 4] [--width 128] [--batch 1] [--new 64] [--rounds 15] [--threads 1]

Needs `transformers`, one of the test extras.
"""

from __future__ import annotations

import argparse

import torch
from gpt2 import the_same_model
from racing import race, where

from llmlab.generation import generate

VOCAB, PROMPT = 2048, 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in {"layers": 4, "width": 128, "batch": 1, "new": 64, "rounds": 15, "threads": 1}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    ours, theirs = the_same_model(VOCAB, options.width, options.layers, PROMPT + options.new)
    prompts = torch.randint(0, VOCAB, (options.batch, PROMPT), generator=torch.Generator().manual_seed(0))
    everything = torch.ones_like(prompts)  # no padding
    theirs.eval()
    ways = {
        "ours": lambda: generate(ours, prompts, options.new),
        "transformers": lambda: theirs.generate(
            prompts, attention_mask=everything, max_new_tokens=options.new, do_sample=False, pad_token_id=0
        ),
        "ours, no cache": lambda: generate(ours, prompts, options.new, use_cache=False),
    }
    same = torch.equal(ways["ours"](), ways["transformers"]())
    print(f"{ours.config.n_param:,} parameters, {options.batch} x {PROMPT} tokens of prompt, {options.new} new, fp32")
    print(f"on {where()}")
    print(f"the same tokens as transformers: {'yes' if same else 'NO'}\n")
    race(ways, options.rounds).report("ours")


if __name__ == "__main__":
    main()
