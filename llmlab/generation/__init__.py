"""Text from a model: `generate`, the `probabilities` it draws from, and `roll_out` for texts it learns from."""

from llmlab.generation.decoding import generate
from llmlab.generation.rollouts import group_advantages, log_probabilities, policy_loss, roll_out
from llmlab.generation.sampling import probabilities

__all__ = ["generate", "group_advantages", "log_probabilities", "policy_loss", "probabilities", "roll_out"]
