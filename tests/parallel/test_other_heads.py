"""Heads of a size of their own, biases on some layers alone, stretched rotary positions: in every mode as alone."""

import pytest
import torch

import llmlab as lab
from llmlab.model import Config, Transformer
from tests.parallel.comparing import numbers

SIZES = {"vocab_size": 36, "d_model": 16, "n_layer": 2, "n_head": 4, "n_kv_head": 2, "max_seq": 16, "head_dim": 6}
KINDS = {"norm": "rmsnorm", "mlp": "swiglu", "position": "rotary", "bias": False, "dtype": torch.float64}
OTHER = Config(**SIZES, **KINDS, attention_bias="qkv", rotary_factors=(1.0, 2.0, 8.0))
LAYOUTS = [
    lab.Layout(tp=2),
    lab.Layout(tp=4, sequence_parallel=True),
    lab.Layout(cp=2),
    lab.Layout(cp=2, context="ulysses"),
    lab.Layout(pp=2, microbatches=2),
    lab.Layout(dp=2, zero=3),
    lab.Layout(dp=2, tp=2, pp=2, microbatches=2),
]


def train(world, layout):
    x, y = torch.randint(0, 36, (2, 8, 16), generator=torch.Generator().manual_seed(0))
    model = Transformer(OTHER)
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(len(name)))
    step = lab.parallelize(model, lambda params: lab.optim.SGD(params, lr=0.5), layout, world)
    losses = [step(x, y) for _ in range(3)]
    return torch.stack(losses), step.state_dict()


@pytest.mark.parametrize("layout", LAYOUTS, ids=str)
def test_a_model_with_heads_of_its_own_trains_as_alone_in_every_mode(layout):
    (losses, weights), (found, gathered) = (
        numbers(ranks).run(train, chosen).results[0]
        for ranks, chosen in ((1, lab.Layout()), (layout.dp * layout.tp * layout.pp * layout.cp, layout))
    )
    assert weights["blocks.0.attention.query.weight"].shape == (24, 16) and "blocks.0.mlp.up.bias" not in weights
    torch.testing.assert_close(found, losses, rtol=1e-9, atol=0)
    norm = torch.stack([w.norm() for w in weights.values()]).norm()  # fp64: 1e-9 of the whole model's norm
    assert gathered.keys() == weights.keys()
    assert all((gathered[name] - weights[name]).norm() <= 1e-9 * norm for name in weights)
