"""Exercises of notebooks 33, 33b and 34: many machines, failures, and what a report says."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from llmlab.check.examine import Case, Result, examine


def machine_of(answer: Callable[..., Any]) -> Result:
    """`answer(rank, ranks_per_machine)`: (the machine, the rank's place on it), both from 0, as torchrun deals them."""
    hint = "machines are filled one after another: divide, the quotient is the machine, the remainder the place."
    return examine("machine_of", answer, _machines(answer), hint)


def _machines(answer: Any) -> Iterator[Case]:
    for rank, per in ((0, 4), (3, 4), (4, 4), (13, 8), (7, 2), (5, 1)):
        machine, place = divmod(rank, per)
        mistakes = [
            ((place, machine), "the other way round: the machine comes first."),
            ((machine + 1, place), "counted from 1: the first machine is 0."),
            ((rank % per, rank // per), "dealt like cards: torchrun fills a machine before the next."),
            (machine, "the machine alone: give its place there, too."),
        ]
        yield Case(f"rank {rank}, {per} on a machine", partial(answer, rank, per), (machine, place), mistakes)


def own_rows(answer: Callable[..., Any]) -> Result:
    """`answer(order, n, batch, rank, ranks)`: the rows of global batch n that this rank reads, as a list.

    order: the shuffled numbers of all rows, the same on every rank.
    """
    hint = "cut batch n out of the order, order[n * batch : (n + 1) * batch]; then the rank-th of `ranks` equal parts."
    return examine("own_rows", answer, _rows(answer), hint)


def _rows(answer: Any) -> Iterator[Case]:
    order = [7, 2, 11, 5, 0, 9, 4, 1, 10, 3, 8, 6]
    for n, batch, rank, ranks in ((0, 4, 0, 2), (1, 4, 1, 2), (2, 4, 3, 4), (1, 6, 1, 3), (1, 6, 0, 1)):
        share = batch // ranks
        own = order[n * batch : (n + 1) * batch]
        mistakes = [
            (own, "the whole batch: every rank would train on the same rows."),
            (
                list(range(n * batch + rank * share, n * batch + (rank + 1) * share)),
                "rows in the order of the file: look their numbers up in `order`.",
            ),
            (
                order[(rank * len(order) // ranks) + n * share :][:share],
                "a stretch of its own for each rank: with other ranks batches would be others; cut the batch first.",
            ),
        ]
        what = f"batch {n} of {batch} rows, rank {rank} of {ranks}"
        yield Case(
            what, partial(answer, list(order), n, batch, rank, ranks), own[rank * share : (rank + 1) * share], mistakes
        )


def pieces_to_read(answer: Callable[..., Any]) -> Result:
    """`answer(size, saved, rank, ranks)`: which of `saved` equal pieces this rank of `ranks` needs for its own part."""
    hint = "compare where each piece and your part begin and end: they overlap if each begins before the other ends."
    return examine("pieces_to_read", answer, _pieces(answer), hint)


def _pieces(answer: Any) -> Iterator[Case]:
    for size, saved, rank, ranks in ((12, 2, 1, 3), (12, 4, 0, 2), (12, 3, 2, 4), (24, 4, 1, 3), (8, 2, 0, 1)):
        old, new = size // saved, size // ranks
        begin, end = rank * new, (rank + 1) * new
        needed = [i for i in range(saved) if i * old < end and (i + 1) * old > begin]
        touching = [i for i in range(saved) if i * old <= end and (i + 1) * old >= begin]
        mistakes = [
            (list(range(saved)), "all of them: a rank reads only what it needs."),
            (touching, "one that only touches your part has nothing in it: compare with < and not <=."),
            ([begin // old], "only the first: a part may reach over several pieces."),
            ([rank], "the piece of the same number: the cut is another one now."),
        ]
        what = f"{size} numbers saved in {saved} pieces, rank {rank} of {ranks}"
        yield Case(what, partial(answer, size, saved, rank, ranks), needed, mistakes)


def best_interval(answer: Callable[..., Any]) -> Result:
    """`answer(save_s, device_mtbf_s, devices)`: Young's seconds of work between two saves."""
    hint = "the machine fails as often as all its devices together: M = device_mtbf_s / devices; then sqrt(2 save_s M)."
    return examine("best_interval", answer, _intervals(answer), hint)


def _intervals(answer: Any) -> Iterator[Case]:
    for save, mtbf, devices in ((30.0, 5e7, 1000), (60.0, 1e8, 16_384), (5.0, 1e6, 8)):
        m = mtbf / devices
        mistakes = [
            (math.sqrt(2 * save * mtbf), "of one device: many fail more often; divide by how many there are."),
            (math.sqrt(save * m), "a 2 is missing under the root: on average half an interval is lost."),
            (2 * save * m, "seconds squared: take the root."),
            (math.sqrt(2 * save * mtbf * devices), "more devices fail more often, not more seldom: divide."),
        ]
        yield Case(
            f"{save:g} s, {mtbf:g} s, {devices}",
            partial(answer, save, mtbf, devices),
            math.sqrt(2 * save * m),
            mistakes,
        )


def steps_repeated(answer: Callable[..., Any]) -> Result:
    """`answer(kills, every)`: how many steps are done twice. kills: the step, from 1, that each kill came behind.

    A checkpoint is there as soon as its step is done, after every `every` steps.
    """
    hint = "after a kill behind step k the run goes on behind step k - k % every: k % every steps are done again."
    return examine("steps_repeated", answer, _repeats(answer), hint)


def _repeats(answer: Any) -> Iterator[Case]:
    for kills, every in (([7], 5), ([4, 13, 20], 10), ([30, 41, 59], 20), ([3], 1)):
        mistakes = [
            (sum(kills), "all from the first step on: a checkpoint was there."),
            (sum(every - k % every for k in kills), "those up to the next checkpoint: they are done once."),
            (len(kills) * every, "a whole interval each time: that is the most it can be."),
            (
                sum(k % every for k in kills[:1]),
                "of the first kill alone: each one costs." if len(kills) > 1 else "count again.",
            ),
        ]
        expected = sum(k % every for k in kills)
        yield Case(f"kills {kills}, every {every}", partial(answer, list(kills), every), expected, mistakes)


def odd_ranks(answer: Callable[..., Any]) -> Result:
    """`answer(hashes)`: the ranks whose hash is not the most frequent one, in order; [] if all agree."""
    hint = "count how often each hash occurs, take the most frequent, and list the ranks that have another."
    return examine("odd_ranks", answer, _odd(answer), hint)


def _odd(answer: Any) -> Iterator[Case]:
    for hashes in ([5, 5, 5, 5], [5, 5, 9, 5], [9, 5, 5, 5], [5, 1, 5, 2, 5], [8, 3, 3]):
        usual = Counter(hashes).most_common(1)[0][0]
        mistakes = [
            ([r for r, h in enumerate(hashes) if h != hashes[0]], "not as rank 0: it may be rank 0 that is wrong."),
            ([h for h in hashes if h != usual], "their hashes: give the ranks."),
            ([r for r, h in enumerate(hashes) if h == usual], "those that agree: give the others."),
        ]
        yield Case(
            f"hashes {hashes}", partial(answer, list(hashes)), [r for r, h in enumerate(hashes) if h != usual], mistakes
        )


def bits_per_byte(answer: Callable[..., Any]) -> Result:
    """`answer(nats_per_token, n_token, n_byte)`: what a model needs for a byte of text, whatever its tokenizer."""
    hint = "nats_per_token * n_token are the nats of the whole text; a bit is ln 2 nats; divide by the bytes."
    return examine("bits_per_byte", answer, _bits(answer), hint)


def _bits(answer: Any) -> Iterator[Case]:
    for nats, tokens, n_byte in ((3.2, 1000, 4200), (5.5, 70, 70), (1.0, 300, 1100)):
        mistakes = [
            (nats * tokens / n_byte, "nats per byte: a bit is ln 2 = 0.693 of one; divide by it."),
            (nats / math.log(2), "bits per token: another tokenizer has other tokens; count bytes."),
            (nats * math.log(2) * tokens / n_byte, "multiplied by ln 2: a nat is more than a bit; divide."),
            (nats / math.log(2) * n_byte / tokens, "bytes by tokens: the text has n_token * nats_per_token nats."),
        ]
        expected = nats * tokens / math.log(2) / n_byte
        yield Case(
            f"{nats:g} nats, {tokens} tokens, {n_byte} bytes", partial(answer, nats, tokens, n_byte), expected, mistakes
        )


def farthest_apart(answer: Callable[..., Any]) -> Result:
    """`answer(losses, reference)`: the largest distance of two curves, as a share of the reference's loss there."""
    hint = "max over the steps of |loss - reference| / |reference|."
    return examine("farthest_apart", answer, _curves(answer), hint)


def _curves(answer: Any) -> Iterator[Case]:
    for a, b in (([4.2, 3.0, 2.0], [4.0, 3.4, 2.0]), ([5.0, 2.0], [5.5, 2.0]), ([3.0, 3.0, 2.9], [2.0, 3.0, 3.0])):
        shares = [abs(x - y) / y for x, y in zip(a, b, strict=True)]
        mistakes = [
            (sum(shares) / len(shares), "the mean: one step that is far off hides in it; take the largest."),
            (max(abs(x - y) for x, y in zip(a, b, strict=True)), "not a share: divide by the reference's loss."),
            (shares[-1], "of the last step alone: curves may meet again."),
            (max((x - y) / y for x, y in zip(a, b, strict=True)), "with its sign: below counts as well as above."),
        ]
        yield Case(f"{a} against {b}", partial(answer, list(a), list(b)), max(shares), mistakes)


def machine_efficiency(answer: Callable[..., Any]) -> Result:
    """`answer(seconds_alone, seconds, ranks)`: the share of the ranks' time that is worth what one process does."""
    hint = "speedup = seconds_alone / seconds; efficiency = speedup / ranks."
    return examine("machine_efficiency", answer, _efficiencies(answer), hint)


def _efficiencies(answer: Any) -> Iterator[Case]:
    for alone, seconds, ranks in ((100.0, 30.0, 4), (60.0, 60.0, 2), (8.0, 1.25, 8)):
        mistakes = [
            (alone / seconds, "the speedup: divide it by the ranks that it took."),
            (seconds / alone, "the other way round: a faster run has the smaller time below."),
            (alone / seconds * ranks, "more ranks make it less efficient: divide by them."),
            (seconds / (alone * ranks), "the other way round: alone stands above."),
        ]
        yield Case(
            f"{alone:g} s, {seconds:g} s, {ranks} ranks",
            partial(answer, alone, seconds, ranks),
            alone / seconds / ranks,
            mistakes,
        )
