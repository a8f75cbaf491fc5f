"""GGUF: tiny files written here, their blocks taken apart a second time in plain NumPy, and damage refused."""

import random
import struct

import gguf
import numpy as np
import pytest
import torch
import transformers as hf  # a name of it is imported when it is used: only where these tests run
from tokenizers import Tokenizer

from llmlab.model import Config, Transformer
from llmlab.model.gguf import read_gguf
from llmlab.model.pretrained import gguf_tokenizer, load_pretrained
from llmlab.text import BPE
from llmlab.text.published import spell, tokenizer_json
from llmlab.text.sentencepiece import BYTES

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
    np.testing.assert_array_equal(stored.read().numpy(), numbers.reshape(3, 64))


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


# --- tokenizers -------------------------------------------------------------------------------------------------------

TEXTS = [
    *(
        "the cat's thing",
        "  I'LL don'T (see) 12345  ",
        "naïve 今天 ½ \n\n\t x_1",
        " " * 50,
        "a" * 33,
        "<|end|>the",
        "e\u0301",
    ),
    "".join(random.Random(0).choices("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/", k=500)),
]


@pytest.mark.parametrize(
    "pre, pattern", [("llama-bpe", "llama3"), ("qwen2", "qwen2"), ("smollm", "digits"), ("gpt-2", "gpt2")]
)
def test_a_byte_level_tokenizer_gives_the_ids_of_tokenizers(pre, pattern):
    whole = pattern == "llama3"
    trained = BPE.train(["the cat and the dog, don't see 12345 things I'll"] * 3, 300, ["<|end|>"], pattern)
    vocab = [*trained.vocab[:-1], b"unreachable", b"<|end|>"]  # no merges lead there: only a whole piece can be it
    bpe = BPE(vocab, trained.merges, {"<|end|>": len(vocab) - 1}, pattern, whole_pieces=whole)
    facts = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": [*map(spell, vocab[:-1]), "<|end|>"],
        "tokenizer.ggml.token_type": [1] * (len(vocab) - 1) + [3],
        "tokenizer.ggml.merges": [f"{spell(a)} {spell(b)}" for a, b in bpe.merges],
    }
    read, theirs = gguf_tokenizer(facts), Tokenizer.from_str(tokenizer_json(bpe))
    for text in [*TEXTS, "unreachable"]:
        assert read.encode(text, specials=True) == theirs.encode(text).ids
    assert read.encode("unreachable") == ([len(vocab) - 2] if whole else bpe.encode("unreachable"))
    assert (len(read.encode("unreachable")) == 1) == whole


PIECES = [
    "<unk>",
    "<s>",
    "</s>",
    *BYTES,
    "▁t",
    "he",
    "▁the",
    "▁▁",
    "▁▁▁▁",
    "in",
    "ing",
    "aa",
    *"▁thecaindog",
    "<|end|>",
]


def test_a_sentencepiece_tokenizer_gives_the_ids_of_transformers(tmp_path):
    ordinary = range(259, len(PIECES) - 1)
    writer = gguf.GGUFWriter(tmp_path / "t.gguf", "llama")
    writer.add_tokenizer_model("llama")
    writer.add_token_list(PIECES)
    writer.add_token_scores([0.0] * 259 + [-float(i) for i in range(len(ordinary))] + [0.0])
    writer.add_token_types([2, 3, 3] + [6] * 256 + [1] * len(ordinary) + [4])
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
        write()
    writer.close()
    read = gguf_tokenizer(read_gguf(tmp_path / "t.gguf").facts)
    vocab = {piece: i for i, piece in enumerate(PIECES)}
    splits = [(p[:i], p[i:]) for p in map(PIECES.__getitem__, ordinary) for i in range(1, len(p))]
    merges = [(a, b) for a, b in splits if vocab.get(a, 0) >= 259 and vocab.get(b, 0) >= 259]
    theirs = hf.LlamaTokenizer(vocab=vocab, merges=merges)
    for text in [text for text in TEXTS if text[0] not in " <"]:
        assert read.encode(text) == theirs.encode(text, add_special_tokens=False)
    assert read.encode("<|end|></s>", specials=True) == [len(PIECES) - 1, 2] and 2 not in read.encode("</s>")
    assert (
        read.prefix == "every" and gguf_tokenizer({**BARE, "tokenizer.ggml.add_space_prefix": False}).prefix == "none"
    )


BARE = {
    **{"tokenizer.ggml.model": "llama", "tokenizer.ggml.tokens": BYTES, "tokenizer.ggml.token_type": [6] * 256},
    "tokenizer.ggml.scores": [0.0] * 256,
}


def test_a_sentencepiece_tokenizer_that_changes_text_first_is_refused():
    with pytest.raises(ValueError, match="must take text as it is"):
        gguf_tokenizer({**BARE, "tokenizer.ggml.remove_extra_whitespaces": True})


# --- a whole model ----------------------------------------------------------------------------------------------------

