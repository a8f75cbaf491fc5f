"""Optimizers, schedules, clipping and loss scaling against torch's, step by step."""

import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from llmlab import optim

RULES = [
    ("SGD", {"lr": 0.1}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "dampening": 0.3}),
    ("SGD", {"lr": 0.1, "momentum": 0.9, "nesterov": True, "maximize": True}),
    ("RMSprop", {}),
    ("RMSprop", {"alpha": 0.9, "momentum": 0.5, "weight_decay": 0.1}),
    ("RMSprop", {"centered": True, "eps": 1e-5}),
    ("Adam", {}),
    ("Adam", {"lr": 0.01, "betas": (0.8, 0.95), "weight_decay": 0.1, "amsgrad": True}),
    ("AdamW", {}),
    ("AdamW", {"lr": 0.01, "weight_decay": 0.3, "amsgrad": True, "maximize": True}),
]


def problem(dtype):
    """Parameters of a small net, and what gives their gradients at each step: a loss that all of them take part in."""
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3)).to(dtype)

    def backward(step):
        x = torch.randn(4, 5, generator=torch.Generator().manual_seed(step)).to(dtype)
        net.zero_grad()
        net(x).cos().sum().backward()  # bounded, so that climbing it is safe too

    return net, backward


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize(("name", "options"), RULES)
def test_every_optimizer_equals_torchs_at_each_of_100_steps(name, options, dtype):
    (ours, our_backward), (theirs, their_backward) = problem(dtype), problem(dtype)
    our_step = getattr(optim, name)(ours.parameters(), **options)
    their_step = getattr(torch.optim, name)(theirs.parameters(), **options)
    for step in range(100):
        our_backward(step), their_backward(step)
        our_step.step(), their_step.step()
        for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
            # fp32: a step rounds a handful of times, 2^-24 each, and what it is off by feeds the next gradient
            tolerance = 1e-10 if dtype == torch.float64 else 2**-24 * 8 * (step + 1)
            assert (a - b).abs().max() <= tolerance * b.abs().max(), (step, a.shape)


def test_arguments_and_defaults_are_torchs():
    for name in ("SGD", "RMSprop", "Adam", "AdamW"):
        parameter = nn.Parameter(torch.zeros(1))
        ours = getattr(optim, name)([parameter]).defaults
        theirs = getattr(torch.optim, name)([parameter]).defaults
        assert ours == {key: theirs[key] for key in ours}


def test_the_formulas_hold_number_by_number():
    """Adam by hand: two steps of one number, with the epsilon outside the root."""
    p = nn.Parameter(torch.tensor([1.0], dtype=torch.float64))
    adam, m, v, expected = optim.Adam([p], lr=0.1, eps=0.5), 0.0, 0.0, 1.0
    for t, g in enumerate((2.0, -3.0), start=1):
        p.grad = torch.tensor([g], dtype=torch.float64)
        adam.step()
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g * g
        expected -= 0.1 * (m / (1 - 0.9**t)) / (math.sqrt(v / (1 - 0.999**t)) + 0.5)
        assert p.item() == pytest.approx(expected, rel=1e-12)


def test_groups_have_their_own_settings_and_frozen_parameters_stay():
    a, b, c = (nn.Parameter(torch.ones(2)) for _ in range(3))
    adamw = optim.AdamW([{"params": [a], "weight_decay": 0.0}, {"params": [b, c], "lr": 0.5}], lr=0.1)
    a.grad, b.grad = torch.zeros(2), torch.zeros(2)
    adamw.step()
    assert torch.equal(a, torch.ones(2))
    assert torch.allclose(b, torch.full((2,), 1 - 0.5 * 0.01))
    assert torch.equal(c, torch.ones(2)) and c not in adamw.state  # no gradient, no step


@pytest.mark.parametrize(("name", "options"), RULES)
def test_a_saved_and_loaded_optimizer_goes_on_as_if_nothing_had_happened(name, options):
    (straight, backward), (resumed, resumed_backward) = problem(torch.float64), problem(torch.float64)
    one, two = (getattr(optim, name)(net.parameters(), **options) for net in (straight, resumed))
    for step in range(6):
        if step == 3:
            state = two.state_dict()
            two = getattr(optim, name)(resumed.parameters(), **options)
            two.load_state_dict(state)
        backward(step), resumed_backward(step)
        one.step(), two.step()
    assert all(torch.equal(a, b) for a, b in zip(straight.parameters(), resumed.parameters(), strict=True))


def test_step_hooks_and_closures_work_as_torchs():
    p = nn.Parameter(torch.tensor([3.0]))
    sgd, seen = optim.SGD([p], lr=0.5), []
    sgd.register_step_pre_hook(lambda *_: seen.append("before"))
    sgd.register_step_post_hook(lambda *_: seen.append("after"))

    def closure():
        sgd.zero_grad()
        loss = p.pow(2).sum()
        loss.backward()
        return loss

    assert sgd.step(closure).item() == 9.0 and p.item() == 0.0 and seen == ["before", "after"]


def test_an_optimizer_does_not_import_torchs_compiler():
    """It takes seconds, in every process of a run."""
    code = """if True:
        import sys, torch
        from llmlab import optim
        p = torch.nn.Parameter(torch.ones(2))
        adam = optim.Adam([p])
        p.sum().backward()
        adam.step()
        adam.zero_grad()
        adam.load_state_dict(adam.state_dict())
        sys.exit("torch._dynamo" in sys.modules)
    """
    root = Path(__file__).parents[1]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0


