"""Well-known sizes for the sliders, from the papers named; context 2,048 tokens."""

from __future__ import annotations

from functools import partial

from llmlab.model import Config

# GPT-3's table 2.1 (Brown et al. 2020); the vocabulary is padded so that tensor parallelism splits it.
_gpt3 = partial(Config, vocab_size=51200, max_seq=2048)
# LLaMA's table 2 (Touvron et al. 2023).
_llama = partial(
    Config, vocab_size=32000, max_seq=2048, norm="rmsnorm", mlp="swiglu", position="rotary", bias=False,
    tie_embeddings=False,
)  # fmt: skip

MODELS = {
    "125M": _gpt3(d_model=768, n_layer=12, n_head=12),
    "1.3B": _gpt3(d_model=2048, n_layer=24, n_head=16),
    "7B": _llama(d_model=4096, n_layer=32, n_head=32, d_ff=11008),
    "13B": _llama(d_model=5120, n_layer=40, n_head=40, d_ff=13824),
    "65B": _llama(d_model=8192, n_layer=80, n_head=64, d_ff=22016),
    "175B": _gpt3(d_model=12288, n_layer=96, n_head=96),
}
SEQ = 2048
