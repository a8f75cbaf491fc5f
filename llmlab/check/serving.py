"""Exercises of notebook 32: blocks, users that fit, the seconds of a decoding step, guesses that hold, latencies."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from llmlab.check.examine import Case, Result, examine


def blocks_needed(answer: Callable[..., Any]) -> Result:
    """`answer(prompt, new, block)`: how many blocks a request holds when its last token has come."""
    return examine("blocks_needed", answer, _blocks(answer), "-(-(prompt + new - 1) // block): round up.")


def _blocks(answer: Any) -> Iterator[Case]:
    for prompt, new, block in ((100, 29, 16), (20, 20, 16), (30, 3, 16), (17, 1, 16), (5, 60, 1)):
        held = prompt + new - 1  # the last token is given, and never read
        mistakes = [
            (
                -(-(prompt + new) // block),
                "the last token is given to the user, its keys are never asked for: new - 1.",
            ),
            (held // block, "a block that is begun is held whole: round up."),
            (held / block, "blocks are whole: round up."),
            (
                -(-prompt // block) + -(-(new - 1) // block),
                "prompt and answer share a block where they meet: add first.",
            ),
            (-(-prompt // block), "the answer's tokens are held too: they are looked at by those after them."),
        ]
        what = f"{prompt} and {new} tokens in blocks of {block}"
        yield Case(what, partial(answer, prompt, new, block), -(-held // block), mistakes)


def users_that_fit(answer: Callable[..., Any]) -> Result:
    """`answer(memory, weights, per_token, tokens)`: users whose caches, so many tokens each, fit. In bytes."""
    hint = "max(0, memory - weights) // (per_token * tokens)."
    return examine("users_that_fit", answer, _users(answer), hint)


def _users(answer: Any) -> Iterator[Case]:
    GB = 10**9
    for memory, weights, per_token, tokens in (
        (640 * GB, 141 * GB, 327_680, 4096), (80 * GB, 16 * GB, 131_072, 8192), (80 * GB, 141 * GB, 327_680, 2048),
    ):  # fmt: skip
        each, room = per_token * tokens, memory - weights
        mistakes = [
            (memory // each, "the weights lie there too: what is left is for caches."),
            (max(0, room) / each, "a user is whole: round down."),
            (room // each, "weights that do not fit leave room for nobody, not for less than nobody."),
            (max(0, room) // per_token, "that is how many tokens fit: each user has many."),
        ]
        what = f"{memory // GB} GB, weights of {weights // GB} GB, {per_token:,} bytes a token, {tokens:,} tokens"
        yield Case(what, partial(answer, memory, weights, per_token, tokens), max(0, room) // each, mistakes)


def decode_seconds(answer: Callable[..., Any]) -> Result:
    """`answer(weights, per_user, users, bytes_per_s)`: the least seconds of a step that gives each user a token."""
    hint = "(weights + users * per_user) / bytes_per_s."
    return examine("decode_seconds", answer, _decode(answer), hint)


def _decode(answer: Any) -> Iterator[Case]:
    for weights, per_user, users, rate in (
        (16e9, 0.5e9, 1, 2e12),
        (16e9, 0.5e9, 64, 2e12),
        (141e9, 1.3e9, 32, 26.8e12),
    ):
        mistakes = [
            ((weights + per_user) / rate, "each user's own cache is read: only the weights are shared."),
            (users * (weights + per_user) / rate, "the weights are read once for all: that is why one batches."),
            (weights / rate, "the caches are read too, each of them."),
            (
                (weights + users * per_user) / rate / users,
                "that is a step's share for one user; a step gives each a token.",
            ),
        ]
        what = f"{weights / 1e9:g} GB, {per_user / 1e9:g} GB a user, {users} users, {rate / 1e12:g} TB/s"
        run = partial(answer, weights, per_user, users, rate)
        yield Case(what, run, (weights + users * per_user) / rate, mistakes)


def tokens_per_step(answer: Callable[..., Any]) -> Result:
    """`answer(keep, guesses)`: tokens a step gives on average, if each guess holds with probability keep."""
    hint = "1 + keep + keep^2 + ... + keep^guesses: the i-th guess counts if it and all before it hold."
    return examine("tokens_per_step", answer, _tokens(answer), hint)


def _tokens(answer: Any) -> Iterator[Case]:
    for keep, guesses in ((0.5, 3), (0.8, 4), (0.0, 4), (1.0, 5)):
        expected = sum(keep**i for i in range(guesses + 1))
        mistakes = [
            (1 + keep * guesses, "a guess after one that fell is lost with it: the i-th holds with keep^i."),
            (expected - 1, "the model's own token comes in any case: one more."),
            (sum(keep**i for i in range(guesses)), "one guess is missing: the powers go up to keep^guesses."),
            (guesses + 1, "that is when all guesses hold."),
        ]
        what = f"{guesses} guesses that hold with probability {keep:g}"
        yield Case(what, partial(answer, keep, guesses), expected, mistakes)


def latencies(answer: Callable[..., Any]) -> Result:
    """`answer(arrived, times)`: (TTFT, TPOT, E2EL) of a reply whose two or more tokens came at `times`; seconds."""
    hint = "(times[0] - arrived, (times[-1] - times[0]) / (len(times) - 1), times[-1] - arrived)."
    return examine("latencies", answer, _latencies(answer), hint)


def _latencies(answer: Any) -> Iterator[Case]:
    for arrived, times in ((0.0, [0.5, 0.75, 1.0]), (2.0, [2.25, 2.5]), (1.0, [4.0, 4.5, 5.5, 6.0])):
        first, last, n = times[0] - arrived, times[-1] - arrived, len(times)
        each = (last - first) / (n - 1)
        mistakes = [
            ((first, (last - first) / n, last), "between n tokens there are n - 1 gaps."),
            ((first, last / n, last), "TPOT leaves the first token out: prefill is TTFT's affair."),
            ((times[0], each, times[-1]), "the clock starts when the request arrives, not at 0: subtract it."),
            ((first, each, last - first), "E2EL is from the request's arrival to its last token."),
        ]
        yield Case(f"arrived at {arrived:g}, tokens at {times}", partial(answer, arrived, list(times)),
                   (first, each, last), mistakes)  # fmt: skip
