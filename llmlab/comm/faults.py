"""What goes wrong on purpose, in the simulator: `Simulator(ranks=8, faults=[Dies(3, at_s=0.2)])`.

A straggler is no fault of its own kind: `Simulator(speeds={3: 0.5})` computes at half its speed.
"""

from __future__ import annotations

from dataclasses import dataclass

from llmlab.arguments import real, whole


@dataclass(frozen=True)
class Dies:
    """A rank is gone from its first message after `at_s` seconds of virtual time on: the run ends with RankDied."""

    rank: int
    at_s: float

    def __post_init__(self) -> None:
        whole("Dies", "rank", self.rank, least=0)
        real("Dies", "at_s", self.at_s, least=0)


@dataclass(frozen=True)
class SlowLink:
    """A rank's link carries `factor` times as long: all messages and collectives that it takes part in wait for it."""

    rank: int
    factor: float

    def __post_init__(self) -> None:
        whole("SlowLink", "rank", self.rank, least=0)
        real("SlowLink", "factor", self.factor, least=1)


@dataclass(frozen=True)
class Lost:
    """Of a rank's messages and collectives the n-th (from 0) is lost, and sent again after `resend_s` seconds.

    TCP waits at least 0.2 s before it sends again, and twice as long each time (RFC 6298; Linux's least).
    """

    rank: int
    n: int
    resend_s: float = 0.2

    def __post_init__(self) -> None:
        whole("Lost", "rank", self.rank, least=0)
        whole("Lost", "n", self.n, least=0)
        real("Lost", "resend_s", self.resend_s, least=0)


Fault = Dies | SlowLink | Lost
