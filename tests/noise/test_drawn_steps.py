"""Noise that is taken apart late is the noise that was drawn."""

import pytest
import torch

from pyrometa.noise.drawn_steps import DrawnSteps, packed, packed_steps

TASKS, STEPS = 3, 4


def drawn():
    """A matrix, a scalar, a seed and a vector in another precision, as a tape may hold them."""
    leading = (TASKS, STEPS)
    return [
        torch.randn(*leading, 2, 5),
        torch.randn(*leading),
        torch.randint(2**40, leading),
        torch.randn(*leading, 6, dtype=torch.float64),
    ]


def same(ours, theirs):
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert one.dtype == other.dtype
        assert one.is_contiguous()
        assert torch.equal(one, other)


@pytest.mark.parametrize("repeats", [1, 2])
def test_steps_are_slices_and_packed_in_one_go_as_one_by_one(repeats):
    draws = drawn()
    noise = DrawnSteps(draws, STEPS).repeated(repeats)
    one_by_one = [tuple(draw[:, k] for draw in draws) for k in range(STEPS)] * repeats
    assert len(noise) == len(one_by_one)
    for ours, theirs in zip(noise, one_by_one, strict=True):
        assert all(map(torch.equal, ours, theirs))
    assert torch.equal(noise[-1][0], draws[0][:, -1])
    assert torch.equal(noise[1:3][1][0], draws[0][:, 2])
    same(packed_steps(noise), [part for step in one_by_one for part in packed(step)])


def test_nothing_is_drawn_for_no_steps_or_no_draws():
    assert list(DrawnSteps([], STEPS)) == [()] * STEPS
    assert packed_steps(DrawnSteps([], STEPS)) == packed_steps([()] * STEPS) == []
    none = DrawnSteps([torch.randn(TASKS, 0, 2)], 0)
    assert list(none) == packed_steps(none) == []
    with pytest.raises(IndexError, match="evaluation 4 of 4"):
        DrawnSteps(drawn(), STEPS)[STEPS]
