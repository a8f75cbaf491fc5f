"""Every pipeline schedule equals one process; each rank keeps its own part; what cannot be laid out is refused."""

from __future__ import annotations

from functools import cache, partial

import pytest
import torch
from torch.nn.functional import cross_entropy

from llmlab.comm.errors import MismatchError
from llmlab.comm.processes import Processes
from llmlab.comm.simulator import Simulator
from llmlab.model import Config, Transformer
from llmlab.model.encoder_decoder import EncoderDecoder
from llmlab.model.recomputing import recompute
from llmlab.optim import clip_grad_norm
from llmlab.parallel import mail, pipeline
from llmlab.parallel.microbatches import Microbatch
from llmlab.parallel.pipeline import Pipeline, pipeline_parallel
from llmlab.parallel.schedules import Schedule, make_schedule
from llmlab.parallel.stages import split_layers

BATCH, SEQ = 8, 6
Simulator = partial(Simulator, kernels=False)  # numbers and messages are what is compared here, not time
SIZES = {"vocab_size": 17, "d_model": 8, "n_layer": 4, "n_head": 2, "max_seq": SEQ, "dtype": torch.float64}
MODELS = {
    "gpt": {},
    "untied": {"tie_embeddings": False},
    "llama": {"position": "rotary", "norm": "rmsnorm", "mlp": "swiglu", "n_kv_head": 1},
    "post-norm": {"norm_first": False},
    "dropout": {"dropout": 0.2},
}
V_SHAPE = Schedule.parse("F0@0 F0@3 B0@3 F1@0 F1@3 B1@3 B0@0 B1@0\nF0@1 F0@2 F1@1 F1@2 B0@2 B0@1 B1@2 B1@1", "v")


def config(name: str = "gpt", **changes) -> Config:
    return Config(**{**SIZES, **MODELS[name], **changes})


def batch(seed: int, rows: int = BATCH) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens and targets, [rows, 6] each; in the first sequence nothing counts, in the second two targets do not."""
    generator = torch.Generator().manual_seed(seed)
    tokens, targets = torch.randint(0, 17, (2, rows, SEQ), generator=generator)
    targets[0].fill_(-100)
    targets[1, :2].fill_(-100)
    return tokens, targets


@cache
def train_alone(cfg: Config, rows: int = BATCH, steps: int = 3, microbatches: int = 1):
    """The reference, in plain torch: losses, the last step's gradients and the weights, by name."""
    model, losses = Transformer(cfg), []
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for step in range(steps):
        tokens, targets = batch(step, rows)
        optimizer.zero_grad()
        loss = torch.zeros((), dtype=cfg.dtype)
        for x, y in zip(tokens.chunk(microbatches), targets.chunk(microbatches), strict=True):
            part = cross_entropy(model(x).flatten(0, 1), y.flatten(), reduction="sum") / (targets != -100).sum()
            part.backward()
            loss += part.detach()
        optimizer.step()
        losses.append(loss)
    return named(model, torch.stack(losses), {p: n for n, p in model.named_parameters()})


def named(model, losses, names):
    """What is compared: losses, gradients, weights; the last two by the single process's names."""
    gradients = {names[p]: p.grad.clone() for p in model.parameters()}
    return losses, gradients, {names[p]: p.detach().clone() for p in model.parameters()}


def train(world, cfg: Config, rows: int = BATCH, steps: int = 3, how=None, **options):
    """The same run through a pipeline: every rank gives the whole batch, and keeps its own blocks."""
    model, losses = Transformer(cfg), []
    names = {p: name for name, p in model.named_parameters()}
    pipe = pipeline_parallel(model, world, **options)
    if how:
        recompute(model, how)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    for step in range(steps):
        tokens, targets = batch(step, rows)
        optimizer.zero_grad()
        losses.append(pipe.forward_backward(tokens.to(world.device), targets.to(world.device)))
        optimizer.step()
    return named(model, torch.stack(losses), names)


