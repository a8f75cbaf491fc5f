"""A training step of ours beside the same GPT-2 in transformers and in torch's own modules.

    python benchmarks/training_step.py [--layers 4] [--width 256] [--batch 8] [--seq 128] [--rounds 15] [--threads 1]

Forward, loss, backward and AdamW (ours with ours, the others with torch's and its defaults), in fp32. torch's modules
are nn.Embedding, nn.TransformerEncoderLayer and a tied output layer. All three hold the same weights: the losses
printed first are equal. Needs `transformers`, one of the test extras.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from gpt2 import the_same_model
from racing import Race, race, read_options, where
from torch import Tensor, nn

import llmlab as lab
from llmlab import optim
from llmlab.model.mlp import gelu_tanh

VOCAB = 2048


class TorchModel(nn.Module):
    """GPT-2 out of what torch ships, with the weights of ours."""

    def __init__(self, ours: lab.Transformer):
        super().__init__()
        sizes = ours.config
        d, heads = sizes.d_model, sizes.n_head
        self.token, self.position = nn.Embedding(sizes.vocab_size, d), nn.Embedding(sizes.max_seq, d)
        layer = nn.TransformerEncoderLayer(
            d, heads, sizes.d_ff, dropout=0.0, activation=gelu_tanh, batch_first=True, norm_first=True
        )
        self.blocks = nn.TransformerEncoder(layer, sizes.n_layer, nn.LayerNorm(d), enable_nested_tensor=False)
        self.head = nn.Linear(d, sizes.vocab_size, bias=False)
        self.head.weight = self.token.weight
        self.register_buffer("mask", nn.Transformer.generate_square_subsequent_mask(sizes.max_seq))
        copy_weights(ours, self)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.token(tokens) + self.position.weight[: tokens.shape[1]]
        return self.head(self.blocks(x, mask=self.mask, is_causal=True))


@torch.no_grad()
def copy_weights(ours: lab.Transformer, theirs: TorchModel) -> None:
    """Give torch's modules our weights; query, key and value lie in one matrix there."""
    pairs = [
        (ours.embedding.token, theirs.token),
        (ours.embedding.position, theirs.position),
        (ours.norm, theirs.blocks.norm),
    ]
    for block, layer in zip(ours.blocks, theirs.blocks.layers, strict=True):
        attention = block.attention
        for kind in ("weight", "bias"):
            parts = [getattr(linear, kind) for linear in (attention.query, attention.key, attention.value)]
            getattr(layer.self_attn, f"in_proj_{kind}").copy_(torch.cat(parts))
        pairs += [(attention.output, layer.self_attn.out_proj), (block.mlp.up, layer.linear1)]
        pairs += [(block.mlp.down, layer.linear2), (block.attention_norm, layer.norm1), (block.mlp_norm, layer.norm2)]
    for mine, other in pairs:
        other.load_state_dict(mine.state_dict())


def step(model: nn.Module, optimizer: torch.optim.Optimizer | None, loss: Callable[[], Tensor]) -> Callable[[], float]:
    def take() -> float:
        model.zero_grad()
        value = loss()
        value.backward()
        if optimizer is not None:
            optimizer.step()
        return value.item()

    return take


def losses(layers: int, width: int, batch: int, seq: int) -> dict[str, tuple[nn.Module, Callable[[], Tensor]]]:
    """The same model three times, and what gives its loss on the same tokens."""
    ours, theirs = the_same_model(VOCAB, width, layers, seq)
    plain = TorchModel(ours)
    tokens = torch.randint(0, VOCAB, (batch, seq), generator=torch.Generator().manual_seed(0))
    targets = torch.cat((tokens[:, 1:], torch.full((batch, 1), -100)), dim=1)
    found = {
        "ours": (ours.train(), lambda: ours.loss(tokens, targets)),
        "transformers": (theirs.train(), lambda: theirs(tokens, labels=tokens, use_cache=False).loss),
        "torch's modules": (plain, lambda: F.cross_entropy(plain(tokens).flatten(0, 1), targets.flatten())),
    }
    print(f"{ours.config.n_param:,} parameters, {batch} x {seq} tokens, fp32")
    print("loss before the first step:", {name: round(loss().item(), 4) for name, (_, loss) in found.items()})
    return found


def races(rounds: int, layers: int = 4, width: int = 256, batch: int = 8, seq: int = 128) -> dict[str, Race]:
    """Race forward and backward, then the whole step."""
    models = losses(layers, width, batch, seq)
    makers = {"ours": optim.AdamW, "transformers": torch.optim.AdamW, "torch's modules": torch.optim.AdamW}
    steps = {
        name: step(model, makers[name](model.parameters(), lr=1e-4), loss) for name, (model, loss) in models.items()
    }
    forward_backward = {name: step(model, None, loss) for name, (model, loss) in models.items()}
    return {
        "forward and backward": race(forward_backward, rounds),
        "training step with AdamW": race(steps, rounds),
    }


def main() -> None:
    options = read_options(__doc__, layers=4, width=256, batch=8, seq=128, rounds=15, threads=1)
    torch.set_num_threads(options.threads)
    print(f"on {where()}")
    found = races(options.rounds, options.layers, options.width, options.batch, options.seq)
    for what, result in found.items():
        print(f"\n{what}")
        result.report("ours")


if __name__ == "__main__":
    main()
