"""GGUF: tiny files written here, their blocks taken apart a second time in plain NumPy, and damage refused."""

import struct

import numpy as np
import pytest
import torch

from llmlab.model import Config, Transformer
from llmlab.model.gguf import read_gguf
from llmlab.model.pretrained import load_pretrained
from llmlab.text.published import spell

F32, F16, Q4_1, Q8_0 = 0, 1, 3, 8
NUMBERS = {int: ("I", 4), float: ("f", 6), bool: ("?", 7)}


def text(value):
    return struct.pack("<Q", len(value.encode())) + value.encode()


def fact(value):
    if isinstance(value, str):
        return struct.pack("<I", 8) + text(value)
    if isinstance(value, list):
        items = [fact(item) for item in value]
        return struct.pack("<I", 9) + items[0][:4] + struct.pack("<Q", len(value)) + b"".join(i[4:] for i in items)
    form, kind = NUMBERS[type(value)]
    return struct.pack("<I" + form, kind, value)


def gguf_bytes(tensors, facts=None, alignment=32, version=3):
    """Write a file. tensors: (shape, type, bytes) by name."""
    facts = {"general.alignment": alignment, **(facts or {})}
    head = b"GGUF" + struct.pack("<IQQ", version, len(tensors), len(facts))
    head += b"".join(text(name) + fact(value) for name, value in facts.items())
    data = b""
    for name, (shape, kind, raw) in tensors.items():
        head += text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape[::-1], kind, len(data))
        data += raw + bytes(-len(raw) % alignment)
    return head + bytes(-len(head) % alignment) + data


def blocks(kind, n):
    """Make random blocks, and what they mean, number by number."""
    rng = np.random.default_rng(0)
    d, m = rng.normal(size=(2, n)).astype(np.float16)
    raw, numbers = b"", []
    for i in range(n):
        if kind == Q4_1:
            q = rng.integers(0, 16, 32)
            raw += d[i].tobytes() + m[i].tobytes() + bytes(int(q[j]) | int(q[j + 16]) << 4 for j in range(16))
            numbers += [np.float32(d[i]) * np.float32(x) + np.float32(m[i]) for x in q]
        else:
            q = rng.integers(-128, 128, 32)
            raw += d[i].tobytes() + q.astype(np.int8).tobytes()
            numbers += [np.float32(d[i]) * np.float32(x) for x in q]
    return raw, np.array(numbers, dtype=np.float32)


@pytest.mark.parametrize("kind", [Q4_1, Q8_0])
def test_blocks_mean_what_numpy_makes_of_them(kind):
    raw, numbers = blocks(kind, 6)
    stored = read_gguf(gguf_bytes({"w": ((3, 64), kind, raw)})).tensors["w"]
    assert stored.shape == (3, 64)
    # one product and one sum, which may be fused into a single rounding: the product's own, at most 2^-24 of it
    np.testing.assert_allclose(stored.read().numpy(), numbers.reshape(3, 64), rtol=0, atol=2**-24 * 15 * 4)


def test_plain_numbers_and_facts_come_back_from_bytes_and_from_a_file(tmp_path):
    a, b = torch.randn(3, 5), torch.randn(7).half()
    facts = {"name": "tiny", "layers": 3, "eps": 0.5, "yes": True, "words": ["a", "ça"], "kinds": [1, 3]}
    raw = gguf_bytes({"a": ((3, 5), F32, a.numpy().tobytes()), "b": ((7,), F16, b.numpy().tobytes())}, facts, 64)
    (tmp_path / "tiny.gguf").write_bytes(raw)
    for source in (raw, tmp_path / "tiny.gguf"):
        file = read_gguf(source)
        assert file.facts == {"general.alignment": 64, **facts}
        assert torch.equal(file.tensors["a"].read(), a) and torch.equal(file.tensors["b"].read(), b.float())