def distance(one, ranks) -> float:
    """The largest difference, over all ranks, of losses, gradients and weights, each relative to its whole norm."""
    worst = max(((losses - one[0]).norm() / one[0].norm()).item() for losses, _, _ in ranks)
    for whole, parts in ((one[1], [r[1] for r in ranks]), (one[2], [r[2] for r in ranks])):
        assert {name for part in parts for name in part} == set(whole)
        norm = torch.cat([x.flatten() for x in whole.values()]).norm()
        wrong = torch.stack([(x - whole[name]).norm() for part in parts for name, x in part.items()])
        worst = max(worst, (wrong.norm() / norm).item())
    return worst


LAYOUTS = {
    "one rank": (1, {}),
    "gpipe": (2, {"schedule": "gpipe"}),
    "1f1b": (3, {"microbatches": 4}),
    "fewer microbatches than stages": (4, {"microbatches": 2}),
    "one microbatch": (3, {"schedule": "gpipe", "microbatches": 1}),
    "interleaved": (2, {"schedule": "interleaved", "virtual_stages": 2}),
    "interleaved on one rank": (1, {"schedule": "interleaved", "virtual_stages": 4}),
    "zero bubble": (2, {"schedule": "zb_h1"}),
    "zero bubble, fewer microbatches than stages": (4, {"schedule": "zb_h1", "microbatches": 2}),
    "uneven layers": (2, {"split": [1, 3], "microbatches": 8, "schedule": "gpipe"}),
    "a schedule of one's own": (2, {"schedule": V_SHAPE}),
}


PAIRS = [("gpt", layout) for layout in LAYOUTS]
PAIRS += [(model, layout) for model in list(MODELS)[1:] for layout in ("1f1b", "zero bubble")]


@pytest.mark.parametrize(("model", "layout"), PAIRS)
def test_losses_gradients_and_weights_after_3_steps_are_the_single_processs(model, layout):
    ranks, options = LAYOUTS[layout]
    cfg = config(model)
    alone = train_alone(cfg, microbatches=4 if cfg.dropout else 1)  # each microbatch drops anew, in one process too
    assert distance(alone, Simulator(ranks).run(train, cfg, **options).results) < 1e-9


@pytest.mark.parametrize("layout", ["1f1b", "interleaved", "zero bubble"])
@pytest.mark.parametrize("how", ["selective", "full"])
def test_activations_computed_again_change_nothing(layout, how):
    ranks, options = LAYOUTS[layout]
    cfg = config("dropout")
    assert (
        distance(train_alone(cfg, microbatches=4), Simulator(ranks).run(train, cfg, how=how, **options).results) < 1e-9
    )


def test_all_schedules_give_the_same_bits():
    cfg, runs = config("gpt"), {}
    for name, v in (("gpipe", 1), ("1f1b", 1), ("interleaved", 2)):
        runs[name] = Simulator(2).run(train, cfg, schedule=name, virtual_stages=v).results
    weights = [{name: x for rank in results for name, x in rank[2].items()} for results in runs.values()]
    assert all(torch.equal(x, other[name]) for other in weights[1:] for name, x in weights[0].items())


def test_a_tied_table_is_the_same_to_the_bit_on_both_ranks_that_hold_it():
    first, _, last = Simulator(3).run(train, config(), split=[1, 2, 1]).results
    for kind in (1, 2):
        assert torch.equal(first[kind]["embedding.token.weight"], last[kind]["embedding.token.weight"])


def test_fp32_differs_from_one_process_by_rounding_only():
    cfg = config(dtype=torch.float32)
    # fp32 rounds by 6e-8; a gradient adds up about 48 tokens, in another order, and 3 steps carry it on
    tolerance = 6e-8 * 48 * 3
    for name in ("1f1b", "zb_h1"):
        assert distance(train_alone(cfg), Simulator(2).run(train, cfg, schedule=name).results) < tolerance


