"""Deadlock and mismatch, decided from states alone: what is proved, and what must not be."""

from __future__ import annotations

from dataclasses import replace

from llmlab.comm.call import Signature
from llmlab.comm.launched.diagnosis import describe, find_deadlock, find_left_over, find_mismatch
from llmlab.comm.launched.ledger import Entry, State
from llmlab.comm.where import Place

WORLD = ("world", (0, 1, 2))
LINE = Place("lesson.py", 4, "worker")


def collective(number: int, op: str = "all_reduce", key=WORLD, shape=(2,)) -> Entry:
    return Entry(op, key, number, Signature(op, "sum", None, shape, "float32"), 8, LINE, start=float(number))


def message(op: str, peer: int | None, number: int = 1, shape=(2,), key=WORLD) -> Entry:
    signature = Signature("message", shape=shape, dtype="float32")
    return Entry(op, key, number, signature, 8, LINE, start=float(number), peer=peer, any_source=peer is None)


def state(rank: int, waiting: Entry | None = None, **counts) -> State:
    known = {"collectives": {}, "sent": {}, "received": {}, "any_open": {}, "recent": [waiting] if waiting else []}
    return State(rank, waiting, LINE, **(known | counts), when=9.0)


def deadlock(*states: State, returned: tuple[State, ...] = (), before: tuple[State, ...] | None = None):
    now = {s.rank: s for s in states}
    earlier = now if before is None else {s.rank: s for s in before}
    return find_deadlock(earlier, now, {s.rank: s for s in returned})


def test_a_member_that_has_returned_leaves_the_others_stuck():
    waits = [state(r, collective(2), collectives={WORLD: 2}) for r in (0, 1)]
    error = deadlock(*waits, returned=(state(2, collectives={WORLD: 1}),))
    assert error is not None and error.rank == 0
    assert str(error).splitlines()[0] == "deadlock: no rank can go on"
    assert "rank 2: has returned" in str(error)


def test_a_collective_that_all_have_begun_is_only_slow():
    assert deadlock(*(state(r, collective(2), collectives={WORLD: 2}) for r in range(3))) is None


def test_ranks_that_wait_for_one_that_computes_are_not_stuck():
    waits = [state(r, collective(1), collectives={WORLD: 1}) for r in (0, 1)]
    assert deadlock(*waits, state(2)) is None


def test_ranks_that_wait_for_one_that_did_not_answer_are_not_stuck():
    assert deadlock(*(state(r, collective(1), collectives={WORLD: 1}) for r in (0, 1))) is None


def test_ranks_that_moved_between_two_looks_are_not_stuck():
    now = [state(0, message("recv", 1, 2)), state(1, message("recv", 0, 2))]
    before = [state(0, message("recv", 1, 1)), state(1, message("recv", 0, 2))]
    assert deadlock(*now, before=tuple(before)) is None
    assert deadlock(*now) is not None


def test_crossed_receives_are_stuck_and_a_third_that_computes_is_not():
    error = deadlock(state(0, message("recv", 1)), state(1, message("recv", 0)), state(2))
    assert error is not None and "some ranks never can go on" in str(error)


def test_a_message_under_way_keeps_its_receiver_going():
    sent = state(1, message("recv", 0), sent={(WORLD, 0): 1})
    assert deadlock(state(0, message("recv", 1)), sent) is None


def test_crossed_sends_are_stuck_unless_somebody_has_asked():
    crossed = [state(0, message("send", 1)), state(1, message("send", 0))]
    assert deadlock(*crossed) is not None
    asked = replace(crossed[1], received={(WORLD, 0): 1})
    assert deadlock(crossed[0], asked) is None
    from_any = replace(crossed[1], any_open={WORLD: 1})
    assert deadlock(crossed[0], from_any) is None


def test_messages_of_another_group_do_not_help():
    other = ("tp", (0, 1))
    waits = state(0, message("recv", 1))
    assert deadlock(waits, state(1, message("recv", 0), sent={(other, 0): 1})) is not None


def test_receiving_from_any_is_stuck_only_when_all_others_are():
    waits = state(0, message("recv", None, 0))
    done = [state(r) for r in (1, 2)]
    assert deadlock(waits, returned=tuple(done)) is not None
    assert deadlock(waits, state(2), returned=(done[0],)) is None
    assert deadlock(waits, returned=(replace(done[0], sent={(WORLD, 0): 1}), done[1])) is None


def test_a_chain_that_ends_at_a_stuck_pair_is_stuck_as_a_whole():
    error = deadlock(state(0, message("recv", 1)), state(1, message("recv", 0)), state(2, message("recv", 1)))
    assert error is not None and "no rank can go on" in str(error)


def test_a_rank_with_threads_of_its_own_proves_nothing():
    assert deadlock(state(0, message("recv", 1)), replace(state(1, message("recv", 0)), others=True)) is None


def test_members_in_different_collectives_are_a_mismatch_that_shows_each():
    states = [state(0, collective(3)), state(1, collective(3, "broadcast")), state(2, collective(2))]
    error = find_mismatch(states)
    assert error is not None and error.rank == 0
    assert "rank 1: broadcast(sum) on world ((2,) float32)  at lesson.py:4 in worker" in str(error)
    assert "rank 2" not in str(error)
    assert (
        find_mismatch([state(0, collective(3)), state(1, collective(3)), state(2, collective(2, "broadcast"))]) is None
    )


def test_the_two_ends_of_a_message_are_compared():
    ends = [state(0, message("send", 1, 4)), state(1, message("recv", 0, 4, shape=(3,)))]
    assert "does not fit" in str(find_mismatch(ends))
    assert find_mismatch([ends[0], state(1, message("recv", 0, 5, shape=(3,)))]) is None
    assert find_mismatch([ends[0], state(1, message("recv", 2, 4, shape=(3,)))]) is None


def test_what_nobody_met_is_left_over():
    alone = state(0, collective(1), collectives={WORLD: 1})
    others = [state(1), state(2)]
    assert "left what nobody took" in str(find_left_over([alone, *others], {}))
    sent = state(0, message("send", 1))
    assert find_left_over([sent, *others], {}) is not None
    assert find_left_over([sent, replace(others[0], received={(WORLD, 0): 1}), others[1]], {}) is None
    assert "waited for" in str(find_left_over([state(0), *others], {1: [collective(1)]}))
    assert find_left_over([state(0), *others], {}) is None


def test_a_report_says_where_a_rank_is():
    assert describe(state(1)) == "is at lesson.py:4 in worker"
    assert describe(state(1), returned=True) == "has returned"
    waits = describe(state(1, message("recv", 2)))
    assert waits.startswith("waits in recv from rank 2 on world ((2,) float32)  at lesson.py:4 in worker")
