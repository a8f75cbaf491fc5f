"""Exercises of notebooks 11 and 11b: the FLOPs, seconds and bytes of a training step, before it runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from typing import Any

from llmlab.check.examine import Case, Result, examine

MOMENTS = {"sgd": 0, "momentum": 4, "adam": 8}  # bytes a parameter, in fp32


def step_flops(answer: Callable[..., Any]) -> Result:
    """`answer(n_layer, d_model, vocab_size, seq, tokens)`: FLOPs of forward and backward on `tokens` tokens.

    The MLP is 4 d_model wide; the whole seq x seq of attention counts; the table is multiplied by once, at the end.
    """
    hint = "a token: 24 d_model² and 4 seq d_model a layer, 2 vocab_size d_model at the end; backward is twice forward."
    return examine("step_flops", answer, _flops(answer), hint)


def _flops(answer: Any) -> Iterator[Case]:
    for n_layer, d, vocab, seq, tokens in (
        (4, 128, 256, 128, 1024),
        (96, 12288, 50257, 2048, 2048),
        (2, 64, 100, 512, 512),
    ):
        weights, core, head = 24 * n_layer * d * d, 4 * n_layer * seq * d, 2 * vocab * d
        forward = tokens * (weights + core + head)
        mistakes = [
            (forward, "this is forward alone: backward takes twice as much on top."),
            (2 * forward, "backward is twice forward: with forward that makes three."),
            (3 * tokens * (weights + head), "attention is missing: scores and averages, 2 seq d_model each."),
            (3 * tokens * (weights + core), "the output layer is missing: 2 vocab_size d_model a token."),
            (3 * forward / 2, "a multiplication and an addition are two FLOPs."),
            (3 * forward / tokens, "this is one token's."),
        ]
        what = f"{n_layer} layers of {d}, vocabulary {vocab:,}, {tokens:,} tokens in sequences of {seq:,}"
        yield Case(what, partial(answer, n_layer, d, vocab, seq, tokens), 3 * forward, mistakes)


def training_state_bytes(answer: Callable[..., Any]) -> Result:
    """`answer(n_param, optimizer, mixed)`: bytes of parameters, gradients and optimizer state.

    optimizer: "sgd", "momentum" or "adam". Not mixed: all in fp32. mixed: weights and gradients in 16 bits, a copy of
    the weights in fp32, moments in fp32.
    """
    hint = "add up weight, gradient, moments (none, one, two) and, if mixed, the fp32 copy; 4 or 2 bytes each."
    return examine("training_state_bytes", answer, _states(answer), hint)


def _states(answer: Any) -> Iterator[Case]:
    for n, optimizer, mixed in product((1000, 3e9), MOMENTS, (False, True)):
        moments = MOMENTS[optimizer]
        right = n * (8 + moments)
        mistakes = [
            (n * (4 + moments) if mixed else right, "mixed keeps a copy of the weights in fp32, too."),
            (n * (6 + moments / 2) if mixed else right, "copy and moments stay in fp32."),
            (n * (10 + moments) if mixed else right, "mixed: the gradients have 16 bits."),
            (n * (8 + min(moments, 4)), "Adam keeps two moments for each parameter."),
            (n * ((6 if mixed else 4) + moments), "the gradients are missing."),
        ]
        what = f"{n:.3g} parameters, {optimizer}, {'mixed' if mixed else 'fp32'}"
        yield Case(what, partial(answer, n, optimizer, mixed), right, mistakes)


def product_seconds(answer: Callable[..., Any]) -> Result:
    """`answer(m, k, n, w, peak, bandwidth)`: seconds of [m, k] times [k, n] in numbers of w bytes, on a roofline.

    peak in FLOP/s, bandwidth in bytes/s; each number is moved once.
    """
    hint = (
        "2 m k n FLOPs; w (m k + k n + m n) bytes; computing and moving go on at once, so the longer of the two counts."
    )
    return examine("product_seconds", answer, _products(answer), hint)


def _products(answer: Any) -> Iterator[Case]:
    peak, bandwidth = 1e15, 3e12
    for m, k, n, w in ((4096, 4096, 4096, 2), (1, 4096, 16384, 2), (128, 1024, 512, 4)):
        computing, moving = 2 * m * k * n / peak, w * (m * k + k * n + m * n) / bandwidth
        mistakes = [
            (computing + moving, "a kernel computes while it moves: the longer of the two, not their sum."),
            (computing, "this is computing alone: a product of few rows waits for the weights."),
            (moving, "this is moving alone: a large product is bound by computing."),
            (min(computing, moving), "the longer of the two, not the shorter: it is done when both are."),
            (max(computing / 2, moving), "a multiplication and an addition are two FLOPs."),
            (max(computing, moving / w), "a number takes w bytes."),
            (max(computing, w * (m * k + k * n) / bandwidth), "the result has to be written, too."),
        ]
        what = f"[{m}, {k}] times [{k}, {n}], {w} bytes a number, 1,000 TFLOP/s, 3 TB/s"
        yield Case(what, partial(answer, m, k, n, w, peak, bandwidth), max(computing, moving), mistakes)


def largest_microbatch(answer: Callable[..., Any]) -> Result:
    """`answer(memory, states, per_sequence, batch)`: the most sequences at a time that fit; 0 if none does.

    memory: bytes of the device; states: bytes that do not depend on the batch; per_sequence: bytes of activations. All
    microbatches of a batch are alike, so it must divide `batch`.
    """
    hint = "of the divisors of batch, the largest m with states + m per_sequence at most memory."
    return examine("largest_microbatch", answer, _microbatches(answer), hint)


def _microbatches(answer: Any) -> Iterator[Case]:
    for memory, states, each, batch in (
        (80, 20, 9, 64),
        (80, 20, 12, 30),
        (80, 70, 11, 8),
        (80, 0, 5, 16),
        (100, 10, 4, 20),
    ):
        fitting, unlimited = (memory - states) // each, memory // each
        right = _largest_divisor(batch, fitting)
        mistakes = [
            (min(fitting, batch), "it fits, but microbatches would not be alike: it must divide the batch."),
            (fitting, "more than the batch has, or no divisor of it."),
            (_largest_divisor(batch, unlimited), "the states are in memory, too."),
            (batch // right if right else 0, "this is how many microbatches there are, not how large one is."),
            (max(right, 1), "not even one sequence fits here: 0."),
        ]
        what = f"memory {memory}, states {states}, {each} a sequence, batch {batch}"
        yield Case(what, partial(answer, memory, states, each, batch), right, mistakes)


def _largest_divisor(batch: int, most: int) -> int:
    return max((m for m in range(1, batch + 1) if batch % m == 0 and m <= most), default=0)


def best_group(answer: Callable[..., Any]) -> Result:
    """`answer(n_layer, input_bytes, layer_bytes)`: how many layers to a checkpointed group keep the fewest bytes.

    Kept are the input of each group and, while one is computed again, its layers whole. Groups are alike: the answer
    divides n_layer.
    """
    hint = "n_layer / k inputs and k layers: try every k that divides n_layer, or set the derivative to 0."
    return examine("best_group", answer, _groups(answer), hint)


def _groups(answer: Any) -> Iterator[Case]:
    for n_layer, each, layer in ((64, 1, 16), (96, 2, 3), (36, 1, 1), (16, 1, 34), (48, 3, 4)):
        kept = {k: n_layer // k * each + k * layer for k in range(1, n_layer + 1) if n_layer % k == 0}
        right = min(kept, key=lambda k: kept[k])
        mistakes = [
            (n_layer // right, "this is the number of groups: asked is how many layers one has."),
            (min(kept, key=lambda k: abs(k - n_layer**0.5)), "the root of n_layer is for inputs as large as layers."),
            (1, "a group for each layer keeps n_layer inputs: fewer may be better."),
            (n_layer, "one group of all keeps every layer whole, as if nothing were checkpointed."),
        ]
        what = f"{n_layer} layers of {layer} bytes, inputs of {each}"
        yield Case(what, partial(answer, n_layer, each, layer), right, mistakes)


def loss_scales(answer: Callable[..., Any]) -> Result:
    """`answer(scale, interval, finite)`: the loss scale after each step, as a list.

    finite: for each step, whether all its gradients were finite. If not, the scale is halved; after `interval` finite
    steps in a row it is doubled.
    """
    hint = "count the finite steps in a row: an infinite one halves and starts the count anew, and so does a doubling."
    return examine("loss_scales", answer, _scalings(answer), hint)


def _scalings(answer: Any) -> Iterator[Case]:
    for scale, interval, finite in (
        (1024.0, 2, [True, True, False, True, True]),
        (64.0, 3, [True, True, False, True, True, True, True, True, True]),
        (65536.0, 2, [False, False, True, False, True, True, True, True]),
    ):
        mistakes = [
            (_scaled(scale, interval, finite, reset=False), "an infinite step breaks the row: count from 0 again."),
            (_scaled(scale, 1, finite), "not at every finite step: only after `interval` of them in a row."),
            (_scaled(scale, interval, finite, again=False), "after a doubling the count starts anew."),
            (_scaled(scale, interval, finite, down=0.0), "halved, not set to 0: no gradient is left at scale 0."),
            (_scaled(scale, interval + 1, finite), "one step late: the step that completes the row doubles the scale."),
        ]
        said = "".join("." if good else "x" for good in finite)
        what = f"from {scale:g}, doubled after {interval}, steps {said} (x: infinite)"
        yield Case(what, partial(answer, scale, interval, list(finite)), _scaled(scale, interval, finite), mistakes)


def _scaled(
    scale: float, interval: int, finite: list[bool], down: float = 0.5, reset: bool = True, again: bool = True
) -> list[float]:
    """Follow the rule, or make a mistake: `reset` at an infinite step, `again` after a doubling."""
    scales, row = [], 0
    for good in finite:
        row = row + 1 if good else (0 if reset else row)
        doubles = good and (row == interval if again else row >= interval)
        scale *= 1.0 if good and not doubles else 2.0 if doubles else down
        row = 0 if doubles and again else row
        scales.append(scale)
    return scales
