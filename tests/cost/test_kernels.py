"""A layer's kernels: their FLOPs are the model's, their bytes the tensors', and each is priced by the device."""

from __future__ import annotations

import pytest

from llmlab.cost.kernels import layer_kernels
from llmlab.cost.models import find_config
from llmlab.hardware import cluster

H100 = cluster("h100").device


@pytest.mark.parametrize("name", ["gpt2", "llama3-8b", "mixtral-8x7b", "deepseek-moe-16b"])
def test_products_and_attention_add_up_to_the_models_flops(name):
    c, tokens, seq = find_config(name), 2 * 256, 256
    *layer, logits = [k for k in layer_kernels(c, 2, seq) if k.kind != "memory"]
    router = 2 * tokens * c.d_model * c.n_expert * c.n_layer  # too small a kernel to show
    counted = c.n_layer * sum(k.flops for k in layer) + logits.flops + router
    assert counted == pytest.approx(tokens * c.flops_per_token(seq, backward=False))


def test_bytes_are_those_of_the_tensors():
    kernels = {k.name: k for k in layer_kernels(find_config("llama3-8b"), 1, 1024, tp=2)}
    n, d, f = 1024, 4096, 14336 // 2
    assert kernels["MLP down"].nbytes == 2 * (n * f + f * d + n * d)
    assert kernels["attention"].nbytes == 2 * n * 2 * (d + 1024) / 2  # q, k, v in and the context out, half the heads
    assert kernels["norm"].nbytes == 2 * 2 * n * d
    assert kernels["activation"].nbytes == 2 * n * 3 * f  # two halves in, one out


def test_few_tokens_make_products_bound_by_memory():
    def intensity(seq):
        return {k.name: k.intensity for k in layer_kernels(find_config("llama3-8b"), 1, seq)}["MLP up"]

    ridge = H100.peak("bf16") / H100.memory_bytes_per_s
    assert intensity(1) < 1 < ridge < intensity(4096)


def test_a_kernel_takes_what_the_device_says():
    kernel = layer_kernels(find_config("llama3-8b"), 1, 4096)[1]
    assert kernel.seconds(H100) == H100.kernel_seconds("matmul", kernel.flops, kernel.nbytes, "bf16")
    assert kernel.flops_per_s(H100) == kernel.flops / kernel.seconds(H100) < H100.peak("bf16")
