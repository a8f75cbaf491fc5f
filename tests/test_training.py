"""The trainer: one token-weighted mean whatever the microbatches, stops and resumes, and clear errors."""

from __future__ import annotations

import copy
import io
import math
from dataclasses import replace

import pytest
import torch

from llmlab import evaluate, optim, text
from llmlab.model import IGNORE, Config, EncoderDecoder, Transformer, padding_mask, shifted_right
from llmlab.training import EarlyStop, Trainer
from llmlab.widgets import LiveCurve

CONFIG = Config(vocab_size=13, d_model=16, n_layer=2, n_head=2, max_seq=12, dtype=torch.float64)


def sgd(model, lr=0.1):
    return optim.SGD(model.parameters(), lr=lr)


def a_batch(rows=6, seq=12, seed=0):
    """Rows with unequal numbers of targets."""
    generator = torch.Generator().manual_seed(seed)
    tokens = torch.randint(0, 13, (rows, seq), generator=generator)
    targets = torch.randint(0, 13, (rows, seq), generator=generator)
    for row in range(rows):
        targets[row, : 2 * row] = IGNORE
    return tokens, targets


def parts(batch, *sizes):
    return list(zip(*(x.split(sizes) for x in batch), strict=True))


def weights(model):
    return [p.detach().clone() for p in model.parameters()]


def assert_equal(ours, theirs, rel=0.0):
    """Each element, to `rel` of the largest of them all."""
    a, b = (torch.cat([x.flatten() for x in tensors]) for tensors in (ours, theirs))
    assert (a - b).abs().max() <= rel * b.abs().max()


# --- one step ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", [{}, {"label_smoothing": 0.2}], ids=str)
def test_microbatches_of_any_size_equal_one_batch(changes):
    config, batches = replace(CONFIG, **changes), [a_batch(seed=seed) for seed in range(3)]
    whole, split = Transformer(config), Transformer(config)
    one, many = Trainer(whole, sgd(whole)), Trainer(split, sgd(split))
    for batch in batches:
        a, b = one.step([batch]), many.step(parts(batch, 3, 1, 2))
        assert a == pytest.approx(b, rel=1e-12)
    assert_equal(weights(split), weights(whole), rel=1e-12)  # fp64: sums of 100 numbers in another order


def test_each_step_drops_other_elements():
    model = Transformer(replace(CONFIG, dropout=0.3))
    trainer, batch = Trainer(model, sgd(model, lr=0.0)), a_batch()
    first, second = trainer.step([batch]), trainer.step([batch])
    model.place.resume(0)
    assert first != second and trainer.step([batch]) == first


def test_each_microbatch_drops_other_elements():
    model = Transformer(replace(CONFIG, dropout=0.3))
    trainer, batch = Trainer(model, sgd(model, lr=0.0)), a_batch()
    both = trainer.step([batch, batch])
    model.place.resume(0)
    first, second = trainer.step([batch]), trainer.step([batch])
    assert first != second and both == pytest.approx((first + second) / 2, rel=1e-12)


def test_a_step_is_the_models_own_loss_and_the_optimizers_own_step():
    model, reference, batch = Transformer(CONFIG), Transformer(CONFIG), a_batch()
    loss = reference.loss(*batch)
    loss.backward()
    sgd(reference).step()
    assert Trainer(model, sgd(model)).step([batch]) == pytest.approx(loss.item(), rel=1e-12)
    assert_equal(weights(model), weights(reference), rel=1e-12)


def test_clipping_bounds_the_norm_of_the_accumulated_gradient():
    model = Transformer(CONFIG)
    before = weights(model)
    Trainer(model, sgd(model, lr=1.0), clip=1e-3).step(parts(a_batch(), 3, 3))
    moved = torch.cat([(a - b).flatten() for a, b in zip(weights(model), before, strict=True)])
    assert moved.norm().item() == pytest.approx(1e-3, rel=2e-3)  # clipping divides by the norm plus 1e-6


def test_bf16_keeps_the_weights_and_comes_close_to_fp32():
    config = replace(CONFIG, dtype=torch.float32)
    full, half = Transformer(config), Transformer(config)
    batch = a_batch()
    a, b = Trainer(full, sgd(full)).step([batch]), Trainer(half, sgd(half), bf16=True).step([batch])
    assert {p.dtype for p in half.parameters()} == {torch.float32}
    # a bfloat16 has 8 bits: each logit is off by some 2^-8 of its size (here below 1), a mean of 42 losses by less
    assert 0 < abs(a - b) < 2**-8
    assert any(not torch.equal(p, q) for p, q in zip(weights(full), weights(half), strict=True))


