"""Encoder-decoder against nn.Transformer's layers and the whole of it, and what each side may see."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from llmlab.model import Config, DecoderBlock, EncoderDecoder, padding_mask, shifted_right


def copy_attention(ours, theirs):
    parts = (ours.query, ours.key, ours.value)
    theirs.in_proj_weight.data = torch.cat([part.weight.data for part in parts])
    theirs.in_proj_bias.data = torch.cat([part.bias.data for part in parts])
    copy_linear(ours.output, theirs.out_proj)


def copy_linear(ours, theirs):
    theirs.weight.data, theirs.bias.data = ours.weight.data.clone(), ours.bias.data.clone()


def copy_block(block, theirs):
    copy_attention(block.attention, theirs.self_attn)
    norms = [block.attention_norm, block.mlp_norm]
    if isinstance(block, DecoderBlock):
        copy_attention(block.cross, theirs.multihead_attn)
        norms.insert(1, block.cross_norm)
    for i, norm in enumerate(norms, start=1):
        copy_linear(norm, getattr(theirs, f"norm{i}"))
    copy_linear(block.mlp.up, theirs.linear1)
    copy_linear(block.mlp.down, theirs.linear2)


def randomize(module):
    for p in module.parameters():
        nn.init.normal_(p, std=0.5)


@settings(max_examples=10)
@given(
    B=st.integers(1, 3),
    T=st.integers(1, 7),
    S=st.integers(1, 7),
    heads=st.integers(1, 3),
    K=st.integers(2, 4),
    norm_first=st.booleans(),
    dtype=st.sampled_from([torch.float64, torch.float32]),
)
def test_a_decoder_block_equals_torchs_decoder_layer(agree, B, T, S, heads, K, norm_first, dtype):
    D = heads * K
    block = DecoderBlock(Config(8, D, 1, heads, 16, norm_first=norm_first, mlp="relu", dtype=dtype))
    randomize(block)
    theirs = nn.TransformerDecoderLayer(D, heads, 4 * D, 0.0, "relu", 1e-5, True, norm_first, dtype=dtype)
    copy_block(block, theirs)
    x, memory = (torch.randn(B, n, D, dtype=dtype, requires_grad=True) for n in (T, S))
    lengths = torch.randint(1, S + 1, (B,))
    ours_out = block(x, memory=memory, memory_mask=padding_mask(lengths, S))
    causal = torch.ones(T, T, dtype=torch.bool).triu(1)
    their_out = theirs(x, memory, tgt_mask=causal, memory_key_padding_mask=torch.arange(S) >= lengths[:, None])
    pairs = [
        (out, *torch.autograd.grad(out.pow(2).sum(), (x, memory, weight)))
        for out, weight in ((ours_out, block.cross.output.weight), (their_out, theirs.multihead_attn.out_proj.weight))
    ]
    agree(*pairs, terms=4 * D * B * max(T, S))


def test_the_whole_equals_torchs_transformer(agree):
    config = Config(30, 12, 2, 3, 10, mlp="relu", position="none", dtype=torch.float64)
    ours = EncoderDecoder(config)
    randomize(ours)
    options = {"dropout": 0.0, "batch_first": True, "norm_first": True, "dtype": torch.float64}
    norm = nn.LayerNorm(12, dtype=torch.float64)
    encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(12, 3, 48, **options), 2, norm, False)
    theirs = nn.Transformer(12, 3, num_decoder_layers=2, dim_feedforward=48, custom_encoder=encoder, **options)
    for mine, layers in ((ours.encoder, theirs.encoder.layers), (ours.decoder, theirs.decoder.layers)):
        for block, layer in zip(mine, layers, strict=True):
            copy_block(block, layer)
    copy_linear(ours.encoder_norm, theirs.encoder.norm)
    copy_linear(ours.norm, theirs.decoder.norm)
    source, target = torch.randint(30, (2, 7)), torch.randint(30, (2, 5))
    table, lengths = ours.embedding.token.weight, torch.tensor([7, 4])
    hidden = torch.arange(7) >= lengths[:, None]
    masks = {"src_key_padding_mask": hidden, "memory_key_padding_mask": hidden}
    causal = torch.ones(5, 5, dtype=torch.bool).triu(1)
    expected = theirs(table[source], table[target], tgt_mask=causal, **masks) @ table.T
    got = ours(source, target, padding_mask(lengths, 7))
    grads = [torch.autograd.grad(out.pow(2).sum(), table)[0] for out in (got, expected)]
    agree([got, grads[0]], [expected, grads[1]])


@pytest.mark.parametrize("position", ["sinusoidal", "learned", "rotary"])
def test_the_writer_sees_all_of_the_source_and_none_of_its_own_future(position):
    model = EncoderDecoder(Config(30, 12, 2, 2, 10, position=position))
    source, target = torch.randint(30, (1, 7)), torch.randint(30, (1, 5))
    logits = model(source, target)
    later = target.clone()
    later[0, 3] = (later[0, 3] + 1) % 30
    same = (model(source, later) == logits).all(-1)[0]
    assert same.tolist() == [True, True, True, False, False]
    source[0, 6] = (source[0, 6] + 1) % 30
    assert not (model(source, target) == logits).all(-1).any()


def test_it_learns_to_reverse():
    model = EncoderDecoder(Config(6, 32, 1, 4, 8), seed=1)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(80):
        source = torch.randint(1, 6, (32, 3))
        targets = source.flip(1)
        loss = model.loss(source, shifted_right(targets, 0), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[0] > 1.5  # about ln 6
    assert sum(losses[-10:]) / 10 < 0.2


def test_the_loss_leaves_padding_out(agree):
    model = EncoderDecoder(Config(30, 12, 1, 2, 10, dtype=torch.float64, label_smoothing=0.1))
    source, targets = torch.randint(30, (2, 7)), torch.randint(30, (2, 5))
    short = [model.loss(source[:1], shifted_right(targets[:1], 0), targets[:1], reduction="sum")]
    short.append(model.loss(source[1:], shifted_right(targets[1:, :3], 0), targets[1:, :3], reduction="sum"))
    targets[1, 3:] = -100
    agree([model.loss(source, shifted_right(targets, 0), targets)], [(short[0] + short[1]) / 8])