def test_a_file_cut_off_anywhere_is_refused():
    raw = gguf_bytes({"w": ((2, 32), Q8_0, blocks(Q8_0, 2)[0]), "v": ((8,), F32, bytes(32))}, {"words": ["a", "b"]})
    for kept in range(len(raw)):
        with pytest.raises(ValueError, match="the file of weights"):
            read_gguf(raw[:kept])


def replaced(tensors, old, new, **options):
    raw = gguf_bytes(tensors, **options)
    assert raw.count(old) == 1
    return raw.replace(old, new)


ROW = {"w": ((8,), F32, bytes(32))}
PLACE = struct.pack("<QIQ", 8, F32, 0)  # the shape, type and offset of ROW


@pytest.mark.parametrize(
    "raw, message",
    [
        (b"GGML" + gguf_bytes(ROW)[4:], "begin with GGUF, got b'GGML'"),
        (gguf_bytes(ROW, version=1), "version 2 or 3, little-endian; got 1"),
        (gguf_bytes(ROW, version=3 << 24), "version 2 or 3"),
        (replaced(ROW, PLACE, struct.pack("<QIQ", 8, 29, 0)), "packed as one of F32, .*Q4_K.*; got IQ1_M"),
        (replaced(ROW, PLACE, struct.pack("<QIQ", 8, 99, 0)), "packed as one of .*got type 99"),
        (replaced(ROW, PLACE, struct.pack("<QIQ", 8, Q8_0, 0)), "whole blocks of 32, got 8 numbers"),
        (replaced(ROW, PLACE, struct.pack("<QIQ", 8, F32, 1 << 60)), "it was cut off"),
        (replaced(ROW, PLACE, struct.pack("<QIQ", 1 << 60, F32, 0)), "it was cut off"),
        (replaced(ROW, b"w" + struct.pack("<I", 1), b"w" + struct.pack("<I", 9)), "at most 4 dimensions, got 9"),
        (gguf_bytes({"w": ROW["w"], "v": ROW["w"]}).replace(text("v"), text("w")), "'w' twice"),
        (
            gguf_bytes({"w": ROW["w"], "v": ROW["w"]}).replace(struct.pack("<QIQ", 8, F32, 32), PLACE),
            "begin at byte 32",
        ),
        (replaced(ROW, fact(32), struct.pack("<II", 13, 32)), "of a type from 0 to 12"),
        (replaced(ROW, fact(32), fact(0)), "alignment must be an integer of at least 1, got 0"),
        (
            replaced(ROW, fact("word"), struct.pack("<IQ", 8, 1 << 63) + b"word", facts={"x": "word"}),
            "bytes after byte",
        ),
        (
            replaced(ROW, fact([1, 2]), struct.pack("<IIQII", 9, 4, 1 << 61, 1, 2), facts={"x": [1, 2]}),
            "bytes after byte",
        ),
        (replaced(ROW, fact("word"), struct.pack("<IQ", 8, 4) + b"\xff\xff\xff\xff", facts={"x": "word"}), "UTF-8"),
    ],
)
def test_a_file_that_cannot_be_is_refused(raw, message):
    with pytest.raises(ValueError, match=message):
        read_gguf(raw)


# --- a whole model ----------------------------------------------------------------------------------------------------

NAMES = {
    **{"attention_norm": "attn_norm", "attention.query": "attn_q", "attention.key": "attn_k"},
    **{"attention.value": "attn_v", "attention.output": "attn_output", "mlp_norm": "ffn_norm"},
    **{"mlp.gate": "ffn_gate", "mlp.up": "ffn_up", "mlp.down": "ffn_down"},
}
BYTES = [spell(bytes([byte])) for byte in range(256)]
FACTS = {
    **{"general.architecture": "llama", "llama.block_count": 2, "llama.context_length": 16},
    **{"llama.embedding_length": 32, "llama.feed_forward_length": 24, "llama.attention.head_count": 4},
    **{"llama.attention.head_count_kv": 2, "llama.rope.freq_base": 500.0, "llama.rope.dimension_count": 8},
    **{
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": ["<end>", *BYTES, "th"],
    },
    **{"tokenizer.ggml.token_type": [3] + [1] * 257, "tokenizer.ggml.merges": ["t h"]},
}