def test_two_processes_train_as_one_and_hand_over_the_simulators_bytes():
    cfg = config()
    with Processes(2) as live:
        for layout in ("gpipe", "interleaved", "zero bubble"):
            ranks, options = LAYOUTS[layout]
            real, simulated = (engine.run(train, cfg, **options) for engine in (live, Simulator(ranks)))
            assert distance(train_alone(cfg), real.results) < 1e-9
            for rank in range(2):
                assert real.trace.comm_bytes(rank=rank) == simulated.trace.comm_bytes(rank=rank)


def test_meta_tensors_give_the_same_operations_bytes_and_virtual_time():
    def stream(numerics, name):
        run = Simulator(2, numerics=numerics, kernels=True).run(train, config(), steps=1, schedule=name)
        return [(e.rank, e.stream, e.op, e.nbytes, e.start, e.stop) for e in run.trace], run.seconds

    for name in ("1f1b", "zb_h1"):
        assert stream(True, name) == stream(False, name)


# --- experts, masks, frozen parameters --------------------------------------------------------------------------------


def accumulate_alone(cfg: Config, parts: int):
    """One step of one process that goes through the batch in parts: experts judge their balance in each."""
    model = Transformer(cfg)
    tokens, targets = batch(0)
    loss = torch.zeros((), dtype=torch.float64)
    for x, y in zip(tokens.chunk(parts), targets.chunk(parts), strict=True):
        part = model.loss(x, y, reduction="sum") / (targets != -100).sum()
        part.backward()
        loss += part.detach()
    return named(model, loss[None], {p: n for n, p in model.named_parameters()})


@pytest.mark.parametrize("layout", ["1f1b", "interleaved", "zero bubble", "a schedule of one's own"])
def test_each_stage_adds_the_balancing_loss_of_its_own_experts(layout):
    ranks, options = LAYOUTS[layout]
    cfg = config(n_expert=4, n_expert_active=2, balance_loss=0.5)
    parts = V_SHAPE.microbatches if layout.startswith("a schedule") else 4

    def worker(world):
        model = Transformer(cfg)
        names = {p: name for name, p in model.named_parameters()}
        loss = pipeline_parallel(model, world, **options).forward_backward(*batch(0))
        return named(model, loss[None], names)

    assert distance(accumulate_alone(cfg, parts), Simulator(ranks).run(worker).results) < 1e-9


def test_masks_and_positions_go_with_their_microbatch():
    cfg = config("llama")
    documents = torch.arange(BATCH)[:, None] % 3 < torch.arange(SEQ)  # [B, T]: each sequence is cut elsewhere
    mask = (documents[:, None, :, None] == documents[:, None, None, :]).contiguous()
    positions = torch.arange(SEQ).expand(BATCH, SEQ) - documents * (torch.arange(BATCH)[:, None] % 3)

    def worker(world):
        pipe = pipeline_parallel(Transformer(cfg), world, microbatches=4)
        loss = pipe.forward_backward(*batch(0), positions, mask)
        return loss, {name: p.grad for name, p in pipe.model.named_parameters() if name.startswith("blocks")}

    model = Transformer(cfg)
    wanted = model.loss(*batch(0), positions, mask)
    wanted.backward()
    for loss, gradients in Simulator(2).run(worker).results:
        torch.testing.assert_close(loss, wanted.detach(), rtol=1e-12, atol=0)
        for name, grad in gradients.items():
            torch.testing.assert_close(grad, model.get_parameter(name).grad, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["1f1b", "zb_h1"])
def test_frozen_parameters_get_no_gradient_and_gradients_pass_through_them(name):
    def worker(world):
        model = Transformer(config("untied"))
        names = {p: name for name, p in model.named_parameters()}
        for frozen in (model.embedding, model.blocks[0], model.blocks[3]):
            frozen.requires_grad_(False)
        pipeline_parallel(model, world, schedule=name).forward_backward(*batch(0))
        return {names[p]: p.grad for p in model.parameters()}

    wanted = train_alone(config("untied"), steps=1)[1]
    for gradients in Simulator(2).run(worker).results:
        for name, grad in gradients.items():
            if name.startswith(("embedding", "blocks.0", "blocks.3")):
                assert grad is None
            else:
                torch.testing.assert_close(grad, wanted[name], rtol=0, atol=1e-12)


