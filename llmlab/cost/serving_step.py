"""A step of serving, by closed form: a model of which only the cost is there, for the engine's own scheduler.

A step's kernels are priced on the cluster's roofline as simulated ranks price theirs: each layer's matrix products, one
attention kernel that reads each sequence's keys and values once, what is element-wise, and two all_reduces.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from llmlab.arguments import choice, instance, real
from llmlab.comm.group import Group
from llmlab.comm.simulated.pricing import collective
from llmlab.hardware import Cluster
from llmlab.hardware import cluster as find_cluster
from llmlab.model import Config
from llmlab.serving.scheduler import Chunk

WIDTHS = {"bf16": 2, "fp8": 1, "fp32": 4}


@dataclass(frozen=True, eq=False)
class Modelled:
    """Stand where an engine wants a model: a step takes what it would on this cluster, split over the world.

    step_s: host seconds of each step, for what no kernel hides. Tokens have no values here: each answer is as long as
    it may be, and guesses hold as often as expected. Raises ValueError for what does not split, and for experts.
    """

    config: Config
    world: Group
    cluster: str | Cluster = "h100"
    precision: str = "bf16"
    step_s: float = 0.0
    version: int = 0  # its weights never change

    def __post_init__(self) -> None:
        choice("Modelled", "precision", self.precision, WIDTHS)
        config, tp = instance("Modelled", "config", self.config, Config), self.world.size
        if config.n_head % tp or config.d_ff % tp or config.n_expert:
            raise ValueError(
                f"Modelled wants a dense model whose heads and d_ff divide by {tp} GPUs, got n_head={config.n_head}, "
                f"d_ff={config.d_ff}, n_expert={config.n_expert}"
            )
        real("Modelled", "step_s", self.step_s, least=0)
        object.__setattr__(self, "cluster", find_cluster(self.cluster))

    @property
    def weight_bytes(self) -> int:
        """Bytes of weights on each GPU."""
        return self.config.n_param * WIDTHS[self.precision] // self.world.size

    @property
    def token_bytes(self) -> int:
        """Bytes of keys and values that a token has on each GPU."""
        heads = max(1, self.config.n_kv_head // self.world.size)
        return 2 * self.config.n_layer * heads * self.config.head_dim * WIDTHS[self.precision]

    def blocks_that_fit(self, block: int = 16, share: float = 0.9) -> int:
        """Count the blocks that fit beside the weights into this share of the memory. Raises ValueError for none."""
        assert isinstance(self.cluster, Cluster)
        room = int(self.cluster.device.memory_bytes * share) - self.weight_bytes
        if room < block * self.token_bytes:
            raise ValueError(
                f"Modelled wants room for its weights and a block on each GPU: {self.weight_bytes:,} bytes of weights "
                f"leave none; split over more GPUs than {self.world.size}"
            )
        return room // (block * self.token_bytes)

    def paged(self, blocks: int, block: int) -> Modelled:
        """Stand for itself with so many blocks. Raises ValueError where they do not fit."""
        fit = self.blocks_that_fit(block, share=1.0)
        if blocks > fit:
            raise ValueError(
                f"Modelled wants at most {fit} blocks of {block} beside its weights on a GPU, got {blocks}"
            )
        return self

    def logits(self, chunks: Iterable[Chunk], wanted: list[int]) -> None:
        """Let a step's time pass; there are no logits to give."""
        self.world.sleep(self.seconds(list(chunks), len(wanted)))

    def seconds(self, chunks: list[Chunk], wanted: int) -> float:
        """Price a step: `wanted` rows of logits after all these tokens."""
        c, tp, w = self.config, self.world.size, WIDTHS[self.precision]
        counts = [(len(chunk.tokens), chunk.start + len(chunk.tokens)) for chunk in chunks]
        n, held, pairs = sum(t for t, _ in counts), sum(s for _, s in counts), sum(t * s for t, s in counts)
        q, kv, f = c.n_head * c.head_dim // tp, max(1, c.n_kv_head // tp) * c.head_dim, c.d_ff // tp
        gates = [(c.d_model, f)] if c.mlp == "swiglu" else []
        maps = [
            (c.d_model, q),
            (c.d_model, kv),
            (c.d_model, kv),
            (q, c.d_model),
            (c.d_model, f),
            (f, c.d_model),
            *gates,
        ]
        layer = sum(self._product(n, rows, columns) for rows, columns in maps)
        layer += self._kernel("attention", 4 * q * pairs, w * (2 * kv * held + 2 * q * n))
        # read and written: two norms, two sums of the residual stream, rotation and what is kept, the gate
        moved = [2 * c.d_model, 2 * c.d_model, 3 * c.d_model, 3 * c.d_model, 2 * (q + 2 * kv), (2 + len(gates)) * f]
        layer += sum(self._kernel("memory", 0, w * n * each) for each in moved)
        layer += 2 * self._together("all_reduce", w * n * c.d_model)
        columns = -(-c.vocab_size // tp)
        ends = self._product(wanted, c.d_model, columns) + self._together("all_gather", w * wanted * columns * tp)
        return c.n_layer * layer + ends + self.step_s

    def _product(self, n: int, rows: int, columns: int) -> float:
        w = WIDTHS[self.precision]
        return self._kernel("matmul", 2 * n * rows * columns, w * (n * rows + rows * columns + n * columns))

    def _kernel(self, kind: str, flops: int, nbytes: int) -> float:
        assert isinstance(self.cluster, Cluster)
        return self.cluster.device.kernel_seconds(kind, flops, nbytes, self.precision)

    def _together(self, op: str, nbytes: int) -> float:
        assert isinstance(self.cluster, Cluster)
        return 0.0 if self.world.size == 1 else collective(self.cluster, op, self.world.members, nbytes).alone_ps / 1e12
