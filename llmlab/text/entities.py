"""Which words are names, as BIO tags: read off a newspaper's parts of speech, or off the marks in docstrings."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from llmlab.arguments import listing, string

from .packaged import Word
from .segmentation import words

KINDS = {"nr": "person", "ns": "place", "nt": "organization"}  # as the newspaper's tags are called
ENDS = frozenset("。！？.!?")
# ``code``, or :role:`text`, as the authors of docstrings mark what they write about.
_MARKED = re.compile(r"``(?P<code>[^`\n]+)``|:(?:py:)?(?P<role>attr|class|func|meth|mod):`~?(?P<text>[^`<\n]+)`")


def name_tags(sentence: Sequence[Word]) -> list[tuple[str, str]]:
    """Turn (word, part of speech) into (word, BIO tag): persons, places and organizations.

    A surname and the given name behind it, two words there, are one person.
    """
    found: list[tuple[str, str]] = []
    alone = False  # whether the word before is a person's that stands alone so far
    for word, part in listing("name_tags", "sentence", sentence, "(word, part of speech)"):
        kind = KINDS.get(part)
        joins = kind == "person" and alone
        found.append((word, "O" if kind is None else f"{'I' if joins else 'B'}-{kind}"))
        alone = kind == "person" and not joins
    return found


def sentences(paragraph: Sequence[tuple[str, str]]) -> list[list[tuple[str, str]]]:
    """Cut a tagged paragraph behind each 。！？ or . ! ?"""
    found: list[list[tuple[str, str]]] = [[]]
    for word, tag in listing("sentences", "paragraph", paragraph, "(word, tag)"):
        found[-1].append((word, tag))
        if word in ENDS:
            found.append([])
    return [sentence for sentence in found if sentence]


def by_character(tagged: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Spread the BIO tags of words over their characters: (中国, B-place) -> (中, B-place), (国, I-place)."""
    return [
        (character, tag if i == 0 else tag.replace("B-", "I-"))
        for word, tag in listing("by_character", "tagged", tagged, "(word, BIO tag)")
        for i, character in enumerate(word)
    ]


def marked_tags(text: str) -> list[tuple[str, str]]:
    """Take the marks out of a docstring and tag each word with what was marked: ``n`` -> (n, B-code).

    Authors write ``code`` and :attr:`name` (with :class:, :func:, :meth:, :mod:); the kinds are called so here.
    """
    return list(_marked(string("marked_tags", "text", text)))


def _marked(text: str) -> Iterator[tuple[str, str]]:
    end = 0
    for match in _MARKED.finditer(text):
        yield from ((word, "O") for word in words(text[end : match.start()]))
        kind = "code" if match["code"] else match["role"]
        inside = words(match["code"] or match["text"])
        yield from ((word, f"{'I' if i else 'B'}-{kind}") for i, word in enumerate(inside))
        end = match.end()
    yield from ((word, "O") for word in words(text[end:]))
