"""GGUF: tiny files written here, their blocks taken apart a second time in plain NumPy, and damage refused."""

import struct

import numpy as np
import pytest
import torch

from llmlab.model.gguf import read_gguf

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
        (replaced(ROW, PLACE, struct.pack("<QIQ", 8, 12, 0)), r"packed as one of F32 \(0\), .*got type 12"),
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
