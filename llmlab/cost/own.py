"""This library's own software in closed form: `parallelize` with `optim.AdamW`, for models as GPT-2 (LayerNorm, GELU,
biases, a tied table) and mixtures of them, all in one dtype.

Every operation is a kernel of its own, which reads and writes each of its tensors once; messages travel while others
are computed; gradients are made anew in every step. It was counted; what could not be was
read off recorded runs and says so, and no constant is fitted to seconds.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from llmlab.cost.arrays import ByName, Counts, Numbers
from llmlab.cost.network import Axis, hidden_values
from llmlab.cost.own_memory import BUCKET_BYTES, bucket_bytes, needed
from llmlab.cost.roofline import Roofline
from llmlab.cost.sizes import Sizes
from llmlab.cost.software import Gather, Library, Pass, inner


class OwnParallelize(Library):
    """This library's `parallelize` with `optim.AdamW`, for models as GPT-2: LayerNorm, GELU, biases, one dtype.

    Two habits of the simulator's recorder are counted as it counts them: a tensor changed in place is one number, not
    two; and what a product without bias gives is read and written once more (torch's `_unsafe_view`).
    """

    once_a_node = False
    rings = True

    def launches(self, x: Sizes) -> tuple[Numbers, Numbers]:
        """Six products (two each and a bias backward), norms, attention, sums, GELU; a gradient added a parameter."""
        apart, copied = np.where(x.layout.tp > 1, 4, 0), np.where(self.slices(x) > 0, 8, 0)
        added = np.where((x.m > 1) | (x.layout.zero > 0), self.tensors(x), 0)
        routed, local = x.active_experts > 0, x.n_expert / x.layout.ep
        ahead, back = np.where(routed, 38 + 4 * local, 0), np.where(routed, 44 + 8 * local, 0)
        ring = np.where(x.layout.cp > 1, x.layout.cp, 0)
        return 12 + apart + copied + ahead + 7 * ring, 26 + added + copied + back + 8 * ring

    def around(self, x: Sizes) -> Numbers:
        """Small kernels around the layers in a micro-batch: twice as many under tp, for masks and the split loss."""
        return np.where(x.layout.tp > 1, 52, 26)

    def host(self, x: Sizes, line: Roofline, step: ByName, layers: Counts) -> Numbers:
        """A host that runs ahead of its device makes it wait only if all of the step's launches take longer."""
        ahead, back = self.launches(x)
        again = np.choose(x.recompute, [0, 1, ahead])  # none, selective (attention is one kernel), full
        # collectives are launched like kernels: a region's forward and backward; a mixture's four exchanges of tokens,
        # one of counts and two sums for its balance
        regions = self.regions(x) + x.n_expert / x.layout.ep
        talk = 2 * np.where(x.layout.tp > 1, regions, 0) + 7 * (x.active_experts > 0)
        passes = line.launch_s * x.m * (layers * (ahead + back + again + talk) + self.around(x))
        ends = np.maximum(line.launch_s * self.optimizer_launches(x, layers), step["optimizer"] + step["data_parallel"])
        busy = sum(step.values()) - step["host"]  # `step` comes with what layers alone would wait
        return np.maximum(0.0, passes + ends - busy)

    def forward(self, x: Sizes) -> Numbers:
        """Norms (r w), residual sums (r r w); under tp the biases after a sum over ranks (r w), and views (r w)."""
        apart = np.where(x.layout.tp > 1, 2, 0)
        hidden = (4 + 6 + apart * (1 + x.dense_mlps)) * x.split + apart * (1 + x.dense_mlps + x.active_experts)
        heads = x.mlp_matrices * inner(x) + self.ring_forward(x)
        return (
            x.w * x.n * x.config.d_model * (hidden + heads / x.layout.tp + self.slices(x) + self.routing(x, 12, 2, 3))
        )

    def backward(self, x: Sizes) -> Numbers:
        """Norms (r r w), residual sums (r r w), biases (r), the sum of the gradients by q, k and v (r r w, twice)."""
        biases = (x.q_width + 2 * x.kv_width) / x.config.d_model
        heads = (x.mlp_matrices + 2) * inner(x) + biases + self.ring_backward(x)
        numbers = (6 + 6 + 2) * x.split + 6 + heads / x.layout.tp + self.slices(x) + self.routing(x, 22, 6, 6)
        return x.w * x.n * x.config.d_model * numbers

    def ring_forward(self, x: Sizes) -> Numbers:
        """Ring attention's numbers for each hidden one: keys and values stacked (r w); in bf16 the output widened (r w,
        w twice) and narrowed. Each block but the first is merged: widened (r, w twice), lerped in fp32, for three
        quarters of the rows, as some ranks merge all of them and others half; with ten numbers a head and row."""
        q, kv, narrow, blocks = x.q_width, x.kv_width, x.w == 2, x.layout.cp - 1
        merged = blocks * (1.5 * (1 + narrow) * q + 9.75 * x.config.n_head)
        return np.where(blocks > 0, 4 * kv + 4 * narrow * q + merged, 0) / x.config.d_model

    def ring_backward(self, x: Sizes) -> Numbers:
        """As forward: the gradients of keys and values are brought into their heads' order (r w), all three are widened
        and narrowed in bf16; each block but the first adds its own to what goes round."""
        q, kv, narrow, blocks = x.q_width, x.kv_width, x.w == 2, x.layout.cp - 1
        once = 4 * kv + narrow * (4 * q + 8 * kv)
        return np.where(blocks > 0, once + blocks * (3 * q + 6 * kv), 0) / x.config.d_model

    def routing(self, x: Sizes, choice: int, alone: int, token: int) -> Numbers:
        """A mixture's numbers for each hidden one: for every choice (less once experts are elsewhere: what is sent
        needs no copy), and for every token."""
        each = choice - alone * (x.layout.ep > 1)
        return np.where(x.active_experts > 0, each * x.active_experts + token, 0)

    def tensors(self, x: Sizes) -> Numbers:
        """Parameters of a layer, counted as tensors: norms and projections twelve, each MLP four, a router one."""
        return 12 + 4 * x.dense_mlps + (x.active_experts > 0) * (1 + 4 * x.n_expert / x.layout.ep)

    def slices(self, x: Sizes) -> Numbers:
        """Two gathers and two scatters of tokens: each copies what it takes and what it gives (r w), to bring the
        tokens' dimension to the front and back; for a single sequence it is there already."""
        copied = (x.layout.tp > 1) & np.asarray(x.layout.sequence_parallel) & (x.b > 1)
        return np.where(copied, 4 * 2 * (1 + 1 / x.layout.tp), 0.0)

    def accumulate(self, x: Sizes) -> Numbers:
        """Autograd's first gradient is taken as it is (ZeRO: copied into place, r w), the next are added (r r)."""
        return 2 * x.w * np.where(x.layout.zero > 0, 1, (x.m - 1) / x.m)

    def vocabulary(self, x: Sizes) -> Numbers:
        """Its share, to the last row."""
        return x.config.vocab_size / x.layout.tp

    def loss(self, x: Sizes) -> Numbers:
        """View (r w), cast (r w), softmax (r w), pick (r); backward: pick (r w), softmax (r r w), cast (r w).

        Under tp: view, cast, maximum (r), subtract (r w), exponential, sum, pick, divide (r each); backward: scaled
        (r w), minus one at the target (r), cast (r w). No casts in fp32.
        """
        cast = 4 * (x.w == 2)
        return x.w * (cast + np.where(x.layout.tp > 1, 12, 10))

    def ends(self, x: Sizes, line: Roofline, axes: dict[str, Axis]) -> tuple[ByName, ByName]:
        """First: rows (w), positions added (r w); backward: positions summed (r), rows into a table (r, w table).

        Last: a norm (r w; r r w). The two gradients of a tied table are added where they meet (r r w).
        """
        c, t = x.config, x.layout.tp
        hidden, table = x.w * x.n * c.d_model, x.w * c.vocab_size * c.d_model / t
        apart = np.where(t > 1, 1, 0)
        gathered = self.slices(x) / 4  # of the tokens, once
        # of what is scattered over tokens, a rank reads and writes its own t-th
        scattered = 2 * apart * np.asarray(x.layout.sequence_parallel) / t
        first = hidden * (3 + 2 + 4 * apart + scattered + gathered) + table
        last = hidden * (5 * x.split + 2 * gathered)
        added = x.config.vocab_size * c.d_model / t * self.accumulate(x)
        alone = x.layout.pp == 1
        first = first + added + np.where(alone, 3 * table, 0)
        last = last + np.where(alone, 0, added)
        summed = hidden_values(x, axes["tp"])  # an embedding, or the gradient of what the logits are made of
        small = self.around(x) / 2 * line.ramp_s
        return (
            {"elementwise": line.moving(first) + small, "tensor_parallel": summed},
            {"elementwise": line.moving(last) + small, "tensor_parallel": summed + self.small_messages(x, axes)[1]},
        )

    def optimizer(self, x: Sizes) -> Numbers:
        """Decay (r), lerp (r r), scale (r), addcmul (r r), root (r w), divide (r), add (r), addcdiv (r r r)."""
        return 13 * x.w

    def spared(self, x: Sizes, line: Roofline, region: Numbers) -> Numbers:
        """Backward recomputes up to the last value it needs: not the last product (but where a schedule makes its two
        gradients apart), its sum over ranks, and the residual sum."""
        c, t = x.config, x.layout.tp
        once = np.asarray(x.layout.schedule) != "zb_h1"
        left = np.where(x.layout.sequence_parallel, 0.5, 1) * region  # of gather and scatter, the gather is repeated
        apart = np.where(t > 1, 2, 0)
        moved = x.w * x.n * c.d_model * ((3 + apart) * x.split + apart + self.slices(x) / 4)
        return x.dense_mlps * (once * line.product(x.w, x.n, c.d_ff / t, c.d_model) + left + line.moving(moved))

    def gradient_hops(self, x: Sizes) -> tuple[Numbers, Numbers]:
        """They are summed in fp32, and the last hop, home, hides behind nothing."""
        return max(4, x.w) / x.w, 1

    def merging(self, x: Sizes) -> tuple[Numbers, Numbers]:
        """Counted with the other numbers: see `ring_forward`."""
        return 0.0, 0.0

    def ring_again(self, x: Sizes, line: Roofline) -> Numbers:
        """All of `ring_forward`, and its kernels."""
        moved = x.w * x.n * x.config.d_model * self.ring_forward(x) / x.layout.tp
        return np.where(x.layout.cp > 1, line.moving(moved) + 7 * x.layout.cp * line.ramp_s, 0.0)

    def beside(self, x: Sizes) -> tuple[tuple[Numbers, int], tuple[Numbers, int]]:
        """A block is merged, and its gradients are added up, while the next one travels: see `ring_forward`."""
        unit = x.w * x.n / x.layout.tp
        merged = 1.5 * (1 + (x.w == 2)) * x.q_width + 9.75 * x.config.n_head
        return (unit * merged, 7), (unit * (3 * x.q_width + 6 * x.kv_width), 8)

    def small_messages(self, x: Sizes, axes: dict[str, Axis]) -> tuple[Numbers, Numbers]:
        """A mixture's balance over all ranks, forward and backward, and how many tokens are coming; the split loss's
        maximum and sums."""
        routed = x.active_experts > 0
        balance = 2 * axes["data"].all_reduce(8 * x.n_expert) + axes["ep"].all_to_all(8 * x.n_expert)
        return np.where(routed, balance, 0.0), axes["tp"].all_reduce(4 * x.n) + axes["tp"].all_reduce(8 * x.n)

    def message(self, x: Sizes) -> Numbers:
        """All of it: tensor-parallel ranks send the same."""
        return x.split

    def regions(self, x: Sizes) -> Numbers:
        """With sequence parallelism the tokens of a mixture are gathered, too; `summed` has its experts."""
        gathered = np.where(x.layout.sequence_parallel & (x.active_experts > 0), 0.5, 0)
        return 1 + x.dense_mlps + gathered

    def summed(self, x: Sizes, tp: Axis) -> Numbers:
        """Every expert is a region of its own, with its share of the tokens, however many it is of."""
        local = x.n_expert / x.layout.ep
        share = x.w * x.n * x.config.d_model * x.active_experts / np.maximum(local, 1)
        return self.regions(x) * hidden_values(x, tp) + local * (x.active_experts > 0) * tp.all_reduce(share)

    def routed(self, x: Sizes) -> Numbers:
        """Every token, on every tensor-parallel rank alike."""
        return 1.0

    def data_parallel(
        self, x: Sizes, gather: Gather, stage: Counts, forward: Pass, backward: Pass
    ) -> tuple[Numbers, Numbers]:
        """The table's gradient comes last and hides behind nothing, nor does anything that a pipeline's schedule or
        stage 1 leaves to the end. ZeRO-2 reduces in every micro-batch, one bucket waiting for the one before.
        """
        w, m, layers, params, alone = x.w, x.m, x.layers(stage), x.params(stage), x.layout.pp == 1
        filled = self.filled(x)
        buckets = layers * np.where(x.layout.zero > 0, np.ceil(filled), filled) + 1
        table = params - layers * x.layer_params
        step, ends = gather(w * params, w * layers * x.expert_params, buckets), gather(w * table, 0, 1)
        layer = gather(w * x.layer_params, w * x.expert_params, 1)
        full = BUCKET_BYTES + w * x.config.d_model * x.q_width / x.layout.tp  # a bucket overflows by its last matrix
        last = gather(np.maximum(w * table, w * params % full), 0, 1)
        # with ZeRO no bucket has gradients of two blocks, and a block's first bucket has those that come last: the
        # others wait for it, all but experts'
        spread = np.where(x.layout.ep > 1, w * x.expert_params, 0)
        left = ends + gather(w * x.layer_params - spread, 0, np.maximum(1, np.ceil(filled)))
        # each waits for the one before: all but a block's last are through before the next block begins
        flying = np.minimum(bucket_bytes(x), w * x.layer_params - spread)
        stood = gather(w * x.layer_params - spread - flying, 0, np.maximum(0, np.ceil(filled) - 1))
        rest = np.maximum(0, step - left - (layers - 1) * stood)
        reduced = left + (layers - 1) * stood + backward.shown(rest)
        stalled = np.where(alone, reduced, (1 - 1 / buckets) * step)
        until, since = self.around_balance(x, forward, backward)
        hidden = until.times(1 / layers).shown(layer) + since.times(1 / layers).shown(np.where(alone, 2, 1) * layer)
        # ZeRO-3: the first gather of each pass hides behind nothing, nor do the last reductions (all, in a pipeline)
        late = np.where(alone, layer + ends, stalled)
        v = x.layout.virtual_stages  # chunks of an interleaved pipeline, each a pass of its own
        again = ends + forward.times(1 / layers).shown(ends) + 2 * v * layer + (layers - v) * hidden + late
        # experts' gradients have buckets of their own, and none travels before its layers have filled it
        held = w * layers * x.expert_params
        filling = np.minimum(1, BUCKET_BYTES / np.maximum(held, 1))
        routed = 2 * gather(held, held, np.ceil(held / BUCKET_BYTES)) - (1 - filling) * (backward.free + backward.busy)
        apart = np.where(x.layout.ep > 1, np.maximum(0, routed), 0)
        shown: list[Any] = [  # by stage of ZeRO, 0 to 3
            np.where(alone, np.maximum(apart, 2 * last + backward.shown(2 * np.maximum(0, step - last))), 2 * step),
            2 * step,
            m * stalled + step,
            m * again,
        ]
        total: list[Any] = [2 * step, 2 * step, (m + 1) * step, 3 * m * step]
        return np.choose(x.layout.zero, total), np.choose(x.layout.zero, shown)

    def around_balance(self, x: Sizes, forward: Pass, backward: Pass) -> tuple[Pass, Pass]:
        """What ZeRO-3's messages hide behind: both passes; but a mixture's balance is summed after them, so that they
        hide behind attention, forward and again, and behind the experts' backward."""
        experts = x.active_experts * x.mlp_weights
        attention = np.where(experts > 0, x.attention_weights / (x.attention_weights + experts), 1.0)
        again = np.asarray(x.recompute) == 2
        free = np.where(experts > 0, (1 - attention) * backward.free, backward.free)
        free = np.where((experts > 0) & again, attention * forward.free, free)
        return Pass(attention * forward.free, forward.busy), Pass(free, backward.busy)

    def filled(self, x: Sizes) -> Numbers:
        """Buckets that a layer's gradients fill: one for each large matrix, and small ones together."""
        c, t = x.config, x.layout.tp
        q, kv, wide = (x.w * c.d_model * width / t / BUCKET_BYTES for width in (x.q_width, x.kv_width, c.d_ff))
        mlps = x.dense_mlps + x.n_expert / x.layout.ep
        return 2 * np.minimum(1, q) + 2 * np.minimum(1, kv) + 2 * mlps * np.minimum(1, wide)

    def buckets(self, x: Sizes) -> Numbers:
        """Into the bucket and back (r w each); ZeRO's gradients are made in place."""
        return 4 * x.w * (x.layout.zero == 0)

    def optimizer_launches(self, x: Sizes, layers: Counts) -> Numbers:
        """Eight on each parameter, four of them around the layers, and twelve for the loss."""
        return 8 * (layers * self.tensors(x) + 4) + 12

    def waiting(self, x: Sizes, message: Numbers, whole: Numbers, slowest: Numbers) -> Numbers:
        """Messages travel while others are computed: they show as the pipeline fills and empties; and in 1F1B, where a
        stage has at most p micro-batches under way, p of them take no less than one takes through all stages."""
        fill = message * (x.layout.pp - 1)
        late = np.maximum(0.0, whole + fill - x.layout.pp * slowest)
        rounds = np.ceil(x.m / x.layout.pp) - 1
        # an interleaved round comes back to a stage after p messages, and has no other micro-batches to fill that
        fill = fill + message * (x.layout.virtual_stages - 1) * x.layout.pp
        return fill + np.where(np.asarray(x.layout.schedule) == "1f1b", rounds * late, 0.0)

    def ending(self, stage: Counts) -> Counts:
        """The first: its last backward is everyone's last."""
        return 0 * stage

    def passes(
        self,
        axes: dict[str, Axis],
        compute: tuple[Numbers, Numbers],
        again: Numbers,
        talk: list[ByName],
        hidden: tuple[Numbers, Numbers],
    ) -> tuple[Pass, Pass]:
        """Traffic on the links that data takes is met on the way; other traffic is as good as computing."""
        same = {name: axes[name].spans == axes["data"].spans for name in ("tp", "ep", "cp")}
        found = []  # booleans weigh as 0 and 1; backward computes again what was not kept
        for seconds, waits, ring in zip((compute[0], compute[1] + again), talk, hidden, strict=True):
            met = sum(same[name] * waits[name] for name in same)
            found.append(Pass(seconds - ring * same["cp"] + sum(waits.values()) - met, met))
        return found[0], found[1]

    def memory(self, x: Sizes, stage: Counts, fused: bool, activations: float) -> ByName:
        """Bytes of a rank of this stage, by category: see own_memory.py, which counts what is kept, without factors."""
        return needed(x, stage)
