"""Training byte-level BPE: ours beside the `tokenizers` package, the same documents, the same size of vocabulary.

    python benchmarks/bpe.py [--megabytes 2 5] [--vocab 8192] [--rounds 7]

Theirs is Rust and uses several cores unless `RAYON_NUM_THREADS=1`; ours is Python with NumPy on one. The wall clock is
what a user waits; the processor's clock adds up all cores. Needs `tokenizers`, one of the test extras.
"""

from __future__ import annotations

import argparse
import os

from racing import Race, race, where
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

import llmlab as lab
from llmlab.text.published import spell


def theirs(documents: list[str], vocab_size: int) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=vocab_size, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(documents, trainer)
    return tokenizer


def side_by_side(documents: list[str], vocab_size: int, rounds: int) -> Race:
    nbytes = sum(len(document.encode()) for document in documents)
    print(f"\n{nbytes / 1e6:.1f} MB in {len(documents):,} documents, {vocab_size:,} tokens")
    ours = lab.text.BPE.train(documents, vocab_size)
    common = {spell(token) for token in ours.vocab} & set(theirs(documents, vocab_size).get_vocab())
    print(f"tokens that both learned: {len(common):,} (they differ in which of two equally frequent pairs comes first)")
    ways = {
        "ours": lambda: lab.text.BPE.train(documents, vocab_size),
        "tokenizers": lambda: theirs(documents, vocab_size),
    }
    return race(ways, rounds, warm_up=1)


def first_megabytes(megabytes: float) -> list[str]:
    """Take documents of the default corpus, and after its 2 MB torch's docstrings: 7.6 MB in all, no download."""
    documents, left = [], int(megabytes * 1e6)
    for document in (*lab.text.load("python"), *lab.text.load("torch")):
        left -= len(document.encode())
        if left < 0:
            break
        documents.append(document)
    return documents


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=float, nargs="+", default=[2, 5])
    parser.add_argument("--vocab", type=int, default=8192)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    print(f"{where()}; RAYON_NUM_THREADS={os.environ.get('RAYON_NUM_THREADS', 'not set')}")
    for megabytes in options.megabytes:
        side_by_side(first_megabytes(megabytes), options.vocab, options.rounds).report("ours")


if __name__ == "__main__":
    main()
