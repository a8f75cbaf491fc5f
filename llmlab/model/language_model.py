"""What the models here share: embedding and output layer, weights drawn by name, and a loss."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, TypeVar

import torch
from jaxtyping import Float, Int, Integer
from torch import Tensor, nn

from llmlab.arguments import instance, whole
from llmlab.model.config import Config
from llmlab.model.dropout import Place, note_place, settle
from llmlab.model.embedding import Embedding, Rotation, count, rotary
from llmlab.model.initial import draw_weights
from llmlab.model.layers import Linear
from llmlab.model.loss import IGNORE, cross_entropy
from llmlab.model.moe import MoE
from llmlab.model.whole import Whole, check_in_one_piece

Tokens = Integer[Tensor, "B T"]
Positions = Int[Tensor, "*B T"]
Model = TypeVar("Model", bound="LanguageModel")


def shape_of(x: Any) -> str:
    return f"one of shape {list(x.shape)}" if isinstance(x, Tensor) else f"a {type(x).__name__}"


class LanguageModel(nn.Module):
    """The base of Transformer, EncoderDecoder and LSTM. Whoever derives from it ends its constructor with `finish`.

    The same (config, seed) gives the same weights, whatever was drawn before. Made under `torch.device("meta")` a model
    holds shapes only; `materialize` gives it weights.
    """

    def __init__(self, config: Config, seed: int):
        super().__init__()
        instance(type(self).__name__, "config", config, Config, "lab.find_config(name) has published ones")
        seed = whole(type(self).__name__, "seed", seed, least=0)
        self.config, self.seed, self.place = config, seed, Place()
        self.whole: Whole | None = None  # set by whoever splits the model: see whole.py
        self.embedding = Embedding(config)
        self.cross_entropy = partial(cross_entropy, label_smoothing=config.label_smoothing)

    def finish(self) -> None:
        """Add the output layer, draw all weights, and tell each dropout what its mask is drawn from."""
        self.head = Linear(self.config.d_model, self.config.vocab_size, False, self.config.dtype)
        self.tie()
        draw_weights(self, self.config, self.seed)
        settle(self, self.seed, self.place)

    def tie(self) -> None:
        """Let the output layer read the embedding's own table, if the config says so (Press and Wolf 2017)."""
        if self.config.tie_embeddings:
            self.head.weight = self.embedding.token.weight

    @property
    def tied(self) -> bool:
        """Whether the output layer reads the embedding's own table; a part of a model may hold only one of the two."""
        table = getattr(getattr(self.embedding, "token", None), "weight", None)
        return table is not None and getattr(self.head, "weight", None) is table

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> LanguageModel:
        """Move or convert the weights, keeping a tied table one: to and from the meta device torch makes two of it."""
        tied = self.tied
        super()._apply(fn, recurse)
        if tied:
            self.tie()
        note_place(self)
        return self

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        note_place(self)  # a copied parameter has lost its notes

    def materialize(self: Model, device: torch.device | str = "cpu") -> Model:
        """Give a model made on the meta device its weights, the ones it would have had if made on `device`."""
        check_in_one_piece("materialize", self)
        self.to_empty(device=device)
        draw_weights(self, self.config, self.seed)
        return self

    def check_length(self, tokens: Tokens, before: int = 0) -> None:
        """Refuse more tokens than there are positions, `before` counting those already in a cache."""
        if not isinstance(tokens, Tensor) or tokens.dim() != 2:
            raise ValueError(f"tokens want a tensor of whole numbers [B, T], got {shape_of(tokens)}")
        length = tokens.shape[1] + before
        if length > self.config.max_seq:
            raise ValueError(f"a sequence wants at most max_seq={self.config.max_seq} tokens, got {length}")

    def rotation(self, x: Float[Tensor, "B t D"], positions: Positions | None = None) -> Rotation | None:
        """Give what the blocks turn queries and keys by, or None where positions are not rotary."""
        if self.config.position != "rotary":
            return None
        config = self.config
        return rotary(count(x, positions), config.head_dim, config.rotary_base, x.dtype, config.rotary_factors)

    def loss_of(
        self,
        logits: Float[Tensor, "B T V"],
        targets: Tokens,
        reduction: str,
        parts: Iterable[nn.Module] | None = None,
    ) -> Float[Tensor, ""]:
        """Compute the cross-entropy in nats and, with experts, add their balancing loss: of all, or of these parts."""
        loss = self.cross_entropy(logits, targets, reduction=reduction)
        balance = self.balance_loss(targets, reduction, parts)
        return loss if balance is None else loss + balance.to(loss.dtype)

    def balance_loss(
        self, targets: Tokens, reduction: str, parts: Iterable[nn.Module] | None = None
    ) -> Float[Tensor, ""] | None:
        """Add up what the mixtures of experts had to say of their balance in the last forward; None: there is none.

        To a sum over targets it is added once per target.  parts: the modules to look in (None: the whole model).
        """
        modules = (module for part in ([self] if parts is None else parts) for module in part.modules())
        found = [module.balance for module in modules if isinstance(module, MoE) and module.balance is not None]
        if not found:
            return None
        balance = self.config.balance_loss * torch.stack(found).sum()
        return balance * (targets != IGNORE).sum() if reduction == "sum" else balance
