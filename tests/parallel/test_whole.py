"""A split model answers as the whole one: losses, logits and texts in drawn layouts; every function that takes one."""

from __future__ import annotations

import os
import re
from dataclasses import replace
from random import Random

import pytest
import torch

import llmlab as lab
from llmlab.comm.processes import Processes
from llmlab.generation.next_tokens import next_tokens
from llmlab.model import IGNORE
from llmlab.model.maps import attention_maps
from llmlab.parallel.compose import parallelize
from llmlab.parallel.context import context_parallel
from llmlab.parallel.layout import Layout
from llmlab.parallel.pipeline import pipeline_parallel
from llmlab.parallel.schedules import make_schedule
from llmlab.parallel.tensor import tensor_parallel
from llmlab.training import Trainer
from tests.parallel.comparing import numbers
from tests.parallel.layouts import Case, draw, make_batch, make_model, make_optimizer

DRAWN = int(os.environ.get("LLMLAB_LAYOUTS", "60"))
TOLERANCE = 1e-9  # of the largest, fp64
PROMPTS = [[4], [5, 6, 7, 8, 9], [3, 3]]
CHOICES = [{}, {"use_cache": False}, {"temperature": 1.3, "top_k": 7, "seed": 3}, {"beams": 2, "end": 2}]


def spread_out(model):
    """Weights of which no two tokens are nearly alike: fresh ones would say one token for ever."""
    generator = torch.Generator().manual_seed(5)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.5, generator=generator)
    return model


