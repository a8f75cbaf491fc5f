"""Find every owner's constants at once: the most probable ones, given all measured rows and how far owners differ.

A prior on each owner's logarithm (zero, and its kind's width) is what statisticians call shrinkage: an owner of few
rows stays near everyone, one of many goes where its rows are. So a network that only slow software ran on keeps some of
the blame, and no more than it has to.
"""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import reduce
from operator import add

import numpy as np

from llmlab.cost.calibration import NOISE, tame
from llmlab.cost.ownership import MEASURED, PACED, WIDTHS, Key, Owners
from llmlab.cost.published import PublishedRow, Rows, row_stack
from llmlab.cost.sizes import Sizes
from llmlab.cost.stack import CONSTANTS, NARROW, Stack, owned
from llmlab.cost.step import step_seconds

Widths = Mapping[str, Mapping[str, float]]
STEP = 1e-3  # of a logarithm, for slopes
ROWS_COUNTED = 10  # of a table: its rows share what no constant explains, so a long one does not drown the others


@dataclass(frozen=True)
class Group:
    """Rows that share every owner: one call predicts them."""

    sizes: Sizes
    row: PublishedRow
    measured: np.ndarray
    weight: float  # of each row
    owners: dict[str, str]

    def stack(self, owners: Owners) -> Stack:
        name = self.row.software["stack"]
        known = with_habits(owned(name, owners), self.row)
        return row_stack(self.row, {"typical": known}).on(self.row.cluster)

    def misses(self, stack: Stack) -> np.ndarray:
        breakdown, _ = step_seconds(self.sizes, self.row.cluster, stack, self.row.precision)
        misses = np.log(reduce(add, breakdown.values()) / self.measured)
        return np.sqrt(self.weight) / NOISE * tame(misses)

    def slopes(self, owners: Owners, now: np.ndarray, keys: Iterable[Key]) -> dict[Key, np.ndarray]:
        """How the misses change with each owner's logarithm: owners of one constant share its slope."""
        stack, found = self.stack(owners), {}
        for constant in (*CONSTANTS, "fp8", "overlap"):
            if constant == "fp8" and self.row.precision not in NARROW:
                found[constant] = 0 * now
                continue
            value = getattr(stack, constant) * np.exp(STEP)
            moved = dataclasses.replace(stack, **{constant: min(value, 1.0) if constant == "overlap" else value})
            found[constant] = (self.misses(moved) - now) / STEP
        found["pace"] = reduce(add, (power * found[constant] for constant, power in PACED.items()))
        return {key: found[key[2]] for key in keys}

    def keys(self, widths: Widths) -> Iterator[Key]:
        for kind, name in self.owners.items():
            yield from ((kind, name, constant) for constant in widths.get(kind, ()))


def with_habits(stack: Stack, row: PublishedRow) -> Stack:
    """The stack with what is known of its software's overlap of other traffic."""
    tp, ep = (float(row.software[f"{name}_share"] or 0) for name in ("tp_overlap", "ep_overlap"))
    return dataclasses.replace(stack, tp_overlap=tp, ep_overlap=ep)


def owners_of(row: PublishedRow) -> dict[str, str]:
    """Kind of owner -> its name; a network that no table names is like any."""
    name, release = row.software["stack"], row.software["release"]
    found = {"everyone": "", "generation": row.cluster.device.generation, "network": row.cluster.network}
    found |= {"software": name, "release": release and f"{name} {release}"}
    return {kind: each for kind, each in found.items() if each or kind == "everyone"}


def groups(tables: Mapping[str, Rows]) -> list[Group]:
    found = []
    for rows in tables.values():
        weight, measured = min(1.0, ROWS_COUNTED / len(rows.rows)), rows.seconds
        for indices, x in rows.groups:
            row = rows.rows[indices[0]]
            found.append(Group(x, row, measured[indices], weight, owners_of(row)))
    return found


