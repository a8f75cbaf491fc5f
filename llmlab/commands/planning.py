"""`plan` and `predict`: the closed form's numbers. Modelled, not measured."""

from __future__ import annotations

import argparse

from llmlab.commands.asking import SCHEDULES, add_layout, add_options, add_output, add_step, count, options, prices
from llmlab.commands.tables import (
    LEGEND,
    MODELLED,
    breakdown,
    machine_readable,
    print_parts,
    ranking,
    sources,
    suspects,
    title,
)  # fmt: skip

SHORT = "A row is the best of its tp, pp and ep; alike: others of these within 2% (--every lists all)."
TIED = "=: no prediction tells it from the first; within 2% the one that splits fewer axes is listed first."
TIGHT = "tight: fills over 95% of what may be used, may not run, and is ranked as if 5% slower."


def register(commands: argparse._SubParsersAction) -> None:
    """Add both commands."""
    planning = commands.add_parser("plan", help="rank every layout that fits", description=run_plan.__doc__)
    add_step(planning)
    planning.add_argument("--gpus", type=count, required=True, help="how many devices")
    planning.add_argument("--recompute", nargs="+", metavar="KIND", help="none, selective, full (default: try all)")
    planning.add_argument("--zero", type=int, nargs="+", default=[0, 1, 2, 3], metavar="STAGE", help="stages to try")
    planning.add_argument("--memory-share", type=float, default=0.9, help="of a device that may be used (default: 0.9)")
    planning.add_argument("--schedules", nargs="+", default=["1f1b", "interleaved", "zb_h1"], metavar="NAME",
                          help=f"of a pipeline, to try: {SCHEDULES} (default: 1f1b interleaved zb_h1)")  # fmt: skip
    planning.add_argument(
        "--contexts", nargs="+", default=["ring"], metavar="NAME", help="ring, ulysses (default: ring)"
    )
    planning.add_argument("--top", type=int, default=10, help="layouts shown (default: 10)")
    planning.add_argument("--every", action="store_true", help="show near-duplicates too, not the best of each split")
    planning.add_argument("--emit", metavar="SOFTWARE", help="print the best as its configuration: torchtitan, "
                          "megatron or deepspeed")  # fmt: skip
    add_options(planning)
    add_output(planning)
    planning.set_defaults(run=run_plan)
    predicting = commands.add_parser("predict", help="predict one layout", description=run_predict.__doc__)
    add_step(predicting)
    add_layout(predicting)
    predicting.add_argument("--measured", type=float, metavar="SECONDS", help="your step: says what may be off")
    add_options(predicting)
    add_output(predicting)
    predicting.set_defaults(run=run_predict)


def run_plan(asked: argparse.Namespace) -> None:
    """Predict every legal layout of a step, and rank those that fit. Modelled, not measured."""
    from llmlab.cost.emitting import emit
    from llmlab.cost.planning import plan
    from llmlab.cost.plans import say_layout

    found = plan(
        asked.model, asked.device, gpus=asked.gpus, global_batch=asked.global_batch, seq=asked.seq,
        precision=asked.precision, recompute=asked.recompute, stack=asked.stack, options=options(asked),
        zero=asked.zero, schedules=asked.schedules, contexts=asked.contexts, memory_share=asked.memory_share,
        tokens=asked.tokens, prices=prices(asked), limit=1000 if asked.emit else asked.top,
    )  # fmt: skip
    if asked.emit:
        print(emit(found, asked.emit))
        return
    if machine_readable(asked, found.records(asked.every)):
        return
    best = f"The best by cause: {say_layout(found[0].layout)}, recompute {found[0].recompute}"
    shown = found.rows if asked.every else found.shortlist
    tight = [found.tight(row) for row in shown]
    print_parts(
        ranking(title(asked, asked.gpus), shown, tight, alike=not asked.every),
        breakdown(best, found[0], sources(asked)),
    )
    print_parts(f"{MODELLED}. {found.fitting:,} layouts fit; {found.refused}.", LEGEND)
    print_parts(*[TIED] * any(row.tied for row in shown[1:]), *[SHORT] * (not asked.every), *[TIGHT] * any(tight))
    print_parts(*[f"To tell the first from its rivals, measure {each}." for each in found.measure])


def run_predict(asked: argparse.Namespace) -> None:
    """Predict one step of one layout. Modelled, not measured."""
    from llmlab.cost.planning import price_layout
    from llmlab.cost.plans import record
    from llmlab.parallel.layout import Layout

    layout = Layout(
        dp=asked.dp, tp=asked.tp, pp=asked.pp, cp=asked.cp, ep=asked.ep, zero=asked.zero, context=asked.context,
        sequence_parallel=asked.sequence_parallel, schedule=asked.schedule, virtual_stages=asked.virtual_stages,
        microbatches=asked.microbatches or max(1, asked.global_batch // max(1, asked.dp)),
    )  # fmt: skip
    row = price_layout(
        asked.model, layout, asked.device, global_batch=asked.global_batch, seq=asked.seq,
        precision=asked.precision, recompute=asked.recompute, stack=asked.stack, options=options(asked),
        tokens=asked.tokens, prices=prices(asked),
    )  # fmt: skip
    if machine_readable(asked, [record(row)]):
        return
    print_parts(ranking(title(asked, layout.ranks), [row]), breakdown("By cause", row, sources(asked)))
    if asked.measured is not None:
        print_parts(suspects(row.prediction, asked.measured))
    print_parts(f"{MODELLED}. Memory: {row.prediction.verdict}.", LEGEND)
