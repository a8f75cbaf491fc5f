"""Peak memory of attention against the length of the sequence: the formula, our tiles, and torch's kernel. Linux only.

    python benchmarks/attention_memory.py [--lengths 512 1024 2048 4096 8192]

One head of 64 in fp32, forward only. Each figure comes from a process of its own: by how much the most memory it ever
held (the kernel's VmHWM) grew while it attended. The table goes to data/recorded/attention_memory.csv.
"""

from __future__ import annotations

import argparse
import csv
import os
import subprocess
import sys
from pathlib import Path

import torch
from racing import where

from llmlab.model import attend_formula, attend_fused, attend_tiled

TABLE = Path(__file__).parents[1] / "data" / "recorded" / "attention_memory.csv"
RETURNED = {"MALLOC_MMAP_THRESHOLD_": "16384"}  # glibc: give what is freed back at once, so that what is held is in use
WAYS = {"formula": attend_formula, "tiled": attend_tiled, "fused": attend_fused}


def grown(way: str, length: int) -> int:
    """Attend in this process; return by how many bytes its peak grew beyond what it held before."""
    q, k, v = torch.randn(3, 1, 1, length, 64)
    WAYS[way](*(x[:, :, :256] for x in (q, k, v)))  # what is set up at the first call is not attention's
    Path("/proc/self/clear_refs").write_text("5")  # forget the peak so far
    before = held("VmRSS")
    with torch.no_grad():
        WAYS[way](q, k, v)
    return held("VmHWM") - before


def held(what: str) -> int:
    """Read a line of the kernel's account of this process, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(what))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lengths", type=int, nargs="+", default=[512, 1024, 2048, 4096, 8192])
    parser.add_argument("--one", nargs=2, metavar=("WAY", "LENGTH"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.one:
        print(grown(options.one[0], int(options.one[1])))
        return
    print(where())
    rows = []
    for way in WAYS:
        before = 0
        for length in options.lengths:
            command = [sys.executable, __file__, "--one", way, str(length)]
            done = subprocess.run(command, capture_output=True, text=True, check=True, env={**os.environ, **RETURNED})
            nbytes = int(done.stdout)
            growth = f"   length x 2, memory x {nbytes / before:.2f}" if before else ""
            print(f"MEASURED  {way:<8} {length:>6} tokens {nbytes / 2**20:>9.1f} MiB{growth}")
            rows.append({"way": way, "tokens": length, "bytes": nbytes})
            before = nbytes
    with TABLE.open("w", newline="") as file:
        writer = csv.DictWriter(file, ["way", "tokens", "bytes"], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


if __name__ == "__main__":
    main()
