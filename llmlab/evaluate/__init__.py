"""How good is it: loss, perplexity and accuracy per token, BLEU, a confusion matrix, and what plain counting reaches."""

from llmlab.evaluate.ngrams import KneserNey
from llmlab.evaluate.scores import accuracy, confusion, evaluating, mean_loss, perplexity, predictions
from llmlab.evaluate.translation import bleu, tokenize_13a

__all__ = [
    "KneserNey",
    "accuracy",
    "bleu",
    "confusion",
    "evaluating",
    "mean_loss",
    "perplexity",
    "predictions",
    "tokenize_13a",
]
