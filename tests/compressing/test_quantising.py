"""Weights in few bits: the codes of GGUF, errors of at most half a step, bytes by formula."""

from __future__ import annotations

import copy

import gguf
import numpy as np
import pytest
import torch

import llmlab as lab
from llmlab import generate
from llmlab.compressing import QuantizedWeight, calibrate, quantize, stored_bytes
from llmlab.compressing.rounding import pack, unpack
from llmlab.model import Config, Transformer
from llmlab.model.quantised import q4_1, q8_0

WAYS = [(bits, group, minimum) for bits in (8, 4, 2) for group in (8, "row", "tensor") for minimum in (False, True)]
TOKENS = torch.tensor([[3, 1, 4, 1, 5], [9, 2, 6, 5, 3]])


def drawn(rows=24, columns=64, seed=0):
    w = torch.randn(rows, columns, generator=torch.Generator().manual_seed(seed)) * 0.05
    w[0], w[1, :32], w[2] = 0.0, 0.125, w[2] * 100  # a row of zeros, a group of equals, a row of another size
    return w


def small(**changes):
    return Transformer(Config(**{"vocab_size": 40, "d_model": 32, "n_layer": 2, "n_head": 4, "max_seq": 16, **changes}))


@pytest.mark.parametrize(
    ("bits", "minimum", "kind", "read"),
    [(8, False, gguf.GGMLQuantizationType.Q8_0, q8_0), (4, True, gguf.GGMLQuantizationType.Q4_1, q4_1)],
)
def test_groups_of_32_are_rounded_as_gguf_rounds_them(bits, minimum, kind, read):
    w = drawn()
    theirs = gguf.quants.quantize(w.numpy(), kind)
    numbers = read(theirs.reshape(-1, theirs.shape[1] // 2)).reshape(w.shape)
    ours = QuantizedWeight(w, bits, 32, minimum)
    assert np.array_equal(ours.matrix().numpy(), numbers)
    assert ours.nbytes == theirs.nbytes


@pytest.mark.parametrize(("bits", "group", "minimum"), WAYS)
def test_no_number_is_off_by_more_than_half_a_step(bits, group, minimum):
    w = drawn()
    stored = QuantizedWeight(w, bits, group, minimum)
    size = {"row": 64, "tensor": w.numel()}.get(group, group)
    groups = w.reshape(-1, size)
    step = (
        (groups.amax(1) - groups.amin(1)) / (2**bits - 1) if minimum else groups.abs().amax(1) / (2 ** (bits - 1) - 1)
    )
    off = (stored.matrix() - w).reshape(-1, size).abs().amax(1)
    # fp16 keeps 11 bits: scale and minimum are each off by 2^-11 of themselves, the scale 2^bits times
    half = 2**-11 * (step * 2**bits + (groups.amin(1).abs() if minimum else 0)) + 2**bits * 2**-25
    assert (off <= step / 2 + half).all()


@pytest.mark.parametrize(("bits", "group", "minimum"), WAYS)
def test_stored_bytes_are_those_of_the_formula(bits, group, minimum):
    stored = QuantizedWeight(drawn(), bits, group, minimum)
    scales = {"row": 24, "tensor": 1, 8: 24 * 8}[group]
    assert stored.nbytes == 24 * 64 * bits // 8 + 2 * scales * (1 + minimum)


def test_a_scale_for_each_row_spares_the_others_a_large_row():
    w = drawn()
    by_row, at_once = (QuantizedWeight(w, 8, group).matrix() - w for group in ("row", "tensor"))
    assert 20 * by_row[3:].abs().max() < at_once[3:].abs().max()


@pytest.mark.parametrize("bits", [8, 4, 2])
def test_codes_come_out_of_the_bytes_as_they_went_in(bits):
    codes = torch.arange(2**bits, dtype=torch.uint8).repeat(3, 4)
    assert torch.equal(unpack(pack(codes, bits), bits), codes)
    assert pack(codes, bits).numel() * 8 == codes.numel() * bits


@pytest.mark.parametrize("table", [False, True])
@pytest.mark.parametrize("tied", [False, True])
def test_a_quantized_model_computes_with_the_rounded_weights(table, tied):
    model = small(tie_embeddings=tied)
    rounded = quantize(copy.deepcopy(model), 4, 16, table=table)
    for name, weight in model.named_parameters():
        if weight.dim() == 2 and "position" not in name and (table or "blocks" in name):
            weight.data = QuantizedWeight(weight, 4, 16).matrix()
    assert torch.allclose(rounded(TOKENS), model(TOKENS), atol=1e-6)
    assert torch.equal(generate(rounded, [1, 2, 3], 6), generate(model, [1, 2, 3], 6))
    matrices = sum(w.numel() for w in model.parameters() if w.dim() == 2 and w.shape != (16, 32))
    tables = 40 * 32 * (1 if tied else 2)
    few = matrices - (0 if table else tables)
    rest = sum(w.numel() for w in model.parameters()) - few
    assert stored_bytes(rounded) == few // 2 + 2 * few // 16 + 4 * rest


def test_rounding_in_turn_leaves_products_nearer_to_what_they_were():
    model = small(d_model=64)
    batch = torch.randint(40, (8, 16), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        wanted = model(batch)
        plain = quantize(copy.deepcopy(model), 2, "row")(batch)
        inputs = calibrate(model, [(batch, batch)])
        in_turn = quantize(copy.deepcopy(model), 2, "row", inputs=inputs)(batch)
    assert (in_turn - wanted).norm() < 0.8 * (plain - wanted).norm()


def test_rounding_in_turn_with_inputs_that_are_unrelated_is_plain_rounding():
    w = drawn()
    assert torch.equal(QuantizedWeight(w, 4, 16, inputs=torch.eye(64)).codes, QuantizedWeight(w, 4, 16).codes)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: quantize(small(), 3), "bits as one of 8, 4, 2"),
        (lambda: quantize(small(), 4, 5), "group wants a divisor of a row's 32 numbers, got 5"),
        (lambda: quantize(small(), 4, "column"), 'group (or "row", "tensor") as a whole number'),
        (lambda: quantize(quantize(small())), "got none: is it quantized already?"),
        (lambda: QuantizedWeight(drawn() * float("nan")), "finite weights"),
        (lambda: QuantizedWeight(drawn() * 1e9), "kept in fp16"),
        (lambda: QuantizedWeight(drawn() * 1e-9), "kept in fp16"),
    ],
)
def test_what_cannot_be_rounded_is_refused(call, said):
    with pytest.raises(ValueError) as error:
        call()
    assert said in str(error.value)


def test_a_rounded_model_is_not_split():
    def split(world):
        lab.parallelize(quantize(small()), lambda p: lab.optim.SGD(p, lr=0.1), lab.Layout(tp=2), world)

    with pytest.raises(ValueError, match="before `quantize`"):
        lab.Simulator(ranks=2).run(split)


def test_a_refused_model_is_left_as_it_was():
    model = small(d_ff=36)
    before = model(TOKENS)
    with pytest.raises(ValueError, match="divisor"):
        quantize(model, 8, 8)
    assert torch.equal(model(TOKENS), before)
