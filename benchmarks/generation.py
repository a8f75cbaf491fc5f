"""Our generation beside transformers.generate: the same random GPT-2, the same prompts, the same greedy tokens.

    python benchmarks/generation.py [--layers 4] [--width 256] [--batch 1] [--new 64] [--rounds 15] [--threads 1]

Needs `transformers`, one of the test extras.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch
from racing import race, where
from transformers import GPT2Config, GPT2LMHeadModel

import llmlab as lab
from llmlab.generation import generate
from llmlab.model.pretrained import from_safetensors
from llmlab.model.safetensors import read_safetensors


def the_same_model(config: GPT2Config) -> tuple[lab.Transformer, GPT2LMHeadModel]:
    """Make a random GPT-2 in transformers, and read its weights into ours."""
    torch.manual_seed(0)
    theirs = GPT2LMHeadModel(config).eval()
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        ours = from_safetensors(config.to_dict(), read_safetensors(Path(folder, "model.safetensors")), torch.float32)
    return ours, theirs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in {"layers": 4, "width": 256, "batch": 1, "new": 64, "rounds": 15, "threads": 1}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    config = GPT2Config(
        vocab_size=2048, n_embd=options.width, n_layer=options.layers, n_head=options.width // 32, n_positions=512,
        bos_token_id=None, eos_token_id=None, initializer_range=0.1,
    )  # fmt: skip
    ours, theirs = the_same_model(config)
    prompts = torch.randint(0, config.vocab_size, (options.batch, 16), generator=torch.Generator().manual_seed(0))

    def transformers(use_cache: bool = True):
        mask = torch.ones_like(prompts)
        return theirs.generate(
            prompts, attention_mask=mask, max_new_tokens=options.new, do_sample=False, use_cache=use_cache, pad_token_id=0
        )

    ways = {
        "ours": lambda: generate(ours, prompts, options.new),
        "transformers": transformers,
        "ours, no cache": lambda: generate(ours, prompts, options.new, use_cache=False),
    }
    same = torch.equal(ways["ours"](), ways["transformers"]())
    print(f"{ours.config.n_param:,} parameters, {options.batch} prompts of 16 tokens, {options.new} new ones each, fp32")
    print(where())
    print(f"the same tokens as transformers: {'yes' if same else 'NO'}\n")
    race(ways, options.rounds).report("ours")


if __name__ == "__main__":
    main()
