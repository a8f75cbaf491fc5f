"""Exercises of notebooks 25 and 26: what a pipeline waits and holds, how to cut it, and a schedule of one's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import combinations
from typing import Any

from llmlab.check.differences import numbers
from llmlab.check.examine import Case, Result, examine
from llmlab.cost.modes.pipeline import bubble
from llmlab.parallel.schedules import Schedule, make_schedule
from llmlab.parallel.timetable import check, idle, in_flight, timetable


def bubble_share(answer: Callable[..., Any]) -> Result:
    """`answer(ranks, microbatches)`: the share of a 1F1B step in which each rank waits; stages alike, messages free."""
    hint = "a rank works for m (F + B) and waits for (p - 1) (F + B); the share is of both together."
    return examine("bubble_share", answer, _shares(answer), hint)


def _shares(answer: Any) -> Iterator[Case]:
    for p, m in ((4, 8), (2, 1), (8, 64), (1, 5)):
        mistakes = [
            ((p - 1) / m, "that is the wait beside the work; the step is both together."),
            (m / (m + p - 1), "that is the share in which it works."),
            (p / (m + p), "the last rank begins after p - 1 forwards, not p."),
        ]
        yield Case(f"{p} ranks, {m} microbatches", partial(answer, p, m), (p - 1) / (m + p - 1), mistakes)


def microbatches_needed(answer: Callable[..., Any]) -> Result:
    """`answer(ranks, share)`: the fewest microbatches with which a 1F1B step's bubble is at most this share of it."""
    hint = "solve (p - 1) / (m + p - 1) <= share for m, and round up."
    return examine("microbatches_needed", answer, _needed(answer), hint)


def _needed(answer: Any) -> Iterator[Case]:
    for p, share in ((4, 0.25), (8, 0.1), (2, 0.5), (16, 0.05)):
        enough = next(m for m in range(1, 10_000) if (p - 1) <= share * (m + p - 1) + 1e-9)
        beside = next(m for m in range(1, 10_000) if (p - 1) <= share * m + 1e-9)
        mistakes = [
            (enough - 1, "one too few: round up."),
            (beside, "(p - 1) / m is the wait beside the work, not its share of the step."),
        ]
        what = f"{p} ranks, a bubble of at most {share:.0%}"
        yield Case(what, partial(answer, p, share), enough, mistakes)


def held_microbatches(answer: Callable[..., Any]) -> Result:
    """`answer(rank, ranks, microbatches)`: the most microbatches a rank holds at one time under 1F1B."""
    hint = "rank r does one forward for each stage behind it, and one more, before its first backward frees one."
    return examine("held_microbatches", answer, _held(answer), hint)


def _held(answer: Any) -> Iterator[Case]:
    for rank, p, m in ((0, 4, 8), (3, 4, 8), (1, 4, 8), (0, 8, 3), (2, 3, 1)):
        mistakes = [
            (m, "that is GPipe, which holds all of them."),
            (p - rank, "right while there are enough microbatches: it cannot hold more than there are."),
            (min(rank + 1, m), "the other way round: the first rank waits longest for its first backward."),
            (min(p - rank - 1, m), "the forward that its first backward belongs to counts too."),
        ]
        what = f"rank {rank} of {p}, {m} microbatches"
        yield Case(what, partial(answer, rank, p, m), min(p - rank, m), mistakes)


def split_by_speed(answer: Callable[..., Any]) -> Result:
    """`answer(n_layer, speeds)`: blocks per stage, at least one each, so that the slowest stage is as quick as can be.

    speeds: blocks per second of each rank.
    """
    hint = "the step's pace is the slowest stage's blocks / speed: give each rank blocks in proportion to its speed."
    return examine("split_by_speed", answer, _splits(answer), hint)


