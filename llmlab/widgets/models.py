"""Well-known sizes for the sliders, out of the table of published models; context 2,048 tokens."""

from __future__ import annotations

from dataclasses import replace

from llmlab.cost.models import find_config
from llmlab.model import Config

SEQ = 2048


def _gpt3(name: str) -> Config:
    """The vocabulary padded, so that tensor parallelism splits it."""
    return replace(find_config(name), vocab_size=51200)


MODELS = {
    "125M": _gpt3("gpt3-125m"),
    "1.3B": _gpt3("gpt3-1.3b"),
    "7B": find_config("llama-7b"),
    "13B": find_config("llama-13b"),
    "65B": find_config("llama-65b"),
    "175B": _gpt3("gpt3-175b"),
}
