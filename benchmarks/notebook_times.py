"""How long each notebook takes: all of its cells, in a fresh kernel, one notebook after another.

    python benchmarks/notebook_times.py                               # all of notebooks/: about a quarter of an hour
    python benchmarks/notebook_times.py notebooks/00_start_here.ipynb

The kernel's start and its imports count, as they do for whoever runs all cells. Nothing is written.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from racing import where

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"


def every_notebook() -> list[Path]:
    return sorted(NOTEBOOKS.glob("*.ipynb"))


def seconds(path: Path) -> float:
    """Run every cell. Raises nbclient's CellExecutionError where one fails."""
    notebook = nbformat.read(path, as_version=4)
    start = time.perf_counter()
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(path.parent)}}).execute()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("notebooks", nargs="*", type=Path, help="default: all of notebooks/")
    paths = parser.parse_args().notebooks or every_notebook()
    print(f"on {where()}\n")
    taken = []
    for path in paths:
        taken.append(seconds(path))
        print(f"MEASURED  {path.stem:<36} {taken[-1]:6.1f} s", flush=True)
    print(f"MEASURED  {'all of them':<36} {sum(taken):6.1f} s")


if __name__ == "__main__":
    main()
