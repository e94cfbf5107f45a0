"""A run for a long time holds, and one that does not is told from it."""

import math

import pytest
import torch

from benchmarks import soak

SETTLED = soak.Period(300.0, 1000, 700.0, 500, 0, 1.0)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({}, None),
        ({"mib": 706.0, "tensors": 504}, None),
        ({"mib": 708.0}, "resident memory grew by 1.14%, from 700.0 to 708.0 MiB"),
        ({"tensors": 506}, "506 tensors are kept, and 500 were"),
        ({"on_graphs": 1}, "1 tensors keep the graph that made them after 2000 steps"),
        ({"loss": math.nan}, "the loss is nan after 2000 steps"),
    ],
)
def test_what_is_wrong_is_said(change, reason):
    now = soak.Period(**{**vars(SETTLED), "seconds": 600.0, "steps": 2000, **change})
    assert soak.refused(now, SETTLED) == reason


def test_tensors_on_a_graph_are_counted():
    before = soak.live_tensors()
    weight = torch.ones(2, requires_grad=True)
    kept = [weight * 2, [weight * 3]]
    tensors, on_graphs = soak.live_tensors()
    assert (tensors - before[0], on_graphs - before[1]) == (3, len(kept))


@pytest.mark.slow
def test_two_minutes_of_both_engines():
    soak.main(["--minutes", "2"])
