"""What notebook 07c shows of the inside of SmolLM2-135M, recorded in data/recorded for machines without its weights.

    python benchmarks/inside.py

The logit lens over one prompt; and activation patching over pairs of prompts that differ in a country, a row for each
layer: patched at each position, the logit of the right capital less that of the other one.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable
from datetime import date
from pathlib import Path
from typing import Any

import torch

import llmlab as lab
from llmlab import interpreting
from llmlab.hardware import describe_machine

FOLDER = Path(__file__).parents[1] / "data" / "recorded"
PAIRS = (
    ("France", "Paris", "Germany", "Berlin"),
    ("Germany", "Berlin", "France", "Paris"),
    ("Italy", "Rome", "Spain", "Madrid"),
    ("Japan", "Tokyo", "China", "Beijing"),
    ("Russia", "Moscow", "Egypt", "Cairo"),
)


def write(name: str, columns: list[str], rows: Iterable[Iterable[Any]]) -> None:
    when = str(describe_machine()), date.today().isoformat()
    with (FOLDER / name).open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow([*columns, "machine", "date"])
        writer.writerows([*row, *when] for row in rows)


def prompt(country: str) -> str:
    return f"The capital of {country} is"


def main() -> None:
    model, tokenizer = lab.load_pretrained("smollm2-135m")
    top = interpreting.top_tokens(model, tokenizer, prompt("France"))
    lens = [
        (layer, t, token, top.words[layer][t], f"{float(top.p[layer, t]):.3f}")
        for layer in range(len(top.words))
        for t, token in enumerate(top.tokens)
    ]
    write("logit_lens.csv", ["layer", "position", "token", "word", "p"], lens)
    rows = []
    for country, capital, other, others in PAIRS:
        clean, corrupt = (tokenizer.encode(prompt(which)) for which in (country, other))
        (right,), (wrong,) = (tokenizer.encode(f" {which}") for which in (capital, others))
        found = interpreting.patch_everywhere(model, torch.tensor(clean), torch.tensor(corrupt), right, wrong)
        ends = f"{found.clean:.3f}", f"{found.corrupt:.3f}"
        for layer, values in enumerate(found.patched.tolist()):
            rows.append((country, capital, other, others, *ends, layer, *(f"{value:.3f}" for value in values)))
        moved = (found.restored[:, -1] > 0.5).nonzero()[0].item()
        print(f"{country}, not {other}: {found.clean:.2f}, {found.corrupt:.2f}; the last token from layer {moved} on")
    positions = [f"position_{t}" for t in range(len(top.tokens))]
    columns = ["country", "capital", "other", "others_capital", "clean", "corrupt", "layer", *positions]
    write("patching.csv", columns, rows)


if __name__ == "__main__":
    main()
