"""What is held at the peak, by name: in programs of torch's own and in ours, with numbers and without."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

import llmlab as lab
from llmlab.comm.group import Group

pytestmark = pytest.mark.filterwarnings("ignore")  # torch's own, of its deprecated names
WIDTH = 32
WEIGHT = 4 * WIDTH * WIDTH  # bytes of one layer's


class Network(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x).relu()
        return x


def train(model: nn.Module) -> None:
    optimizer = torch.optim.Adam(model.parameters())
    for _ in range(2):
        optimizer.zero_grad()
        model(torch.ones(4, WIDTH)).sum().backward()
        optimizer.step()


def ddp() -> None:
    train(nn.parallel.DistributedDataParallel(Network()))


def fsdp2() -> None:
    from torch.distributed.fsdp import fully_shard

    model = Network()
    for layer in model.layers:
        fully_shard(layer)
    fully_shard(model)
    train(model)


def held(run: lab.Run, rank: int = 1) -> dict[str, Any]:
    found = run.held(rank)
    assert sum(each.nbytes for each in found) == run.memory[rank].total
    for category, nbytes in run.memory[rank].at_peak.items():
        assert sum(each.nbytes for each in found if each.category == category) == nbytes
    assert [each.nbytes for each in found] == sorted((each.nbytes for each in found), reverse=True)
    return {each.name: each for each in found}


@pytest.mark.parametrize("numerics", [True, False])
def test_ddps_weights_gradients_and_moments_are_called_as_torch_calls_them(numerics: bool) -> None:
    names = held(lab.Simulator(ranks=2, numerics=numerics).run_torch(ddp))
    for layer in range(3):
        weight = f"module.layers.{layer}.weight"
        for name, category in (
            (weight, "parameters"), (f"gradient of {weight}", "gradients"),
            (f"exp_avg of {weight}", "optimizer state"), (f"exp_avg_sq of {weight}", "optimizer state"),
        ):  # fmt: skip
            assert (names[name].category, names[name].nbytes) == (category, WEIGHT)
    assert names["backward: mul"].nbytes == 3 * (WEIGHT + 4 * WIDTH)  # the bucket, scaled as it is filled


@pytest.mark.parametrize("numerics", [True, False])
def test_of_fsdp2_shards_are_parameters_and_gathered_weights_are_said_to_be_gathered(numerics: bool) -> None:
    names = held(lab.Simulator(ranks=2, numerics=numerics).run_torch(fsdp2))
    for layer in range(3):
        weight = f"layers.{layer}.weight"
        for name in (weight, f"exp_avg of {weight}"):
            assert names[name].nbytes == WEIGHT // 2
    gathered = [each for name, each in names.items() if name.startswith("gathered layers.") and "weight" in name]
    assert gathered
    assert all((each.category, each.nbytes) == ("communication", WEIGHT) for each in gathered)


def test_activations_are_called_by_the_module_and_the_operation_that_made_them() -> None:
    names = held(lab.Simulator(ranks=2).run_torch(lambda: Network()(torch.ones(64, WIDTH)).sum().item()))
    last = names["layers.2: matmul"]  # the others are gone: relu keeps what it gives
    assert (last.category, last.nbytes) == ("activations", 4 * 64 * WIDTH)
    assert names["relu"].count == 3  # of the network itself, the outermost


def test_a_model_of_ours_is_named_though_only_a_method_of_it_is_called() -> None:
    config = lab.Config(vocab_size=32, d_model=16, n_layer=2, n_head=2, max_seq=8)

    def worker(world: Group) -> None:
        model = lab.data_parallel(lab.Transformer(config), world)
        optimizer = lab.optim.Adam(model.parameters(), lr=0.1)
        ids = torch.zeros(2, 8, dtype=torch.long)
        for _ in range(2):
            model.loss(ids, ids).backward()
            optimizer.step()

    names = held(lab.Simulator(ranks=2).run(worker))
    assert names["exp_avg of blocks.1.mlp.up.weight"].nbytes == 4 * 16 * 64
    assert names["gradient of blocks.0.attention.query.weight"].category == "gradients"
    assert names["embedding.token.weight"].nbytes == 4 * 32 * 16


def test_a_bucket_that_holds_many_gradients_names_one_and_counts_the_rest() -> None:
    def worker() -> None:
        train(nn.parallel.DistributedDataParallel(Network(), gradient_as_bucket_view=True))

    names = held(lab.Simulator(ranks=2).run_torch(worker))
    bucket = next(each for name, each in names.items() if name.startswith("gradient of"))
    assert bucket.name.endswith(" and 5 more")
    assert bucket.nbytes == 3 * (WEIGHT + 4 * WIDTH)


def test_the_report_names_the_largest_and_sums_the_rest() -> None:
    run = lab.Simulator(ranks=2).run_torch(ddp)
    lines = str(lab.report(run, names=3)).splitlines()
    first = next(i for i, line in enumerate(lines) if line.startswith("the fullest")) + 1
    for line, each in zip(lines[first : first + 3], run.held(), strict=False):
        assert f"{each.category:<16}{each.name}" in line
    assert lines[first + 3].endswith(f"in {sum(each.count for each in run.held()[3:])} smaller")
    assert "smaller" not in str(lab.report(run, names=0))


def test_a_run_without_recorded_tensors_is_refused() -> None:
    run = lab.Simulator(ranks=2, kernels=False).run(lambda world: None)
    with pytest.raises(ValueError, match="with its kernels"):
        run.held()
