"""How soon llmlab answers: layouts predicted a second, a plan of 1,024 GPUs, and what importing it takes.

    python benchmarks/answering.py [--rounds 9]

One process with one thread; an import is timed in a new interpreter, beside that of torch alone, which it begins with.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable

import torch
from racing import read_options, spread, where

from llmlab.cost import plan, predict
from llmlab.cost.arrays import LayoutColumns, columns
from llmlab.cost.models import find_config
from llmlab.model.config import Config
from llmlab.parallel.layout import Layout


def seconds(do: Callable[[], object], rounds: int) -> list[float]:
    """Seconds of each round; the first, which fills caches, does not count."""
    found = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        do()
        found.append(time.perf_counter() - start)
    return found[1:]


def importing(what: str) -> Callable[[], object]:
    return lambda: subprocess.run([sys.executable, "-c", f"import {what}"], check=True)


def problem() -> tuple[Config, LayoutColumns]:
    """A model, and 12,000 layouts of it."""
    layouts = [Layout(dp=dp, tp=tp, pp=4, microbatches=32) for dp in (8, 16, 32) for tp in (1, 2, 4, 8)]
    return find_config("llama3-70b"), columns(layouts * 1000)


def predict_all(model: Config, layouts: LayoutColumns) -> object:
    return predict(model, layouts, "h100", global_batch=1024, seq=4096)


def main() -> None:
    options = read_options(__doc__, rounds=9)
    torch.set_num_threads(1)
    print(f"on {where()}\n")
    model, layouts = problem()
    taken = seconds(lambda: predict_all(model, layouts), options.rounds)
    print(f"MEASURED  predict, many at once  {spread([len(layouts) / s for s in taken], 'layouts a second')}")
    taken = seconds(lambda: plan(model, "h100", gpus=1024, global_batch=1024, seq=4096), options.rounds)
    print(f"MEASURED  plan, Llama 3 70B on 1,024 GPUs  {spread(taken, 's')}")
    for what in ("torch", "llmlab, torch"):
        print(f"MEASURED  import {what}  {spread(seconds(importing(what), options.rounds), 's')}")


if __name__ == "__main__":
    main()
