"""Every packing read here beside the `gguf` package's own reading of it, bit for bit."""

import gguf
import numpy as np
import pytest
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType

from llmlab.model.gguf import read_gguf
from llmlab.model.quantised import PACKINGS, UNREAD

PACKED = [kind for kind in PACKINGS if PACKINGS[kind].name not in ("F64", "F32", "F16")]
NAMED = [PACKINGS[kind].name for kind in PACKED]


def random_bytes(kind, rows, seed=0):
    """Make blocks of any bits: every field takes all its values, the scales nan and infinity among them."""
    shape = (rows, PACKINGS[kind].nbytes)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def same_bits(ours, theirs):
    assert ours.dtype == theirs.dtype == np.float32
    finite = np.isfinite(theirs)
    assert (np.isnan(ours) == np.isnan(theirs)).all() and (ours == theirs)[~np.isnan(theirs)].all()
    assert finite.mean() > 0.5 and len(np.unique(theirs[finite])) > 500


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning", "ignore:overflow:RuntimeWarning")
@pytest.mark.parametrize("kind", PACKED, ids=NAMED)
def test_blocks_of_any_bits_mean_what_gguf_says(kind):
    raw = random_bytes(kind, 1000)
    theirs = gguf.quants.dequantize(raw, GGMLQuantizationType(kind))
    same_bits(PACKINGS[kind].unpack(raw), theirs.reshape(1000, PACKINGS[kind].numbers))


@pytest.mark.filterwarnings("ignore:invalid value:RuntimeWarning", "ignore:overflow:RuntimeWarning")
@pytest.mark.parametrize("kind", PACKED, ids=NAMED)
def test_a_file_that_gguf_wrote_is_read_as_gguf_reads_it(tmp_path, kind):
    packing, rows = PACKINGS[kind], 96 if PACKINGS[kind].numbers > 1 else 2000
    raw = random_bytes(kind, 3 * rows, seed=1).reshape(rows, 3 * packing.nbytes)
    writer = gguf.GGUFWriter(tmp_path / "w.gguf", "llama")
    writer.add_tensor("before", np.arange(5, dtype=np.float32))
    writer.add_tensor("w", raw, raw_dtype=GGMLQuantizationType(kind))
    for write in (writer.write_header_to_file, writer.write_kv_data_to_file, writer.write_tensors_to_file):
        write()
    writer.close()
    stored = read_gguf(tmp_path / "w.gguf").tensors["w"]
    assert stored.shape == (rows, 3 * packing.numbers)
    same_bits(stored.read().numpy(), gguf.quants.dequantize(raw, GGMLQuantizationType(kind)))


@pytest.mark.parametrize("name", ["Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"])
def test_weights_that_gguf_packed_come_back_as_near_as_their_bits_allow(name):
    weights = np.random.default_rng(0).normal(size=(50, 64)).astype(np.float32)
    kind = GGMLQuantizationType[name]
    packing = PACKINGS[kind.value]
    raw = gguf.quants.quantize(weights, kind).reshape(-1, packing.nbytes)
    off = np.abs(packing.unpack(raw).reshape(weights.shape) - weights).max()
    # a block's numbers reach from -m to m, m < 4.5: a step is 2m / 2^bits; the one-sided types may miss by a whole one
    assert off <= 9 / 2 ** int(name[1])


def test_numbers_on_their_own_are_read_exactly():
    numbers = np.array([0.0, -1.5, 1e-3, 65504.0])
    for kind, dtype in ((28, "<f8"), (0, "<f4"), (1, "<f2")):
        raw = numbers.astype(dtype).view(np.uint8).reshape(4, -1)
        assert (PACKINGS[kind].unpack(raw)[:, 0] == numbers.astype(dtype).astype(np.float32)).all()


def test_sizes_and_names_are_those_of_gguf():
    for kind, packing in PACKINGS.items():
        theirs = GGMLQuantizationType(kind)
        assert (packing.name, (packing.numbers, packing.nbytes)) == (theirs.name, GGML_QUANT_SIZES[theirs])
    others = {kind.value: kind.name for kind in GGMLQuantizationType if kind.value not in PACKINGS}
    assert others.items() <= UNREAD.items()


@pytest.mark.parametrize("kind", PACKED, ids=NAMED)
def test_a_tensor_of_no_rows_has_no_numbers(kind):
    assert PACKINGS[kind].unpack(np.zeros((0, PACKINGS[kind].nbytes), np.uint8)).shape == (0, PACKINGS[kind].numbers)
