"""What several commands ask for: the step, its layout, what it costs."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, NoReturn

if TYPE_CHECKING:  # torch takes two seconds to import: `--help` does without
    from llmlab.cost.plans import Prices

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
    command.add_argument(
        "--stack", default="typical", help="whose software: a name of `llmlab stacks` (default: typical)"
    )
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
    command.add_argument("--schedule", default="1f1b", help="gpipe, 1f1b, interleaved or zb_h1")
    command.add_argument("--context", default="ring", help="ring or ulysses")
    command.add_argument("--microbatches", type=int, help="of a replica (default: a sequence at a time)")
    command.add_argument("--recompute", default="none", help="none, selective or full (default: none)")


def add_output(command: argparse.ArgumentParser) -> None:
    """Let a command that prints records print them for a program."""
    output = command.add_mutually_exclusive_group()
    output.add_argument("--json", action="store_true", help="print JSON")
    output.add_argument("--csv", action="store_true", help="print CSV")


def prices(asked: argparse.Namespace) -> Prices:
    from llmlab.cost.plans import Prices

    return Prices(asked.price, asked.price_per_kwh, asked.watts, asked.pue)
