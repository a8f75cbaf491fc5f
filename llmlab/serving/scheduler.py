"""Who computes what in the next step: continuous batching, chunked prefill, preemption. Counts only, no tensors.

    step 1   A: 8 tokens of its prompt
    step 2   A: 1 token   B: 7 tokens of its prompt                budget = 8 tokens a step
    step 3   A: 1 token   B: 5 tokens, the rest of its prompt      C: 2 tokens
    ...

A request joins as soon as there is room and leaves as soon as it is done, at any step (Yu et al. 2022, "Orca"). A step
computes at most `budget` tokens: those that go on come first, and a long prompt is read in chunks between them, so that
nobody waits for it (Agrawal et al. 2024, "Sarathi-Serve"). Where blocks run out, the youngest gives all of its back and
starts anew later: computing its keys and values again costs less than it seems, as one chunk after another.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

from torch import Tensor

from llmlab.serving.blocks import BlockPool
from llmlab.serving.requests import Sequence


@dataclass(eq=False)
class Chunk:
    """Tokens `start` .. `start + count - 1` of a sequence, and after its last token those that were only guessed."""

    sequence: Sequence
    start: int
    count: int
    room: int = 0  # how many guesses there are blocks for
    guesses: list[int] = field(default_factory=list)
    chances: list[Tensor] = field(default_factory=list)  # [V] for each guess that was drawn: what it was drawn from

    @property
    def last(self) -> bool:
        """Whether it ends with the sequence's last token, so that a new one follows."""
        return self.start + self.count == len(self.sequence.tokens)

    @property
    def tokens(self) -> list[int]:
        return self.sequence.tokens[self.start : self.start + self.count] + self.guesses

    @property
    def kind(self) -> tuple[int, int]:
        """How many tokens it has, and how many blocks of 16 come before its end, to a factor of two."""
        count = self.count + len(self.guesses)
        return count, ((self.start + count) // 16).bit_length()


def in_order(chunks: list[Chunk]) -> list[Chunk]:
    """Put those side by side that attention can take at once: as many tokens, and about as long a sequence."""
    return sorted(chunks, key=lambda chunk: chunk.kind)


class Scheduler:
    """The queue of those that wait, the list of those that run (the oldest first), and the rule between them."""

    def __init__(self, pool: BlockPool, budget: int, max_running: int, ahead: int = 0):
        self.pool, self.budget, self.max_running, self.ahead = pool, budget, max_running, ahead
        self.waiting: deque[Sequence] = deque()
        self.running: list[Sequence] = []
        self.preemptions = 0

    @property
    def busy(self) -> bool:
        return bool(self.waiting or self.running)

    def plan(self) -> list[Chunk]:
        """Choose the next step's chunks, and give them blocks."""
        left, chunks, before = self.budget, [], self.preemptions
        for sequence in list(self.running):
            if left and sequence.blocks and (chunk := self._next(sequence, left)):
                chunks.append(chunk)
                left -= chunk.count + chunk.room
        while left and self.waiting and self.preemptions == before and (chunk := self._admit(left)):
            chunks.append(chunk)
            left -= chunk.count
        assert chunks or not self.busy, "requests that fit alone were admitted, so one of them can go on"
        return chunks

    def remove(self, sequence: Sequence) -> None:
        """Forget a sequence, whether it runs or waits, and take its blocks back."""
        (self.running if sequence in self.running else self.waiting).remove(sequence)
        self.pool.release(sequence)

    def _next(self, sequence: Sequence, left: int) -> Chunk | None:
        """Let a running sequence go on, by younger ones' blocks if need be; None if it had to give its own."""
        count = min(len(sequence.tokens) - sequence.computed, left)
        guesses = min(self.ahead, sequence.left - 1, left - count) if sequence.decoding else 0
        if guesses and self.pool.grow(sequence, sequence.computed + count + guesses):
            return Chunk(sequence, sequence.computed, count, guesses)
        while not self.pool.grow(sequence, sequence.computed + count):
            victim = self.running[-1]
            self._preempt(victim)
            if victim is sequence:
                return None
        return Chunk(sequence, sequence.computed, count)

    def _preempt(self, sequence: Sequence) -> None:
        self.running.remove(sequence)
        self.pool.release(sequence)
        self.waiting.appendleft(sequence)  # the youngest goes first, so the queue stays in order
        sequence.preempted += 1
        self.preemptions += 1

    def _admit(self, left: int) -> Chunk | None:
        """Start the next in the queue if there are blocks for all its tokens; nobody overtakes it."""
        sequence = self.waiting[0]
        if len(self.running) >= self.max_running:
            return None
        self.pool.start(sequence)
        if self.pool.blocks_for(len(sequence.tokens)) - len(sequence.blocks) > self.pool.available:
            self.pool.release(sequence)
            return None
        self.waiting.popleft()
        self.running.append(sequence)
        self.running.sort(key=lambda each: each.id)
        if not sequence.preempted:
            sequence.reused = sequence.computed
        self.pool.reused_tokens += sequence.computed
        count = min(len(sequence.tokens) - sequence.computed, left)
        grown = self.pool.grow(sequence, sequence.computed + count)
        assert grown
        return Chunk(sequence, sequence.computed, count)
