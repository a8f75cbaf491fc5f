"""What notebooks 02 and 03 show of real weights, recorded in data/recorded for machines that cannot download them.

    python benchmarks/recorded_weights.py

Cosines of word vectors of MiniLM (84 MB) and attention maps of SmolLM2-135M (93 MB), both fetched at their first use.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

import llmlab as lab
from llmlab.model.maps import attention_maps

FOLDER = Path(__file__).parents[1] / "data" / "recorded"
WORDS = "cat cats kitten dog car king queen man woman monday tuesday paris france".split()
SENTENCE = "The cat sat on the mat because it was tired. The cat sat on the mat"


def word_cosines() -> None:
    model, tokenizer = lab.load_pretrained("minilm-l6")
    ids = [i for word in WORDS for i in tokenizer.encode(word)]
    vectors = F.normalize(model.embedding.token.weight[ids].detach(), dim=-1)
    np.savetxt(FOLDER / "word_cosines.csv", vectors @ vectors.T, "%.4f", ",", header=",".join(WORDS), comments="")


def sentence_maps() -> None:
    model, tokenizer = lab.load_pretrained("smollm2-135m")
    ids = tokenizer.encode(SENTENCE)
    maps = attention_maps(model, torch.tensor([ids]))[0].numpy().round(3).astype(np.float16)
    np.savez_compressed(FOLDER / "attention_maps.npz", maps=maps, tokens=[tokenizer.decode([i]) for i in ids])


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    word_cosines()
    sentence_maps()
    print(*(f"{path.name}: {path.stat().st_size:,} bytes" for path in sorted(FOLDER.iterdir())), sep="\n")
