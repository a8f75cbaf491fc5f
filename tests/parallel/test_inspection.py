"""`describe` shows what a mode changed: shapes, hooks, swapped functions."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from llmlab.comm.simulator import Simulator
from llmlab.model import Config, Transformer, attend_tiled
from llmlab.parallel.data import data_parallel
from llmlab.parallel.inspection import describe

CONFIG = Config(vocab_size=17, d_model=8, n_layer=3, n_head=2, max_seq=6)


def lines(text: str) -> dict[str, str]:
    """Where -> what."""
    return {line.split()[0]: line.split(maxsplit=1)[1] for line in text.splitlines()}


def test_a_plain_model_is_its_shapes_and_alike_layers_share_a_line():
    table = lines(describe(Transformer(CONFIG)))
    assert table["embedding.token.weight"] == "[17, 8] float32"
    assert table["blocks.*.mlp.up.weight"] == "[32, 8] float32  x 3"
    assert table["blocks.*.attention"].startswith("attend = attend_fused") and table["blocks.*.attention"].endswith(
        "x 3"
    )
    assert table["head.weight"] == "is embedding.token.weight"


def test_data_parallelism_shows_as_a_hook_on_every_gradient_and_its_reducer():
    def worker(world):
        model = data_parallel(Transformer(CONFIG), world)
        tokens = torch.zeros(1, 3, dtype=torch.long)
        model.loss(tokens, tokens).backward()  # by now the simulator has put its own hooks there, which are not shown
        return describe(model)

    table = lines(Simulator(2).run(worker).results[0])
    assert table["embedding.token.weight"] == "[17, 8] float32; gradient: average"
    assert "Reducer(1 bucket over world=2, sent during backward)" in table["Transformer"]


def test_with_the_model_as_it_was_only_the_changes_are_shown():
    before = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 4, bias=False), nn.ReLU())
    after = nn.Sequential(nn.Linear(4, 3), nn.Linear(6, 4), nn.ReLU())
    after[0].bias.requires_grad_(False)
    assert describe(after, before).splitlines() == [
        "0.weight  [3, 4] float32  (was [6, 4] float32)",
        "0.bias    [3] float32, frozen  (was [6] float32)",
        "1.bias    [4] float32  (new)",
    ]
    assert describe(before, after).splitlines()[-1] == "1.bias    gone  (was [4] float32)"
    assert describe(before, before) == "nothing was changed"


def test_a_swapped_function_is_named_and_does_not_hide_among_its_alike():
    model = Transformer(CONFIG)
    model.blocks[1].attention.attend = attend_tiled
    changes = lines(describe(model, Transformer(CONFIG)))
    assert list(changes) == ["blocks.1.attention"]
    assert "attend = attend_tiled" in changes["blocks.1.attention"]


def test_doors_at_module_boundaries_are_shown_by_name():
    def enter(module, args):
        return args

    def leave(module, args, output):
        return output

    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    model[0].register_forward_pre_hook(enter)
    model[1].register_forward_hook(leave)
    table = lines(describe(model))
    assert table["0"] == "before: enter" and table["1"] == "after: leave"


def test_a_step_shows_its_model_and_a_wrapped_optimizer_step():
    class Step:
        def __init__(self):
            self.model = nn.Linear(2, 1)
            self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)

    step = Step()
    assert "optimizer.step" not in describe(step)

    def push_and_pull():
        pass

    step.optimizer.step = push_and_pull
    assert lines(describe(step))["optimizer.step"] == "= push_and_pull"


def test_what_has_no_model_is_refused():
    with pytest.raises(ValueError, match="wants a model, or a step that has one, got int"):
        describe(3)


def test_a_line_longer_than_a_screen_goes_on_below_itself() -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    for i in range(20):
        setattr(model, f"function_{i}", lambda x: x)
    lines = describe(model).splitlines()
    assert max(map(len, lines)) <= 132 and len(lines) > 3
    assert lines[0].startswith("Sequential ") and lines[1].startswith(" " * lines[0].index("function_0"))
    assert " ".join(" ".join(lines).split()).count("function_19 = ") == 1