# --- what each rank keeps ---------------------------------------------------------------------------------------------


def test_a_stage_keeps_its_blocks_under_their_names_and_the_same_parameters():
    def worker(world):
        model = Transformer(config("untied"))
        before = dict(model.named_parameters())
        pipe = pipeline_parallel(model, world, split=[1, 2, 1])
        assert all(p is before[name] for name, p in model.named_parameters())
        assert {p for chunk in pipe.chunks for p in chunk} == set(model.parameters())
        return sorted({name.split(".")[0] if "blocks" not in name else name[:8] for name in model.state_dict()})

    results = Simulator(3).run(worker).results
    assert results == [["blocks.0", "embedding"], ["blocks.1", "blocks.2"], ["blocks.3", "head", "norm"]]


def test_a_table_tied_within_a_rank_belongs_to_one_chunk():
    def worker(world):
        pipe = pipeline_parallel(Transformer(config()), world, schedule="interleaved", virtual_stages=2)
        return [len(chunk) for chunk in pipe.chunks], len(list(pipe.model.parameters()))

    ((chunks, total),) = Simulator(1).run(worker).results
    assert sum(chunks) == total


@pytest.mark.parametrize("name", ["1f1b", "interleaved", "zb_h1"])
def test_each_chunk_is_announced_once_a_microbatch_after_its_last_gradient(name):
    def worker(world):
        v = 2 if name == "interleaved" else 1
        pipe = pipeline_parallel(Transformer(config()), world, schedule=name, virtual_stages=v)
        seen = []
        batches = [Microbatch(x, y) for x, y in zip(*(part.chunk(4) for part in batch(0)), strict=True)]

        def on_backward(parameters):  # a bias may have had its gradient with an earlier microbatch's: none is zero
            made = [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in parameters]
            seen.append((pipe.chunks.index(parameters), made))
            for p in parameters:
                p.grad = None

        pipe.run(batches, 1.0, on_backward)
        piled = [[sum(grads) for grads in zip(*(g for k, g in seen if k == i), strict=True)] for i in range(v)]
        counts = [sum(k == i for k, _ in seen) for i in range(v)]
        assert all(p.grad is None for p in pipe.model.parameters())  # nothing was made after it was announced
        pipe.run(batches, 1.0)
        whole = [[p.grad for p in chunk] for chunk in pipe.chunks]
        return counts, all(
            torch.allclose(a, b) for x, y in zip(piled, whole, strict=True) for a, b in zip(x, y, strict=True)
        )

    for counts, same in Simulator(2).run(worker).results:
        assert set(counts) == {4}
        assert same


def test_layers_split_evenly_or_as_asked():
    assert split_layers(7, 3) == [3, 2, 2]
    assert split_layers(7, 3, [1, 5, 1]) == [1, 5, 1]
    for bad in ([1, 5], [1, 5, 2], [0, 6, 1]):
        with pytest.raises(ValueError, match="3 numbers of at least 1 that add up to n_layer=7"):
            split_layers(7, 3, bad)
    with pytest.raises(ValueError, match="add up to n_layer=2"):
        split_layers(2, 3)


@pytest.mark.parametrize(
    ("make", "options", "said"),
    [
        (lambda: EncoderDecoder(config()), {}, "a plain Transformer, one list of blocks; got EncoderDecoder"),
        (lambda: torch.nn.Linear(2, 2), {}, "a plain Transformer, one list of blocks; got Linear"),
        (lambda: Transformer(config()), {"schedule": make_schedule("1f1b", 3, 4)}, "a line for each rank.*got 3"),
        (lambda: Transformer(config()), {"schedule": Schedule.parse("B0 F0\nF0 B0")}, "wants F0@0 before B0@0"),
        (lambda: Transformer(config()), {"schedule": "interleaved", "microbatches": 3}, "2 ranks divide, got 3"),
        (lambda: Transformer(config()), {"split": [4, 0]}, "2 numbers of at least 1"),
    ],
)
def test_what_cannot_be_laid_out_is_refused_before_anything_is_sent(make, options, said):
    with pytest.raises(ValueError, match=said):
        Simulator(2).run(lambda world: pipeline_parallel(make(), world, **options))