NAMES = {
    **{"attention_norm": "attn_norm", "attention.query": "attn_q", "attention.key": "attn_k"},
    **{"attention.value": "attn_v", "attention.output": "attn_output", "mlp_norm": "ffn_norm"},
    **{"mlp.gate": "ffn_gate", "mlp.up": "ffn_up", "mlp.down": "ffn_down"},
}
SPELLED = [spell(bytes([byte])) for byte in range(256)]
FACTS = {
    **{"general.architecture": "llama", "llama.block_count": 2, "llama.context_length": 16},
    **{"llama.embedding_length": 32, "llama.feed_forward_length": 24, "llama.attention.head_count": 4},
    **{"llama.attention.head_count_kv": 2, "llama.rope.freq_base": 500.0, "llama.rope.dimension_count": 8},
    **{
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": ["<end>", *SPELLED, "th"],
    },
    **{"tokenizer.ggml.token_type": [3] + [1] * 257, "tokenizer.ggml.merges": ["t h"]},
}


def as_stored(name, weight):
    """Put the rows of queries and keys in the file's order: (0, K/2, 1, K/2 + 1 ...) of each head's K = 8."""
    if "attn_q" in name or "attn_k" in name:
        weight = weight[[8 * head + row for head in range(len(weight) // 8) for row in (0, 4, 1, 5, 2, 6, 3, 7)]]
    return tuple(weight.shape), F32, weight.detach().numpy().tobytes()


def llama(tied, **options):
    sizes = {"vocab_size": 258, "d_model": 32, "n_layer": 2, "n_head": 4, "n_kv_head": 2, "d_ff": 24, "max_seq": 16}
    kinds = {"norm": "rmsnorm", "mlp": "swiglu", "position": "rotary", "rotary_base": 500.0, "bias": False}
    model = Transformer(Config(**sizes, **kinds, tie_embeddings=tied, **options), seed=5)
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


def loaded_from(tmp_path, tensors, **facts):
    (tmp_path / "llama.gguf").write_bytes(gguf_bytes(tensors, {**FACTS, **facts}))
    return load_pretrained(tmp_path / "llama.gguf")[0]


def test_llama_3s_own_factors_are_read_and_used(tmp_path):
    model, tensors = llama(tied=True, rotary_factors=(1.0, 1.5, 4.0, 8.0))
    tensors["rope_freqs.weight"] = ((4,), F32, np.array([1, 1.5, 4, 8], np.float32).tobytes())
    loaded, tokens = loaded_from(tmp_path, tensors), torch.randint(258, (2, 9))
    assert loaded.config == model.config and torch.equal(loaded(tokens), model(tokens))
    assert not torch.allclose(loaded(tokens), llama(tied=True)[0](tokens), atol=1e-4)


def test_a_linear_stretch_is_used(tmp_path):
    model, tensors = llama(tied=True, rotary_factors=(4.0,) * 4)
    loaded = loaded_from(tmp_path, tensors, **{"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0})
    assert loaded.config == model.config


def test_heads_may_be_wider_than_their_share_of_the_model(tmp_path):
    model, tensors = llama(tied=True, head_dim=16)
    tensors |= {  # the order of the rows of heads of 16
        name: as_stored_wide(name, model) for name in tensors if "attn_q" in name or "attn_k" in name
    }
    keys = {"llama.attention.key_length": 16, "llama.attention.value_length": 16, "llama.rope.dimension_count": 16}
    loaded, tokens = loaded_from(tmp_path, tensors, **keys), torch.randint(258, (2, 9))
    assert loaded.config == model.config and torch.equal(loaded(tokens), model(tokens))


def as_stored_wide(name, model):
    _, i, short, _ = name.split(".")
    weight = model.blocks[int(i)].get_parameter(
        {"attn_q": "attention.query", "attn_k": "attention.key"}[short] + ".weight"
    )
    rows = torch.arange(16).view(2, 8).T.flatten()  # 0, 8, 1, 9 ...
    weight = weight.detach().view(-1, 16, 32)[:, rows].reshape(weight.shape)
    return tuple(weight.shape), F32, weight.numpy().tobytes()


def test_a_qwen2_has_biases_and_keeps_the_order_of_rows(tmp_path):
    sizes = {"vocab_size": 258, "d_model": 32, "n_layer": 2, "n_head": 4, "n_kv_head": 2, "d_ff": 24, "max_seq": 16}
    kinds = {"norm": "rmsnorm", "mlp": "swiglu", "position": "rotary", "rotary_base": 500.0, "bias": False}
    model = Transformer(Config(**sizes, **kinds, attention_bias="qkv"))
    weights = {"token_embd.weight": model.embedding.token.weight, "output_norm.weight": model.norm.weight}
    for i, block in enumerate(model.blocks):
        for ours, theirs in NAMES.items():
            for kind, parameter in block.get_submodule(ours).named_parameters():
                torch.nn.init.normal_(parameter)
                weights[f"blk.{i}.{theirs}.{kind}"] = parameter
    tensors = {n: (tuple(w.shape), F32, w.detach().numpy().tobytes()) for n, w in weights.items()}
    facts = {name.replace("llama.", "qwen2."): value for name, value in FACTS.items()}
    facts |= {"general.architecture": "qwen2", "tokenizer.ggml.pre": "qwen2"}
    (tmp_path / "qwen.gguf").write_bytes(gguf_bytes(tensors, facts))
    loaded, tokenizer = load_pretrained(tmp_path / "qwen.gguf")
    tokens = torch.randint(258, (2, 9))
    assert loaded.config == model.config and torch.equal(loaded(tokens), model(tokens))
    assert tokenizer.pattern == "qwen2"


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
