"""What the model's tests share: how two computations of the same thing are compared."""

import pytest
import torch


def compare(ours, theirs, terms=1024):
    """Hold two lists of tensors against each other, each to its own largest value.

    fp64: 1e-10. fp32: two orders of adding n numbers differ by at most 2 n eps of the sum of their sizes, eps = 2^-24;
    the sums here have at most `terms` numbers, and pass through a few layers that add such errors up (the factor 4).
    """
    assert len(ours) == len(theirs)
    for i, (a, b) in enumerate(zip(ours, theirs, strict=True)):
        assert a.shape == b.shape and a.dtype == b.dtype, f"{i}: {a.shape} {a.dtype}, {b.shape} {b.dtype}"
        tolerance = 1e-10 if a.dtype == torch.float64 else 4 * 2 * terms * 2**-24
        scale = max(b.abs().max().item(), 1e-30)
        off = (a - b).abs().max().item() / scale
        assert off <= tolerance, f"tensor {i} is off by {off:.2e} of its largest value, allowed {tolerance:.2e}"


@pytest.fixture(scope="session")
def agree():
    return compare
