"""Tests of ranks: their errors of both kinds."""

import math

import pytest
import torch
from torch.distributions import Normal

from pyrometa.diagnostics.uniformity import band, uniformity

TASKS, LEVELS, TRIALS = 200, 100, 2000


def ranks(width=1.0, shift=0.0):
    """Of a standard normal truth in a normal posterior that many times as wide, and so far off."""
    torch.manual_seed(1)
    truth = torch.randn(TASKS, TRIALS).double()
    return (Normal(shift, width).cdf(truth) * (LEVELS + 1)).long().clamp(max=LEVELS)


@pytest.mark.parametrize("level", [0.05, 0.01])
def test_uniform_ranks_are_refused_as_often_as_is_said(level):
    found = (uniformity(ranks(), LEVELS).p_values <= level).double().mean().item()
    assert abs(found - level) < 4 * math.sqrt(level * (1 - level) / TRIALS)


def test_lean_and_spread_are_standard_normal_of_uniform_ranks():
    found = uniformity(ranks(), LEVELS)
    for scores in (found.lean, found.spread):
        assert abs(scores.mean()) < 4 / math.sqrt(TRIALS)
        assert scores.std().item() == pytest.approx(1, abs=0.07)


def test_the_band_holds_uniform_ranks_as_often_as_is_said():
    lower, upper = band(TASKS, LEVELS, 0.95)
    counts = torch.zeros(TRIALS, LEVELS + 1, dtype=torch.int64)
    counts.scatter_add_(1, ranks().T, torch.ones(TRIALS, TASKS, dtype=torch.int64))
    below = counts.cumsum(1)[:, :-1]
    within = ((below >= lower) & (below <= upper)).all(1).double().mean().item()
    assert abs(within - 0.95) < 4 * math.sqrt(0.05 * 0.95 / TRIALS)


@pytest.mark.parametrize(("width", "shift"), [(0.5, 0.0), (2.0, 0.0), (1.0, 1.0)])
def test_others_are_found_and_known_apart(width, shift):
    found = uniformity(ranks(width, shift), LEVELS)
    assert (found.p_values < 0.01).all()
    if shift:
        assert (found.lean.abs() > found.spread.abs()).all()
        assert (found.lean < 0).all()  # the truth is below a posterior that is too high
    else:
        assert (found.lean.abs() < found.spread.abs()).all()
        assert ((found.spread > 0) == (width < 1)).all()


def test_two_ranks_are_a_coin():
    """The p-value of so many heads is that of the binomial distribution, two-sided."""
    heads = torch.tensor([[0]] * 4 + [[1]] * 16)
    exact = 2 * sum(math.comb(20, k) for k in range(5)) / 2**20
    assert uniformity(heads, 1).p_values.item() == pytest.approx(exact, abs=4 * math.sqrt(exact / 20_000))
