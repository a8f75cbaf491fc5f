"""A modelled node that serves: a step costs what its bytes and FLOPs cost, and every user gets every token."""

from __future__ import annotations

import pytest

import llmlab as lab
from llmlab.cost.serving import chat_requests, kv_bytes, serve, step_seconds
from llmlab.hardware import cluster
from llmlab.serving import Chunk, Request
from llmlab.serving.requests import Sequence

H100 = cluster("h100")


def chunk(start: int, count: int) -> Chunk:
    return Chunk(Sequence(0, Request([0] * (start + count)), 0.0), start, count)


def test_a_step_that_decodes_for_one_user_reads_the_weights_once() -> None:
    config = lab.find_config("llama3-8b")
    reading = 2 * config.n_param / (H100.device.memory_bytes_per_s * H100.device.memory_efficiency)
    got = step_seconds(config, H100, 1)([chunk(0, 1)])
    assert got == pytest.approx(reading, rel=1e-3)  # one key and two launches more


def test_a_batch_of_users_decodes_in_little_more_time_and_prompts_take_what_their_flops_take() -> None:
    price, config = step_seconds("llama3-8b", H100, 1), lab.find_config("llama3-8b")
    one, many = price([chunk(500, 1)]), price([chunk(500, 1)] * 32)
    caches = 31 * 501 * kv_bytes(config) / (H100.device.memory_bytes_per_s * H100.device.memory_efficiency)
    assert many == pytest.approx(one + caches, rel=1e-3)
    flops = 2 * config.n_param * 4096 / (H100.device.peak("bf16") * H100.device.matmul_efficiency)
    assert flops < price([chunk(0, 4096)]) < 1.2 * flops  # and attention


def test_a_prompt_in_chunks_costs_the_same_attention() -> None:
    free = lab.hardware.Device("free", {"bf16": 1e15}, 10**12, 1e30, 0, 0, 1e30, 1.0, 1.0)  # but for attention's FLOPs
    on = lab.hardware.Cluster("free", free, 1, H100.intra, H100.inter, "made up")
    price = step_seconds("llama3-8b", on, 1)
    parts = sum(price([chunk(start, 256)]) for start in range(0, 1024, 256))
    config = lab.find_config("llama3-8b")
    pairs = 1024 * 1025 / 2
    assert parts == pytest.approx(price([chunk(0, 1024)]), rel=1e-6)
    assert parts == pytest.approx(4 * config.n_layer * config.n_head * config.head_dim * pairs / 1e15, rel=1e-6)


def test_more_gpus_are_quicker_but_for_their_all_reduces() -> None:
    one, eight = (step_seconds("llama3-8b", H100, gpus)([chunk(0, 2048)]) for gpus in (1, 8))
    assert one / 8 < eight < one / 3


@pytest.mark.parametrize("prefill_gpus", [0, 4])
def test_every_user_gets_every_token_in_order(prefill_gpus: int) -> None:
    asked = chat_requests(8, 3, prompt=300, new=20, seed=1)
    replies = serve("llama3-70b", H100, asked, prefill_gpus=prefill_gpus)
    for request, reply in zip(asked, replies, strict=True):
        assert len(reply.tokens) == len(reply.times) == request.max_new_tokens
        assert list(reply.times) == sorted(reply.times) and reply.arrived == request.arrives < reply.times[0]
    assert replies == serve("llama3-70b", H100, asked, prefill_gpus=prefill_gpus)


def test_apart_prompts_do_not_hold_up_those_who_decode() -> None:
    asked = chat_requests(5, 5)
    longest = {p: lab.serving.metrics(serve("llama3-70b", H100, asked, prefill_gpus=p))["p99_itl_ms"] for p in (0, 4)}
    assert longest[4] < 0.5 * longest[0]
    quick = {p: lab.serving.metrics(serve("llama3-70b", H100, asked, prefill_gpus=p))["mean_ttft_ms"] for p in (0, 4)}
    assert quick[0] < quick[4]  # eight GPUs read a prompt sooner than four


def test_where_the_weights_do_not_fit_it_is_refused() -> None:
    with pytest.raises(ValueError, match="141 GB"):
        serve("llama3-70b", H100, chat_requests(5, 1), gpus=1)
    with pytest.raises(ValueError, match="prefill_gpus"):
        serve("llama3-70b", H100, chat_requests(5, 1), gpus=4, prefill_gpus=4)
    with pytest.raises(ValueError, match="gpus of a node of 8"):
        serve("llama3-70b", H100, chat_requests(5, 1), gpus=16)