def batches_of(case: Case, odd: int) -> list[tuple[torch.Tensor, ...]]:
    """The case's own batch with its positions and mask; one of a size that does not divide; one of a single token."""
    own = make_batch(case, 0)
    batches = [tuple(own[k] for k in ("tokens", "positions", "mask", "targets") if own[k] is not None)]
    tokens, targets = torch.randint(case.config.vocab_size, (2, 3, odd), generator=torch.Generator().manual_seed(odd))
    targets[1, : odd // 2] = IGNORE
    return [*batches, (tokens, targets), (tokens[:1, :1], targets[:1, :1])]


def written(one, choice: dict) -> list[list[int]]:
    return [text.tolist() for text in lab.generate(one, PROMPTS, 3, **choice)]


def alone(case: Case, odd: int, choice: dict):
    """(mean losses and an accuracy, logits, texts) of the whole model, by its own forward."""
    model, batches = spread_out(make_model(case)).eval(), batches_of(case, odd)
    losses = [lab.evaluate.mean_loss(model, [batch]) for batch in batches] + [lab.evaluate.mean_loss(model, batches)]
    accuracy = lab.evaluate.accuracy(model, batches[1:2])
    with torch.no_grad():
        logits = [model(*batch[:-1]) for batch in batches[:2]]
    return torch.tensor([*losses, accuracy], dtype=torch.float64), logits, written(model, choice)


def laid_out(world, case: Case, odd: int, choice: dict):
    """The same through the step; then a step of training, which changes nothing, and again through its bare model."""
    step = parallelize(
        spread_out(make_model(case)), make_optimizer("sgd"), case.layout, world, recompute=case.recompute,
        bucket_mb=0.004,
    )  # fmt: skip
    for group in step.optimizer.param_groups:
        group["lr"] = 0.0
    batches = batches_of(case, odd)
    losses = [step.evaluate([batch]) for batch in batches] + [step.evaluate(iter(batches))]
    accuracy = lab.evaluate.accuracy(step, batches[1:2])
    logits, texts = [step.logits(*batch[:-1]) for batch in batches[:2]], written(step, choice)
    step(**make_batch(case, 0))
    bare = lab.evaluate.mean_loss(step.model, batches[1:2]), written(step.model, choice)
    assert step.model.training
    return torch.tensor([*losses, accuracy], dtype=torch.float64), logits, texts, bare


def apart(a: torch.Tensor, b: torch.Tensor) -> float:
    return ((a - b).abs().max() / a.abs().max()).item()


def differ(one, many) -> bool:
    """Whether anything of what one rank says is not what one process says."""
    scores, logits, texts = one
    found, through, other_texts, (bare, bare_texts) = many
    same = [apart(scores, found) < TOLERANCE, abs(scores[1].item() - bare) < TOLERANCE * scores[1].item()]
    same += [a.shape == b.shape and apart(a, b) < TOLERANCE for a, b in zip(logits, through, strict=True)]
    return not all(same) or not texts == other_texts == bare_texts


def drawn(seed: int):
    """A drawn layout of few ranks, a length that most layouts do not divide, and a way to choose tokens."""
    random = Random(seed)
    while (case := draw(random.randrange(10**6))).layout.ranks > (8 if seed % 10 == 0 else 4):
        pass
    return case, random.choice([5, 7, 9, 11]), random.choice(CHOICES)


@pytest.mark.parametrize("seed", range(DRAWN))
def test_a_drawn_layout_answers_as_one_process(seed):
    case, odd, choice = drawn(seed)
    one = alone(case, odd, choice)
    results = numbers(case.layout.ranks).run(laid_out, case, odd, choice).results
    assert [rank for rank, many in enumerate(results) if differ(one, many)] == [], case


@pytest.mark.parametrize(
    "layout",
    [Layout(tp=2, sequence_parallel=True, dp=1), Layout(pp=2, zero=1, schedule="interleaved", microbatches=2)],
    ids=["sequence", "pipeline"],
)
def test_real_processes_answer_as_one_process(layout):
    case = replace(small(layout), batch=layout.microbatches * 2)
    one = alone(case, 7, CHOICES[2])
    results = Processes(ranks=2, timeout_s=120).run(laid_out, case, 7, CHOICES[2]).results
    assert [rank for rank, many in enumerate(results) if differ(one, many)] == []


def small(layout: Layout, **changes) -> Case:
    config = lab.Config(
        vocab_size=17, d_model=16, n_layer=2, n_head=4, n_kv_head=2, max_seq=32, position="rotary",
        dtype=torch.float64, **changes,
    )  # fmt: skip
    return Case(config, layout, batch=4, seq=8)


# --- the figure that began it -----------------------------------------------------------------------------------------

SPLIT = {
    "tp": Layout(tp=2),
    "sequence": Layout(tp=2, sequence_parallel=True),
    "ring": Layout(cp=2),
    "ulysses": Layout(cp=2, context="ulysses"),
    "pp": Layout(pp=2, microbatches=2),
    "zero": Layout(dp=2, zero=3),
}
layouts = pytest.mark.parametrize("layout", SPLIT.values(), ids=SPLIT)


@layouts
def test_perplexity_of_a_laid_out_model_is_the_whole_models(layout):
    config = lab.Config(vocab_size=36, d_model=16, n_layer=2, n_head=4, max_seq=32, dtype=torch.float64)
    torch.manual_seed(0)
    x, y = torch.randint(0, 18, (4, 8)), torch.randint(0, 18, (4, 8))

    def worker(world):
        step = parallelize(lab.Transformer(config), lambda p: lab.optim.SGD(p, lr=0.05), layout, world)
        step(x, y)
        found = [lab.evaluate.perplexity(one, [(x, y)]) for one in (step.model, step)]
        return [*found, lab.evaluate.perplexity(step, [(x, y)], lambda model, batch: model(batch[0]))]

    for found in numbers(2).run(worker).results:
        assert found == pytest.approx([32.708733] * 3, abs=1e-6)  # by plain torch, to so many digits


# --- one mode alone, without parallelize ------------------------------------------------------------------------------

ALONE = {
    "tensor": lambda model, world: tensor_parallel(model, world),
    "context": lambda model, world: context_parallel(model, world, "striped"),
    "pipeline": lambda model, world: pipeline_parallel(model, world, "gpipe", 3),
    "own schedule": lambda model, world: pipeline_parallel(model, world, make_schedule("zb_h1", 2, 2)),
}


@pytest.mark.parametrize("split", ALONE.values(), ids=ALONE)
def test_a_model_split_by_hand_answers_as_the_whole_one(split):
    case = small(Layout())
    batches = batches_of(case, 7)
    model = spread_out(make_model(case))
    wanted = lab.evaluate.mean_loss(model, batches), lab.evaluate.accuracy(model, batches), written(model, {})

    def worker(world):
        given = split(spread_out(make_model(case)), world)  # the model, or the pipeline that holds it
        return lab.evaluate.mean_loss(given, batches), lab.evaluate.accuracy(given, batches), written(given, {})

    for loss, accuracy, texts in numbers(2).run(worker).results:
        assert loss == pytest.approx(wanted[0], rel=TOLERANCE)
        assert (accuracy, texts) == wanted[1:]


@pytest.mark.parametrize("kind", ["context", "pipeline"])
def test_a_mode_that_splits_twice_is_refused(kind):
    def worker(world):
        model = make_model(small(Layout()))
        ALONE[kind](model, world)
        ALONE[kind](model, world)

    with pytest.raises(ValueError, match="not split already"):
        numbers(2).run(worker)


# --- what is kept, and what is sent -----------------------------------------------------------------------------------


def test_a_cache_holds_this_ranks_heads_and_layers_only():
    case = small(Layout(tp=2, pp=2))

    def worker(world):
        step = parallelize(make_model(case), make_optimizer("sgd"), case.layout, world)
        return [cache.keys.shape for cache in step.whole.make_caches(3, 10)]

    assert numbers(4).run(worker).results == [[(3, 1, 10, 4)]] * 4  # 2 key heads and 2 blocks, halved


def test_with_a_cache_only_the_new_token_travels():
    case = small(Layout(pp=2))

    def worker(world, use_cache):
        step = parallelize(spread_out(make_model(case)), make_optimizer("sgd"), case.layout, world)
        return step.generate([1, 2, 3, 4], 5, use_cache=use_cache).tolist()

    runs = {cached: numbers(2).run(worker, cached) for cached in (True, False)}
    sent = {c: sum(e.nbytes for e in run.trace if e.op == "send") for c, run in runs.items()}
    row = 16 * 8  # a token's d_model numbers in fp64
    assert sent == {True: (4 + 4) * row, False: (4 + 5 + 6 + 7 + 8) * row}
    assert runs[True].results == runs[False].results


# --- refused ----------------------------------------------------------------------------------------------------------

ROW = torch.tensor([[1, 2, 3, 4]])
REFUSED = {
    "attention maps": (lambda step: attention_maps(step, ROW), "attention_maps wants a model in one piece"),
    "the loss of a part": (lambda step: step.model.loss(ROW, ROW), r"call step\(tokens, targets\)"),
    "features": (lambda step: step.model.features(ROW), "step.logits"),
    "a part's weights": (lambda step: step.model.state_dict(), r"step.state_dict\(\)"),
    "materialize": (lambda step: step.model.materialize(), "materialize wants a model in one piece"),
    "laid out twice": (
        lambda step: parallelize(step.model, make_optimizer("sgd"), step.layout, step.axes.world), "already split",
    ),
    "a Trainer": (
        lambda step: Trainer(step.model, step.optimizer).fit([(ROW, ROW)], steps=1), r"call step\(tokens, targets\)",
    ),
    "a source": (lambda step: step.generate([1], 2, source=ROW), "only an EncoderDecoder reads a source"),
    "too long": (lambda step: step.generate([1], 32), "at most max_seq=32"),
    "a token nobody has": (lambda step: step.logits(ROW + 16), "from 0 to 16"),
    "a target nobody has": (lambda step: step.evaluate([(ROW, ROW - 2)]), "targets want numbers from 0 to 16, or -100"),
    "a mask that does not fit": (lambda step: step.logits(ROW, None, torch.ones(1, 1, 4, 5).bool()), "a mask wants"),
    "not a batch": (lambda step: step.evaluate(ROW), "batches want to be many"),
}  # fmt: skip


@pytest.mark.parametrize(("call", "words"), REFUSED.values(), ids=REFUSED)
def test_what_a_part_cannot_do_is_refused_on_every_rank_before_anything_is_sent(call, words):
    def worker(world):
        step = parallelize(make_model(small(Layout())), make_optimizer("sgd"), Layout(tp=2, pp=2), world)
        world.barrier()
        try:
            call(step)
        except ValueError as error:
            return str(error)

    run = numbers(4).run(worker)
    assert [error is not None and bool(re.search(words, error)) for error in run.results] == [True] * 4, run.results[0]
    assert [event.op for event in run.trace][-4:] == ["barrier"] * 4


def test_batches_without_a_target_are_refused_on_every_rank():
    def worker(world):
        step = parallelize(make_model(small(Layout())), make_optimizer("sgd"), Layout(tp=2, pp=2), world)
        with pytest.raises(ValueError, match="at least one target"):
            step.evaluate([(ROW, torch.full_like(ROW, IGNORE))])
        return step.evaluate([(ROW, torch.full_like(ROW, IGNORE)), (ROW, ROW)])

    wanted = lab.evaluate.mean_loss(make_model(small(Layout())), [(ROW, ROW)])
    assert numbers(4).run(worker).results == pytest.approx([wanted] * 4, rel=TOLERANCE)


# --- a diverged model -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", [Layout(), Layout(tp=2), Layout(pp=2), Layout(cp=2)], ids=str)
@pytest.mark.parametrize("value", [torch.nan, torch.inf])
@pytest.mark.parametrize("choice", [{}, {"temperature": 1.0}, {"beams": 2}, {"use_cache": False}], ids=str)
def test_logits_that_are_not_finite_are_refused_by_name_on_every_rank(layout, value, choice):
    def worker(world):
        model = make_model(small(layout))
        with torch.no_grad():
            model.blocks[1].mlp.down.bias[0] = value
        step = parallelize(model, make_optimizer("sgd"), layout, world)
        try:
            step.generate([[1, 2], [3]], 3, **choice)
        except ValueError as error:
            return str(error)

    for error in numbers(layout.ranks).run(worker).results:
        assert error is not None and "non-finite" in error and "diverged" in error


def test_next_tokens_asks_the_whole_model():
    tokenizer = lab.text.BPE.train(["to be or not to be"], vocab_size=260)
    config = replace(small(Layout()).config, vocab_size=tokenizer.vocab_size)
    wanted = next_tokens(spread_out(lab.Transformer(config)), tokenizer, "be", keep=5)

    def worker(world):
        step = parallelize(spread_out(lab.Transformer(config)), make_optimizer("sgd"), Layout(tp=2), world)
        found = [next_tokens(one, tokenizer, "be", keep=5) for one in (step, step.model)]
        return [(one.tokens, one.logits) for one in found]

    for found in numbers(2).run(worker).results:
        for tokens, logits in found:
            assert tokens == wanted.tokens and torch.allclose(logits, wanted.logits, rtol=TOLERANCE, atol=0)


# --- without its parts the comparison fails ---------------------------------------------------------------------------


def rank_after_rank(self, y, held, kept):
    return self.cp.all_gather(y.movedim(1, 0).contiguous()).movedim(0, 1)[:, kept]


BROKEN = {
    "vocabulary not gathered": (Layout(tp=2), "whole_logits", lambda y, V, group: torch.cat([y, y], -1)[..., :V]),
    "tokens not put in order": (Layout(cp=2), "SplitModel._in_order", rank_after_rank),
    "rows not shared out": (Layout(dp=2), "Microbatch.share", lambda self, part, parts: self),
    "filling up counts": (
        Layout(cp=2),
        "Microbatch.filled_up",
        lambda self, multiple, hidden: counting(self, multiple),
    ),
}


def counting(batch, multiple):
    extra = -batch.tokens.shape[1] % multiple
    tokens, targets = (torch.nn.functional.pad(x, (0, extra)) for x in (batch.tokens, batch.targets))
    return replace(batch, tokens=tokens, targets=targets, positions=torch.arange(tokens.shape[1]), mask=None)


@pytest.mark.parametrize(("layout", "name", "wrong"), BROKEN.values(), ids=BROKEN)
def test_broken_parts_are_seen(monkeypatch, layout, name, wrong):
    case = small(layout)
    one = alone(case, 7, {})
    assert not any(differ(one, many) for many in numbers(2).run(laid_out, case, 7, {}).results)
    monkeypatch.setattr(f"llmlab.parallel.whole.{name}", wrong)
    assert any(differ(one, many) for many in numbers(2).run(laid_out, case, 7, {}).results)
