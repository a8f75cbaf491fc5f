"""The engine: one model, many users. `add` a request, `step` until it is answered, `cancel` it on the way; or `run`.

    step:   scheduler.plan()     which tokens of which requests                              scheduler.py, blocks.py
            guess                a few more, where speculation is on                         speculation.py
            paged.logits         all of them through the model at once                       paged.py
            judge                one or more new tokens for each request that is up to date
            settle               note them, let others find full blocks, let go who is done

Under tensor parallelism every rank has an engine and does all of this alike, but for the model: each computes its part
of every token, and all get the same logits. So ranks must be given the same requests, in the same order.
"""

from __future__ import annotations

import time
import zlib
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from llmlab.arguments import flag, instance, listing, whole
from llmlab.comm.group import Group
from llmlab.evaluate.scores import finite
from llmlab.model import Transformer
from llmlab.model.whole import model_of, whole_of
from llmlab.serving.blocks import BlockPool
from llmlab.serving.measures import metrics
from llmlab.serving.paged import Paged, PagedModel
from llmlab.serving.requests import Reply, Request, Sequence, Token, check_request
from llmlab.serving.scheduler import Chunk, Scheduler, in_order
from llmlab.serving.speculation import Draft, NGram, judge

KEPT_REPLIES = 10_000  # of which `metrics` speaks: a server runs for long


class RanksDisagree(ValueError):
    """Ranks of one engine have different settings or requests: their schedulers would soon do different things."""


@dataclass(frozen=True)
class Stats:
    """What the engine has done, and how its blocks are used now.

    waste: the share of places for tokens, in blocks that are taken, that hold none; over all steps so far.
    """

    steps: int
    blocks: int
    blocks_used: int
    blocks_idle: int  # nobody's now, and found again by who begins alike
    running: int
    waiting: int
    preemptions: int
    evictions: int
    reused_tokens: int
    computed_tokens: int
    guessed: int
    guesses_kept: int
    waste: float


