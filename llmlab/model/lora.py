"""Low-rank adapters: the model's own matrices stay as they are, and only a small sum beside each is trained.

    y = x Wᵀ + (alpha / r) (x Aᵀ) Bᵀ         W [O, I] frozen,  A [r, I] random,  B [O, r] zero at first

r (I + O) numbers train instead of I O, so the gradient, the optimizer's state and whatever sends the trained weights
somewhere shrink alike. B A is a matrix of the shape of W: added to it once, it costs nothing more. Hu et al. 2021,
"LoRA: low-rank adaptation of large language models", section 4. Seam: `Linear.multiply`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TypeVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from llmlab.arguments import choices, instance, real, whole
from llmlab.model.initial import draw
from llmlab.model.language_model import LanguageModel
from llmlab.model.layers import Linear
from llmlab.model.whole import check_in_one_piece

Model = TypeVar("Model", bound=LanguageModel)


class LowRank(nn.Module):
    """What a Linear multiplies by, once it has an adapter."""

    def __init__(self, a: Float[Tensor, "r I"], b: Float[Tensor, "O r"], scale: float):
        super().__init__()
        self.lora_a, self.lora_b, self.scale = nn.Parameter(a), nn.Parameter(b), scale
        self.rows: slice | None = None  # the output features that are computed here, where they are not all

    def forward(
        self, x: Float[Tensor, "*B I"], weight: Float[Tensor, "O I"], bias: Float[Tensor, " O"] | None = None
    ) -> Float[Tensor, "*B O"]:
        b = self.lora_b if self.rows is None else self.lora_b[self.rows]
        return F.linear(x, weight, bias) + F.linear(F.linear(x, self.lora_a), b) * self.scale

    def extra_repr(self) -> str:
        return f"rank={self.lora_a.shape[0]}, scale={self.scale:g}"


def add_lora(model: Model, rank: int = 8, alpha: float = 16.0, targets: Sequence[str] = ("query", "value")) -> Model:
    """Freeze the model and put an adapter on each Linear of these names, in place. Do it before anything splits it.

    targets: last parts of module names, such as query, key, value, output, up, gate, down. At first the model computes
    what it did: B is zero. Raises ValueError for names that no Linear has, or a model that has adapters already.
    """
    instance("add_lora", "model", model, LanguageModel)
    whole("add_lora", "rank", rank, least=1)
    real("add_lora", "alpha", alpha, above=0)
    check_in_one_piece("add_lora", model)
    if any(adapters(model)):
        raise ValueError("add_lora wants a model without adapters, got one that has some: merge_lora(model) first")
    linears = {name: module for name, module in model.named_modules() if isinstance(module, Linear)}
    known = sorted({name.rpartition(".")[2] for name in linears} - {"head"})  # whose table may be the embedding's too
    choices("add_lora", "targets", targets, known)
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for name, linear in linears.items():
        if name.rpartition(".")[2] in targets:
            weight, config = linear.weight, model.config
            a = draw(f"{name}.multiply.lora_a", (rank, linear.in_features), config, model.seed)
            b = draw(f"{name}.multiply.lora_b", (linear.out_features, rank), config, model.seed)
            linear.multiply = LowRank(a.to(weight.device), b.to(weight.device), alpha / rank)
    return model


@torch.no_grad()
def merge_lora(model: Model) -> Model:
    """Add each adapter to its matrix and take it away, in place: W + (alpha / r) B A. All weights train again."""
    instance("merge_lora", "model", model, LanguageModel)
    check_in_one_piece("merge_lora", model)
    if not any(adapters(model)):
        raise ValueError("merge_lora wants a model with adapters, got one without: add_lora(model) gives it some")
    for linear, low_rank in list(adapters(model)):
        linear.weight += low_rank.scale * low_rank.lora_b @ low_rank.lora_a
        del linear.multiply
        linear.multiply = F.linear
    return model.requires_grad_(True)


def adapters(model: nn.Module) -> Iterator[tuple[Linear, LowRank]]:
    """Give each Linear that has an adapter, with it."""
    for module in model.modules():
        if isinstance(module, Linear) and isinstance(module.multiply, LowRank):
            yield module, module.multiply


def lora_state(model: nn.Module) -> dict[str, Tensor]:
    """Give the adapters by name: all there is to store or send of a fine-tuned model, next to the one it began as."""
    return {name: p.detach() for name, p in model.named_parameters() if name.endswith(("lora_a", "lora_b"))}
