"""How good is it: loss, perplexity, accuracy, confusion and BLEU; and how good counting alone would be."""

from llmlab.evaluate.ngrams import KneserNey
from llmlab.evaluate.scores import accuracy, confusion, evaluating, mean_loss, on_device, perplexity, predictions
from llmlab.evaluate.translation import bleu, tokenize_13a

__all__ = [
    "KneserNey",
    "accuracy",
    "bleu",
    "confusion",
    "evaluating",
    "mean_loss",
    "on_device",
    "perplexity",
    "predictions",
    "tokenize_13a",
]
