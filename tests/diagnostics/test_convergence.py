"""When a fit has converged."""

import pytest
import torch

from pyrometa.diagnostics import steps_until

LOSSES = [3.0, 2.0, 1.25, 1.5, 1.0]


@pytest.mark.parametrize(
    ("target", "tolerance", "steps"),
    [(1.0, 0.0, 4), (1.0, 0.25, 2), (0.75, 0.25, 4), (2.5, 0.5, 0), (0.5, 0.25, None), (5.0, 0.0, 0)],
)
def test_the_first_loss_within_the_tolerance_counts(target, tolerance, steps):
    for losses in (LOSSES, torch.tensor(LOSSES)):
        assert steps_until(losses, target, tolerance) == steps


def test_steps_are_those_at_which_losses_were_read():
    assert steps_until(LOSSES, 1.0, 0.25, at=(0, 10, 20, 50, 100)) == 20


@pytest.mark.parametrize(
    ("losses", "options", "complaint"),
    [
        ([1.0, float("nan")], {}, r"finite and of shape \(n,\), got \[1.0, nan\]"),
        ([[1.0]], {}, r"finite and of shape \(n,\)"),
        ([2.0, 1.0], {"at": (0,)}, "2 ascending numbers of steps"),
        ([2.0, 1.0], {"at": (5, 5)}, r"ascending .* got \[5, 5\]"),
        ([2.0, 1.0], {"tolerance": -0.1}, "must not be negative, got -0.1"),
        ([2.0, 1.0], {"tolerance": float("nan")}, "must not be negative, got nan"),
    ],
)
def test_bad_input_is_refused(losses, options, complaint):
    with pytest.raises(ValueError, match=complaint):
        steps_until(losses, **{"target": 0.0, "tolerance": 0.0, **options})
