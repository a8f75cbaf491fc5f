"""What language models are for, small enough to do here: translation, summaries, answers; each beside a baseline."""

from llmlab.applications.aligning import LearnedGlossary, MemoryEditor, WordAligner, ibm_model_1
from llmlab.applications.answering import (
    Meanings,
    Passage,
    Question,
    answer,
    answer_rank,
    hit_rate,
    holds,
    nearest_sentence,
    passages_of,
    read_questions,
)
from llmlab.applications.copying import Copier, correct_drafts, spaced, with_drafts
from llmlab.applications.fusing import Fused, fuse, leave_one_out, mean_reciprocal_rank
from llmlab.applications.made_up import made_up_pairs
from llmlab.applications.remembering import Glossary, TranslationMemory
from llmlab.applications.summarizing import SentenceScorer, sentences_of
from llmlab.applications.translating import (
    PairBatch,
    encode_pairs,
    pair_batch,
    pair_batches,
    pair_logits,
    pair_loss,
    pair_tokenizer,
    prose_pairs,
    translate,
    translation_scores,
)

__all__ = [
    "Copier",
    "Fused",
    "Glossary",
    "LearnedGlossary",
    "Meanings",
    "MemoryEditor",
    "PairBatch",
    "Passage",
    "Question",
    "SentenceScorer",
    "TranslationMemory",
    "WordAligner",
    "answer",
    "answer_rank",
    "correct_drafts",
    "encode_pairs",
    "fuse",
    "hit_rate",
    "holds",
    "ibm_model_1",
    "leave_one_out",
    "made_up_pairs",
    "mean_reciprocal_rank",
    "nearest_sentence",
    "pair_batch",
    "pair_batches",
    "pair_logits",
    "pair_loss",
    "pair_tokenizer",
    "passages_of",
    "prose_pairs",
    "read_questions",
    "sentences_of",
    "spaced",
    "translate",
    "translation_scores",
    "with_drafts",
]
