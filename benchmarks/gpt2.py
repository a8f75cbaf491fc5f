"""A random GPT-2 in transformers, and the same weights in ours. Needs `transformers`, one of the test extras."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from transformers import GPT2Config, GPT2LMHeadModel
from transformers.utils import logging

import llmlab as lab
from llmlab.model.pretrained import from_safetensors
from llmlab.model.safetensors import read_safetensors

logging.disable_progress_bar()
logging.set_verbosity_error()


def the_same_model(vocab: int, width: int, layers: int, seq: int) -> tuple[lab.Transformer, GPT2LMHeadModel]:
    """Make both, in fp32, without dropout and without tokens that end a text."""
    config = GPT2Config(
        vocab_size=vocab, n_embd=width, n_layer=layers, n_head=width // 32, n_positions=seq, initializer_range=0.1,
        bos_token_id=None, eos_token_id=None, embd_pdrop=0.0, attn_pdrop=0.0, resid_pdrop=0.0,
    )  # fmt: skip
    torch.manual_seed(0)
    theirs = GPT2LMHeadModel(config)
    with tempfile.TemporaryDirectory() as folder:
        theirs.save_pretrained(folder)
        ours = from_safetensors(config.to_dict(), read_safetensors(Path(folder, "model.safetensors")), torch.float32)
    return ours, theirs
