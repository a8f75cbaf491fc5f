"""Record what SmolLM2-135M (Allal et al. 2025; 4-bit weights) would say next after a few prompts, with the logits.

    python benchmarks/next_tokens.py [--keep 500]

Writes data/recorded/next_tokens.csv, so that the sliders of notebook 06 stand on a real model's numbers where its
weights (93 MB) cannot be had. Not a measurement of time: the logits are the same on every machine, up to rounding.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import llmlab as lab
from llmlab.generation.next_tokens import RECORDED, next_tokens

PROMPTS = ("The capital of France is", "Once upon a time there was a", "I would like to")
MODEL = "SmolLM2-135M-Instruct"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", type=int, default=500)
    options = parser.parse_args()
    model, tokenizer = lab.load_pretrained("smollm2-135m")
    path = Path(__file__).parents[1].joinpath("data", *RECORDED)
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["prompt", "token", "logit", "model"])
        for prompt in PROMPTS:
            after = next_tokens(model, tokenizer, prompt, options.keep, MODEL)
            for token, logit in zip(after.tokens, after.logits.tolist(), strict=True):
                table.writerow([prompt, token, f"{logit:.4f}", MODEL])
    print(f"written: {path.name}")


if __name__ == "__main__":
    main()
