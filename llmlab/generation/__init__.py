"""Text from a model: `generate`, and the `probabilities` it draws from."""

from llmlab.generation.decoding import generate
from llmlab.generation.sampling import probabilities

__all__ = ["generate", "probabilities"]
