"""The gallery of faults: each is found by its name, with the lines that tell, and its cure is found healthy."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist

import llmlab as lab
from llmlab.gallery import KINDS

pytestmark = pytest.mark.filterwarnings("ignore")  # torch's own, of its deprecated names


@pytest.mark.parametrize("name", lab.gallery.faults())
def test_a_fault_is_found_by_name_and_its_cure_is_healthy(name: str) -> None:
    fault = lab.gallery.faults()[name]
    found = fault.examine()
    assert found.kind == fault.kind, found
    assert fault.says in found.evidence
    assert str(found).startswith(f"{fault.kind}: {KINDS[fault.kind]}")
    assert fault.story
    assert fault.examine(cured=True).kind == "none"


def test_every_kind_but_none_is_in_the_gallery() -> None:
    assert {fault.kind for fault in lab.gallery.faults().values()} == set(KINDS) - {"none"}


def test_a_program_of_ones_own_is_examined() -> None:
    def program() -> dict[str, torch.Tensor]:
        x = torch.ones(3) * (dist.get_rank() + 1)
        dist.all_reduce(x)
        return {"same": x, "answer": x.sum() / 3}

    found = lab.gallery.examine(program, ranks=4)
    assert (found.kind, found.evidence) == ("another answer", "10, where one process has 1 (off by 9)")
    assert found.run is not None
    assert found.run.ranks == 4


def test_one_rank_has_nothing_to_be_examined_for() -> None:
    with pytest.raises(ValueError, match="at least 2"):
        lab.gallery.examine(print, ranks=1)
