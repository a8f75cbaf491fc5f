"""How many users? The serving engine's own scheduler on a virtual clock, with a step priced in closed form.

    together    all GPUs read prompts and decode, a step has chunks of both
    apart       some GPUs read prompts, hand the keys and values over, others decode      (disaggregated)

A step of n tokens on p tensor-parallel GPUs takes, for P parameters and L layers,

    max(2 P n / p FLOPs, P / p numbers read) + max(4 D T per layer and token FLOPs, the caches read) + 2 L all_reduces

each at the share of the peak that the device reaches. Zhong et al. 2024, "DistServe": prompts are bound by computing,
decoding by reading, and each slows the other down. Everything here is modelled: no model is built, and no host work,
launches or sampling are priced, as an engine with recorded graphs has next to none.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

import torch

from llmlab.arguments import instances, real, whole
from llmlab.cost.models import find_config
from llmlab.hardware import Cluster, cluster
from llmlab.model import Transformer
from llmlab.model.config import Config
from llmlab.serving import Chunk, Engine, Reply, Request
from llmlab.serving.requests import Sequence as Answering

NUMBER_BYTES = 2  # bf16
USABLE = 0.9  # of a GPU's memory; activations and the rest have theirs
BLOCK = 64  # tokens


def chat_requests(per_s: float, seconds: float, prompt: int = 1000, new: int = 200, seed: int = 0) -> list[Request]:
    """Draw requests that come at random, so many a second (a Poisson process), with lengths around the two given.

    Lengths are uniform from half to one and a half times as long.
    """
    real("chat_requests", "per_s", per_s, above=0)
    real("chat_requests", "seconds", seconds, above=0)
    whole("chat_requests", "prompt, in tokens,", prompt, least=2)
    whole("chat_requests", "new, in tokens,", new, least=4)
    draw, found, at = random.Random(seed), list[Request](), 0.0
    while (at := at + draw.expovariate(per_s)) < seconds:
        lengths = [draw.randint(n - n // 2, n + n // 2) for n in (prompt, new)]
        found.append(Request([0] * lengths[0], max_new_tokens=lengths[1], arrives=at))
    return found


def kv_bytes(config: str | Config) -> int:
    """Count the bytes of one token's keys and values, in 16 bits."""
    c = find_config(config)
    return 2 * c.n_layer * c.n_kv_head * c.head_dim * NUMBER_BYTES