def as_stored(name, weight):
    """Put the rows of queries and keys in the file's order: (0, K/2, 1, K/2 + 1 ...) of each head's K = 8."""
    if "attn_q" in name or "attn_k" in name:
        weight = weight[[8 * head + row for head in range(len(weight) // 8) for row in (0, 4, 1, 5, 2, 6, 3, 7)]]
    return tuple(weight.shape), F32, weight.detach().numpy().tobytes()


def llama(tied):
    sizes = {"vocab_size": 258, "d_model": 32, "n_layer": 2, "n_head": 4, "n_kv_head": 2, "d_ff": 24, "max_seq": 16}
    kinds = {"norm": "rmsnorm", "mlp": "swiglu", "position": "rotary", "rotary_base": 500.0, "bias": False}
    model = Transformer(Config(**sizes, **kinds, tie_embeddings=tied), seed=5)
    weights = {"token_embd.weight": model.embedding.token.weight, "output_norm.weight": model.norm.weight}
    if not tied:
        weights["output.weight"] = model.head.weight
    for i, block in enumerate(model.blocks):
        weights |= {f"blk.{i}.{theirs}.weight": block.get_parameter(f"{ours}.weight") for ours, theirs in NAMES.items()}
    return model, {name: as_stored(name, weight) for name, weight in weights.items()}


@pytest.mark.parametrize("tied", [True, False])
def test_a_llama_and_its_tokenizer_come_out_of_one_file(tmp_path, tied):
    model, tensors = llama(tied)
    (tmp_path / "llama.gguf").write_bytes(gguf_bytes(tensors, FACTS))
    loaded, tokenizer = load_pretrained(tmp_path / "llama.gguf")
    tokens = torch.randint(258, (2, 9))
    assert loaded.config == model.config and torch.equal(loaded(tokens), model(tokens))
    assert tokenizer.pattern == "digits" and tokenizer.encode("th<end>", specials=True) == [257, 0]


@pytest.mark.parametrize(
    "facts, lost, message",
    [
        ({"general.architecture": "mamba"}, None, "general.architecture must be one of llama, qwen2; got 'mamba'"),
        ({"llama.rope.scaling.type": "yarn"}, None, "scaling.type must be none or linear, got 'yarn'"),
        ({"llama.rope.dimension_count": 2}, None, "dimension_count must be 8"),
        ({"llama.embedding_length": "32"}, None, "embedding_length must be an integer"),
        ({"llama.block_count": 1 << 30}, None, "1073741824 layers need more tensors than the 20 stored"),
        ({"tokenizer.ggml.pre": "tekken"}, None, "cuts like 'tekken'"),
        ({"tokenizer.ggml.model": "t5"}, None, "got 't5' that cuts"),
        (
            {"tokenizer.ggml.model": "llama"},
            None,
            "must come as tokens, token_type and merges .or scores., got KeyError",
        ),
        ({"llama.expert_count": 8}, None, "expert_count must be 0"),
        ({"llama.attention.sliding_window": 8}, None, "sliding_window must be at least context_length=16"),
        ({"tokenizer.ggml.merges": 3}, None, "must come as tokens, token_type and merges"),
        ({}, "blk.1.ffn_up.weight", r"1 missing: \['blk\.1\.ffn_up\.weight'\]"),
    ],
)
def test_a_model_that_is_not_known_or_not_whole_is_refused(tmp_path, facts, lost, message):
    tensors = {name: tensor for name, tensor in llama(tied=True)[1].items() if name != lost}
    (tmp_path / "llama.gguf").write_bytes(gguf_bytes(tensors, {**FACTS, **facts}))
    with pytest.raises(ValueError, match=message):
        load_pretrained(tmp_path / "llama.gguf")
