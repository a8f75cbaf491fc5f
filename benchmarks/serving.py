"""Many users of one SmolLM2-135M: continuous batching, one after another, and transformers on the same weights.

    python benchmarks/serving.py [--requests 256] [--running 32] [--threads 1] [--seed 0] [--write]

Every way answers the same requests, greedily, in fp32: prompts of 16 to 128 tokens, cut out of Python's documentation,
and 16 to 48 new tokens each. Ways take turns by shares of the requests (`--shares`), so that what else the machine does
hits all alike; the processor's seconds wait for nobody. transformers answers one after another, and as batches that are
filled up to the longest and go on until the last is done. `--write` keeps the table in data/measured/serving.csv.
What is recorded was made with --requests 16, which took the processor three minutes; the machine was busy with other
work, so there the processor's seconds say more than those on the wall. Needs `transformers`, one of the test extras.
"""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from random import Random

import torch
from racing import where
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM
from transformers.utils import logging

import llmlab as lab
from llmlab.serving import Engine, Request

logging.disable_progress_bar()
logging.set_verbosity_error()

CSV = Path(__file__).parents[1] / "data" / "measured" / "serving.csv"
ALONE = "ours, one after another"
Answers = list[list[int]]


@dataclass
class Way:
    """A way to answer requests, what it took so far and what it said."""

    answer: Callable[[Sequence[Request]], Answers]
    wall: float = 0.0
    processor: float = 0.0
    said: Answers | None = None

    def take(self, requests: Sequence[Request]) -> None:
        wall, processor = time.perf_counter(), time.process_time()
        said = self.answer(requests)
        self.wall += time.perf_counter() - wall
        self.processor += time.process_time() - processor
        self.said = [*(self.said or []), *said]


def draw_requests(tokenizer: lab.text.BPE, n: int, seed: int) -> list[Request]:
    """Cut prompts out of the default corpus, which is there without a download."""
    random, text = Random(seed), "\n\n".join(lab.text.load("python")[:40])
    tokens = tokenizer.encode(text)
    found = []
    for _ in range(n):
        start, length = random.randrange(len(tokens) - 128), random.randrange(16, 129)
        found.append(Request(tokens[start : start + length], random.randrange(16, 49)))
    return found


def same_in_transformers(model: lab.Transformer) -> LlamaForCausalLM:
    """Give transformers' Llama the weights of ours."""
    c = model.config
    config = LlamaConfig(
        vocab_size=c.vocab_size, hidden_size=c.d_model, intermediate_size=c.d_ff, num_hidden_layers=c.n_layer,
        num_attention_heads=c.n_head, num_key_value_heads=c.n_kv_head, max_position_embeddings=c.max_seq,
        rms_norm_eps=c.norm_eps, tie_word_embeddings=True, rope_parameters={"rope_type": "default", "rope_theta":
        c.rotary_base}, bos_token_id=None, eos_token_id=None, pad_token_id=None,
    )  # fmt: skip
    theirs = LlamaForCausalLM(config).eval()
    pairs: list[tuple[nn.Module, nn.Module]] = [(model.embedding.token, theirs.model.embed_tokens)]
    pairs.append((model.norm, theirs.model.norm))
    for block, layer in zip(model.blocks, theirs.model.layers, strict=True):
        own, other = block.attention, layer.self_attn
        pairs += [(own.query, other.q_proj), (own.key, other.k_proj), (own.value, other.v_proj)]
        pairs += [(own.output, other.o_proj), (block.mlp.gate, layer.mlp.gate_proj), (block.mlp.up, layer.mlp.up_proj)]
        pairs += [(block.mlp.down, layer.mlp.down_proj), (block.attention_norm, layer.input_layernorm)]
        pairs.append((block.mlp_norm, layer.post_attention_layernorm))
    with torch.no_grad():
        for mine, their in pairs:
            their.weight.copy_(mine.weight)
    return theirs