def test_a_batch_that_does_not_fit_is_refused():
    def worker(world, rows, length):
        pipe = pipeline_parallel(Transformer(config()), world, microbatches=4)
        tokens = torch.zeros(rows, length, dtype=torch.long)
        pipe.forward_backward(tokens, tokens)

    with pytest.raises(ValueError, match="a batch of 6 does not split into 4 microbatches"):
        Simulator(2).run(worker, 6, SEQ)
    with pytest.raises(ValueError, match="at most max_seq=6 tokens, got 7"):
        Simulator(2).run(worker, 8, 7)
    with pytest.raises(ValueError, match="wants 4 microbatches, got 1"):
        one = Microbatch(torch.zeros(1, 2).long(), torch.zeros(1, 2).long())
        Simulator(2).run(lambda world: pipeline_parallel(Transformer(config()), world).run([one], 1.0))


# --- planted mistakes -------------------------------------------------------------------------------------------------


def test_without_the_tied_tables_sum_the_comparison_fails(monkeypatch):
    monkeypatch.setattr(Pipeline, "sum_tied", lambda self: None)
    assert distance(train_alone(config()), Simulator(2).run(train, config()).results) > 1e-2


def test_a_gradient_of_another_microbatch_fails(monkeypatch):
    """Messages have no names: a receiver that asks for them in its own order takes one for another."""
    monkeypatch.setattr(mail.Mail, "__init__", in_reverse(mail.Mail.__init__))
    assert distance(train_alone(config()), Simulator(2).run(train, config()).results) > 1e-2


def in_reverse(init):
    def wrong(self, *args):
        init(self, *args)
        for queue in self.to_ask.values():
            if len(queue) > 1:
                queue[0], queue[1] = queue[1], queue[0]

    return wrong


def test_dropout_that_draws_for_every_microbatch_alike_fails(monkeypatch):
    def forgetful(self, microbatches):
        self.pipeline.model.place.resume(self.first)

    monkeypatch.setattr(pipeline.Interpreter, "count", forgetful)
    cfg = config("dropout")
    assert distance(train_alone(cfg, microbatches=4), Simulator(2).run(train, cfg).results) > 1e-2


def test_the_mean_of_microbatch_means_fails(monkeypatch):
    run = Pipeline.run
    monkeypatch.setattr(Pipeline, "run", lambda self, batches, scale: run(self, batches, 1 / (BATCH * SEQ)))
    assert distance(train_alone(config()), Simulator(2).run(train, config()).results) > 1e-2


def test_a_stage_that_is_handed_another_shape_is_an_error_not_a_wrong_number(monkeypatch):
    wrong = torch.empty(1, SEQ, 8, dtype=torch.float64)
    monkeypatch.setattr(pipeline, "like", lambda pipeline, batches, action: wrong)
    with pytest.raises(MismatchError, match="a message does not fit"):
        Simulator(2).run(train, config())


def test_one_stages_gradients_have_no_norm_of_the_model_and_each_has_its_own():
    def worker(world):
        model = Transformer(config())
        pipe = pipeline_parallel(model, world, "1f1b", 4)
        pipe.forward_backward(*batch(0))
        grads = [p.grad for p in model.parameters()]
        with pytest.raises(ValueError, match="one pipeline stage's: every rank would clip by another"):
            torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        with pytest.raises(ValueError, match="clips by the whole's"):
            clip_grad_norm(model.parameters(), 1.0)
        return [grad.detach().norm().item() for grad in grads]

    model = Transformer(config(tie_embeddings=False))
    for norms in Simulator(2).run(worker).results:
        assert all(norm > 0 for norm in norms) and len(norms) < len(list(model.parameters()))
