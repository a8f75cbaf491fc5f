"""What goes on inside a model: what each layer would say (the logit lens), and what changes an answer (patching)."""

from llmlab.interpreting.lens import TopTokens, logit_lens, residual_streams, top_tokens
from llmlab.interpreting.patching import Patching, patch, patch_everywhere

__all__ = ["Patching", "TopTokens", "logit_lens", "patch", "patch_everywhere", "residual_streams", "top_tokens"]
