"""Text from a model: `generate`, or `stream` as it comes; `probabilities` to draw from; `roll_out` to learn from."""

from llmlab.generation.decoding import generate
from llmlab.generation.rollouts import group_advantages, log_probabilities, policy_loss, roll_out
from llmlab.generation.sampling import probabilities
from llmlab.generation.streaming import Stopwatch, as_text, stream

__all__ = [
    "Stopwatch",
    "as_text",
    "generate",
    "group_advantages",
    "log_probabilities",
    "policy_loss",
    "probabilities",
    "roll_out",
    "stream",
]
