"""`python -m llmlab serve smollm2-135m --port 8000`: a model behind an OpenAI-compatible endpoint, on this machine."""

from __future__ import annotations

import argparse
import time
from functools import partial


def register(commands: argparse._SubParsersAction) -> None:
    """Add the command."""
    serving = commands.add_parser("serve", help="serve a model to OpenAI's clients", description=run_serve.__doc__)
    serving.add_argument("model", help="smollm2-135m, a folder in Hugging Face's layout, or a GGUF file")
    serving.add_argument("--port", type=int, default=8000, help="0: a free one (default: 8000)")
    serving.add_argument("--host", default="127.0.0.1", help="an address of this machine (default: 127.0.0.1)")
    serving.add_argument("--open-to-the-network", action="store_true", help="needed for a host that others can reach")
    serving.add_argument("--name", help="what clients call the model (default: as it is given)")
    serving.add_argument("--kv-blocks", type=int, default=512, help="of the cache (default: 512)")
    serving.add_argument("--block", type=int, default=16, help="tokens in a block (default: 16)")
    serving.add_argument("--concurrent", type=int, default=64, help="answers under way at once (default: 64)")
    serving.add_argument("--max-tokens", type=int, default=1024, help="of one answer (default: 1024)")
    serving.set_defaults(run=run_serve)


def run_serve(asked: argparse.Namespace) -> None:
    """Serve a model to clients of OpenAI's HTTP interface, on this machine, until interrupted."""
    from llmlab.model.pretrained import load_pretrained
    from llmlab.serving.engine import Engine
    from llmlab.serving.protocol import Limits
    from llmlab.serving.server import Server, check_host
    from llmlab.text.bpe import BPE
    from llmlab.text.chat import chat_prompt

    check_host(asked.host, asked.open_to_the_network)  # before a model is loaded
    model, tokenizer = load_pretrained(asked.model)
    engine = Engine(model, tokenizer, kv_blocks=asked.kv_blocks, block=asked.block, max_running=asked.concurrent)
    limits = Limits(concurrent=asked.concurrent, new_tokens=asked.max_tokens)
    name = asked.name or asked.model
    chat = None
    if asked.model == "smollm2-135m" and isinstance(tokenizer, BPE):
        chat = partial(chat_prompt, tokenizer)  # with SmolLM2's own system message
    with Server(engine, name, host=asked.host, port=asked.port, open_to_the_network=asked.open_to_the_network,
                limits=limits, chat=chat) as server:  # fmt: skip
        print(f"{name} is served at {server.url} (Ctrl-C ends it)", flush=True)
        try:
            while True:
                time.sleep(3600)
        except KeyboardInterrupt:
            print("ended")
