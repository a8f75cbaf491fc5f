"""How faults show on the virtual clock."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

from llmlab.comm.errors import RankDied
from llmlab.comm.faults import Dies, Fault, Lost, SlowLink
from llmlab.comm.simulated.clock import picoseconds
from llmlab.comm.simulated.pricing import Price


class Faults:
    """Those of one run; empty ones cost nothing."""

    def __init__(self, faults: Sequence[Fault]):
        self.ends = {each.rank: each.at_s for each in faults if isinstance(each, Dies)}
        self.slow = {each.rank: each.factor for each in faults if isinstance(each, SlowLink)}
        self.lost = {(each.rank, each.n): each.resend_s for each in faults if isinstance(each, Lost)}
        self._flown: Counter[int] = Counter()

    def strike(self, rank: int, clock: Callable[[], float]) -> None:
        """Raise RankDied if its time has come; only of a rank that is to die is the clock asked."""
        if rank in self.ends and (now := clock()) >= self.ends[rank]:
            raise RankDied(f"rank {rank}: it died at {now:.6g} s, as faults= wanted", rank)

    def priced(self, price: Price, ranks: Sequence[int]) -> Price:
        """What an operation of these ranks costs with their links as they are."""
        if self.slow:
            factor = max(self.slow.get(rank, 1.0) for rank in ranks)
            price = replace(price, transfer_ps=round(price.transfer_ps * factor))
        if self.lost:
            again = max(self.lost.get((rank, self._flown[rank]), 0.0) for rank in ranks)
            self._flown.update(ranks)
            price = replace(price, latency_ps=price.latency_ps + picoseconds(again))
        return price
