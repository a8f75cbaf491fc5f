"""A text where a list is wanted would be taken for a list of its characters: refused, with the call that is right."""

from __future__ import annotations

import numpy as np
import pytest

from llmlab.text import (
    BPE,
    CharTokenizer,
    Limits,
    Segmenter,
    WordTokenizer,
    content_words,
    deduplicate,
    faults,
    join_words,
    near_duplicates,
    pack,
    split,
)
from llmlab.text.chat import chat_prompt
from llmlab.text.checks import checked_ids
from llmlab.text.docstrings import docstrings, summary_pairs
from llmlab.text.published import from_spelled, spell

TEXT = "one text"
SPELLED = {spell(bytes([byte])): byte for byte in range(256)} | {"<e>": 256}
CHAT = BPE.train([TEXT], 258, specials=["<|im_start|>", "<|im_end|>"])
CALLS = {
    "documents of BPE": lambda: BPE.train(TEXT),
    "specials of BPE": lambda: BPE.train([TEXT], 300, specials="<|end|>"),
    "specials of a spelled BPE": lambda: from_spelled(SPELLED, [], "<e>"),
    "documents of CharTokenizer": lambda: CharTokenizer.train(TEXT),
    "documents of WordTokenizer": lambda: WordTokenizer.train(TEXT),
    "vocab of WordTokenizer": lambda: WordTokenizer(TEXT),
    "documents to deduplicate": lambda: deduplicate(TEXT),
    "documents that are near": lambda: near_duplicates(TEXT),
    "documents to split": lambda: split(TEXT),
    "sentences": lambda: Segmenter.train(TEXT),
    "a sentence": lambda: Segmenter.train([TEXT]),
    "words to join": lambda: join_words(TEXT),
    "words of content": lambda: content_words(TEXT),
    "common words": lambda: faults(TEXT * 60, Limits(common="the")),
    "folders to skip": lambda: docstrings(".", skip="tests"),
    "documents to summarise": lambda: summary_pairs(TEXT),
}


@pytest.mark.parametrize("call", CALLS)
def test_one_text_for_a_list_is_refused(call):
    with pytest.raises(ValueError, match="must be a list, got one string, .*: pass "):
        CALLS[call]()


def test_texts_for_token_ids_and_for_messages_are_refused():
    with pytest.raises(ValueError, match="token ids must be integers, got the text"):
        pack(TEXT, 2)
    with pytest.raises(ValueError, match="a conversation is a list of messages, each with role and content"):
        chat_prompt(CHAT, ["hello", "there"])


@pytest.mark.parametrize("call", [deduplicate, near_duplicates, BPE.train, CharTokenizer.train, WordTokenizer.train])
@pytest.mark.parametrize("documents", [[b"bytes"], [1, 2], 5, None])
def test_documents_are_strings(call, documents):
    with pytest.raises(ValueError, match="documents must be"):
        call(documents)


def test_ids_may_be_numbers_of_numpy_and_no_floats():
    assert checked_ids(np.array([1, 2], np.uint16), 3) == [1, 2] and checked_ids(b"\x01", 3) == [1]
    with pytest.raises(ValueError, match="token ids must be integers"):
        checked_ids([1.5], 3)
