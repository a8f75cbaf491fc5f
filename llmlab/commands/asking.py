"""What several commands ask for: the step, its layout, what it costs."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:  # torch takes two seconds to import: `--help` does without
    from llmlab.cost.options import Options
    from llmlab.cost.plans import Prices

# Said in the help without importing what knows them; a test compares.
SCHEDULES = "gpipe, 1f1b, interleaved, zb_h1, zb_2p or dualpipe"
STACKS = (
    "ideal, llmlab, typical, megatron-2022, deepspeed-zero3, zero-bubble, llm-foundry, megatron-deepspeed, bigscience, "
    "internevo, nemo, jax-gpu, nemo-moe, torchtitan, maxtext-tpu, nanotron"
)
UNITS = {"k": 1e3, "M": 1e6, "B": 1e9, "T": 1e12}


class Parser(argparse.ArgumentParser):
    """One that says what is wrong in one line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message}\n")


def count(text: str) -> int:
    """Read a whole number; `8k` is 8 x 1024, as lengths, batches and clusters are counted."""
    return int(text[:-1]) * 1024 if text.lower().endswith("k") else int(text)


def add_step(command: argparse.ArgumentParser) -> None:
    command.add_argument("--model", required=True, help="a name of `llmlab models`")
    command.add_argument("--device", "--cluster", default="h100", help="a name of `llmlab clusters` (default: h100)")
    command.add_argument("--global-batch", type=count, required=True, help="sequences in a step")
    command.add_argument("--seq", type=count, required=True, help="tokens in a sequence: 8192, or 8k for 8 x 1024")
    command.add_argument("--precision", default="bf16", help="fp8, bf16, fp16, fp32 or fp64 (default: bf16)")
    command.add_argument("--stack", default="typical", help=f"whose software (default: typical): {STACKS}")
    command.add_argument(
        "--tokens", type=tokens, default=1e9, help="of the whole training: 15e12, or 15T (default: 1B)"
    )
    command.add_argument("--price", type=float, help="of an hour of a GPU, in any currency")
    command.add_argument("--price-per-kwh", type=float, help="of electricity, in the same currency")
    command.add_argument("--watts", type=float, help="a GPU draws (default: the data sheet's TDP, where known)")
    command.add_argument("--pue", type=float, default=1.0, help="what the site draws over its GPUs (default: 1)")


def tokens(text: str) -> float:
    """Read tokens of a training: `15e12`, or `15T`."""
    return float(text[:-1]) * UNITS[text[-1]] if text[-1:] in UNITS else float(text)


def add_layout(command: argparse.ArgumentParser) -> None:
    for degree in ("dp", "tp", "pp", "cp", "ep", "virtual-stages"):
        command.add_argument(f"--{degree}", type=int, default=1)
    command.add_argument("--zero", type=int, default=0, help="0, 1, 2 or 3")
    command.add_argument("--sequence-parallel", action="store_true")
    command.add_argument("--schedule", default="1f1b", help=f"{SCHEDULES} (default: 1f1b)")
    command.add_argument("--context", default="ring", help="ring or ulysses")
    command.add_argument("--microbatches", type=int, help="of a replica (default: a sequence at a time)")
    command.add_argument("--recompute", default="none", help="none, selective or full (default: none)")


def add_options(command: argparse.ArgumentParser) -> None:
    """Let a run say what it does otherwise than its stack's habits: the fields of `lab.Options`."""
    said = command.add_argument_group("what the run does otherwise than its stack")
    switch = argparse.BooleanOptionalAction
    said.add_argument("--release", default="", help="of the stack's software: 26.04")
    said.add_argument("--tp-overlap", action=switch, default=None, help="tensor-parallel traffic behind products")
    said.add_argument("--ep-overlap", action=switch, default=None, help="the experts' all-to-all behind products")
    said.add_argument("--fp8-recipe", default="", help="delayed, mxfp8, tensorwise or rowwise")
    said.add_argument("--shard-group", type=int, default=0, help="ranks that ZeRO shards one copy over (HSDP)")
    said.add_argument("--devices-per-slice", type=int, default=0, help="devices that the fast network joins")
    said.add_argument("--recomputed-layers", type=float, default=1.0, help="share of the layers that are recomputed")
    said.add_argument("--capacity", type=float, default=0.0, help="an expert's tokens over its share (0: no limit)")
    said.add_argument("--matmul-tflops", type=float, default=0.0, help="what large products reach, as you measured")


def add_output(command: argparse.ArgumentParser) -> None:
    """Let a command that prints records print them for a program."""
    output = command.add_mutually_exclusive_group()
    output.add_argument("--json", action="store_true", help="print JSON")
    output.add_argument("--csv", action="store_true", help="print CSV")


def prices(asked: argparse.Namespace) -> Prices:
    from llmlab.cost.plans import Prices

    return Prices(asked.price, asked.price_per_kwh, asked.watts, asked.pue)


def options(asked: argparse.Namespace) -> Options:
    from dataclasses import fields

    from llmlab.cost.options import Options

    return Options(**{field.name: getattr(asked, field.name) for field in fields(Options) if field.name != "trained"})
