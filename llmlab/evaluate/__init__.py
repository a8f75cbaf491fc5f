"""How good is it: loss, perplexity, accuracy, confusion, BLEU, F1 of spans; and how good counting alone would be."""

from llmlab.evaluate.deciding import occlusion
from llmlab.evaluate.naive_bayes import NaiveBayes, word_pairs
from llmlab.evaluate.ngrams import KneserNey
from llmlab.evaluate.scores import accuracy, confusion, evaluating, mean_loss, on_device, perplexity, predictions
from llmlab.evaluate.tagging import MostFrequentTag, SpanScore, span_scores, spans
from llmlab.evaluate.translation import bleu, tokenize_13a

__all__ = [
    "KneserNey",
    "MostFrequentTag",
    "NaiveBayes",
    "SpanScore",
    "accuracy",
    "bleu",
    "confusion",
    "evaluating",
    "mean_loss",
    "occlusion",
    "on_device",
    "perplexity",
    "predictions",
    "span_scores",
    "spans",
    "tokenize_13a",
    "word_pairs",
]
