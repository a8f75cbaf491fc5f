"""A modelled model costs what simulated ranks say, and the engine on it answers how many users there may be."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch

import llmlab as lab
from llmlab.cost import Modelled, draw_requests, serve
from llmlab.serving import Chunk, Engine, NGram, Request, metrics
from llmlab.serving.requests import Sequence

SMALL = lab.Config(
    vocab_size=512, d_model=256, n_layer=2, n_head=8, n_kv_head=4, max_seq=256, mlp="swiglu", norm="rmsnorm",
    position="rotary", bias=False, tie_embeddings=False, dtype=torch.bfloat16,
)  # fmt: skip
LLAMA = lab.find_config("llama3-70b")


def serve_without_numbers(world: Any, requests: list[Request]) -> Any:
    model = lab.tensor_parallel(lab.Transformer(SMALL), world).to(world.device)
    engine = Engine(model, kv_blocks=64, world=world)
    replies = engine.run(requests)
    return (
        [len(reply.tokens) for reply in replies],
        engine.stats.steps,
        Modelled(SMALL, world).token_bytes,
        engine.paged.nbytes,
    )


def test_the_real_model_s_kernels_on_meta_tensors_are_priced_as_the_modelled_one_s() -> None:
    requests = [Request([i] * 20, 3) for i in range(4)]
    run = lab.Simulator(ranks=2, cluster="h100", numerics=False).run(serve_without_numbers, requests)
    lengths, steps, token_bytes, nbytes = run.results[0]
    assert lengths == [3] * 4 and steps == 3
    assert nbytes == 64 * 16 * token_bytes
    found = {
        (event.op): sum(e.stop - e.start for e in run.trace if e.rank == 0 and e.op == event.op) for event in run.trace
    }

    def products(world: Any) -> float:
        model, total = Modelled(SMALL, world), 0.0
        for n in (80, 4, 4):  # four prompts of 20 in the first step, then a token each
            d, q, kv, f, v = 256, 128, 64, SMALL.d_ff // 2, 256
            layer = [(d, q), (d, kv), (d, kv), (q, d), (d, f), (d, f), (f, d)]
            total += 2 * sum(model._product(n, *sizes) for sizes in layer) + model._product(4, d, v)
        return total

    wanted = lab.Simulator(ranks=2, cluster="h100").run(products).results[0]
    assert found["matmul"] == pytest.approx(wanted, rel=1e-6)  # picoseconds are rounded


def seconds_of(world: Any, config: lab.Config, counts: list[tuple[int, int]], cluster: str = "h100") -> float:
    chunks = [Chunk(Sequence(i, Request([0] * (a + n), 1), 0.0), a, n) for i, (a, n) in enumerate(counts)]
    return Modelled(config, world, cluster).seconds(chunks, len(chunks))


def test_a_step_that_decodes_costs_its_weights_and_one_that_reads_a_prompt_its_products() -> None:
    simulator = lab.Simulator(ranks=8, cluster="h100")
    one, many, prompt = (
        simulator.run(seconds_of, LLAMA, counts).results[0] for counts in ([(1000, 1)], [(1000, 1)] * 32, [(0, 2048)])
    )
    device = lab.hardware.cluster("h100").device
    reading = LLAMA.n_param * 2 / 8 / (device.memory_bytes_per_s * device.memory_efficiency)
    computing = 2 * LLAMA.n_param * 2048 / 8 / (device.peak("bf16") * device.matmul_efficiency)
    assert reading < one < 3 * reading  # messages and small kernels beside
    assert one < many < 1.3 * one  # 32 users for about the price of one
    assert computing < prompt < 2.5 * computing  # two all_reduces of 32 MiB a layer take as long


def test_prefill_apart_leaves_the_tokens_of_others_in_peace() -> None:
    requests = draw_requests(24, per_second=6.0, prompt_tokens=1500, new_tokens=40, seed=1)
    together = serve(LLAMA, requests, gpus=8)
    apart = serve(LLAMA, requests, gpus=8, prefill_gpus=4)
    for replies in (together, apart):
        assert [len(reply.tokens) for reply in replies] == [request.max_new_tokens for request in requests]
        assert all(r.arrived == pytest.approx(q.arrives) for r, q in zip(replies, requests, strict=True))
        assert all(list(reply.times) == sorted(reply.times) for reply in replies)
    mixed, alone = metrics(together, itl=None, tpot=25), metrics(apart, tpot=25)
    assert alone["p99_itl_ms"] < mixed["p99_itl_ms"]
    assert alone["median_ttft_ms"] > mixed["median_ttft_ms"]  # half the GPUs read the prompt
    assert serve(LLAMA, requests, gpus=8) == together  # to the bit


def test_guesses_that_hold_as_often_as_expected_save_as_many_steps() -> None:
    requests = [Request([1, 2, 3, 4] * 10, 61)]
    plain = serve(LLAMA, requests)
    guessed = serve(LLAMA, requests, speculate=NGram(4, acceptance=0.5))
    steps = [len(set(reply.times)) for reply in (*plain, *guessed)]
    assert steps[0] == 61 and len(guessed[0].tokens) == 61
    assert steps[1] == pytest.approx(61 / (1 + 0.5 + 0.25 + 0.125 + 0.0625), abs=3)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"gpus": 1}, "split over more GPUs than 1"),
        ({"gpus": 8, "prefill_gpus": 2}, "heads and d_ff divide by 6 GPUs"),
        ({"gpus": 8, "prefill_gpus": 8}, "prefill_gpus"),
        ({"kv_blocks": 10**6}, "at most [0-9]+ blocks of 16"),
        ({"precision": "fp7"}, "precision"),
    ],
)
def test_what_does_not_fit_or_split_is_refused(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        serve(LLAMA, [Request([1, 2], 2)], **options)


def bring(world: Any) -> None:
    Engine(lab.Transformer(replace(SMALL, dtype=torch.float32)), kv_blocks=4).run([Request([1], 1)], brought=True)


def test_only_a_modelled_model_takes_keys_and_values_from_elsewhere() -> None:
    with pytest.raises(ValueError, match="brought=False"):
        lab.Simulator(ranks=1).run(bring)
