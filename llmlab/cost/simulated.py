"""The other way to know a step's cost: run it on simulated ranks, without numbers, and read clock and memory.

Nothing of the closed forms is used here, and they use nothing of this: where the two agree they confirm each other.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from random import Random

import torch

from llmlab.arguments import choice, flag, instance, whole
from llmlab.comm.group import Group
from llmlab.comm.simulator import Simulator
from llmlab.cost.models import find_config
from llmlab.cost.prediction import A_LAYOUT, CLUSTER, RECOMPUTE
from llmlab.hardware import Cluster
from llmlab.hardware import cluster as find_cluster
from llmlab.model import Config, Transformer
from llmlab.optim import AdamW
from llmlab.parallel.compose import parallelize
from llmlab.parallel.layout import Layout

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Simulated:
    """One step on the virtual clock. `memory`: bytes by category on the rank that needs most, when it does."""

    seconds: float
    memory: dict[str, int]

    @property
    def memory_bytes(self) -> int:
        return sum(self.memory.values())


def simulate(
    config: str | Config,
    layout: Layout,
    cluster: str | Cluster = CLUSTER,
    *,
    global_batch: int,
    seq: int,
    precision: str = "bf16",
    recompute: str = "none",
    fold: bool = True,
) -> Simulated:
    """Simulate a training step with AdamW, the second one: the first makes the optimizer's state.

    The whole model is kept and computed in one `precision`, "bf16" or "fp32". fold: let one rank stand for those that
    differ from it in their data only, along dp and tp. Raises ValueError for an illegal layout.
    """
    config = find_config(config)
    choice("simulate", "precision", precision, DTYPES)
    choice("simulate", "recompute", recompute, RECOMPUTE)
    flag("simulate", "fold", fold)
    instance("simulate", "layout", layout, Layout, A_LAYOUT).check(config, global_batch, seq)
    config = replace(config, dtype=DTYPES[precision])
    on = find_cluster(cluster)
    simulator = Simulator(
        layout.ranks,
        on,
        numerics=False,
        fold=("dp", "cp", "tp") if fold else (),
        cost_dtype=precision,
        out_of_memory="record",
    )
    run = simulator.run(_two_steps, config, layout, global_batch, seq, recompute)
    fullest = max(run.memory, key=lambda memory: memory.total)
    return Simulated(max(run.results), fullest.at_peak)


def _two_steps(world: Group, config: Config, layout: Layout, batch: int, seq: int, recompute: str) -> float:
    """Seconds of the second of two steps on this rank."""
    step = parallelize(Transformer(config), AdamW, layout, world, recompute=recompute)
    tokens = torch.zeros(batch, seq, dtype=torch.long)
    step(tokens, tokens)
    world.barrier()
    start = world.clock()
    float(step(tokens, tokens))  # reading the loss waits for the device
    return world.clock() - start


# --- drawn cases ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class DrawnCase:
    """What `simulate` and `predict` take."""

    config: Config
    layout: Layout
    cluster: str
    global_batch: int
    seq: int
    precision: str
    recompute: str


def draw_case(seed: int, most_ranks: int = 32) -> DrawnCase:
    """Draw a legal case: a model of a few layers, a layout of 2 to `most_ranks` ranks, a batch that keeps them busy.

    On the GPUs no model is narrower than 1024: below, what counts is how fast the host launches.
    """
    random = Random(whole("draw_case", "seed", seed))
    whole("draw_case", "most_ranks", most_ranks, least=2)
    layout = _draw_layout(random, most_ranks)
    cluster = random.choice(["classroom", "a100", "h100", "v100"])
    seq = random.choice([1024, 2048])
    wide = random.choice([512, 1024, 2048] if cluster == "classroom" else [1024, 2048, 2048, 4096])
    stages = layout.pp * layout.virtual_stages
    config = Config(
        vocab_size=random.choice([8192, 16384, 32768]),
        d_model=wide,
        n_layer=stages * random.choice([n for n in (1, 2, 3, 4) if n == 1 or n * stages <= 8]),
        n_head=wide // (64 if wide < 2048 else 128),
        max_seq=seq,
        n_expert=random.choice([4, 8]) if layout.ep > 1 else 0,
    )
    b = random.choice([n for n in (1, 2, 4, 8) if 2048 <= n * seq // layout.cp <= 8192])
    return DrawnCase(
        config=config,
        layout=layout,
        cluster=cluster,
        global_batch=b * layout.dp * layout.microbatches,
        seq=seq,
        precision="fp32" if cluster == "classroom" else "bf16",
        recompute=random.choice(["none", "none", "selective", "full"]),
    )


def _draw_layout(random: Random, most_ranks: int) -> Layout:
    while True:
        dp, tp, pp = random.choice([1, 2, 4, 8]), random.choice([1, 1, 2, 4, 8]), random.choice([1, 1, 2, 4, 8])
        cp = random.choice([1, 1, 1, 2, 4])
        if not 2 <= dp * tp * pp * cp <= most_ranks:
            continue
        schedule = random.choice(["gpipe", "1f1b", "interleaved", "zb_h1"]) if pp > 1 else "1f1b"
        return Layout(
            dp, tp, pp, cp,
            ep=random.choice([1, 1, 2, 4]) if dp % 4 == 0 else 1,
            zero=random.choice([0, 0, 1, 2, 3]) if dp * cp > 1 else 0,
            sequence_parallel=tp > 1 and random.random() < 0.5,
            schedule=schedule,
            microbatches=pp * random.choice([1, 2, 4]) if pp > 1 else random.choice([1, 2, 4]),
            virtual_stages=2 if schedule == "interleaved" and pp < 8 else 1,
        )  # fmt: skip
