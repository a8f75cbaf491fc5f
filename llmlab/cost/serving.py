"""How many users do so many GPUs serve? The engine of `lab.serving` on modelled ones, under the virtual clock.

together    all GPUs read prompts and make tokens: a long prompt delays everybody's next token
apart       some read prompts, and send keys and values to the others, who make tokens (Zhong et al. 2024,
            "DistServe"): the two no longer delay each other, and each has fewer GPUs
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from random import Random

from llmlab.arguments import instances, real, whole
from llmlab.comm.group import Group
from llmlab.comm.simulator import Simulator
from llmlab.cost.models import find_config
from llmlab.cost.serving_step import WIDTHS, Modelled
from llmlab.hardware import Cluster
from llmlab.hardware import cluster as find_cluster
from llmlab.model import Config
from llmlab.serving.engine import Engine
from llmlab.serving.requests import Reply, Request
from llmlab.serving.speculation import Draft, NGram

Setting = int | float | str | bool | NGram | Draft | None  # of an engine or of what stands for its model


def draw_requests(
    n: int, per_second: float, prompt_tokens: int, new_tokens: int, seed: int = 0, vocab_size: int = 32000
) -> list[Request]:
    """Draw users who come independently of one another (a Poisson process), with lengths up to half off the mean."""
    random, now, found = Random(whole("draw_requests", "seed", seed)), 0.0, []
    real("draw_requests", "per_second", per_second, above=0)
    for _ in range(whole("draw_requests", "n", n, least=1)):
        now += random.expovariate(per_second)
        read, made = (max(1, round(mean * random.uniform(0.5, 1.5))) for mean in (prompt_tokens, new_tokens))
        found.append(Request(random.choices(range(vocab_size), k=read), made, arrives=now))
    return found


def kv_bytes(config: str | Config, precision: str = "bf16") -> int:
    """Count the bytes of one token's keys and values."""
    config = find_config(config)
    return WIDTHS[precision] * 2 * config.n_layer * config.n_kv_head * config.head_dim


def serve(
    config: str | Config,
    requests: Iterable[Request],
    *,
    gpus: int = 8,
    cluster: str | Cluster = "h100",
    prefill_gpus: int = 0,
    **options: Setting,
) -> list[Reply]:
    """Serve requests on modelled GPUs, all together, or `prefill_gpus` of them apart; times begin with the run's.

    options: the engine's (kv_blocks: as many as fit), and `precision` and `step_s`. Apart, the keys and values of
    each prompt go to the others one prompt after another, over as many links as the smaller group has GPUs.
    """
    given, on = instances("serve", "requests", requests, Request), find_cluster(cluster)
    config = find_config(config)
    whole("serve", "gpus", gpus, least=1)
    whole("serve", "prefill_gpus", prefill_gpus, least=0, most=gpus - 1)
    if not prefill_gpus:
        return _on(gpus, on, config, given, False, options)
    firsts = _on(prefill_gpus, on, config, [replace(r, max_new_tokens=1) for r in given], False, options)
    wide = kv_bytes(config, str(options.get("precision", "bf16")))
    free, arrives = 0.0, {}
    for i in sorted(range(len(given)), key=lambda i: firsts[i].ended):
        nbytes = wide * len(given[i].tokens) / min(prefill_gpus, gpus - prefill_gpus)  # through each of the links
        free = max(free, firsts[i].ended) + on.link(0, prefill_gpus).seconds(nbytes)
        arrives[i] = free
    going = [i for i in range(len(given)) if given[i].max_new_tokens > 1]
    rest = [
        replace(given[i], tokens=(*given[i].tokens, 0), max_new_tokens=given[i].max_new_tokens - 1, arrives=arrives[i])
        for i in going
    ]
    found = dict(enumerate(firsts))
    for i, reply in zip(going, _on(gpus - prefill_gpus, on, config, rest, True, options), strict=True):
        first = firsts[i]
        tokens, times = first.tokens + reply.tokens, first.times + reply.times
        found[i] = replace(first, tokens=tokens, times=times, ended=reply.ended, preempted=reply.preempted)
    return [found[i] for i in range(len(given))]


def _on(
    gpus: int, cluster: Cluster, config: Config, requests: list[Request], brought: bool, options: dict[str, Setting]
) -> list[Reply]:
    run = Simulator(gpus, cluster, numerics=False, fold=("world",)).run(
        _rank, cluster, config, requests, brought, options
    )
    replies, start = run.results[0]
    return [
        replace(r, arrived=r.arrived - start, started=r.started - start, ended=r.ended - start,
                times=tuple(at - start for at in r.times))
        for r in replies
    ]  # fmt: skip


def _rank(
    world: Group, cluster: Cluster, config: Config, requests: list[Request], brought: bool, options: dict[str, Setting]
) -> tuple[list[Reply], float]:
    """Serve on one rank; give the replies, and when the first request could have come."""
    options = dict(options)
    precision, step_s = options.pop("precision", "bf16"), options.pop("step_s", 0.0)
    model = Modelled(config, world, cluster, precision, step_s)  # type: ignore[arg-type]  # which checks them
    options.setdefault("kv_blocks", model.blocks_that_fit(options.get("block", 16)))  # type: ignore[arg-type]
    replies = Engine(model, world=world, **options).run(requests, brought=brought)  # type: ignore[arg-type]
    return replies, replies[0].arrived - requests[0].arrives
