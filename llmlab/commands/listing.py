"""`models`, `clusters`, `stacks`: what is known by name."""

from __future__ import annotations

import argparse
import math
from textwrap import shorten
from typing import Any

from llmlab.commands.asking import add_output
from llmlab.commands.tables import cell, machine_readable, make_table, print_parts


def register(commands: argparse._SubParsersAction) -> None:
    """Add a command for each kind of name."""
    for name, run in (("models", run_models), ("clusters", run_clusters), ("stacks", run_stacks)):
        listing = commands.add_parser(name, help=f"list the {name} known by name", description=run.__doc__)
        add_output(listing)
        listing.set_defaults(run=run)


def run_models(asked: argparse.Namespace) -> None:
    """List the models known by name, with their sizes and sources."""
    from llmlab.cost.models import find_model, model_names

    records = []
    for model in map(find_model, model_names()):
        c = model.config
        experts = f"{c.n_expert_active} of {c.n_expert} + {c.n_expert_shared}" if c.n_expert else ""
        records.append({
            "model": model.name, "parameters": c.n_param, "layers": c.n_layer, "d_model": c.d_model,
            "heads": c.n_head, "key heads": c.n_kv_head, "d_ff": c.d_ff, "vocabulary": c.vocab_size,
            "experts": experts, "source": model.source,
        })  # fmt: skip
    _list(asked, "Models", records)


def run_clusters(asked: argparse.Namespace) -> None:
    """List the clusters known by name: published specs, none of them measured here."""
    from llmlab.hardware import cluster, clusters
    from llmlab.hardware.power import watts

    records = []
    for on in map(cluster, clusters()):
        records.append({
            "cluster": on.name, "device": on.device.name, "in a node": on.devices_per_node,
            "16-bit TFLOP/s": on.device.peak("bf16") / 1e12,
            "GiB": round(on.device.memory_bytes / 2**30, 2), "GB/s": on.device.memory_bytes_per_s / 1e9,
            "TDP (W)": watts(on.device), "within": on.intra.name, "between": on.inter.name,
            "source": on.source,
        })  # fmt: skip
    _list(asked, "Clusters", records)


def run_stacks(asked: argparse.Namespace) -> None:
    """List the software stacks known by name: factors on published hardware, and the tables they were fitted to."""
    from llmlab.cost.stack import CONSTANTS, stack, stacks

    records = []
    for each in map(stack, stacks()):
        fitted = each.fitted_to or "nothing: counted, or as published"
        constants = {constant: round(getattr(each, constant), 3) for constant in CONSTANTS}
        records.append(
            {"stack": each.name, **constants, "90% within": f"x {math.exp(each.spread):.2f}", "fitted to": fitted}
        )
    _list(asked, "Stacks", records)


def _list(asked: argparse.Namespace, title: str, records: list[dict[str, Any]]) -> None:
    if machine_readable(asked, records):
        return
    table = make_table(
        title, list(records[0]), left=[i for i, v in enumerate(records[0].values()) if isinstance(v, str)]
    )
    for column in table.columns[:-1]:
        column.no_wrap = True  # the last, a source, gives way; it is cut short here, JSON and CSV have all of it
    for each in records:
        *cells, source = map(cell, each.values())
        table.add_row(*cells, shorten(source, 28, placeholder=" ..."))
    print_parts(table)
