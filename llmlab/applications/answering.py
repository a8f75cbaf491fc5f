"""Answers out of a reference: find the passage by its meaning, then let a model read it and answer.

    question -> vector \\
                        product -> the nearest passages -> prompt with the passage -> a chat model's answer
    passages -> vectors /

The vectors are those of a text encoder such as MiniLM (Reimers and Gurevych 2019); BM25, which wants the same words on
both sides, is the yardstick; `fusing` searches by both. Reading what was found instead of answering from memory: Lewis
et al. 2020.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from llmlab.applications.summarizing import sentences_of
from llmlab.arguments import instance, listing, string, whole
from llmlab.evaluate import evaluating
from llmlab.generation import generate
from llmlab.hardware.facts import read_facts
from llmlab.model.text_encoder import TextEncoder
from llmlab.text import BPE, chat_prompt
from llmlab.text.ranking import BM25, best_first
from llmlab.text.wordpiece import WordPiece

QUESTIONS = "questions.csv"  # under data/; written by hand for this course
END = "<|im_end|>"
SYSTEM = "You answer questions about the Python language in a few words."
# a text, a question, an answer: what a short answer is, a model learns best from some (Brown et al. 2020)
EXAMPLES = (
    ("Strings are immutable sequences of Unicode code points. An empty string is false.",
     "What are strings made of?", "Unicode code points"),
    ("len() returns the number of items of an object. It raises TypeError for an object that has no length.",
     "What does len() raise for an object without a length?", "TypeError"),
    ("A file is closed by its close() method. The with statement closes it by itself.",
     "Which statement closes a file by itself?", "the with statement"),
)  # fmt: skip


@dataclass(frozen=True)
class Question:
    """A question, what may be answered, and the topic of Python's reference that says so."""

    question: str
    answers: tuple[str, ...]
    topic: str


@dataclass(frozen=True)
class Passage:
    text: str
    topics: frozenset[str]  # all that have it: a reference repeats itself


def read_questions() -> list[Question]:
    """Read the course's own questions about Python's reference, in which ";" separates answers that are as good."""
    rows = read_facts(QUESTIONS)
    return [Question(row["question"], tuple(row["answers"].split("; ")), row["topic"]) for row in rows]


def passages_of(topics: Mapping[str, str], most: int = 120) -> list[Passage]:
    """Cut texts at blank lines into passages of about `most` words; a paragraph that topics share comes once.

    A longer paragraph stays whole.
    """
    whole("passages_of", "most, of words,", most, least=1)
    names: dict[str, set[str]] = {}  # paragraph -> topics
    for topic in sorted(instance("passages_of", "topics", topics, Mapping, "write {topic: text}")):
        for paragraph in re.split(r"\n\s*\n", topics[topic]):
            if text := " ".join(paragraph.split()):
                names.setdefault(text, set()).add(topic)
    found: list[Passage] = []
    for text, where in names.items():
        last = found[-1] if found else Passage("", frozenset())
        common = last.topics & where
        if common and len(last.text.split()) + len(text.split()) <= most:
            found[-1] = Passage(f"{last.text} {text}", common)
        else:
            found.append(Passage(text, frozenset(where)))
    return found


def holds(text: str, answers: Sequence[str]) -> bool:
    """Whether a text says one of the answers in these very words; case, blanks and quotation marks aside."""
    plain = _plain(text)
    return any(re.search(rf"(?<!\w){re.escape(_plain(answer))}(?!\w)", plain) for answer in answers)


