"""A conversation as a chat model was taught to read it: ChatML, in which special tokens hold each message.

<|im_start|>user
What is the capital of France?<|im_end|>
<|im_start|>assistant
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from llmlab.arguments import instance

from .bpe import BPE
from .sentencepiece import SentencePiece

START, END = "<|im_start|>", "<|im_end|>"
# What the template published with SmolLM2 puts before a conversation that has no system message of its own.
SMOLLM2_SYSTEM = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"


def chat_prompt(
    tokenizer: BPE | SentencePiece, messages: str | Sequence[Mapping[str, str]], system: str | None = SMOLLM2_SYSTEM
) -> list[int]:
    """Return the token ids after which the model speaks. It is done when it says `tokenizer.specials["<|im_end|>"]`.

    messages: what the user says, or a conversation of {"role": ..., "content": ...}. system: put first unless the
    conversation begins with one; None: nothing. No text can end its own message: in it, "<|im_end|>" is plain text.
    """
    instance("chat_prompt", "tokenizer", tokenizer, (BPE, SentencePiece), "not its name")
    absent = [special for special in (START, END) if special not in tokenizer.specials]
    if absent:
        raise ValueError(f"a chat needs a tokenizer with {START} and {END}, got one without {absent}")
    turns = [{"role": "user", "content": messages}] if isinstance(messages, str) else list(messages)
    if not turns or any(not isinstance(turn, Mapping) or turn.keys() != {"role", "content"} for turn in turns):
        raise ValueError(f"a conversation is a list of messages, each with role and content; got {turns}")
    if system is not None and turns[0]["role"] != "system":
        turns = [{"role": "system", "content": system}, *turns]
    start, end, line = tokenizer.specials[START], tokenizer.specials[END], tokenizer.encode("\n")
    ids: list[int] = []
    for turn in turns:
        ids += [start, *tokenizer.encode(f"{turn['role']}\n{turn['content']}"), end, *line]
    return [*ids, start, *tokenizer.encode("assistant\n")]
