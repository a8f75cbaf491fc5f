"""A recurrent baseline: the LSTM (Hochreiter and Schmidhuber 1997; with a forget gate, Gers et al. 2000).

    i, f, o = sigmoid(W x_t + U h_{t-1} + b), one set of weights each;   g = tanh(of its own set)
    c_t = f * c_{t-1} + i * g;   h_t = o * tanh(c_t)

Step t needs h_{t-1}: only the products W x_t of all steps are computed at once, the rest goes one step after another.

No norm lifts small numbers up here, so weights begin as in torch.nn: with the Transformer's own start, of standard
deviation 0.02, an LSTM learns next to nothing in its first hundred steps.
"""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor, nn

from llmlab.model.config import Config
from llmlab.model.dropout import Dropout
from llmlab.model.initial import key_of
from llmlab.model.language_model import LanguageModel, Tokens
from llmlab.model.layers import Linear

State = tuple[Tensor, Tensor]  # h and c, each [B, D]


class LSTMLayer(nn.Module):
    """One layer over a whole sequence. The four sets of weights are stacked as i, f, g, o, as in torch.nn.LSTM."""

    def __init__(self, d_in: int, d_model: int, dtype: torch.dtype):
        super().__init__()
        self.input = Linear(d_in, 4 * d_model, True, dtype)
        self.recurrent = Linear(d_model, 4 * d_model, False, dtype)

    def forward(self, x: Float[Tensor, "B T I"], state: State | None = None) -> tuple[Float[Tensor, "B T D"], State]:
        inputs = self.input(x)  # [B, T, 4 D], all steps at once
        zero = x.new_zeros(x.shape[0], inputs.shape[-1] // 4)
        h, c = (zero, zero) if state is None else state
        outputs = []
        for step in inputs.unbind(1):
            i, f, g, o = (step + self.recurrent(h)).chunk(4, dim=-1)
            c = f.sigmoid() * c + i.sigmoid() * g.tanh()
            h = o.sigmoid() * c.tanh()
            outputs.append(h)
        return torch.stack(outputs, dim=1), (h, c)


class LSTM(LanguageModel):
    """Tokens to logits, [B, T] -> [B, T, V], with n_layer LSTM layers where a Transformer has its blocks.

    Give position="none": an LSTM counts by itself. What the config says of heads, norms and MLPs is not used. It
    learns faster with tie_embeddings=False, for a table that is an output layer as well has to begin with small rows.
    """

    def __init__(self, config: Config, seed: int = 0):
        super().__init__(config, seed)
        d, layers = config.d_model, range(config.n_layer)
        self.layers = nn.ModuleList(LSTMLayer(d, d, config.dtype) for _ in layers)
        self.dropouts = nn.ModuleList(Dropout(config.dropout) for _ in layers)
        self.finish()
        self.start()

    @torch.no_grad()
    def start(self) -> None:
        """Draw the weights as torch.nn does: rows from N(0, 1), all else uniform up to 1/sqrt(D) either way.

        A tied table is drawn from N(0, 1/D), so that logits begin no larger than with an output layer of their own.
        """
        bound = self.config.d_model**-0.5
        for name, weight in self.named_parameters():
            if weight.is_meta:
                continue
            drawn = torch.empty(weight.shape, dtype=torch.float32, device="cpu")
            generator = torch.Generator("cpu").manual_seed(key_of(self.seed, name))
            if name.startswith("embedding"):
                drawn.normal_(0.0, bound if self.tied else 1.0, generator=generator)
            else:
                drawn.uniform_(-bound, bound, generator=generator)
            weight.copy_(drawn)

    def materialize(self, device: torch.device | str = "cpu") -> LSTM:
        """Give a model made on the meta device its weights, the ones it would have had if made on `device`."""
        super().materialize(device)
        self.start()
        return self

    def forward(self, tokens: Tokens) -> Float[Tensor, "B T V"]:
        self.check_length(tokens)
        x = self.embedding(tokens)
        for layer, dropout in zip(self.layers, self.dropouts, strict=True):
            x = dropout(layer(x)[0])
        return self.head(x)

    def loss(self, tokens: Tokens, targets: Tokens, reduction: str = "mean") -> Float[Tensor, ""]:
        """Compute the cross-entropy in nats over the target tokens."""
        return self.loss_of(self(tokens), targets, reduction)
