"""Token files that ranks read their own rows of: one order for any number of ranks, from any place on."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from llmlab import text
from llmlab.text.shards import Shards, write_shards

PARTS = [(0, 40), (100, 7), (200, 1), (300, 90), (500, 33)]
DOCUMENTS = [list(range(start, start + length)) for start, length in PARTS]


@pytest.fixture
def shards(tmp_path):
    return Shards(write_shards(tmp_path / "tokens", iter(DOCUMENTS), tokens_per_file=40), verify=True)


def test_every_token_but_a_documents_first_is_a_target_once(shards) -> None:
    assert repr(shards) == "Shards(171 tokens of 5 documents in 3 files)"
    rows = shards.batches(1, 8)
    seen = [target for n in range(len(rows)) for target in rows[n].targets.flatten().tolist() if target != text.IGNORE]
    assert sorted(seen) == sorted(token for document in DOCUMENTS for token in document[1:])
    assert {path.suffix for path in shards.folder.iterdir()} == {".npy", ".json"}
    assert np.load(shards.folder / "00002.tokens.npy").dtype == np.uint16


@pytest.mark.parametrize("ranks", [2, 3, 6])
def test_ranks_together_read_what_one_would_in_the_same_order_over_epochs(shards, ranks: int) -> None:
    one = shards.batches(6, 8, seed=3)
    parts = [shards.batches(6, 8, rank=rank, ranks=ranks, seed=3) for rank in range(ranks)]
    orders = set()
    for n in range(2 * len(one) + 1):
        assert torch.cat([part[n].tokens for part in parts]).equal(one[n].tokens)
        assert torch.cat([part[n].targets for part in parts]).equal(one[n].targets)
        orders.add(str(one[n].tokens.tolist()))
    assert len(orders) == 2 * len(one) + 1  # another order in each epoch
    assert not shards.batches(6, 8, seed=4)[0].tokens.equal(one[0].tokens)


def test_it_goes_on_where_it_was_with_another_number_of_ranks(shards) -> None:
    first = shards.batches(6, 8, rank=1, ranks=2)
    going = iter(first)
    for _ in range(5):
        next(going)
    later = [shards.batches(6, 8, rank=rank, ranks=3) for rank in range(3)]
    for batches in later:
        batches.load_state_dict(first.state_dict())
    found = torch.cat([next(iter(batches)).tokens for batches in later])
    assert found.equal(shards.batches(6, 8)[5].tokens)
    with pytest.raises(ValueError, match="want the seed they were saved with, 0, got 1"):
        shards.batches(6, 8, seed=1).load_state_dict(first.state_dict())


def test_what_does_not_fit_is_told(tmp_path, shards) -> None:
    with pytest.raises(ValueError, match="a batch of 6 rows does not split over 4 ranks"):
        shards.batches(6, 8, ranks=4)
    with pytest.raises(ValueError, match="must fill a batch of 999 rows"):
        shards.batches(999, 8)
    with pytest.raises(ValueError, match="wants an empty folder"):
        write_shards(shards.folder, DOCUMENTS)
    with pytest.raises(ValueError, match="documents of token ids, each from 0 on; got"):
        write_shards(tmp_path / "bad", [[1, -2]])
    with pytest.raises(ValueError, match="wants a folder that write_shards has written"):
        Shards(tmp_path)
    file = shards.folder / "00001.tokens.npy"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)
    with pytest.raises(ValueError, match="00001.tokens.npy is not as it was written"):
        Shards(shards.folder, verify=True)
    file.write_bytes(data[:-4])
    with pytest.raises(ValueError, match="00001.tokens.npy cannot be read"):
        shards.batches(6, 8)
    np.save(file, np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match="00001.tokens.npy cannot be read"):  # what could be run is not unpickled
        shards.batches(6, 8)
