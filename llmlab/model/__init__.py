"""The model, on one process: it never hears of ranks. Every mode of parallelism is a transform of what stands here."""

from llmlab.model.attention import (
    Attention,
    KVCache,
    attend_formula,
    attend_fused,
    attend_tiled,
    document_mask,
    padding_mask,
)
from llmlab.model.classifier import Classifier
from llmlab.model.config import Config
from llmlab.model.dropout import Dropout, Place
from llmlab.model.embedding import Embedding, rotary, rotate, sinusoids
from llmlab.model.encoder_decoder import DecoderBlock, EncoderDecoder
from llmlab.model.initial import draw, draw_weights
from llmlab.model.layers import LayerNorm, Linear, RMSNorm
from llmlab.model.lora import add_lora, lora_state, merge_lora
from llmlab.model.loss import IGNORE, cross_entropy, masked_tokens, next_token, shifted_right
from llmlab.model.lstm import LSTM, LSTMLayer
from llmlab.model.maps import attention_maps
from llmlab.model.mlp import MLP, SwiGLU
from llmlab.model.moe import MoE
from llmlab.model.recomputing import recompute
from llmlab.model.transformer import Block, Transformer

__all__ = [
    "IGNORE",
    "LSTM",
    "MLP",
    "Attention",
    "Block",
    "Classifier",
    "Config",
    "DecoderBlock",
    "Dropout",
    "Embedding",
    "EncoderDecoder",
    "KVCache",
    "LSTMLayer",
    "LayerNorm",
    "Linear",
    "MoE",
    "Place",
    "RMSNorm",
    "SwiGLU",
    "Transformer",
    "add_lora",
    "attend_formula",
    "attend_fused",
    "attend_tiled",
    "attention_maps",
    "cross_entropy",
    "document_mask",
    "draw",
    "draw_weights",
    "lora_state",
    "masked_tokens",
    "merge_lora",
    "next_token",
    "padding_mask",
    "recompute",
    "rotary",
    "rotate",
    "shifted_right",
    "sinusoids",
]