def _splits(answer: Any) -> Iterator[Case]:
    for n, speeds in ((12, [1, 1, 1, 1]), (12, [2, 1, 1, 2]), (10, [3, 1, 1]), (7, [1, 2])):
        even = [n // len(speeds) + (i < n % len(speeds)) for i in range(len(speeds))]
        total = sum(speeds)
        exact = [n * v / total for v in speeds]
        best = quickest_split(n, speeds)
        mistakes = [
            (even, "equal stages: all wait for the slowest rank."),
            (exact, "the right proportion; but a block cannot be cut: give whole numbers."),
        ]
        what = f"{n} blocks on ranks of speed {', '.join(map(str, speeds))}"
        yield Case(what, partial(_as_quick, answer, n, speeds), best, mistakes)


def quickest_split(n_layer: int, speeds: list[int]) -> list[int]:
    """Try every way to cut n_layer blocks into stages of at least one."""
    cuts = combinations(range(1, n_layer), len(speeds) - 1)
    splits = [[b - a for a, b in zip((0, *cut), (*cut, n_layer), strict=True)] for cut in cuts]
    return min(splits, key=lambda split: pace(split, speeds))


def pace(split: Sequence[float], speeds: list[int]) -> float:
    """Seconds between two microbatches: the slowest stage's."""
    return max(blocks / speed for blocks, speed in zip(split, speeds, strict=True))


def _as_quick(answer: Callable[..., Any], n: int, speeds: list[int]) -> Any:
    """Give the answer's split, or, where it is as quick as the best, the best: there may be several."""
    got, best = answer(n, list(speeds)), quickest_split(n, speeds)
    found = numbers(got)
    if found is None or found.shape != (len(speeds),):  # the comparison will say so
        return got
    split = found.tolist()
    fits = sum(split) == n and all(x >= 1 and x % 1 == 0 for x in split)
    return best if fits and pace(split, speeds) <= pace(best, speeds) + 1e-9 else got


def message_count(answer: Callable[..., Any]) -> Result:
    """`answer(ranks, microbatches, virtual_stages)`: messages in an interleaved step, of all ranks together."""
    hint = "each microbatch crosses every border between two stages once forward and once backward."
    return examine("message_count", answer, _messages(answer), hint)


def _messages(answer: Any) -> Iterator[Case]:
    for p, m, v in ((4, 8, 1), (4, 8, 2), (2, 4, 3)):
        mistakes = [
            ((p * v - 1) * m, "forward only: gradients go back over the same borders."),
            (2 * p * v * m, "p v stages have p v - 1 borders."),
            (2 * (p - 1) * m, "a rank with v stages has v times as many borders to cross."),
        ]
        what = f"{p} ranks, {m} microbatches, {v} stages on each"
        yield Case(what, partial(answer, p, m, v), 2 * (p * v - 1) * m, mistakes)


def own_schedule(answer: Callable[..., Any]) -> Result:
    """`answer(ranks, microbatches)`: a schedule with F, B and W as text, a line per rank: "F0 B0 W0 ...".

    It must run, hold at most `ranks` microbatches anywhere, and wait no more than ZB-H1: (ranks - 1) (F + B - W).
    """
    hint = "put W off: at rank r do the W of microbatch i only after B of i + r, and the last ones at the end."
    return examine("own_schedule", answer, _own(answer), hint)


def _own(answer: Any) -> Iterator[Case]:
    for p, m in ((2, 4), (4, 8), (3, 5)):
        best = [bubble("zb_h1", p, m, 1, 1, 1), p]
        plain = make_schedule("1f1b", p, m)
        late = Schedule("late", tuple(row + tuple(_weights(row)) for row in plain.actions))
        mistakes = [
            (_score(_with_weights(plain), p), "each W right after its B: that is 1F1B. Nothing fills the bubble."),
            (_score(late, p), "all W at the end: a microbatch is held until its W, so every rank holds all of them."),
        ]
        yield Case(f"{p} ranks, {m} microbatches: [waits, held]", partial(_tried, answer, p, m), best, mistakes)


def _tried(answer: Callable[..., Any], ranks: int, microbatches: int) -> list[float]:
    """What a learner's schedule waits and holds, at best what is asked for. Raises ValueError if it does not run."""
    text = answer(ranks, microbatches)
    if text is None or text is ...:
        raise NotImplementedError
    plan = check(text if isinstance(text, Schedule) else Schedule.parse(text))
    if (len(plan.actions), plan.microbatches, plan.splits_backward) != (ranks, microbatches, True):
        raise ValueError(f"it wants {ranks} ranks and {microbatches} microbatches, each with F, B and W; got {plan!r}")
    return _score(plan, ranks)


def _score(plan: Schedule, ranks: int) -> list[float]:
    waits, held = max(idle(timetable(plan, {"F": 1, "B": 1, "W": 1}))), max(in_flight(plan))
    return [max(waits, bubble("zb_h1", ranks, plan.microbatches, 1, 1, 1)), max(held, ranks)]


def zero_bubble_wait(answer: Callable[..., Any]) -> Result:
    """`answer(ranks, microbatches, F, B, W)`: seconds a rank waits in a step of ZB-H1; W at most F and B."""
    hint = "count the W's that fill a rank's bubble: with few microbatches, how many have come back to be put in it?"
    return examine("zero_bubble_wait", answer, _filled(answer), hint)


def _filled(answer: Any) -> Iterator[Case]:
    for p, m, f, b, w in ((4, 8, 1, 1, 1), (4, 1, 1, 1, 1), (4, 2, 3, 4, 2), (2, 6, 3, 5, 2), (6, 3, 2, 2, 1)):
        mistakes = [
            (
                (p - 1) * (f + b - w),
                "right from m = p on; with fewer microbatches there are not p - 1 W's to fill with.",
            ),
            (
                (p - 1) * (f + b) - (min(m, p - 1)) * w,
                "one W too many: the last that a rank does fills no gap, it ends the step.",
            ),
            ((p - 1) * (f + b + w), "that is 1F1B: on the way through the ranks nobody waits for W."),
        ]
        what = f"{p} ranks, {m} microbatch{'es' * (m > 1)}, F = {f}, B = {b}, W = {w}"
        yield Case(what, partial(answer, p, m, f, b, w), bubble("zb_h1", p, m, f, b, w), mistakes)


def _weights(row: Any) -> Iterator[Any]:
    return (type(a)("W", a.stage, a.microbatch) for a in row if a.kind == "B")


def _with_weights(plan: Schedule) -> Schedule:
    rows = [[x for a in row for x in (a, *_weights([a]))] for row in plan.actions]
    return Schedule("1f1b with W", tuple(tuple(row) for row in rows))
