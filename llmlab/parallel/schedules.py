"""Pipeline schedules as data: for each rank the list of what it does, in order.

    F3  forward of microbatch 3      B3  its backward      W3  its weights' gradients, where a schedule splits backward

    gpipe        all forwards, then all backwards         Huang et al. 2019, "GPipe", section 2
    1f1b         a warm-up, then forward and backward     Narayanan et al. 2019, "PipeDream", section 3.2; with a
                 in turns                                 flush at the end: Narayanan et al. 2021, section 2.2.1
    interleaved  the same with several stages on a rank   Narayanan et al. 2021, "Efficient large-scale language model
                                                          training on GPU clusters using Megatron-LM", section 2.2.2
    zb_h1        B makes the gradients of the inputs, W   Qi et al. 2023, "Zero bubble pipeline parallelism",
                 later those of the weights               section 2.1: ZB-H1, which holds no more than 1F1B

All go backward in the order of the microbatches, so they add up gradients in one order, and differ in no bit.
A list is checked and timed without a model (timetable.py) and interpreted with one (pipeline.py).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

from llmlab.arguments import choice, string, whole, wholes

NAMES = ("gpipe", "1f1b", "interleaved", "zb_h1")
PRICED = ("zb_2p", "dualpipe")  # `lab.predict` knows what they cost; nothing here runs them
ALSO = {"zero_bubble": "zb_h1", "zb_h2": "zb_2p"}  # as other programs call it


def schedule_name(call: str, name: str, value: str, priced: bool = False) -> str:
    """Read a schedule's name as people write it: "1F1B", "ZB-H1". priced: or one that is not run here.

    Raises ValueError with the known names.
    """
    written = string(call, name, value).lower().replace("-", "_")
    written = ALSO.get(written, written)
    if written in PRICED and not priced:
        raise ValueError(f"{call} wants {name} as one that runs here, {', '.join(NAMES)}; lab.predict prices {value!r}")
    return written if written in NAMES + PRICED else choice(call, name, value, NAMES + PRICED * priced)


@dataclass(frozen=True)
class Action:
    """What a rank does next: kind "F", "B" or "W", of one microbatch, at one stage of the pipeline."""

    kind: str
    stage: int
    microbatch: int

    def __str__(self) -> str:
        return f"{self.kind}{self.microbatch}@{self.stage}"


@dataclass(frozen=True)
class Schedule:
    """Each rank's actions, in order. A stage belongs to the rank that runs its forwards.

    `actions`: one tuple per rank. In a schedule without W, B makes all gradients; with W it makes those of the inputs.
    """

    name: str
    actions: tuple[tuple[Action, ...], ...]

    @staticmethod
    def parse(text: str, name: str = "own") -> Schedule:
        """Read a line per rank: "F0 F1 B0 B1". A stage other than the line's own number is said so: "F0@5"."""
        string("Schedule.parse", "name", name)
        lines = [line.split() for line in string("Schedule.parse", "text", text).strip().splitlines()]
        return Schedule(name, tuple(tuple(_action(word, rank) for word in line) for rank, line in enumerate(lines)))

    def __str__(self) -> str:
        return "\n".join(" ".join(str(action) for action in row) for row in self.actions)

    def __repr__(self) -> str:
        ranks, stages = len(self.actions), self.stages
        return f"Schedule({self.name}: {ranks} ranks, {stages} stages, {self.microbatches} microbatches)"

    @cached_property
    def place(self) -> dict[Action, tuple[int, int]]:
        """Where each action stands: its rank, and its number in that rank's list."""
        return {a: (rank, i) for rank, row in enumerate(self.actions) for i, a in enumerate(row)}

    @cached_property
    def stages(self) -> int:
        return 1 + max((a.stage for a in self.place), default=-1)

    @cached_property
    def microbatches(self) -> int:
        return 1 + max((a.microbatch for a in self.place), default=-1)

    @cached_property
    def splits_backward(self) -> bool:
        """Whether weight gradients are made apart from those of the inputs."""
        return any(a.kind == "W" for a in self.place)

    def rank_of(self, stage: int) -> int:
        return self.place[Action("F", stage, 0)][0]

    def needs(self, action: Action) -> Action | None:
        """The action of a neighbouring stage whose result this one takes: its message, if that is another rank."""
        if action.kind == "F" and action.stage > 0:
            return Action("F", action.stage - 1, action.microbatch)
        if action.kind == "B" and action.stage < self.stages - 1:
            return Action("B", action.stage + 1, action.microbatch)
        return None

    def feeds(self, action: Action) -> Action | None:
        """The action of a neighbouring stage that takes this one's result."""
        if action.kind == "F" and action.stage < self.stages - 1:
            return Action("F", action.stage + 1, action.microbatch)
        if action.kind == "B" and action.stage > 0:
            return Action("B", action.stage - 1, action.microbatch)
        return None

    def forward_only(self, microbatches: int) -> Schedule:
        """Keep the forwards of the first so many microbatches: in an order that runs, as the whole one does."""
        kept = (tuple(a for a in row if a.kind == "F" and a.microbatch < microbatches) for row in self.actions)
        return Schedule(f"{self.name}, forward only", tuple(kept))

    def last(self, action: Action) -> bool:
        """Whether this action makes the last gradient of its microbatch at its stage, and frees what was held."""
        return action.kind == ("W" if self.splits_backward else "B")


