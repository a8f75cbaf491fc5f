"""Cleaning and de-duplication over ranks: the documents of one process, whatever the number of ranks."""

from __future__ import annotations

import pytest

import llmlab as lab
from llmlab.text.duplicates import near_duplicates


def corpus() -> list[str]:
    """Docstrings, and repeats of them: exact, in other capitals, and with a word changed here and there."""
    found = lab.text.load("python", max_bytes=60_000)
    long = [document for document in found if len(document.split()) > 60][:12]
    near = [" ".join("other" if i % 60 == 59 else word for i, word in enumerate(d.split())) for d in long]
    twice = [" ".join("another" if i % 45 == 44 else word for i, word in enumerate(d.split())) for d in long]
    return [*found, "", *near, *(document.upper() for document in long), *twice, "\x00 \u200b", *found[:5]]


def worker(world, documents, near, schedule="static"):
    return lab.clean_documents(documents, world, near, schedule=schedule, chunk=16)


@pytest.mark.parametrize("near", [None, 0.7])
def test_any_number_of_ranks_gives_what_one_process_gives(near) -> None:
    documents = corpus()
    cleaned = [text for text in map(lab.text.clean, documents) if text]
    wanted = lab.text.deduplicate(cleaned, near)
    assert len(wanted) < len(lab.text.deduplicate(cleaned)) or near is None
    for ranks, schedule in ((1, "static"), (3, "first_free"), (4, "static")):
        for found in lab.Simulator(ranks, kernels=False).run(worker, documents, near, schedule).results:
            assert found == wanted


def test_a_repeat_leaves_nobody_out() -> None:
    """Of a chain, each near the next alone, every second stays: whom a repeat is near to is not for that a repeat."""
    words = [f"w{i}" for i in range(60)]
    chain = [" ".join(words[4 * n : 4 * n + 30]) for n in range(5)]
    repeats = [j for _, j, _ in near_duplicates(chain, 0.6)]
    assert repeats == [1, 3]
    wanted = [chain[0], chain[2], chain[4]]
    assert lab.Simulator(2, kernels=False).run(worker, chain, 0.6).results == [wanted, wanted]
