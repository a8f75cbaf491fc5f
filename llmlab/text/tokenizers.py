"""The two tokenizers anybody would think of first: one id per character, one id per word."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

from llmlab.arguments import function, string, whole

from .checks import checked_documents, checked_ids, checked_list
from .segmentation import join_words, words

UNKNOWN = "<unk>"


class CharTokenizer:
    """One id per character, in code-point order. A character not seen in training is refused."""

    def __init__(self, characters: Iterable[str]):
        one_string = isinstance(characters, str)
        self.vocab = sorted(set(characters if one_string else checked_list("characters", characters, "text")))
        self._id = {character: i for i, character in enumerate(self.vocab)}

    @classmethod
    def train(cls, documents: Iterable[str], vocab_size: int | None = None) -> CharTokenizer:
        """Take the characters of the documents.

        Raises: ValueError for an empty corpus, and for more different characters than `vocab_size` (if given).
        """
        if vocab_size is not None:
            whole("CharTokenizer", "vocab_size", vocab_size, least=1)
        characters = set().union(*checked_documents(documents))
        if not characters:
            raise ValueError("a tokenizer needs text to learn from, got an empty corpus")
        if vocab_size is not None and len(characters) > vocab_size:
            raise ValueError(f"the corpus has {len(characters)} different characters, got vocab_size={vocab_size}")
        return cls(characters)

    @property
    def vocab_size(self) -> int:
        return len(self.vocab)

    def encode(self, text: str) -> list[int]:
        """Turn text into one id per character."""
        string("encode", "text", text)
        try:
            return [self._id[character] for character in text]
        except KeyError as error:
            character = error.args[0]
            raise ValueError(
                f"a CharTokenizer knows the {self.vocab_size} characters of its corpus, "
                f"got {character!r} (U+{ord(character):04X})"
            ) from None

    def decode(self, ids: Iterable[int]) -> str:
        """Turn ids back into text."""
        return "".join(self.vocab[i] for i in checked_ids(ids, self.vocab_size))

    def __repr__(self) -> str:
        return f"CharTokenizer(vocab_size={self.vocab_size})"


class WordTokenizer:
    """One id per frequent word, number or mark; every other word is id 0, `<unk>`, and is lost.

    Decoding puts blanks between words, so text does not come back exactly either. cut: how text becomes words;
    `words` takes each Chinese character for one, a `Segmenter` finds longer ones.
    """

    def __init__(self, vocab: Iterable[str], cut: Callable[[str], list[str]] = words):
        """vocab: the words, in the order of their ids from 1 on."""
        self.vocab = [UNKNOWN, *checked_list("vocab", vocab, "[word]")]
        self.cut = function("WordTokenizer", "cut", cut, "text")
        self._id = {word: i for i, word in enumerate(self.vocab)}

    @classmethod
    def train(
        cls, documents: Iterable[str], vocab_size: int = 512, cut: Callable[[str], list[str]] = words
    ) -> WordTokenizer:
        """Take the `vocab_size - 1` most frequent words; ties in alphabetical order."""
        whole("WordTokenizer", "vocab_size (<unk> and a word)", vocab_size, least=2)
        function("WordTokenizer", "cut", cut, "text")
        counts = Counter(word for document in checked_documents(documents) for word in cut(document))
        if not counts:
            raise ValueError("a tokenizer needs text to learn from, got an empty corpus")
        by_frequency = sorted(counts, key=lambda word: (-counts[word], word))
        return cls(by_frequency[: vocab_size - 1], cut)

    @property
    def vocab_size(self) -> int:
        return len(self.vocab)

    def encode(self, text: str) -> list[int]:
        """Turn text into one id per word; 0 for a word outside the vocabulary."""
        return [self._id.get(word, 0) for word in self.cut(string("encode", "text", text))]

    def decode(self, ids: Iterable[int]) -> str:
        """Turn ids back into words, with a blank between them unless they are Chinese."""
        return join_words(self.vocab[i] for i in checked_ids(ids, self.vocab_size))

    def __repr__(self) -> str:
        return f"WordTokenizer(vocab_size={self.vocab_size})"
