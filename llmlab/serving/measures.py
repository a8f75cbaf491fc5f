"""How well users were served, by the names and in the units of vLLM's `vllm bench serve`.

    arrives          first token           ...            last token
       |---- TTFT ----|-- ITL --|-- ITL --|-- ITL --|-- ITL --|
       |                        E2EL                          |        TPOT = (E2EL - TTFT) / (tokens - 1)

Times are in milliseconds, each as mean, median and percentiles; throughputs are per second of the whole run.
"""

from __future__ import annotations

from collections.abc import Iterable
from statistics import fmean, median, pstdev
from typing import Any

from llmlab.arguments import real
from llmlab.serving.requests import Reply

PERCENTILES = (90, 99)
TIMES = ("ttft", "tpot", "itl", "e2el")


def times_of(reply: Reply) -> dict[str, list[float]]:
    """Give a reply's times in milliseconds: one of each kind, of ITL one for each token after the first."""
    first, last = reply.times[0] - reply.arrived, reply.times[-1] - reply.arrived
    gaps = [b - a for a, b in zip(reply.times, reply.times[1:], strict=False)]
    found = {"ttft": [first], "tpot": [(last - first) / len(gaps)] if gaps else [], "itl": gaps, "e2el": [last]}
    return {name: [1000 * seconds for seconds in values] for name, values in found.items()}


def metrics(replies: Iterable[Reply], **limits_ms: float | None) -> dict[str, float]:
    """Score the replies that were given to their end.

    limits_ms: of `ttft`, `tpot` or `e2el`; `request_goodput` counts, per second, those within all of them.
    Raises ValueError where there is no such reply.
    """
    limits = {name: real("metrics", name, limit, above=0) for name, limit in limits_ms.items() if limit is not None}
    done = [reply for reply in replies if reply.reason != "cancelled"]
    if not done:
        raise ValueError("metrics want at least one request that was answered to its end, got none")
    times = [times_of(reply) for reply in done]
    seconds = max(reply.times[-1] for reply in done) - min(reply.arrived for reply in done)
    read, made = sum(reply.prompt_tokens for reply in done), sum(len(reply.tokens) for reply in done)
    good = sum(all(value <= limits[name] for name in limits for value in each[name]) for each in times)
    found: dict[str, float] = {
        "completed": len(done),
        "duration": seconds,
        "total_input_tokens": read,
        "total_output_tokens": made,
        "request_throughput": _rate(len(done), seconds),
        "request_goodput": _rate(good, seconds),
        "output_throughput": _rate(made, seconds),
        "total_token_throughput": _rate(read + made, seconds),
    }
    for name in TIMES:
        values = sorted(value for each in times for value in each[name])
        if values:  # of answers of one token there is nothing between tokens
            found |= {f"{kind}_{name}_ms": value for kind, value in _summary(values).items()}
    return found


def _summary(values: list[float]) -> dict[str, float]:
    found: dict[str, Any] = {"mean": fmean(values), "median": median(values), "std": pstdev(values)}
    return found | {f"p{p}": percentile(values, p) for p in PERCENTILES}


def percentile(ordered: list[float], p: float) -> float:
    """Give the value below which p percent lie, between two values in proportion, as numpy does."""
    place = (len(ordered) - 1) * p / 100
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (ordered[high] - ordered[low]) * (place - low)


def _rate(count: float, seconds: float) -> float:
    return count / seconds if seconds > 0 else float("inf")