def fit(tables: Mapping[str, Rows], start: Owners | None = None, rounds: int = 12, widths: Widths = WIDTHS) -> Owners:
    """Fit all owners' constants to these tables, from `start`: Levenberg's and Marquardt's steps, numeric slopes.

    `widths`: by kind of owner and constant, how far they differ; what is not in it is not fitted.
    """
    parts = groups(tables)
    keys = sorted({key for part in parts for key in part.keys(widths)})
    place = {key: i for i, key in enumerate(keys)}
    priors = [MEASURED.get(key, (0.0, widths[key[0]][key[2]])) for key in keys]
    middle, width = (np.array(each) for each in zip(*priors, strict=True))
    point = np.array([start.logs.get(key, mean) if start else mean for key, mean in zip(keys, middle, strict=True)])
    damping = 1e-3

    def at(point: np.ndarray) -> Owners:
        return Owners(dict(zip(keys, map(float, point), strict=True)))

    def loss(misses: list[np.ndarray], point: np.ndarray) -> float:
        return float(sum(each @ each for each in misses) + (((point - middle) / width) ** 2).sum())

    now = [part.misses(part.stack(at(point))) for part in parts]
    for _ in range(rounds):
        normal, slope = np.diag(1 / width**2), (point - middle) / width**2
        for part, misses in zip(parts, now, strict=True):
            slopes = part.slopes(at(point), misses, part.keys(widths))
            mine, rates = [place[key] for key in slopes], np.stack(list(slopes.values()), axis=1)
            normal[np.ix_(mine, mine)] += rates.T @ rates
            slope[mine] += rates.T @ misses
        before = loss(now, point)
        for _ in range(6):
            there = point + np.linalg.solve(normal + damping * np.diag(np.diag(normal)), -slope)
            found = [part.misses(part.stack(at(there))) for part in parts]
            if loss(found, there) < before:
                break
            damping *= 10
        else:
            break
        gain = before - loss(found, there)
        point, now, damping = there, found, damping / 5
        if gain < 1e-3 * before:
            break
    sigmas = np.sqrt(np.diag(np.linalg.inv(normal)))
    seen = {("seen", f"{part.row.cluster.device.generation} {part.row.precision}", ""): 0.0 for part in parts}
    return Owners({**at(point).logs, **seen}, dict(zip(keys, map(float, sigmas), strict=True)))


def leave_out(tables: Mapping[str, Rows], owners: Owners, widths: Widths = WIDTHS) -> dict[str, Owners]:
    """The constants without each table in its turn, to first order: one step from `owners`, fitted to all of them.

    All leave-outs share the slopes there. What only the table itself told of is at its prior.
    """
    parts = [(name, part) for name, rows in tables.items() for part in groups({name: rows})]
    keys = sorted({key for _, part in parts for key in part.keys(widths)})
    place = {key: i for i, key in enumerate(keys)}
    priors = [MEASURED.get(key, (0.0, widths[key[0]][key[2]])) for key in keys]
    middle, width = (np.array(each) for each in zip(*priors, strict=True))
    point = np.array([owners.logs[key] for key in keys])
    normals = {name: np.zeros((len(keys), len(keys))) for name in tables}
    slopes = {name: np.zeros(len(keys)) for name in tables}
    told = {name: {key for other, part in parts if other != name for key in part.keys(widths)} for name in tables}
    for name, part in parts:
        misses = part.misses(part.stack(owners))
        rates = part.slopes(owners, misses, part.keys(widths))
        mine, rate = [place[key] for key in rates], np.stack(list(rates.values()), axis=1)
        normals[name][np.ix_(mine, mine)] += rate.T @ rate
        slopes[name][mine] += rate.T @ misses
    normal, slope = np.diag(1 / width**2) + sum(normals.values()), (point - middle) / width**2 + sum(slopes.values())
    found = {}
    for name in tables:
        there = point - np.linalg.solve(normal - normals[name], slope - slopes[name])
        found[name] = Owners({key: float(x) for key, x in zip(keys, there, strict=True) if key in told[name]})
    return found


def stacks_of(
    owners: Owners, tables: Mapping[str, Rows], spreads: Mapping[str, float] | None = None
) -> dict[str, Stack]:
    """A stack for each software of these tables, and `typical`. `spreads`: residuals by software, and "typical"."""
    spreads = spreads or {"typical": 0.0}
    found = {"typical": dataclasses.replace(owned("typical", owners), spread=spreads["typical"])}
    for name, own in by_software(tables).items():
        row = tables[own[0]].rows[0]
        known = spreads.get(name, spreads["typical"])
        stack = with_habits(owned(name, owners), row)
        found[name] = dataclasses.replace(stack, spread=known, fitted_to="; ".join(own))
    return found


def residuals(owners: Owners, tables: Mapping[str, Rows]) -> dict[str, float]:
    """What nine in ten rows are off by, by software: each table's about its own middle, tables alike."""
    found, stacks = {}, stacks_of(owners, tables)
    for name, own in by_software(tables).items():
        misses = [np.log(tables[t].predict_seconds(stacks) / tables[t].seconds) for t in own]
        found[name] = float(np.mean([np.quantile(np.abs(each - np.median(each)), 0.9) for each in misses]))
    return found | {"typical": float(np.median(list(found.values())))}


def by_software(tables: Mapping[str, Rows]) -> dict[str, list[str]]:
    """The tables of each software's stack."""
    found = defaultdict(list)
    for table, rows in tables.items():
        found[rows.stack].append(table)
    return dict(found)
