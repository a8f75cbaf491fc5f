"""Weights rounded to a few bits after training, with a scale that neighbours share (Dettmers et al. 2022; 2023).

    w ≈ scale (code - zero)      zero = 2^(b-1): the largest |w| of a group decides the scale
    w ≈ scale code + minimum     minimum: the smallest w is code 0, the largest code 2^b - 1

Only what is stored is small: a product turns the codes into numbers again, and computes as it did before.
In groups of 32, 8 bits are GGUF's Q8_0 and 4 bits with a minimum its Q4_1, to the bit.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from llmlab.arguments import choice, flag
from llmlab.compressing.calibrated import Square, codes_in_turn
from llmlab.compressing.rounding import grouped, in_half, pack, round_to, steps, unpack
from llmlab.model.language_model import LanguageModel
from llmlab.model.whole import check_in_one_piece, model_of

BITS = (8, 4, 2)
Model = TypeVar("Model", bound=nn.Module)


class QuantizedWeight(nn.Module):
    """A matrix in few bits: codes packed into bytes, and for each group of a row a scale (and a minimum) in fp16.

    group: how many neighbours of a row share a scale, or "row", or "tensor": all share one.  inputs: X Xᵀ of what it is
    multiplied by, to round in turn; None: each number for itself.
    """

    codes: Tensor  # uint8 [O, bytes of a row]
    scale: Tensor  # fp16 [O, groups, 1], or [1, 1, 1]: one for all
    minimum: Tensor | None  # as scale

    def __init__(
        self,
        weight: Float[Tensor, "O I"],
        bits: int = 8,
        group: int | str = "row",
        minimum: bool = False,
        inputs: Square | None = None,
    ):
        super().__init__()
        choice("quantize", "bits", bits, BITS)
        flag("quantize", "minimum", minimum)
        if not torch.isfinite(weight).all():
            raise ValueError("quantize wants finite weights, got some that are not: the model has diverged")
        self.bits, self.shape, self.dtype = bits, tuple(weight.shape), weight.dtype
        groups = grouped(weight.detach().to(torch.promote_types(weight.dtype, torch.float32)), group)
        scale, low = steps(groups, bits, minimum)
        codes = (
            round_to(groups, scale, low, bits) if inputs is None else codes_in_turn(groups, scale, low, bits, inputs)
        )
        self.register_buffer("scale", in_half(scale))
        self.register_buffer("minimum", None if low is None else in_half(low))
        self.register_buffer("codes", pack(codes.view(self.shape), bits))

    def matrix(self, dtype: torch.dtype | None = None, rows: Tensor | None = None) -> Float[Tensor, "*B I"]:
        """Give the numbers that the codes stand for, of all rows or of some, in the dtype of the weight that was."""
        codes, scale, low = self.codes, self.scale, self.minimum
        if rows is not None:
            codes = codes[rows]
            if len(scale) > 1:  # one for all has no rows
                scale, low = scale[rows], None if low is None else low[rows]
        numbers = unpack(codes, self.bits).to(torch.float32)  # [*B, I]
        groups = numbers.unflatten(-1, (scale.shape[-2], -1))  # [*B, groups, numbers of a group]
        if low is None:
            groups = (groups - 2 ** (self.bits - 1)) * scale.float()
        else:
            groups = groups * scale.float() + low.float()
        return groups.flatten(-2).to(dtype or self.dtype)

    @property
    def nbytes(self) -> int:
        """Bytes that are stored: the codes, a scale for each group, and a minimum where there is one."""
        return sum(buffer.nbytes for buffer in self.buffers())

    def extra_repr(self) -> str:
        few = f"{self.shape[0]} x {self.shape[1]}, {self.bits} bits, {self.scale.numel()} scales"
        return few if self.minimum is None else f"{few} and minima"


class QuantizedLinear(nn.Module):
    """y = x Ŵᵀ + b, with Ŵ stored in few bits and turned into numbers for each product."""

    def __init__(self, stored: QuantizedWeight, bias: Tensor | None = None):
        super().__init__()
        self.stored, self.bias = stored, None if bias is None else nn.Parameter(bias.detach())

    @property
    def weight(self) -> Float[Tensor, "O I"]:
        return self.stored.matrix()

    @property
    def out_features(self) -> int:
        """Refuse whoever wants to cut the matrix: a mode that splits one asks for its size first."""
        raise ValueError("rounded weights are not split among ranks: split the model as it was before `quantize`")

    in_features = multiply = out_features

    def forward(self, x: Float[Tensor, "*B I"]) -> Float[Tensor, "*B O"]:
        return F.linear(x, self.stored.matrix(x.dtype), self.bias)


class QuantizedTable(nn.Module):
    """Give row i of a table in few bits for each number i; only these rows become numbers."""

    def __init__(self, stored: QuantizedWeight):
        super().__init__()
        self.stored = stored

    @property
    def weight(self) -> Float[Tensor, "V D"]:
        return self.stored.matrix()

    def forward(self, index: Int[Tensor, "*B"]) -> Float[Tensor, "*B D"]:
        return self.stored.matrix(rows=index)


def quantize(
    model: Model,
    bits: int = 8,
    group: int | str = "row",
    *,
    minimum: bool = False,
    table: bool = False,
    inputs: Mapping[str, Square] | None = None,
) -> Model:
    """Round the weights of all linear maps of a model's blocks, in place; give back the model, to be used, not trained.

    minimum: let a group's codes begin at its smallest number, not lie about 0.  table: round the embedding and the
    output layer, too; if they are one table they stay one. Norms, biases and learned positions stay as they are.
    inputs: what `calibrate` gives; each error is then made good by the weights rounded after it (GPTQ).
    Raises ValueError where a row does not divide into groups, before anything is changed.
    """
    one = model_of("quantize", model)
    check_in_one_piece("quantize", one)
    flag("quantize", "table", table)
    found = {name: module for name, module in one.named_modules() if isinstance(module, nn.Linear)}
    chosen = {name: module for name, module in found.items() if table or name != "head"}
    if not chosen:
        raise ValueError("quantize wants a model with linear maps, got none: is it quantized already?")
    rounded: dict[Tensor, QuantizedWeight] = {}

    def stored(name: str, weight: Tensor) -> QuantizedWeight:
        if weight not in rounded:  # a tied table is rounded, and stored, once
            rounded[weight] = QuantizedWeight(weight, bits, group, minimum, (inputs or {}).get(name))
        return rounded[weight]

    made: dict[str, nn.Module] = {name: QuantizedLinear(stored(name, m.weight), m.bias) for name, m in chosen.items()}
    if table and isinstance(one, LanguageModel):
        made["embedding.token"] = QuantizedTable(stored("embedding.token", one.embedding.token.weight))
    for name, module in made.items():
        one.set_submodule(name, module)
    return model


def stored_bytes(model: Any) -> int:
    """Count the bytes of a model's weights as they are stored, each tensor once however many use it."""
    tensors = [*model_of("stored_bytes", model).parameters(), *model_of("stored_bytes", model).buffers()]
    return sum({id(tensor): tensor.nbytes for tensor in tensors}.values())