@pytest.mark.parametrize("clip", [None, 1.0])
def test_a_loss_or_gradient_that_is_not_finite_is_an_error_and_leaves_the_weights(clip):
    model = Transformer(CONFIG)
    trainer = Trainer(model, sgd(model, lr=0.25), clip=clip)
    trainer.step([a_batch()])
    before = weights(model)
    trainer.loss = lambda model, batch: model.loss(*batch, reduction="sum") * math.nan
    with pytest.raises(
        ValueError, match=r"the loss wants to be a finite number, got nan at step 2 .learning rate 0.25"
    ):
        trainer.step([a_batch()])
    trainer.loss = lambda model, batch: (
        model.loss(*batch, reduction="sum")
        + 0 * (model.head.weight - 1).pow(2).sum().log().exp()
        + model.head.weight.sum().sub(model.head.weight.sum().detach()).abs().sqrt()
    )
    with pytest.raises(ValueError, match="the gradient's norm wants to be a finite number, got nan at step 2"):
        trainer.step([a_batch()])
    assert_equal(weights(model), before)
    assert all(p.grad is None for p in model.parameters())
    assert trainer.n_step == 1


def test_a_step_without_a_target_is_an_error():
    model = Transformer(CONFIG)
    tokens, targets = a_batch()
    with pytest.raises(ValueError, match="at least one target token, got none"):
        Trainer(model, sgd(model)).step([(tokens, torch.full_like(targets, IGNORE))])


# --- fit --------------------------------------------------------------------------------------------------------------


def forever(rows=4):
    seed = 0
    while True:
        yield a_batch(rows, seed=seed)
        seed += 1


def test_training_learns_what_can_be_learned():
    ids = [0, 1, 2, 3, 4, 3, 2, 1] * 40  # after 1, 2 and 3 only the token before them tells what is next
    model = Transformer(replace(CONFIG, n_layer=1, dtype=torch.float32))
    optimizer = optim.AdamW(model.parameters(), lr=2e-2)
    schedule = optim.LRScheduler(optimizer, optim.warm_up(5, optim.cosine(55)))
    trainer = Trainer(model, optimizer, schedule=schedule, clip=1.0)
    trainer.fit(text.batches(ids, batch=8, seq=12, epochs=None), steps=60, progress=False)
    assert evaluate.mean_loss(model, text.batches(ids, batch=8, seq=12, seed=None)) < 0.05
    assert evaluate.KneserNey([ids], 13, order=2).mean_loss([ids]) > 0.4  # who sees one token only has to guess
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0, abs=1e-12)


def test_validation_comes_every_so_many_steps_and_at_the_end():
    model, seen = Transformer(CONFIG), []
    valid = [a_batch(seed=99)]
    trainer = Trainer(model, sgd(model), accumulate=2)
    curves = trainer.fit(
        forever(), 7, valid=valid, valid_every=3, on_step=lambda **losses: seen.append(losses), progress=False
    )
    assert list(curves["train"]) == [1, 2, 3, 4, 5, 6, 7] and list(curves["valid"]) == [3, 6, 7]
    assert curves["valid"][7] == evaluate.mean_loss(model, valid)
    assert [set(losses) for losses in seen] == [
        {"train", "valid"} if n in (3, 6, 7) else {"train"} for n in range(1, 8)
    ]
    assert (trainer.n_step, trainer.n_batch) == (7, 14)
    assert trainer.n_token == sum(
        int((targets != IGNORE).sum()) for _, (_, targets) in zip(range(14), forever(), strict=False)
    )


def test_dropout_is_on_in_training_and_off_in_validation():
    model = Transformer(replace(CONFIG, dropout=0.5)).eval()
    modes = []
    trainer = Trainer(model, sgd(model), validate=lambda model, batches: modes.append(model.training) or 1.0)
    trainer.loss = lambda model, batch: modes.append(model.training) or model.loss(*batch, reduction="sum")
    trainer.validate = lambda model, batches: evaluate.mean_loss(
        model, batches, lambda m, b: modes.append(m.training) or m(b[0])
    )
    trainer.fit(forever(), 2, valid=[a_batch()], valid_every=1, progress=False)
    assert modes == [True, False, True, False]


def test_fit_ends_with_the_batches_and_the_last_step_may_be_smaller():
    model, batches = Transformer(CONFIG), [a_batch(seed=seed) for seed in range(5)]
    trainer = Trainer(model, sgd(model), accumulate=2)
    trainer.fit(batches, progress=False)
    assert (trainer.n_step, trainer.n_batch) == (3, 5)
    reference = Transformer(CONFIG)
    for group in (batches[:2], batches[2:4], batches[4:]):
        Trainer(reference, sgd(reference)).step(group)
    assert_equal(weights(model), weights(reference))


def test_fit_ends_when_the_time_is_over():
    model = Transformer(CONFIG)
    trainer = Trainer(model, sgd(model))
    trainer.fit(forever(), limit_s=0.1, valid=[a_batch()], valid_every=10**9, progress=False)
    assert trainer.n_step >= 1 and list(trainer.curves["valid"]) == [trainer.n_step]


def test_patience_stops_and_puts_the_best_weights_back():
    model, kept = Transformer(CONFIG), {}
    figures = iter([3.0, 3.5, 2.0, 2.5, 2.0, 2.1, 0.0])

    def validate(model, batches):
        kept[len(kept) + 1] = weights(model)
        return next(figures)

    trainer = Trainer(model, sgd(model), patience=3, validate=validate)
    trainer.fit(forever(), 100, valid=[None], valid_every=2, progress=False)
    assert trainer.n_step == 12 and trainer.early_stop.best == 2.0
    assert_equal(weights(model), kept[3])
    assert any(not torch.equal(a, b) for a, b in zip(kept[3], kept[6], strict=True))