def step_seconds(config: str | Config, on: str | Cluster, gpus: int) -> Callable[[Iterable[Chunk]], float]:
    """Make the price of a step: from its chunks to seconds, on so many tensor-parallel GPUs of one node."""
    c, on = find_config(config), cluster(on)
    device, link, layers = on.device, on.intra, c.n_layer
    most = on.devices_per_node
    whole("step_seconds", f"gpus of a node of {most}", gpus, least=1, most=most)
    weights, kv = c.n_param * NUMBER_BYTES // gpus, kv_bytes(c) // gpus

    def price(chunks: Iterable[Chunk]) -> float:
        ends = [(chunk.count, chunk.start + chunk.count) for chunk in chunks]
        n = sum(count for count, _ in ends)
        looked = sum(count * (end - (count - 1) / 2) for count, end in ends)  # pairs of a token and one it looks at
        flops = int(4 * layers * c.n_head * c.head_dim * looked / gpus)
        seconds = device.kernel_seconds("matmul", 2 * c.n_param * n // gpus, weights, "bf16")
        seconds += device.kernel_seconds("attention", flops, kv * sum(end for _, end in ends), "bf16")
        if gpus > 1:
            sent = 2 * (gpus - 1) / gpus * n * c.d_model * NUMBER_BYTES  # by each rank, in a ring or inside a switch
            seconds += 2 * layers * (2 * link.latency_s + sent / (link.bytes_per_s * link.efficiency))
        return seconds

    return price


def serve(
    config: str | Config,
    on: str | Cluster,
    requests: Iterable[Request],
    *,
    gpus: int = 8,
    prefill_gpus: int = 0,
    max_tokens: int = 2048,
    max_running: int = 512,
) -> list[Reply]:
    """Answer requests on a modelled node; give the replies, whose times are virtual seconds, in their order.

    prefill_gpus: how many of the GPUs only read prompts; 0: all do everything.  max_tokens: of one step, as in Engine.
    Raises ValueError where the weights do not fit, in either group.
    """
    given = instances("serve", "requests", requests, Request)
    whole("serve", "prefill_gpus", prefill_gpus, least=0, most=gpus - 1)
    c, on = find_config(config), cluster(on)
    c = replace(c, max_seq=max((len(r.tokens) + r.max_new_tokens for r in given), default=1), dtype=torch.bfloat16)
    with torch.device("meta"):
        model = Transformer(replace(c, n_layer=1))  # the scheduler asks it for its sizes only
    make = _Group(model, c, on, max_tokens, max_running)
    if not prefill_gpus:
        return make(gpus).run(given)
    first = make(prefill_gpus).run([replace(request, max_new_tokens=1) for request in given])
    wire = on.intra.bytes_per_s * on.intra.efficiency * min(prefill_gpus, gpus - prefill_gpus)
    later = [i for i, request in enumerate(given) if request.max_new_tokens > 1]
    rest = [_handed_over(given[i], first[i], kv_bytes(c) / wire) for i in later]
    decoded = dict(zip(later, make(gpus - prefill_gpus, _Decoder).run(rest), strict=True))
    return [_joined(reply, decoded.get(i)) for i, reply in enumerate(first)]


class _Modelled(Engine):
    """An engine that computes nothing: its clock goes on by what a step would take."""

    price: Callable[[Sequence[Chunk]], float]
    now = 0.0

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def _new_tokens(self, chunks: list[Chunk]) -> dict[Chunk, list[int]]:
        self.now += self.price(chunks)
        return {chunk: [0] for chunk in chunks if chunk.last}


class _Decoder(_Modelled):
    """One that is given the keys and values of a request's tokens with it, but for the last token's.

    Who has to give its blocks back gives them to the host's memory: they come back as they came.
    """

    def __init__(self, *given: object, **options: object):
        super().__init__(*given, **options)  # type: ignore[arg-type]
        self.pool.start = self._receive  # type: ignore[method-assign]

    def _receive(self, sequence: Answering) -> None:
        if self.pool.grow(sequence, len(sequence.tokens) - 1):
            sequence.computed = len(sequence.tokens) - 1


class _Group:
    """Makes the engine of some of the GPUs."""

    def __init__(self, model: Transformer, config: Config, on: Cluster, max_tokens: int, max_running: int):
        self.model, self.config, self.on = model, config, on
        self.max_tokens, self.max_running = max_tokens, max_running

    def __call__(self, gpus: int, kind: type[_Modelled] = _Modelled) -> _Modelled:
        weights = self.config.n_param * NUMBER_BYTES
        left = USABLE * gpus * self.on.device.memory_bytes - weights
        blocks = int(left // (BLOCK * kv_bytes(self.config)))
        if blocks < 1:
            raise ValueError(
                f"serve wants the weights, {weights / 1e9:.0f} GB, and some caches in {USABLE:.0%} of the memory of "
                f"{gpus} x {self.on.device.name}, got {USABLE * gpus * self.on.device.memory_bytes / 1e9:.0f} GB"
            )
        engine = kind(
            self.model, kv_blocks=blocks, block=BLOCK, prefix_reuse=False, max_tokens=self.max_tokens,
            max_running=self.max_running,
        )  # fmt: skip
        engine.price = step_seconds(self.config, self.on, gpus)
        return engine


def _handed_over(request: Request, first: Reply, seconds_per_token: float) -> Request:
    """What the decoding GPUs are asked: to go on, once the caches have come."""
    tokens = [*request.tokens, 0]
    arrives = first.times[0] + len(request.tokens) * seconds_per_token
    return Request(tokens, max_new_tokens=request.max_new_tokens - 1, arrives=arrives)


def _joined(first: Reply, rest: Reply | None) -> Reply:
    if rest is None:
        return first
    return replace(
        first, tokens=(*first.tokens, *rest.tokens), times=(*first.times, *rest.times), ended=rest.ended,
        preempted=rest.preempted,
    )  # fmt: skip
