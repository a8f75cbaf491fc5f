"""Safetensors: read as the format's own package writes it, and refused when damaged."""

import json
import struct

import pytest
import torch
from safetensors.torch import save, save_file

from llmlab.model.safetensors import DTYPES, read_safetensors

F32 = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


def file_of(header, data=b"", length=None):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(text) if length is None else length).to_bytes(8, "little") + text + data


def test_all_types_and_shapes_come_back_as_they_were_saved(tmp_path):
    tensors = {f"of {name}": (torch.randn(3, 2) * 5).to(dtype) for name, dtype in DTYPES.items()}
    tensors |= {"scalar": torch.tensor(2.5), "empty": torch.zeros(0, 3)}
    save_file(tensors, tmp_path / "a.safetensors", {"some": "metadata"})
    for source in (tmp_path / "a.safetensors", save(tensors)):
        stored = read_safetensors(source)
        assert stored.keys() == tensors.keys()
        for name, tensor in tensors.items():
            read = stored[name].read()
            assert stored[name].shape == tensor.shape and read.dtype == tensor.dtype and torch.equal(read, tensor)


def test_numbers_need_not_be_aligned():
    raw = file_of({"a": {"dtype": "F64", "shape": [1], "data_offsets": [0, 8]}}, struct.pack("<d", 7.5))
    assert (len(raw) - 8) % 8 and read_safetensors(raw)["a"].read().item() == 7.5


@pytest.mark.parametrize("kept", [0, 3, 8, 20, 200, -1])
def test_a_file_cut_off_anywhere_is_refused(tmp_path, kept):
    raw = save({"a": torch.randn(20), "b": torch.randn(4)})
    (tmp_path / "a.safetensors").write_bytes(raw[:kept])
    with pytest.raises(ValueError, match=r"a\.safetensors"):
        read_safetensors(tmp_path / "a.safetensors")


@pytest.mark.parametrize(
    "raw, message",
    [
        (file_of({"a": F32}, bytes(8), length=1 << 60), "length of its header, at most the"),
        (file_of(b"{nonsense}", bytes(8)), "header in JSON"),
        (file_of(b"[" * 100_000), "header in JSON"),
        (file_of(b'{"a": 1, "a": 2}'), "'a' twice"),
        (file_of([1, 2]), "names its tensors, got list"),
        (file_of({"a": F32}, bytes(9)), "must end with its last tensor at byte 8 of the data, got 1 more"),
        (file_of({"a": F32, "b": F32}, bytes(8)), "must begin at byte 8 of the data, got 0"),
        (file_of({"a": {**F32, "data_offsets": [4, 12]}}, bytes(12)), "must begin at byte 0 of the data, got 4"),
        (file_of({"a": {**F32, "shape": [3]}}, bytes(8)), "takes 12 bytes, got 8"),
        (file_of({"a": {**F32, "shape": [-1, -2]}}, bytes(8)), "sizes and offsets that count"),
        (file_of({"a": {**F32, "shape": [2.0]}}, bytes(8)), "sizes and offsets that count"),
        (file_of({"a": {**F32, "dtype": "F8_E4M3"}}, bytes(8)), "type among F64, .*got 'F8_E4M3'"),
        (file_of({"a": {**F32, "dtype": ["F32"]}}, bytes(8)), "type among"),
        (file_of({"a": {"dtype": "F32"}}, bytes(8)), "dtype, shape and two data_offsets"),
        (file_of({"a": 5}, bytes(8)), "dtype, shape and two data_offsets"),
    ],
)
def test_a_header_that_cannot_be_is_refused(raw, message):
    with pytest.raises(ValueError, match=message):
        read_safetensors(raw)


def test_every_flipped_byte_of_a_header_is_refused_or_changes_only_a_name():
    raw = save({"a": torch.arange(6.0)})
    end = 8 + int.from_bytes(raw[:8], "little")
    for i in range(end):
        try:
            stored = read_safetensors(raw[:i] + bytes([raw[i] ^ 0x55]) + raw[i + 1 :])
        except ValueError:
            continue
        assert all(tensor.read().numel() * 4 == 24 for tensor in stored.values())
