"""How good is it: loss, perplexity, accuracy, confusion; BLEU, chrF, ROUGE, exact match; and what counting reaches."""

from llmlab.evaluate.answers import answer_f1, exact_match, normal_answer
from llmlab.evaluate.characters import chrf
from llmlab.evaluate.ngrams import KneserNey
from llmlab.evaluate.scores import accuracy, confusion, evaluating, mean_loss, on_device, perplexity, predictions
from llmlab.evaluate.summaries import common_subsequence, rouge, rouge_words
from llmlab.evaluate.translation import bleu, tokenize_13a, tokenize_zh

__all__ = [
    "KneserNey",
    "accuracy",
    "answer_f1",
    "bleu",
    "chrf",
    "common_subsequence",
    "confusion",
    "evaluating",
    "exact_match",
    "mean_loss",
    "normal_answer",
    "on_device",
    "perplexity",
    "predictions",
    "rouge",
    "rouge_words",
    "tokenize_13a",
    "tokenize_zh",
]
