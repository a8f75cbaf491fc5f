"""How good is it: loss, perplexity, accuracy; BLEU, chrF, ROUGE, exact match, F1; and what counting reaches."""

from llmlab.evaluate.answers import answer_f1, exact_match, normal_answer
from llmlab.evaluate.characters import chrf
from llmlab.evaluate.deciding import occlusion
from llmlab.evaluate.naive_bayes import NaiveBayes, word_pairs
from llmlab.evaluate.ngrams import KneserNey
from llmlab.evaluate.scores import accuracy, confusion, evaluating, mean_loss, on_device, perplexity, predictions
from llmlab.evaluate.summaries import common_subsequence, rouge, rouge_words
from llmlab.evaluate.tagging import MostFrequentTag, SpanScore, span_scores, spans
from llmlab.evaluate.translation import bleu, tokenize_13a, tokenize_zh

__all__ = [
    "KneserNey",
    "MostFrequentTag",
    "NaiveBayes",
    "SpanScore",
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
    "occlusion",
    "on_device",
    "perplexity",
    "predictions",
    "rouge",
    "rouge_words",
    "span_scores",
    "spans",
    "tokenize_13a",
    "tokenize_zh",
    "word_pairs",
]
