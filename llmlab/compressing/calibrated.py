"""Rounding that knows what the weights are multiplied by: GPTQ (Frantar et al. 2023), which mends as it goes.

Columns are rounded one after another; the error of each is made good by those not yet rounded, as far as the inputs
they meet allow: with H = X Xᵀ over calibration inputs X and U the upper Cholesky factor of H⁻¹,

    W[:, j+1:] -= (w_j - ŵ_j) / U[j, j] · U[j, j+1:]
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn

from llmlab.compressing.rounding import Groups, round_to
from llmlab.evaluate import evaluating
from llmlab.evaluate.scores import logits_of

Square = Float[Tensor, "I I"]
DAMP = 0.01  # the share of its mean diagonal that is added to H, so that it can be inverted


def calibrate(model: nn.Module, batches: Iterable[Any]) -> dict[str, Square]:
    """Run batches through a model; give X Xᵀ of what each linear map of its blocks is given, by its name."""
    sums: dict[str, Tensor] = {}

    def noting(name: str) -> Callable[..., None]:
        def note(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            x = inputs[0].flatten(0, -2).float()
            sums[name] = sums.get(name, 0) + x.T @ x

        return note

    maps = {name: m for name, m in model.named_modules() if isinstance(m, nn.Linear) and name != "head"}
    hooks = [module.register_forward_pre_hook(noting(name)) for name, module in maps.items()]
    try:
        with evaluating(model):
            for batch in batches:
                logits_of(model, batch)
    finally:
        for hook in hooks:
            hook.remove()
    return sums


@torch.no_grad()
def codes_in_turn(
    groups: Groups, scale: Tensor, low: Tensor | None, bits: int, inputs: Square
) -> UInt8[Tensor, "O N K"]:
    """Give codes chosen so that W X changes little, by the scales of plain rounding.

    inputs: X Xᵀ, as `calibrate` gives.
    """
    size = len(inputs)
    left = groups.float().reshape(-1, size).clone()
    if groups.shape[0] == groups.shape[1] == 1:  # all share one scale, a group of its own to each row here
        scale = scale.expand(len(left), 1, 1)
        low = None if low is None else low.expand(len(left), 1, 1)
    H = inputs.double() + DAMP * inputs.diagonal().mean() * torch.eye(size, dtype=torch.float64, device=inputs.device)
    U = torch.linalg.cholesky(torch.cholesky_inverse(torch.linalg.cholesky(H)), upper=True).float()
    width = size // scale.shape[1]
    codes = torch.empty_like(left, dtype=torch.uint8)
    for j in range(size):
        step, start = scale[:, j // width], None if low is None else low[:, j // width]  # [O, 1]
        code = round_to(left[:, j : j + 1], step, start, bits)
        stands_for = (code.float() - 2 ** (bits - 1)) * step if start is None else code * step + start
        error = (left[:, j : j + 1] - stands_for) / U[j, j]
        left[:, j + 1 :] -= error * U[j, j + 1 :]
        codes[:, j : j + 1] = code
    return codes
