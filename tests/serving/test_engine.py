"""Whatever the engine does with a request, its tokens are those of `lab.generate` alone; and no block is lost."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch

import llmlab as lab
from llmlab.serving import Chunk, Draft, Engine, NGram, RanksDisagree, Request, Token
from llmlab.serving.requests import Sequence
from llmlab.serving.speculation import judge, pick

CONFIG = lab.Config(
    vocab_size=29, d_model=16, n_layer=2, n_head=4, n_kv_head=2, max_seq=64, position="rotary", mlp="swiglu",
    dtype=torch.float64,  # so that no two logits are alike but for the order of a sum
)  # fmt: skip
LEARNED = lab.Config(vocab_size=29, d_model=16, n_layer=1, n_head=2, max_seq=64, dtype=torch.float64)


@cache
def make_model(config: lab.Config = CONFIG, seed: int = 1) -> lab.Transformer:
    """Weights of which no two tokens are nearly alike: fresh ones would say one token for ever."""
    model, generator = lab.Transformer(config, seed), torch.Generator().manual_seed(seed)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.5, generator=generator)
    return model.eval()


@cache
def alone(request: Request, config: lab.Config = CONFIG) -> tuple[int, ...]:
    """What one user alone would get."""
    found = lab.generate(
        make_model(config), list(request.tokens), request.max_new_tokens, request.temperature, request.top_k,
        request.top_p, seed=request.seed,
    )  # fmt: skip
    new = found.tolist()[len(request.tokens) :]
    ends = [i + 1 for i, token in enumerate(new) if token in request.stop]
    return tuple(new[: ends[0]] if ends else new)


def draw_requests(random: Random, n: int = 8, hot: bool = True) -> list[Request]:
    """Prompts of mixed lengths, some of which begin alike or are the same; some sampled, some that stop early."""
    starts = [[random.randrange(29) for _ in range(random.randrange(1, 25))] for _ in range(2)]
    found = []
    for i in range(n):
        prompt = [*random.choice([[], *starts]), *(random.randrange(29) for _ in range(random.randrange(1, 12)))]
        request = Request(
            random.choice([prompt, starts[0]]),
            max_new_tokens=random.randrange(1, 20),
            temperature=random.choice([0.0, 0.0, 0.9]) if hot else 0.0,
            stop=random.choice([(), (), (3, 7, 11)]),
            seed=i,
        )
        found.append(request)
    return found


def check_no_block_is_lost(engine: Engine) -> None:
    pool = engine.pool
    assert pool.used == 0 and not any(pool.users)
    assert sorted([*pool.empty, *pool.idle]) == list(range(pool.size))
    assert set(pool.holds) == set(pool.idle) == set(pool.where.values())
    assert not engine.busy and not engine.sequences


def drawn_engine(random: Random) -> dict[str, Any]:
    block = random.choice([1, 3, 4, 8])
    most = -(-(24 + 11 + 19) // block)  # blocks for the longest request
    return {
        "block": block,
        "kv_blocks": random.choice([most, 2 * most, 8 * most]),
        "max_tokens": random.choice([6, 16, 200]),
        "max_running": random.choice([3, 64]),
        "prefix_reuse": random.random() < 0.75,
    }


@pytest.mark.parametrize("seed", range(6))
def test_any_stream_of_requests_gets_the_tokens_each_would_get_alone(seed: int) -> None:
    random = Random(seed)
    options, requests = drawn_engine(random), draw_requests(random)
    engine = Engine(make_model(), **options)
    assert [reply.tokens for reply in engine.run(requests)] == [alone(request) for request in requests]
    check_no_block_is_lost(engine)


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("guesser", ["ngram", "itself", "another"])
def test_guesses_change_no_token_of_a_greedy_answer(seed: int, guesser: str) -> None:
    random = Random(100 + seed)
    tokens = random.choice([1, 3, 4])
    speculate = {
        "ngram": lambda: NGram(tokens, longest=2),
        "itself": lambda: Draft(make_model(), tokens),
        "another": lambda: Draft(make_model(seed=2), tokens),
    }[guesser]()
    requests = draw_requests(random, hot=False)
    engine = Engine(make_model(), **drawn_engine(random), speculate=speculate)
    assert [reply.tokens for reply in engine.run(requests)] == [alone(request) for request in requests]
    stats = engine.stats
    assert stats.guesses_kept <= stats.guessed
    if guesser == "itself":  # it knows what the model will say: a guess is lost only after a token that ends the answer
        assert stats.guesses_kept >= 0.8 * stats.guessed > 0
    check_no_block_is_lost(engine)


@pytest.mark.parametrize("drawn", [True, False])
def test_guesses_leave_the_chances_of_a_drawn_token_as_they_are(drawn: bool) -> None:
    """A guess and its judgement, 1500 times over: whatever the guesser, tokens come as often as p says."""
    n, p = 1500, torch.tensor([0.4, 0.3, 0.15, 0.1, 0.05], dtype=torch.float64)
    q = torch.tensor([0.05, 0.25, 0.3, 0.2, 0.2], dtype=torch.float64)
    firsts, seconds = torch.zeros(5), torch.zeros(5)
    for seed in range(n):
        sequence = Sequence(0, Request([0], 9, temperature=1.0, seed=seed), 0.0)
        chunk = Chunk(sequence, 0, 1, guesses=[pick(q, sequence) if drawn else 1], chances=[q] if drawn else [])
        first, *second = judge(chunk, p.log().expand(2, 5), [0, 0])
        firsts[first] += 1
        if second:
            seconds[second[0]] += 1
    for counts in (firsts, seconds):
        assert chi_square(counts, p) < CHI_SQUARE
    kept = torch.minimum(p, q).sum() if drawn else p[1]
    assert abs(seconds.sum() / n - kept) < 0.05  # 4 standard deviations


CHI_SQUARE = 18.5  # of 4 degrees of freedom, passed by one draw in a thousand


def chi_square(counts: torch.Tensor, p: torch.Tensor) -> float:
    expected = p * counts.sum()
    return float(((counts - expected) ** 2 / expected).sum())


# --- what the engine is for -------------------------------------------------------------------------------------------


def test_requests_share_the_blocks_they_begin_with() -> None:
    engine = Engine(make_model(), kv_blocks=40, block=4)
    start = [1, 2, 3, 4, 5, 6, 7, 8, 9]
    first, *_ = engine.run([Request([*start, 10], 5)])
    second, third = engine.run([Request([*start, 11, 12], 5), Request([*start[:6], 0], 5)])
    assert (first.reused, second.reused, third.reused) == (0, 8, 4)  # whole blocks only
    assert second.tokens == alone(Request([*start, 11, 12], 5))
    assert engine.stats.computed_tokens == (10 + 4) + (3 + 4) + (3 + 4)
    again, *_ = engine.run([Request([*start, 10], 5)])
    assert again.reused == 8 and again.tokens == first.tokens


def test_the_block_idle_for_longest_is_evicted_first() -> None:
    engine = Engine(make_model(), kv_blocks=4, block=4)
    prompts = [[i] * 5 for i in range(3)]  # each leaves a full block behind, and takes another
    for prompt in prompts:
        engine.run([Request(prompt, 1)])
    assert engine.stats.evictions == 0 and engine.stats.blocks_idle == 3
    assert engine.run([Request(prompts[0], 1)])[0].reused == 4  # now the second is idle for longest
    engine.run([Request([20, 21, 22, 23, 24], 1)])
    assert engine.stats.evictions == 1
    assert [engine.run([Request(prompt, 1)])[0].reused for prompt in (prompts[0], prompts[2])] == [4, 4]
    assert engine.run([Request(prompts[1], 1)])[0].reused == 0


def test_what_old_weights_computed_is_not_reused_once_they_change() -> None:
    model = make_fresh()
    engine = Engine(model, kv_blocks=40, block=2)
    prompt = [1, 2, 3, 4, 5, 6]
    assert [engine.run([Request(prompt, 4)])[0].reused for _ in range(2)] == [0, 4]
    going = engine.add(Request([7, 8, 9], 9))
    engine.step()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(-1.3)
    reply = engine.run([Request(prompt, 6)])[0]
    new = tuple(lab.generate(model, prompt, 6).tolist()[6:])
    assert reply.reused == 0 and reply.tokens == new != alone(Request(prompt, 6))
    assert engine.run([Request(prompt, 6)])[0].reused == 4  # what the new ones computed is
    assert engine.run([Request([7, 8, 9], 9)])[0].reused == 0 and going not in engine.sequences
    check_no_block_is_lost(engine)


def test_a_long_prompt_is_read_in_chunks_beside_those_that_go_on() -> None:
    engine = Engine(make_model(), kv_blocks=40, block=4, max_tokens=8)
    short = engine.add(Request([1, 2], 20))
    engine.step()
    long = engine.add(Request(list(range(25)), 2))
    came = [[token.id for token in engine.step()] for _ in range(4)]
    assert came == [[short], [short], [short], [short, long]]  # 7 + 7 + 7 + 4 of its tokens


def test_where_blocks_run_out_the_youngest_starts_anew() -> None:
    engine = Engine(make_model(), kv_blocks=15, block=2)  # 7 for each
    replies = engine.run([Request([i, i + 1, i + 2], 12) for i in range(3)])
    assert [reply.preempted > 0 for reply in replies] == [False, False, True]
    assert [reply.tokens for reply in replies] == [alone(Request([i, i + 1, i + 2], 12)) for i in range(3)]
    assert engine.stats.preemptions == sum(reply.preempted for reply in replies)


def test_nobody_overtakes_a_request_that_waits_for_blocks() -> None:
    engine = Engine(make_model(), kv_blocks=10, block=2, prefix_reuse=False)
    replies = engine.run([Request([1] * 12, 8), Request([2] * 14, 2), Request([3], 2)])
    assert replies[1].started <= replies[2].started


def test_tokens_stream_and_a_cancelled_request_gives_its_blocks_back_at_once() -> None:
    engine = Engine(make_model(), kv_blocks=30, block=4, max_running=2)
    requests = [Request([i, 5, 6], 10) for i in range(4)]
    ids = [engine.add(request) for request in requests]
    came: dict[int, list[Token]] = {id: [] for id in ids}
    while engine.busy:
        for token in engine.step():
            came[token.id].append(token)
        if len(came[ids[0]]) == 3 and ids[0] in engine.sequences:
            used = engine.pool.used
            assert engine.cancel(ids[0]) and engine.pool.used < used
            assert engine.cancel(ids[3])  # it was waiting
    assert not engine.cancel(ids[0]) and not engine.cancel(99)
    assert tuple(token.token for token in came[ids[1]]) == alone(requests[1])
    assert [token.reason for token in came[ids[2]]] == [None] * 9 + ["length"]
    assert sorted(reply.reason for reply in engine.finished) == ["cancelled", "cancelled", "length", "length"]
    assert engine.metrics()["completed"] == 2
    check_no_block_is_lost(engine)


def test_at_most_four_percent_of_the_cache_is_wasted_on_texts_of_a_usual_length() -> None:
    config = lab.Config(vocab_size=29, d_model=8, n_layer=1, n_head=1, max_seq=1024)
    random = Random(0)
    requests = [
        Request([random.randrange(29) for _ in range(random.randrange(150, 400))], random.randrange(20, 60))
        for _ in range(16)
    ]
    engine = Engine(lab.Transformer(config), kv_blocks=600, block=16, max_tokens=4096)
    engine.run(requests)
    # half a block of 16 is empty on average: of 300 tokens 8, 2.6 percent
    assert 0.01 < engine.stats.waste <= 0.04


def test_metrics_are_by_hand_what_they_say() -> None:
    def reply(arrived: float, *times: float, reason: str = "length") -> lab.serving.Reply:
        return lab.serving.Reply(0, (1,) * len(times), reason, None, 10, arrived, arrived, times[-1], times)

    found = lab.serving.metrics(
        [reply(0.0, 1.0, 2.0, 4.0), reply(1.0, 1.5), reply(0.0, 9.0, reason="cancelled")], ttft=600.0
    )
    assert (found["mean_ttft_ms"], found["mean_tpot_ms"], found["mean_itl_ms"]) == (750.0, 1500.0, 1500.0)
    assert (found["median_e2el_ms"], found["p90_e2el_ms"]) == (2250.0, pytest.approx(500 + 0.9 * 3500))
    assert (found["completed"], found["duration"]) == (2, 4.0)
    assert (found["request_throughput"], found["request_goodput"], found["output_throughput"]) == (0.5, 0.25, 1.0)
    assert found["total_token_throughput"] == 6.0


def test_requests_wait_until_they_arrive() -> None:
    run = lab.Simulator(ranks=1).run(serve_late)
    (first, second), seconds = run.results[0]
    assert second.arrived == first.arrived + 7.0
    assert second.arrived <= second.started < second.times[0] <= seconds


def serve_late(world: Any) -> Any:
    engine = Engine(make_model(), kv_blocks=30, block=4, world=world)
    replies = engine.run([Request([1, 2], 3), Request([1, 2, 3], 3, arrives=7.0)])
    return replies, world.clock()


# --- tensor parallel --------------------------------------------------------------------------------------------------


TIGHT = {"block": 4, "kv_blocks": 15, "max_tokens": 12}  # chunks, reuse and preemption, in few steps


def serve_split(world: Any, seed: int, arrivals: bool) -> Any:
    requests = draw_requests(Random(seed), n=4)
    if arrivals:
        requests = [replace(request, arrives=0.01 * i) for i, request in enumerate(requests)]
    engine = Engine(lab.tensor_parallel(make_fresh(), world), **TIGHT, world=world)
    return [reply.tokens for reply in engine.run(requests)], engine.pool.used


def make_fresh() -> lab.Transformer:
    """A copy of its own: a split model is another one."""
    model = lab.Transformer(CONFIG, 1)
    model.load_state_dict(make_model().state_dict())
    return model


def wanted(seed: int) -> list[tuple[int, ...]]:
    return [alone(request) for request in draw_requests(Random(seed), n=4)]


@pytest.mark.parametrize(("ranks", "seed"), [(2, 18), (4, 25)])  # on 4, ranks share a key head
def test_simulated_ranks_serve_as_one(ranks: int, seed: int) -> None:
    run = lab.Simulator(ranks=ranks, kernels=False).run(serve_split, seed, True)
    assert run.results == [(wanted(seed), 0)] * ranks


def test_two_processes_serve_as_one() -> None:
    with lab.Processes(ranks=2, timeout_s=120) as workers:
        assert workers.run(serve_split, 23, True).results == [(wanted(23), 0)] * 2


def serve_laid_out(world: Any, layout: lab.Layout) -> Any:
    step = lab.parallelize(make_fresh(), lambda params: lab.optim.SGD(params, lr=0.1), layout, world)
    engine = Engine(step, **TIGHT, world=world)
    return [reply.tokens for reply in engine.run(draw_requests(Random(24), n=4))]


@pytest.mark.parametrize("layout", [lab.Layout(tp=2), lab.Layout(pp=2), lab.Layout(dp=2)])
def test_a_training_step_s_model_is_served_where_it_is(layout: lab.Layout) -> None:
    assert lab.Simulator(ranks=2, kernels=False).run(serve_laid_out, layout).results == [wanted(24)] * 2


def serve_with(world: Any, blocks: list[int]) -> None:
    Engine(lab.tensor_parallel(make_fresh(), world), kv_blocks=blocks[world.rank], world=world)


@pytest.mark.parametrize("engine", [lab.Simulator(ranks=2), lab.Processes(ranks=2, timeout_s=120)])
def test_ranks_that_disagree_on_the_number_of_blocks_are_told_so(engine: Any) -> None:
    with pytest.raises(RanksDisagree, match="the same kv_blocks on every rank: rank 0 has 64, rank 1 has 60"):
        engine.run(serve_with, [64, 60])


def serve_others(world: Any) -> None:
    engine = Engine(lab.tensor_parallel(make_fresh(), world), kv_blocks=9, world=world)
    engine.run([Request([world.rank], 3)])


def test_ranks_that_were_asked_different_things_are_told_so() -> None:
    with pytest.raises(RanksDisagree, match="the same requests on every rank"):
        lab.Simulator(ranks=2, kernels=False).run(serve_others)


def serve_without_world(world: Any) -> None:
    Engine(lab.tensor_parallel(make_fresh(), world), kv_blocks=9)


def test_a_split_model_is_not_served_without_its_group() -> None:
    with pytest.raises(ValueError, match="wants world=, the group that the model is split over"):
        lab.Simulator(ranks=2, kernels=False).run(serve_without_world)


def test_a_draft_serves_one_engine() -> None:
    draft = Draft(make_model(seed=2))
    Engine(make_model(), kv_blocks=9, speculate=draft)
    with pytest.raises(ValueError, match="a Draft of its own"):
        Engine(make_model(), kv_blocks=9, speculate=draft)


# --- what is refused --------------------------------------------------------------------------------------------------


BAD_REQUESTS = [
    ({"tokens": []}, "at least one id"),
    ({"tokens": "text"}, "text becomes ids by tokenizer.encode"),
    ({"tokens": [1.5]}, "token ids"),
    ({"tokens": [[1, 2], [3, 4]]}, "a list of at least one id"),
    ({"tokens": [1], "max_new_tokens": 0}, "max_new_tokens as a whole number of at least 1; got 0"),
    ({"tokens": [1], "arrives": -1.0}, "arrives, in seconds, as a number of at least 0"),
    ({"tokens": [1], "temperature": -1}, "temperature"),
    ({"tokens": [1], "top_p": 0.0}, "top_p"),
    ({"tokens": [1], "stop": "x"}, "stop"),
    ({"tokens": [1], "stop": [1.5]}, "each of stop"),
    ({"tokens": [1], "seed": "a"}, "seed"),
]


@pytest.mark.parametrize(("options", "words"), BAD_REQUESTS)
def test_a_request_that_nobody_could_answer_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Request(**options)


@pytest.mark.parametrize(
    ("request_", "words"),
    [
        (Request([29], 3), "token ids want 0 to 28"),
        (Request([1] * 60, 5), "at most max_seq=64 together, got 60 [+] 5"),
        (Request([1] * 10, 12), "all blocks together hold 20 tokens, got 10 [+] 12"),
        ([1, 2, 3], "lab.serving.Request"),
    ],
)
def test_a_request_that_this_engine_cannot_hold_is_refused_before_any_runs(request_: Any, words: str) -> None:
    engine = Engine(make_model(), kv_blocks=5, block=4)
    for ask in (engine.add, engine.check, lambda bad: engine.run([Request([1], 2), bad])):
        with pytest.raises(ValueError, match=words):
            ask(request_)
    assert not engine.busy and engine.stats.steps == 0
    assert engine.run([Request([1] * 10, 11)])[0].reason == "length"  # the last token is never read


def encoder() -> lab.Transformer:
    return lab.Transformer(lab.Config(vocab_size=9, d_model=8, n_layer=1, n_head=1, max_seq=8, causal=False))


def dropping() -> lab.Transformer:
    sizes = {"vocab_size": 9, "d_model": 8, "n_layer": 1, "n_head": 1, "max_seq": 8}
    return lab.Transformer(lab.Config(**sizes, n_expert=2, n_expert_active=1, capacity_factor=1.0))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Engine("model", kv_blocks=5), "model"),
        (lambda: Engine(encoder(), kv_blocks=5), "looks back only"),
        (lambda: Engine(dropping(), kv_blocks=5), "capacity_factor=None"),
        (lambda: Engine(make_model(), kv_blocks=0), "kv_blocks"),
        (lambda: Engine(make_model(), kv_blocks=5, block=0), "block"),
        (lambda: Engine(make_model(), kv_blocks=5, max_running=0), "max_running"),
        (lambda: Engine(make_model(), kv_blocks=5, max_tokens=4, speculate=NGram(4)), "max_tokens"),
        (lambda: Engine(make_model(), kv_blocks=5, prefix_reuse="yes"), "prefix_reuse"),
        (lambda: Engine(make_model(), kv_blocks=5, speculate="ngram"), "speculate"),
        (lambda: Engine(make_model(), kv_blocks=5, world=2), "world"),
        (lambda: Engine(make_model(), "words", kv_blocks=5), "tokenizer"),
        (lambda: Engine(make_model(), kv_blocks=5, speculate=Draft(encoder())), "looks back only"),
        (lambda: Engine(make_model(), kv_blocks=5, speculate=Draft(lab.Transformer(SHORT))), "a max_seq of at least"),
        (lambda: NGram(0), "tokens"),
        (lambda: Engine(make_model(), kv_blocks=5).metrics(), "at least one request"),
    ],
)
def test_an_engine_that_could_not_serve_is_refused(make: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        make()


SHORT = lab.Config(vocab_size=29, d_model=8, n_layer=1, n_head=1, max_seq=8)


def serve_in_context(world: Any) -> None:
    step = lab.parallelize(
        make_fresh(), lambda params: lab.optim.SGD(params, lr=0.1), lab.Layout(tp=2, sequence_parallel=True), world
    )
    Engine(step, kv_blocks=5, world=world)


def test_a_model_whose_tokens_are_split_is_refused() -> None:
    with pytest.raises(ValueError, match="split by tensor parallelism alone"):
        lab.Simulator(ranks=2, kernels=False).run(serve_in_context)


def test_learned_positions_are_served_too() -> None:
    requests = draw_requests(Random(5), n=5)
    engine = Engine(make_model(LEARNED), kv_blocks=40, block=4)
    assert [reply.tokens for reply in engine.run(requests)] == [alone(request, LEARNED) for request in requests]


def test_the_model_is_left_as_it_was() -> None:
    model = make_model().train()
    before = [block.attention.attend for block in model.blocks]
    Engine(model, kv_blocks=10).run([Request([1, 2, 3], 2)])
    assert [block.attention.attend for block in model.blocks] == before and model.training
    model.eval()


def test_the_engine_can_be_read_in_an_hour() -> None:
    """At most 1,200 lines; the server beside it is not counted."""
    names = ("requests", "blocks", "scheduler", "paged", "speculation", "engine", "measures")
    files = [Path(lab.serving.__file__).with_name(f"{name}.py") for name in names]
    assert sum(len(file.read_text(encoding="utf-8").splitlines()) for file in files) <= 1200