def test_the_progress_bar_shows_the_latest_losses_and_can_be_off(capsys):
    model = Transformer(CONFIG)
    trainer = Trainer(model, sgd(model))
    trainer.fit(forever(), 2, progress=False)
    assert capsys.readouterr() == ("", "")
    trainer.fit(forever(), 3, valid=[a_batch()])
    shown = capsys.readouterr().err
    assert "3/3" in shown and f"valid={trainer.curves['valid'][5]:.3f}" in shown


def test_a_live_curve_draws_what_fit_reports(capsys):
    model = Transformer(CONFIG)
    with LiveCurve(4) as live:
        curves = Trainer(model, sgd(model)).fit(
            forever(), 4, valid=[a_batch()], valid_every=2, on_step=live.add, progress=False
        )
    assert live.curves == curves and live.draws >= 1
    capsys.readouterr()


def test_an_encoder_decoder_trains_on_padded_sources():
    model = EncoderDecoder(CONFIG)
    sources, targets = torch.randint(1, 13, (6, 5)), torch.randint(1, 13, (6, 4))
    targets[3:, 2:] = IGNORE
    lengths = torch.tensor([5, 5, 3, 2, 5, 4])
    batch = (sources, shifted_right(targets, 0), lengths, targets)

    def loss(model, batch):
        source, inputs, lengths, targets = batch
        return model.loss(source, inputs, targets, padding_mask(lengths, source.shape[1]), reduction="sum")

    other = copy.deepcopy(model)
    a = Trainer(model, sgd(model), loss=loss).step([batch])
    b = Trainer(other, sgd(other), loss=loss).step(parts(batch, 1, 3, 2))
    assert a == pytest.approx(b, rel=1e-12)
    assert_equal(weights(other), weights(model), rel=1e-12)


# --- stop and go on ---------------------------------------------------------------------------------------------------


def a_trainer(**options):
    model = Transformer(replace(CONFIG, dropout=0.2))
    optimizer = optim.AdamW(model.parameters(), lr=1e-2)
    schedule = optim.LRScheduler(optimizer, optim.warm_up(3, optim.cosine(10)))
    return Trainer(model, optimizer, schedule=schedule, accumulate=2, patience=5, **options)


def train(trainer, steps):
    documents = [list(range(13)) * 3, [1, 5, 2, 2, 9] * 9, [12, 7] * 20]
    batches = text.batches(documents, batch=2, seq=12, epochs=None, start=trainer.n_batch)
    trainer.fit(batches, steps, valid=[a_batch()], valid_every=3, progress=False)


def test_a_run_that_was_stopped_goes_on_to_the_same_bits():
    straight, stopped, resumed = a_trainer(), a_trainer(), a_trainer()
    train(straight, 12)
    train(stopped, 6)
    file = io.BytesIO()
    torch.save(stopped.state_dict(), file)
    file.seek(0)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    train(resumed, 6)
    assert_equal(weights(resumed.model), weights(straight.model))
    assert resumed.curves == straight.curves
    assert (resumed.n_step, resumed.n_batch, resumed.n_token) == (straight.n_step, straight.n_batch, straight.n_token)
    assert (
        resumed.early_stop.best == straight.early_stop.best and resumed.early_stop.waited == straight.early_stop.waited
    )
    assert_equal(resumed.early_stop.weights.values(), straight.early_stop.weights.values())


def test_a_state_of_another_kind_of_run_is_refused():
    model = Transformer(CONFIG)
    plain = Trainer(model, sgd(model))
    with pytest.raises(ValueError, match="schedule: the trainer wants one, the state has none"):
        a_trainer().load_state_dict(plain.state_dict())
    with pytest.raises(ValueError, match="schedule: the trainer wants none, the state has one"):
        plain.load_state_dict(a_trainer().state_dict())


def test_impossible_options_are_refused_at_once():
    model = Transformer(CONFIG)
    with pytest.raises(ValueError, match="accumulate .microbatches per update. as a whole number of at least 1; got 0"):
        Trainer(model, sgd(model), accumulate=0)
    with pytest.raises(ValueError, match="clip .* as a number above 0; got 0"):
        Trainer(model, sgd(model), clip=0)
    with pytest.raises(ValueError, match="patience .validations. as a whole number of at least 1; got 0"):
        EarlyStop(0)
    trainer = Trainer(model, sgd(model))
    with pytest.raises(ValueError, match="steps .* as a whole number of at least 1; got 0"):
        trainer.fit(forever(), 0)
    with pytest.raises(ValueError, match="valid_every .steps. as a whole number of at least 1; got 0"):
        trainer.fit(forever(), 1, valid_every=0)
    with pytest.raises(ValueError, match="at least one batch, got none"):
        trainer.fit([], 1)
    with pytest.raises(ValueError, match="patience wants batches to validate on"):
        Trainer(model, sgd(model), patience=1).fit(forever(), 1)