class Meanings:
    """Texts as vectors of an encoder: those whose direction is nearest to a question's are found."""

    def __init__(self, encoder: TextEncoder, tokenizer: WordPiece, texts: Sequence[str], batch: int = 16):
        """Compute a vector per text, once. Raises ValueError for one string, and for a model that gives no vectors."""
        self.encoder = instance("Meanings", "encoder", encoder, TextEncoder, "as load_pretrained('minilm-l6') gives")
        self.tokenizer = instance("Meanings", "tokenizer", tokenizer, WordPiece)
        self.texts = [string("Meanings", "each text", text) for text in listing("Meanings", "texts", texts)]
        if not self.texts:
            raise ValueError("Meanings wants texts to search in, got none")
        self.vectors = self.embed(self.texts, whole("Meanings", "batch", batch, least=1))

    def embed(self, texts: Sequence[str], batch: int = 16) -> Float[Tensor, "N D"]:
        """Compute vectors of length 1, [N, D]; a text beyond 256 tokens is cut, as the encoder was trained."""
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))  # of like length side by side: little padding
        found = torch.empty(len(texts), self.encoder.config.d_model)
        with evaluating(self.encoder):
            for start in range(0, len(order), batch):
                some = order[start : start + batch]
                rows, lengths = self.tokenizer.batch([texts[i] for i in some])
                found[some] = self.encoder.embed(torch.tensor(rows), torch.tensor(lengths))
        return found

    def scores(self, question: str) -> list[float]:
        """Score every text, in order: the cosine of its angle to the question, -1 to 1."""
        vector = self.embed([string("Meanings", "question", question)])[0]
        return (self.vectors @ vector).tolist()

    def search(self, question: str, k: int = 5) -> list[int]:
        """Give the places of the `k` nearest texts, the nearest first, ties in order."""
        whole("search", "k", k, least=1)
        return best_first(self.scores(question), k)


def answer_rank(question: Question, passages: Sequence[Passage], found: Sequence[int]) -> int | None:
    """Give the rank, from 1, of the first passage found that is of the question's topic and holds an answer, or None.

    found: places in `passages`, the best first.
    """
    for rank, i in enumerate(listing("answer_rank", "found", found, "places"), 1):
        if question.topic in passages[i].topics and holds(passages[i].text, question.answers):
            return rank
    return None


def hit_rate(questions: Sequence[Question], passages: Sequence[Passage], index: Any, k: int) -> float:
    """Compute for how many questions, 0 to 100, one of the `k` passages found answers (see `answer_rank`)."""
    asked = listing("hit_rate", "questions", questions, "Question")
    if not asked:
        raise ValueError("hit_rate wants questions to ask, got none")
    ranks = [answer_rank(question, passages, index.search(question.question, k)) for question in asked]
    return 100 * sum(rank is not None for rank in ranks) / len(ranks)


def answer(model: Any, tokenizer: BPE, question: str, passage: str | None = None, max_new_tokens: int = 16) -> str:
    """Let a chat model answer from a passage, or, where there is none, from what it remembers ("closed book").

    It sees three examples first, with their texts if it has a passage.
    """
    string("answer", "question", question)
    turns = []
    for text, asked, short in EXAMPLES:
        turns += [("user", _asked(asked, text if passage else None)), ("assistant", short)]
    turns.append(("user", _asked(question, passage and string("answer", "passage", passage))))
    ids = chat_prompt(tokenizer, [{"role": role, "content": words} for role, words in turns], system=SYSTEM)
    (said,) = generate(model, [ids], max_new_tokens, end=tokenizer.specials[END])
    new = said[len(ids) :].tolist()
    words = tokenizer.decode(token for token in new if token != tokenizer.specials[END]).strip()
    return words.splitlines()[0] if words else ""


def _asked(question: str, passage: str | None) -> str:
    return f"Text: {passage}\n\nQuestion: {question}" if passage else f"Question: {question}"


def nearest_sentence(question: str, passage: str) -> str:
    """Give the sentence of the passage that shares most of the rare words with the question: no model at all."""
    sentences = sentences_of(passage)
    return sentences[BM25(sentences).search(question, 1)[0]]


def _plain(text: str) -> str:
    return " ".join(re.sub(r"[\"“”'‘’`*]", "", text).lower().split())
