"""Text: corpora, cleaning, tokenizers and batches. Level 0: knows nothing of models or ranks."""

from .bpe import BPE
from .chat import chat_prompt
from .cleaning import clean
from .corpus import labelled, load, pairs, split, tagged
from .duplicates import deduplicate, jaccard, minhash, near_duplicates, shingles
from .entities import by_character, marked_tags, name_tags, sentences
from .fetching import Archive, cached, fetch
from .packing import IGNORE, Batch, Batches, batches, pack
from .padding import LabelledBatches, labelled_batches, padded
from .published import gpt2_tokenizer, tokenizer_json
from .quality import CHINESE, STOP_WORDS, Limits, content_words, faults
from .ranking import BM25
from .segmentation import Segmenter, join_words, words
from .sentencepiece import SentencePiece
from .shards import ShardedBatches, Shards, write_shards
from .tokenizers import CharTokenizer, WordTokenizer

__all__ = [
    "BM25",
    "BPE",
    "CHINESE",
    "IGNORE",
    "STOP_WORDS",
    "Archive",
    "Batch",
    "Batches",
    "CharTokenizer",
    "LabelledBatches",
    "Limits",
    "Segmenter",
    "ShardedBatches",
    "Shards",
    "SentencePiece",
    "WordTokenizer",
    "batches",
    "by_character",
    "cached",
    "chat_prompt",
    "clean",
    "content_words",
    "deduplicate",
    "faults",
    "fetch",
    "gpt2_tokenizer",
    "jaccard",
    "join_words",
    "labelled",
    "labelled_batches",
    "load",
    "marked_tags",
    "minhash",
    "name_tags",
    "near_duplicates",
    "pack",
    "padded",
    "pairs",
    "sentences",
    "shingles",
    "split",
    "tagged",
    "tokenizer_json",
    "words",
    "write_shards",
]
