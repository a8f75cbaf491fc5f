"""`python -m llmlab simulate --ranks 64 --cluster h100 train.py -- --steps 3`: a torchrun script on simulated ranks."""

from __future__ import annotations

import argparse
import sys


def register(commands: argparse._SubParsersAction) -> None:
    """Add the command."""
    simulating = commands.add_parser("simulate", help="run a torchrun script on modelled GPUs",
                                     description=run_simulate.__doc__)  # fmt: skip
    simulating.add_argument("script", help="a Python file that torchrun would start")
    simulating.add_argument("arguments", nargs="*", help="its own, after --")
    simulating.add_argument("--ranks", type=int, required=True, help="how many")
    simulating.add_argument("--cluster", default="classroom", help="a name of `llmlab clusters` (default: classroom)")
    simulating.add_argument("--no-numerics", action="store_true", help="shapes only: cost and memory without numbers")
    simulating.add_argument("--fold", nargs="+", default=[], metavar="AXIS", help="alike ranks run once: world")
    simulating.add_argument("--trace", metavar="FILE", help="write the timeline for ui.perfetto.dev")
    simulating.set_defaults(run=run_simulate)


def run_simulate(asked: argparse.Namespace) -> int:
    """Run a script of torch.distributed on simulated ranks, and report time, exposed communication and memory."""
    from llmlab.comm.errors import RankError
    from llmlab.comm.simulator import Simulator
    from llmlab.reporting import report

    simulator = Simulator(asked.ranks, asked.cluster, numerics=not asked.no_numerics, fold=tuple(asked.fold))
    try:
        run = simulator.run_script(asked.script, *asked.arguments)
    except RankError as error:
        print(f"llmlab simulate: {error}", file=sys.stderr)
        return 1
    print(report(run))
    if asked.trace:
        print(f"timeline for ui.perfetto.dev: {run.trace.to_chrome(asked.trace)}")
    return 0