def in_transformers(theirs: LlamaForCausalLM, requests: Sequence[Request]) -> Answers:
    """Answer some requests as one batch, prompts filled up at the left, until the longest answer is there."""
    longest = max(len(request.tokens) for request in requests)
    rows, mask = torch.zeros(2, len(requests), longest, dtype=torch.long)
    for row, seen, request in zip(rows, mask, requests, strict=True):
        row[longest - len(request.tokens) :] = torch.tensor(request.tokens)
        seen[longest - len(request.tokens) :] = 1
    most = max(request.max_new_tokens for request in requests)
    found: Tensor = theirs.generate(rows, attention_mask=mask, max_new_tokens=most, do_sample=False, pad_token_id=0)
    return [row[longest:][: r.max_new_tokens].tolist() for row, r in zip(found, requests, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in {"requests": 256, "running": 32, "threads": 1, "seed": 0, "shares": 1, "block": 8}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    ours, tokenizer = lab.load_pretrained("smollm2-135m")
    theirs, requests = same_in_transformers(ours), draw_requests(tokenizer, options.requests, options.seed)
    size = {"kv_blocks": options.running * 256 // options.block, "block": options.block}
    engine, alone = Engine(ours, max_running=options.running, **size), Engine(ours, max_running=1, **size)
    ways = {
        "ours, continuous batching": Way(lambda some: [list(reply.tokens) for reply in engine.run(some)]),
        ALONE: Way(lambda some: [list(reply.tokens) for reply in alone.run(some)]),
        "transformers, one after another": Way(lambda some: [in_transformers(theirs, [one])[0] for one in some]),
        "transformers, as one batch": Way(lambda some: in_transformers(theirs, some)),
    }
    for way in ways.values():  # the first call of anything is slow
        way.answer([Request(requests[0].tokens[:16], 2)])
    engine.finished.clear()
    share = -(-len(requests) // options.shares)
    for start in range(0, len(requests), share):
        for way in ways.values():
            way.take(requests[start : start + share])
    report(ways, requests, engine, options)


def report(ways: dict[str, Way], requests: list[Request], engine: Engine, options: argparse.Namespace) -> None:
    """Print one table and, if asked, keep it."""
    read, made = sum(len(r.tokens) for r in requests), sum(r.max_new_tokens for r in requests)
    machine, rows = where(), []
    print(f"MEASURED  on {machine}\n{len(requests)} requests, {read} tokens read, {made} made, fp32")
    print(f"{'':36}{'wall s':>9}{'processor s':>13}{'tokens/s':>10}{'per proc. s':>13}{'times':>8}{'same answers':>14}")
    for name, way in ways.items():
        same = sum(a == b for a, b in zip(way.said or [], ways[ALONE].said or [], strict=True))
        row = {
            "way": name, "requests": len(requests), "tokens_read": read, "tokens_made": made,
            "wall_s": round(way.wall, 2), "processor_s": round(way.processor, 2),
            "tokens_per_wall_s": round(made / way.wall, 2), "tokens_per_processor_s": round(made / way.processor, 2),
            "times_one_after_another_wall": round(ways[ALONE].wall / way.wall, 2),
            "times_one_after_another_processor": round(ways[ALONE].processor / way.processor, 2),
            "same_answers": same, "kv_waste": round(engine.stats.waste, 4) if way is ways[next(iter(ways))] else "",
            "model": "smollm2-135m", "dtype": "fp32", "running": options.running, "block": options.block,
            "threads": options.threads, "seed": options.seed, "date": date.today().isoformat(), "machine": machine,
        }  # fmt: skip
        rows.append(row)
        print(
            f"{name:36}{way.wall:9.1f}{way.processor:13.1f}{made / way.wall:10.2f}{made / way.processor:13.2f}"
            f"{ways[ALONE].processor / way.processor:8.2f}{same:>10} of {len(requests)}"
        )
    print(f"KV waste {100 * engine.stats.waste:.1f} percent; {engine.stats}")
    times = engine.metrics()
    print({name: round(value, 1) for name, value in times.items() if name.startswith(("mean", "median", "p99"))})
    if options.write:
        with CSV.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    main()