def _action(word: str, rank: int) -> Action:
    found = re.fullmatch(r"([FBW])(\d+)(?:@(\d+))?", word)
    if found is None:
        raise ValueError(f"a schedule wants actions like F0, B3 or W1@5 (kind, microbatch, stage), got {word!r}")
    kind, microbatch, stage = found.groups()
    return Action(kind, rank if stage is None else int(stage), int(microbatch))


# --- the four ---------------------------------------------------------------------------------------------------------


def gpipe(ranks: int, microbatches: int) -> Schedule:
    """All forwards, then all backwards: every rank holds all microbatches at once."""
    wholes("gpipe", 1, ranks=ranks, microbatches=microbatches)

    def row(rank: int) -> list[Action]:
        return [Action(kind, rank, i) for kind in "FB" for i in range(microbatches)]

    return _make("gpipe", ranks, row)


def one_f_one_b(ranks: int, microbatches: int) -> Schedule:
    """As many forwards as there are stages behind, then forward and backward in turns: at most `ranks - rank` held."""
    wholes("one_f_one_b", 1, ranks=ranks, microbatches=microbatches)
    return _make("1f1b", ranks, lambda rank: _in_turns(*_plain(rank, microbatches), ranks - rank - 1))


def interleaved(ranks: int, microbatches: int, virtual_stages: int = 2) -> Schedule:
    """1F1B with `virtual_stages` stages on each rank: stage s on rank s mod ranks. Bubble smaller, messages more.

    Microbatches go round in groups of `ranks`, which must divide them.
    """
    wholes("interleaved", 1, ranks=ranks, microbatches=microbatches, virtual_stages=virtual_stages)
    if microbatches % ranks:
        raise ValueError(f"interleaved wants microbatches that {ranks} ranks divide, got {microbatches}")

    def row(rank: int) -> list[Action]:
        turns = range(microbatches * virtual_stages)
        chunks = [(k // ranks % virtual_stages, k // (ranks * virtual_stages) * ranks + k % ranks) for k in turns]
        forwards = [Action("F", chunk * ranks + rank, i) for chunk, i in chunks]
        backwards = [Action("B", (virtual_stages - 1 - chunk) * ranks + rank, i) for chunk, i in chunks]
        behind = ranks - rank - 1
        # a microbatch comes back to this rank only after `ranks` others had their turn at each stage but the last
        warm_up = behind if virtual_stages == 1 else 2 * behind + (virtual_stages - 1) * ranks
        return _in_turns(forwards, backwards, warm_up)

    return _make("interleaved", ranks, row)


def zb_h1(ranks: int, microbatches: int) -> Schedule:
    """1F1B in which rank r puts off W by r microbatches, to have work in the bubble. At most `ranks` held."""
    wholes("zb_h1", 1, ranks=ranks, microbatches=microbatches)

    def row(rank: int) -> list[Action]:
        actions: list[Action] = []
        done, put_off = 0, 0
        for action in _in_turns(*_plain(rank, microbatches), ranks - rank - 1):
            actions.append(action)
            done += action.kind == "B"
            if action.kind == "B" and done - put_off > rank:
                actions.append(Action("W", rank, put_off))
                put_off += 1
        return actions + [Action("W", rank, i) for i in range(put_off, microbatches)]

    return _make("zb_h1", ranks, row)


def make_schedule(name: str, ranks: int, microbatches: int, virtual_stages: int = 1) -> Schedule:
    """Make the schedule of this name. Raises ValueError for numbers it cannot be made of."""
    name = schedule_name("a schedule", "name", name)
    whole("a schedule", "virtual_stages", virtual_stages, least=1)
    if name == "interleaved":
        return interleaved(ranks, microbatches, virtual_stages)
    if virtual_stages > 1:
        raise ValueError(f"virtual_stages={virtual_stages} wants schedule='interleaved', got {name!r}")
    return MADE_BY[name](ranks, microbatches)


MADE_BY = {"gpipe": gpipe, "1f1b": one_f_one_b, "zb_h1": zb_h1}


def _make(name: str, ranks: int, row: Callable[[int], Sequence[Action]]) -> Schedule:
    return Schedule(name, tuple(tuple(row(rank)) for rank in range(ranks)))


def _plain(stage: int, microbatches: int) -> tuple[list[Action], list[Action]]:
    forwards, backwards = ([Action(kind, stage, i) for i in range(microbatches)] for kind in "FB")
    return forwards, backwards


def _in_turns(forwards: list[Action], backwards: list[Action], warm_up: int) -> list[Action]:
    """Warm up with so many forwards, then forward and backward in turns, then the backwards left."""
    warm_up = min(warm_up, len(forwards))
    turns = [action for pair in zip(forwards[warm_up:], backwards, strict=False) for action in pair]
    return forwards[:warm_up] + turns + backwards[len(forwards) - warm_up :]
