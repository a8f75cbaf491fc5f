"""Learning byte-pair merges: which two neighbours to join next, without counting all of them again each time.

Every different piece of text is laid down once, weighted by how often it occurs. An index says where each pair stands,
so that a merge touches only those places; the counts of the pairs around them change, and a heap gives the most
frequent pair. The arithmetic is numpy's, on all places of a pair at once.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

Pair = tuple[int, int]
Ints = NDArray[np.int32]
# What may stand in place of a token: nothing beyond a piece's end, a place whose token went to its left neighbour, and
# a token of the merge now going on.
BORDER, GONE, FRESH = -3, -2, -1


def learn_merges(counts: Counter[str], vocab_size: int) -> tuple[list[bytes], list[tuple[bytes, bytes]]]:
    """Return (vocab, merges): join the most frequent pair until `vocab_size` tokens exist or no pair occurs twice.

    counts: how often each piece occurs. Ties go to the pair of smaller ids.
    """
    places = _Places(counts)
    vocab = [bytes([byte]) for byte in range(256)]
    merges: list[tuple[bytes, bytes]] = []
    heap = [(-n, pair) for pair, n in places.count.items()]
    heapq.heapify(heap)
    while len(vocab) < vocab_size and heap:
        negative, pair = heapq.heappop(heap)
        n = places.count[pair]
        if n != -negative:  # the heap is not told when a count falls: put the pair back where it belongs now
            if n > 0:
                heapq.heappush(heap, (-n, pair))
            continue
        if n < 2:  # a pair seen once would only memorise one place
            break
        a, b = vocab[pair[0]], vocab[pair[1]]
        # Never there before: wherever these bytes came to be whole tokens, the same merges were made in the same order.
        vocab.append(a + b)
        merges.append((a, b))
        for grown in places.merge(pair, len(vocab) - 1):
            heapq.heappush(heap, (-places.count[grown], grown))
    return vocab, merges


class _Places:
    """All pieces in one row of tokens, each place linked to its neighbours within the piece; index -1 is the border.

    A pair stands where its left token stands. `where` may hold places at which it stands no more.
    """

    def __init__(self, counts: Counter[str]):
        pieces = [piece.encode("utf-8", "surrogateescape") for piece in counts]
        lengths = np.fromiter(map(len, pieces), np.int64, len(pieces))
        stop = np.cumsum(lengths)
        total = int(stop[-1])
        self.token = np.full(total + 1, BORDER, np.int32)
        self.token[:total] = np.frombuffer(b"".join(pieces), np.uint8)
        self.left = np.arange(-1, total, dtype=np.int32)
        self.right = np.arange(1, total + 2, dtype=np.int32)
        self.left[stop - lengths] = self.right[stop - 1] = -1
        self.weight = np.repeat(np.fromiter(counts.values(), np.int64, len(pieces)), lengths)
        self.count: defaultdict[Pair, int] = defaultdict(int)
        self.where: defaultdict[Pair, list[Ints]] = defaultdict(list)
        start = np.flatnonzero(self.right[:total] >= 0).astype(np.int32)
        for pair, n, places in self._by_key(self.token[start] * 256 + self.token[self.right[start]], start):
            self.count[divmod(pair, 256)] = n
            self.where[divmod(pair, 256)].append(places)

    def merge(self, pair: Pair, new: int) -> set[Pair]:
        """Put `new` where the pair stands; return the pairs that became more frequent."""
        (a, b), token = pair, self.token
        p = self._standing(pair)
        q = self.right[p]
        before, after = self.left[p], self.right[q]
        token[p], token[q] = FRESH, GONE
        # A neighbour that is GONE was merged too: that pair of merged tokens is counted from its left one.
        ours = token[before] >= 0
        more = token[after] != BORDER
        moves = [((x, a), (x, new), n, at) for x, n, at in self._by_key(token[before[ours]], before[ours])]
        for x, n, at in self._by_key(token[after[more]], p[more]):
            moves.append(((b, a), (new, new), n, at) if x == FRESH else ((b, x), (new, x), n, at))
        token[p] = new
        self.right[p], self.left[after] = after, p
        for old, made, n, at in moves:
            self.count[old] -= n
            self.count[made] += n
            self.where[made].append(at)
        self.count[pair] = 0
        return {made for _, made, _, _ in moves if self.count[made] > 0}

    def _standing(self, pair: Pair) -> Ints:
        """Return the places where a pair is to be joined, and forget them."""
        p = np.concatenate(self.where.pop(pair))
        p = p[self.token[p] == pair[0]]
        p = p[self.token[self.right[p]] == pair[1]]
        if pair[0] != pair[1]:
            return p
        chosen, taken = [], -1  # "aaa" is joined from the left, as encoding will join it
        p = np.sort(p)
        for place, following in zip(p.tolist(), self.right[p].tolist(), strict=True):
            if place != taken:
                chosen.append(place)
                taken = following
        return np.array(chosen, np.int32)

    def _by_key(self, keys: Ints, places: Ints) -> Iterator[tuple[int, int, Ints]]:
        """Group places by key: (key, the weight of all its places, its places)."""
        if not len(keys):
            return
        order = np.argsort(keys, kind="stable")
        keys, places = keys[order], places[order]
        first = [0, *(np.flatnonzero(keys[1:] != keys[:-1]) + 1).tolist()]
        weights = np.add.reduceat(self.weight[places], first).tolist()
        for key, n, start, stop in zip(keys[first].tolist(), weights, first, [*first[1:], len(keys)], strict=True):
            yield key, n, places[start:stop]