def test_steps_run_without_numbers():
    for name, options in RULES:
        p = nn.Parameter(torch.empty(3, device="meta"))
        optimizer = getattr(optim, name)([p], **options)
        for _ in range(2):
            p.grad = torch.empty(3, device="meta")
            optim.clip_grad_norm([p], 1.0)
            optimizer.step()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda p: optim.SGD(p, lr=-1.0), "SGD wants lr as a number of at least 0; got -1.0"),
        (lambda p: optim.SGD(p, nesterov=True), "nesterov wants momentum > 0 and dampening 0, got 0.0 and 0.0"),
        (lambda p: optim.RMSprop(p, alpha=-0.5), "RMSprop wants alpha as"),
        (lambda p: optim.Adam(p, betas=(0.9, 1.0)), "each of betas as a number of at least 0 and below 1; got 1.0"),
        (lambda p: optim.AdamW(p, weight_decay=float("nan")), "weight_decay as a number of at least 0; got nan"),
    ],
)
def test_bad_settings_are_refused(make, message):
    with pytest.raises(ValueError, match=message):
        make([nn.Parameter(torch.zeros(1))])


# --- schedules -----------------------------------------------------------------------------------------------------


def rates(schedule_of, steps=30):
    """The learning rate at each step, for lr = 2."""
    optimizer = optim.SGD([nn.Parameter(torch.zeros(1))], lr=2.0)
    schedule, seen = schedule_of(optimizer), []
    for _ in range(steps):
        seen.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
    return seen


def test_schedules_equal_torchs():
    s = torch.optim.lr_scheduler
    pairs = [
        (optim.linear(20, 0.1), lambda o: s.LinearLR(o, 1.0, 0.1, 20)),
        (optim.constant, lambda o: s.ConstantLR(o, 1.0)),
        (
            optim.warm_up(5, optim.cosine(25, 0.1)),
            lambda o: s.SequentialLR(o, [s.LinearLR(o, 0.2, 1.0, 4), s.CosineAnnealingLR(o, 25, 0.2)], [5]),
        ),
    ]
    for ours, theirs in pairs:
        assert rates(lambda o, ours=ours: optim.LRScheduler(o, ours)) == pytest.approx(rates(theirs), rel=1e-12)


def test_cosine_and_linear_stay_at_their_floor():
    assert optim.cosine(10, 0.3)(25) == pytest.approx(0.3) and optim.linear(10)(25) == 0.0
    assert optim.warm_up(4)(0) == 0.25 and optim.warm_up(4)(3) == optim.warm_up(4)(99) == 1.0


def test_a_schedule_resumes_where_it_was():
    optimizer = optim.SGD([nn.Parameter(torch.zeros(1))], lr=2.0)
    first = optim.LRScheduler(optimizer, optim.linear(10))
    for _ in range(4):
        first.step()
    again = optim.SGD([nn.Parameter(torch.zeros(1))], lr=2.0)
    again.load_state_dict(optimizer.state_dict())
    second = optim.LRScheduler(again, optim.linear(10))
    second.load_state_dict(first.state_dict())
    assert again.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"] == pytest.approx(1.2)


# --- clipping and loss scaling ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("max_norm", [0.01, 1.0, 1e6])
def test_clipping_equals_torchs(max_norm):
    (ours, backward), (theirs, their_backward) = problem(torch.float64), problem(torch.float64)
    backward(0), their_backward(0)
    norm = optim.clip_grad_norm(ours.parameters(), max_norm)
    assert torch.allclose(norm, torch.nn.utils.clip_grad_norm_(theirs.parameters(), max_norm), rtol=1e-12)
    for a, b in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.allclose(a.grad, b.grad, rtol=1e-12)


def test_clipping_takes_a_norm_known_from_elsewhere():
    p = nn.Parameter(torch.zeros(2))
    p.grad = torch.tensor([3.0, 4.0])
    optim.clip_grad_norm([p], 1.0, norm=torch.tensor(10.0))
    assert torch.allclose(p.grad, torch.tensor([0.3, 0.4]))


def test_loss_scaling_equals_torchs_through_overflow_and_growth():
    settings = {"init_scale": 2.0**10, "growth_interval": 3}
    ours, theirs = optim.LossScaler(**settings), torch.amp.GradScaler("cpu", **settings)
    a, b = (nn.Parameter(torch.tensor([1.0, -2.0])) for _ in range(2))
    our_sgd, their_sgd = optim.SGD([a], lr=0.1), torch.optim.SGD([b], lr=0.1)
    for step in range(12):
        factor = float("inf") if step in (4, 5) else 1.0
        for p, scaler in ((a, ours), (b, theirs)):
            p.grad = None
            scaler.scale((factor * p).pow(2).sum()).backward()
        assert ours.step(our_sgd) == (step not in (4, 5))
        theirs.step(their_sgd)
        theirs.update()
        assert torch.equal(a, b) and ours.value == theirs.get_scale(), step


def test_a_scaler_resumes_where_it_was_and_heeds_a_vote():
    scaler = optim.LossScaler(init_scale=8.0)
    p = nn.Parameter(torch.ones(1))
    p.grad = torch.tensor([8.0])
    sgd = optim.SGD([p], lr=1.0)
    assert scaler.unscale([p]).item() == 1.0 and p.grad.item() == 1.0
    assert not scaler.step(sgd, finite=torch.tensor(0.0))  # another rank overflowed
    assert p.item() == 1.0 and scaler.value == 4.0
    again = optim.LossScaler()
    again.load_state_dict(scaler.state_dict())
    assert again.value == 4.0 and again.good_steps == 0