class Engine:
    """Answer many requests at once from one model.

    model: a Transformer, or a step's, in one piece or split by tensor parallelism; then `world` is the group it is
    split over.  tokenizer: gives replies their text.  kv_blocks, block: the cache is so many blocks of so many tokens.
    max_running: requests under way at once.  max_tokens: computed in one step.  prefix_reuse: whether requests share
    the blocks of what they begin with.  speculate: an NGram or a Draft.
    Raises ValueError, before anything runs, for what cannot be served, and RanksDisagree.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any = None,
        *,
        kv_blocks: int,
        block: int = 16,
        world: Group | None = None,
        max_running: int = 64,
        max_tokens: int = 512,
        prefix_reuse: bool = True,
        speculate: NGram | Draft | None = None,
    ):
        whole("Engine", "kv_blocks", kv_blocks, least=1)
        whole("Engine", "block, in tokens,", block, least=1)
        whole("Engine", "max_running", max_running, least=1)
        flag("Engine", "prefix_reuse", prefix_reuse)
        if speculate is not None:
            instance("Engine", "speculate", speculate, (NGram, Draft))
        if tokenizer is not None and not hasattr(tokenizer, "decode"):
            raise ValueError(f"Engine wants a tokenizer, which decodes, got a {type(tokenizer).__name__}")
        ahead = 0 if speculate is None else speculate.tokens
        whole("Engine", "max_tokens, in one step,", max_tokens, least=1 + ahead)
        if world is not None:
            instance("Engine", "world", world, Group, "the group that the model is split over")
        self.world, self.tokenizer, self.speculate = world, tokenizer, speculate
        self.paged = page(model, kv_blocks, block, world)
        if isinstance(speculate, Draft):
            if speculate.paged is not None:
                raise ValueError("Engine wants a Draft of its own, got one whose keys and values are another engine's")
            speculate.paged = page(speculate.model, kv_blocks, block, world)
            check_draft(speculate.paged.config, self.paged.config)
        check_agreement(
            world, kv_blocks=kv_blocks, block=block, max_running=max_running, max_tokens=max_tokens,
            prefix_reuse=int(prefix_reuse), speculate=ahead,
        )  # fmt: skip
        self.config, self.version = self.paged.config, self.paged.version
        self.pool = BlockPool(kv_blocks, block, prefix_reuse)
        self.scheduler = Scheduler(self.pool, max_tokens, max_running, ahead)
        self.sequences: dict[int, Sequence] = {}  # by id, those not yet answered
        self.finished: deque[Reply] = deque(maxlen=KEPT_REPLIES)
        self.steps = self.computed = self.guessed = self.kept = self.taken_places = self.empty_places = 0
        self._next_id, self._owed = 0, 0.0

    # --- one request, one step ----------------------------------------------------------------------------------------

    def add(self, request: Request, arrived: float | None = None) -> int:
        """Queue a request; return the id that its tokens and its reply will bear. Raises ValueError if it cannot fit.

        arrived: when it came, by the engine's clock; None: now.
        """
        self.check(request)
        if self.version != self.paged.version:
            self.forget()
        sequence = Sequence(self._next_id, request, self.clock() if arrived is None else arrived)
        self._next_id += 1
        self.sequences[sequence.id] = sequence
        self.scheduler.waiting.append(sequence)
        return sequence.id

    def check(self, request: Request) -> None:
        """Refuse what cannot be answered, as `add` would. Raises ValueError."""
        request = check_request(request)
        request.check(self.config.vocab_size, self.config.max_seq, self.pool.size * self.pool.block)

    def cancel(self, id: int) -> bool:
        """Let a request go, its blocks at once; False where it is answered already, or was never here."""
        sequence = self.sequences.get(id)
        if sequence is not None:
            self._end(sequence, "cancelled", self.clock())
        return sequence is not None

    def forget(self) -> None:
        """Let no request reuse what was computed so far. `add` does so by itself where the weights have changed.

        What is under way goes on with the keys and values it has, as it does in every engine.
        """
        self.pool.forget(self.scheduler.running)
        self.version = self.paged.version

    @property
    def busy(self) -> bool:
        """Whether any request is not yet answered."""
        return self.scheduler.busy

    def step(self) -> list[Token]:
        """Take every request that there is room for on by a step; return the tokens that came, none if nobody asked."""
        if not self.busy:
            return []
        chunks = in_order(self._guess(self.scheduler.plan()))
        self._note_start(chunks)
        new = self._new_tokens(chunks)
        now = self.clock()
        self.steps += 1
        return [token for chunk in chunks for token in self._settle(chunk, new.get(chunk, []), now)]

    # --- many requests ------------------------------------------------------------------------------------------------

    def run(self, requests: Iterable[Request], brought: bool = False) -> list[Reply]:
        """Answer requests, each from when it arrives; return the replies in the order of the requests.

        brought: keys and values of all but the last token of each prompt come with it, from whoever computed them; only
        modelled ones can.  Raises ValueError, before anything runs, if any of them cannot be answered.
        """
        if brought and isinstance(self.paged, PagedModel):
            raise ValueError("run wants brought=False: keys and values come with requests to a modelled model only")
        given = listing("run", "requests", requests, "Requests")
        for request in given:
            self.check(request)
        check_agreement(self.world, requests=zlib.crc32(repr(given).encode()))
        coming = deque(sorted(range(len(given)), key=lambda i: given[i].arrives))
        start, ids = self._agreed_clock(), {}
        kept, self.finished = self.finished, deque()
        while coming or self.busy:
            now = self._agreed_clock() - start if coming else 0.0
            while coming and given[coming[0]].arrives <= now:
                i = coming.popleft()
                ids[id := self.add(given[i], start + given[i].arrives)] = i
                self.sequences[id].brought = brought
            if self.busy:
                self.step()
            else:
                self.sleep(given[coming[0]].arrives - now)
        found = {ids[reply.id]: reply for reply in self.finished if reply.id in ids}
        kept.extend(self.finished)
        self.finished = kept
        return [found[i] for i in range(len(given))]

    def metrics(
        self, ttft: float | None = None, tpot: float | None = None, e2el: float | None = None
    ) -> dict[str, float]:
        """Score replies so far by vLLM's names (`measures.py`); limits, in milliseconds, are for `request_goodput`."""
        return metrics(self.finished, ttft=ttft, tpot=tpot, e2el=e2el)

    @property
    def stats(self) -> Stats:
        """Count what was done so far, and how the blocks are used now."""
        pool, scheduler = self.pool, self.scheduler
        return Stats(
            steps=self.steps,
            blocks=pool.size,
            blocks_used=pool.used,
            blocks_idle=len(pool.idle),
            running=len(scheduler.running),
            waiting=len(scheduler.waiting),
            preemptions=scheduler.preemptions,
            evictions=pool.evictions,
            reused_tokens=pool.reused_tokens,
            computed_tokens=self.computed,
            guessed=self.guessed,
            guesses_kept=self.kept,
            waste=self.empty_places / max(1, self.taken_places),
        )

    # --- time ---------------------------------------------------------------------------------------------------------

    def clock(self) -> float:
        """Seconds by the engine's clock: the world's, which may be a virtual one, or this machine's."""
        return time.perf_counter() if self.world is None else self.world.clock()

    def sleep(self, seconds: float) -> None:
        """Let the engine's clock go on."""
        time.sleep(max(0.0, seconds)) if self.world is None else self.world.sleep(max(0.0, seconds))

    def _agreed_clock(self) -> float:
        """The first rank's clock, on every rank: all must agree on who has arrived."""
        if self.world is None or self.world.size == 1:
            return self.clock()
        if self.world.device.type == "meta":  # nothing can be told; simulated clocks agree where ranks have met
            self.world.barrier()
            return self.clock()
        now = torch.tensor([self.clock()], dtype=torch.float64, device=self.world.device)
        return float(self.world.broadcast(now, 0))

    # --- inside a step ------------------------------------------------------------------------------------------------

    def _guess(self, chunks: list[Chunk]) -> list[Chunk]:
        if self.speculate is not None:
            self.speculate.guess(chunks)
            self.guessed += sum(len(chunk.guesses) for chunk in chunks)
        return chunks

    def _note_start(self, chunks: list[Chunk]) -> None:
        now = self.clock()
        for chunk in chunks:
            self.computed += chunk.count
            if chunk.sequence.started is None:
                chunk.sequence.started = now

    def _new_tokens(self, chunks: list[Chunk]) -> dict[Chunk, list[int]]:
        """Compute the chunks; give what follows those that reach the end of what is known."""
        wanted: list[int] = []
        parts, row = {}, 0
        for chunk in chunks:
            stop = row + len(chunk.tokens)
            if chunk.last:
                own = range(row + chunk.count - 1, stop)
                parts[chunk] = slice(len(wanted), len(wanted) + len(own))
                wanted += own
            row = stop
        logits = self.paged.logits(chunks, wanted)
        if logits is None:
            return {chunk: [0] * (1 + self._expected(len(chunk.guesses))) for chunk in parts}
        best = finite("Engine", logits).argmax(-1).tolist()
        return {chunk: judge(chunk, logits[part], best[part]) for chunk, part in parts.items()}

    def _expected(self, guesses: int) -> int:
        """Say how many of so many guesses hold where nobody can judge: as many as are expected to, on average."""
        if self.speculate is not None:
            self._owed += sum(self.speculate.acceptance ** (i + 1) for i in range(guesses))
        kept = min(guesses, int(self._owed))
        self._owed -= kept
        return kept

    def _settle(self, chunk: Chunk, new: list[int], now: float) -> list[Token]:
        """Note what was computed and what came; give the tokens, up to the one that ends the answer."""
        sequence, request, tokens = chunk.sequence, chunk.sequence.request, []
        self.kept += max(0, len(new) - 1)
        reason = None
        for token in new:
            sequence.tokens.append(token)
            sequence.times.append(now)
            reason = "stop" if token in request.stop else "length" if not sequence.left else None
            tokens.append(Token(sequence.id, token, reason))
            if reason:
                break
        sequence.computed = chunk.start + chunk.count + max(0, len(tokens) - 1)  # guesses that held were read as well
        sequence.drafted = min(sequence.drafted, sequence.computed)
        self.pool.register(sequence)
        self.taken_places += len(sequence.blocks) * self.pool.block
        self.empty_places += self.pool.unfilled([sequence])
        if reason:
            self._end(sequence, reason, now)
        return tokens

    def _end(self, sequence: Sequence, reason: str, now: float) -> None:
        self.scheduler.remove(sequence)
        del self.sequences[sequence.id]
        self.finished.append(sequence.reply(reason, now, self.tokenizer))


