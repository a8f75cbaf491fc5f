"""The classroom cluster keeps the proportions of a 7B model on nodes of 8 H100 (data/hardware/classroom.md)."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from llmlab.hardware import Cluster, Link, cluster


@dataclass(frozen=True)
class Step:
    """One rank's training step in closed form: seconds by what they are spent on."""

    matmul: float
    attention: float
    elementwise: float
    launch: float
    gradients_within: float
    gradients_between: float
    tensor_parallel: float

    @property
    def compute(self) -> float:
        return self.matmul + self.attention + self.elementwise


def step(on: Cluster, n_layer: int, d: int, vocab: int, seq: int, tokens: int, comm_bytes: int) -> Step:
    """Price forward and backward of a GPT-2-like model; kernels are priced as bf16, messages by comm_bytes a number."""
    weights = 12 * n_layer * d * d + vocab * d
    device, kernels = on.device, 45 * n_layer  # about 15 kernels forward and 30 backward in a layer

    def seconds(kind: str, flops: float, nbytes: float = 0) -> float:
        return device.kernel_seconds(kind, flops, nbytes, "bf16") - device.ramp_s

    def ring(link: Link, nbytes: float, n: int = 8) -> float:
        return 2 * (n - 1) / n * nbytes / (link.bytes_per_s * link.efficiency)

    return Step(
        matmul=seconds("matmul", 6 * weights * tokens),
        attention=seconds("attention", 12 * n_layer * tokens * seq * d),
        elementwise=seconds("memory", 0, 50 * 2 * tokens * d * n_layer),  # about 50 passes over the activations
        launch=kernels * (device.launch_s + device.ramp_s),
        gradients_within=ring(on.intra, weights * comm_bytes),
        gradients_between=ring(on.inter, weights * comm_bytes),
        tensor_parallel=4 * n_layer * ring(on.intra, tokens * d * comm_bytes),
    )


LARGE = step(cluster("h100"), n_layer=32, d=4096, vocab=32_000, seq=4096, tokens=8192, comm_bytes=2)
SMALL = step(cluster("classroom"), n_layer=4, d=64, vocab=512, seq=64, tokens=512, comm_bytes=4)


@pytest.mark.parametrize("part", ["matmul", "attention", "elementwise", "gradients_within", "gradients_between"])
def test_the_classroom_spends_its_step_as_a_7b_model_does(part):
    large, small = (getattr(s, part) / s.compute for s in (LARGE, SMALL))
    assert small == pytest.approx(
        large, rel=0.12
    )  # 0.12: logits are 17% of the small model's weights, 2% of the large one's


def test_launches_are_about_one_percent_on_both():
    assert 0.005 < LARGE.launch / LARGE.compute < 0.02
    assert 0.005 < SMALL.launch / SMALL.compute < 0.02


def test_a_small_kernel_lasts_as_long_as_a_large_one():
    assert 0.5 < (SMALL.compute / 4) / (LARGE.compute / 32) < 2


def test_tensor_parallel_traffic_weighs_what_the_derivation_says():
    ratio = (SMALL.tensor_parallel / SMALL.compute) / (LARGE.tensor_parallel / LARGE.compute)
    assert ratio == pytest.approx(3.4, rel=0.1)


def test_the_small_model_on_a_real_h100_is_bound_by_launches():
    toy = step(cluster("h100"), n_layer=4, d=64, vocab=512, seq=64, tokens=512, comm_bytes=4)
    assert toy.launch > 10 * toy.compute


def test_the_classroom_says_that_it_is_fictional():
    assert cluster("classroom").fictional and "fictional" in cluster("classroom").device.name
    assert not cluster("h100").fictional


def test_the_lessons_model_fits_and_a_model_of_38_million_parameters_fits_only_when_sharded():
    memory = cluster("classroom").device.memory_bytes
    lesson = 16 * 0.24e6 + 512 * 64 * 4 * 110  # Adam's 16 bytes a parameter; about 110 bytes a hidden value
    assert lesson < memory / 4
    assert memory / 4 < 16 * 38e6 / 4 < memory < 16 * 38e6
