"""Record how SmolLM2-135M (Allal et al. 2025; 4-bit weights) goes on after a prompt, for each way of choosing tokens.

    python benchmarks/continuations.py

Writes data/recorded/continuations.csv, which notebook 06 shows: text, and nats per token by the model's own account.
A drawn text may differ on another processor, whose last digits differ: these are examples, not reference values.
"""

from __future__ import annotations

import csv
from pathlib import Path

import torch

import llmlab as lab
from llmlab import evaluate
from llmlab.text.chat import chat_prompt

TARGET = Path(__file__).parents[1] / "data" / "recorded" / "continuations.csv"
PROMPTS = {"The capital of France is": 48, "Once upon a time there was a": 160}  # how many tokens follow
WAYS: dict[str, dict[str, float | int]] = {
    "greedy": {},
    "temperature 0.7, top-p 0.9": {"temperature": 0.7, "top_p": 0.9},
    "temperature 1": {"temperature": 1.0},
    "temperature 2": {"temperature": 2.0},
}
QUESTION = "What is the capital of France?"


def main() -> None:
    model, tokenizer = lab.load_pretrained("smollm2-135m")

    def row(prompt: str, way: str, start: list[int], ids: list[int]) -> list[str]:
        whole = torch.tensor(start + ids)[None]
        targets = whole[:, 1:].clone()
        targets[:, : len(start) - 1] = lab.text.IGNORE  # the prompt was given, not chosen
        return [prompt, way, tokenizer.decode(ids), f"{evaluate.mean_loss(model, [(whole[:, :-1], targets)]):.2f}"]

    with TARGET.open("w", newline="", encoding="utf-8") as file:
        table = csv.writer(file, lineterminator="\n")
        table.writerow(["prompt", "way", "text", "nats_per_token"])
        for prompt, new in PROMPTS.items():
            start = tokenizer.encode(prompt)
            for way, choice in WAYS.items():
                ids = lab.generate(model, start, new, seed=1, **choice).tolist()[len(start) :]
                table.writerow(row(prompt, way, start, ids))
                file.flush()
        asked = list(chat_prompt(tokenizer, QUESTION))
        ids = lab.generate(model, asked, 24, end=tokenizer.specials["<|im_end|>"]).tolist()[len(asked) :]
        table.writerow(row(QUESTION, "chat, greedy", asked, ids))


if __name__ == "__main__":
    main()