# --- what is refused --------------------------------------------------------------------------------------------------


def page(model: Any, blocks: int, block: int, world: Group | None) -> Paged:
    """Give a model a paged cache. Raises ValueError for a model that cannot be served so."""
    if hasattr(model, "paged"):  # only the cost of a model: `lab.cost.Modelled`
        found: Paged = model.paged(blocks, block)
        return found
    given, split = model_of("Engine", model), whole_of(model)
    given = instance("Engine", "model", given, Transformer)
    config = given.config
    if not config.causal:
        raise ValueError("Engine wants a model that looks back only; with causal=False every token sees those to come")
    if config.n_expert and config.capacity_factor is not None:
        raise ValueError(
            f"Engine wants capacity_factor=None, got {config.capacity_factor}: who is dropped would depend on who else "
            "asks at the time"
        )
    if split is not None and split.make_caches(1, 1) is None:
        raise ValueError(f"Engine wants a model split by tensor parallelism alone, got {split!r}, which splits tokens")
    if split is not None and world is None:
        raise ValueError(f"Engine wants world=, the group that the model is split over, got None for {split!r}")
    return PagedModel(given, given if split is None else split, blocks, block)


def check_draft(draft: Any, config: Any) -> None:
    """Refuse a draft model that speaks of other tokens, or reads less far."""
    if draft.vocab_size != config.vocab_size or draft.max_seq < config.max_seq:
        raise ValueError(
            f"Draft wants the model's vocab_size={config.vocab_size} and a max_seq of at least {config.max_seq}, "
            f"got {draft.vocab_size} and {draft.max_seq}"
        )


def check_agreement(world: Group | None, **mine: int) -> None:
    """Compare what ranks must have alike. Raises RanksDisagree, on every rank, before the model runs."""
    if world is None or world.size == 1 or world.device.type == "meta":  # meta: there are no numbers to compare
        return
    everyone: Tensor = world.all_gather(torch.tensor([list(mine.values())], device=world.device))
    for name, values in zip(mine, everyone.mT.tolist(), strict=True):
        if len(set(values)) > 1:
            said = ", ".join(f"rank {rank} has {value}" for rank, value in enumerate(values))
            raise RanksDisagree(
                f"Engine wants the same {name} on every rank: {said}. Each would preempt and admit others, and wait "
                "for ranks that compute something else. Give all the same; of kv_blocks the smallest fits everywhere"
            )
