"""What are language models for? Each application's score on held-out data beside a simple baseline's.

    python benchmarks/applications.py --task sentiment

Runs one task, a module applications_NAME.py of this folder with a function `scores()`, and writes its rows into
data/measured/applications.csv, which notebooks 07a to 07c show; the rows of other tasks stay. At most five minutes a
task on two cores. --csv FILE writes elsewhere, to try; --threads N computes with so many.
"""

from __future__ import annotations

import argparse
from importlib import import_module
from pathlib import Path

import torch
from scored import write_scores

FOLDER = Path(__file__).parent
TARGET = FOLDER.parent / "data" / "measured" / "applications.csv"
TASKS = sorted(path.stem.removeprefix("applications_") for path in FOLDER.glob("applications_*.py"))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", choices=TASKS, required=True)
    parser.add_argument("--csv", type=Path, default=TARGET)
    parser.add_argument("--threads", type=int, default=1)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    scores = []
    for score in import_module(f"applications_{options.task}").scores():
        scores.append(score)
        beside = f"{score.baseline} {score.baseline_score:.2f}"
        print(f"MEASURED  {score.data}: {score.metric} {score.score:.2f}, {beside}", flush=True)
        print(f"          seed {score.seed}, {score.seconds:.0f} s of the processor; {score.settings}", flush=True)
        write_scores(options.csv, options.task, scores)


if __name__ == "__main__":
    main()
