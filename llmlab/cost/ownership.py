"""Whose constant is it? A rate belongs to a chip's generation, a network, a software or its release.

A constant given to the wrong owner fits its own table and fails on the next one: a software that was only ever measured
on one cluster takes that cluster's network along to all others. Each owner's constants are logarithms of a factor, 0
where nothing is known, and a stack's factor is the product of its owners'. `data/published/constants.csv` has them with
their uncertainty and how they were found; `benchmarks/fit_stacks.py` fits them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from math import exp, log

from llmlab.hardware.facts import read_facts

Key = tuple[str, str, str]  # kind of owner, its name, the constant's
NINE_IN_TEN = 1.645  # sigmas, either side

# The interval's rule, frozen before rows kept back were scored: how far whole tables are off that a fit has not seen,
# as sigmas of a logarithm. From the given tables, each left out in its turn (benchmarks/validate_predictions.py).
SOFTWARE_SEEN, SOFTWARE_NEW = 0.16, 0.26
GENERATION_NEW, PRECISION_NEW = 0.15, 0.15

# For each kind of owner its constants, and how far owners differ: a factor e^width for two in three.
WIDTHS: dict[str, dict[str, float]] = {
    "everyone": {
        "matmul": 0.1, "attention": 0.3, "memory": 0.3, "host": 1.0, "intra": 0.3, "inter": 0.2, "congestion": 0.3,
        "fp8": 0.2,
    },
    "generation": {"attention": 0.4, "memory": 0.4, "fp8": 0.15},
    "network": {"intra": 0.3, "inter": 0.3, "congestion": 0.7},
    "software": {"pace": 0.15, "memory": 0.25, "host": 1.0, "overlap": 0.5},
    "release": {"pace": 0.1},
}  # fmt: skip
# Measured, not fitted: collectives over 4 to 64 nodes in data/published/collective_bandwidth.csv lose as nodes^0.8.
MEASURED: dict[Key, tuple[float, float]] = {("network", "AWS EFA", "congestion"): (log(0.8 / 0.05), 0.1)}
START = {"host": 6.0, "congestion": 0.05}  # where everyone's logarithm is 0: eager PyTorch needs 13, compiled less
# a pace is of all kernels and, the other way, of the host
PACED = {"matmul": 1.0, "attention": 1.0, "memory": 1.0, "host": -1.0}


@dataclass(frozen=True)
class Owners:
    """Logarithms by owner, and how uncertain they are (one sigma); an owner that is not here has 0, and its width."""

    logs: Mapping[Key, float] = field(default_factory=dict)
    sigmas: Mapping[Key, float] = field(default_factory=dict)

    def factor(self, constant: str, owners: Mapping[str, str]) -> float:
        """The product of these owners' factors; what `everyone` starts from is in it."""
        power = PACED.get(constant, 0.0)
        total = sum(
            self.logs.get((kind, name, constant), 0.0) + power * self.logs.get((kind, name, "pace"), 0.0)
            for kind, name in owners.items()
        )
        return exp(total)

    def spread(self, residual: float, software: str, generation: str, precision: str) -> float:
        """Half of the 90% interval of a logarithm: what rows of one table differ by, and what whole tables are off by.

        `residual`: of the software's own rows, nine in ten. A chip, a number type and a software that no fitted row had
        each add to it.
        """
        kinds = {(kind, name) for kind, name, _ in self.logs}
        sigmas = [SOFTWARE_SEEN if ("software", software) in kinds else SOFTWARE_NEW]
        if ("generation", generation) not in kinds:
            sigmas.append(GENERATION_NEW)
        if ("seen", f"{generation} {precision}") not in kinds:
            sigmas.append(PRECISION_NEW)
        return (residual**2 + NINE_IN_TEN**2 * sum(sigma**2 for sigma in sigmas)) ** 0.5

    def sigma(self, constant: str, owners: Mapping[str, str]) -> float:
        """How uncertain that factor's logarithm is."""
        found = 0.0
        for kind, name in owners.items():
            for each in {constant, "pace" if constant in PACED else constant} & WIDTHS[kind].keys():
                found += self.sigmas.get((kind, name, each), WIDTHS[kind][each]) ** 2
        return found**0.5


@cache
def fitted() -> Owners:
    """The constants that `benchmarks/fit_stacks.py` wrote."""
    rows = _rows()
    keys = [(row["kind"], row["owner"], row["constant"]) for row in rows]
    return Owners(
        {key: float(row["log"]) for key, row in zip(keys, rows, strict=True)},
        {key: float(row["sigma"]) for key, row in zip(keys, rows, strict=True)},
    )


def found_by(constant: str, owners: Mapping[str, str]) -> tuple[str, str]:
    """How a constant of these owners was found, and whose it is: MEASURED where one of them was, FITTED where rows
    moved one beside everyone's, else ASSUMED."""
    rows = {(row["kind"], row["owner"], row["constant"]): row["status"] for row in _rows()}
    names = {constant, "pace"} if constant in PACED else {constant}
    own = {kind: {rows.get((kind, name, each), "") for each in names} for kind, name in owners.items() if name}
    for status in ("MEASURED", "FITTED"):
        mine = [f"{kind} {owners[kind]}" for kind, found in own.items() if status in found]
        if mine:
            return status, ", ".join(mine)
    return "ASSUMED", "as everyone"


@cache
def _rows() -> list[dict[str, str]]:
    return read_facts("published", "constants.csv")
