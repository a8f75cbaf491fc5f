"""Text from a model: `generate`, and the `probabilities` it draws from; `stream` gives its tokens as they come."""

from llmlab.generation.decoding import generate
from llmlab.generation.sampling import probabilities
from llmlab.generation.streaming import Stopwatch, as_text, stream

__all__ = ["Stopwatch", "as_text", "generate", "probabilities", "stream"]
