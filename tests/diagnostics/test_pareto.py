"""The tail of importance weights, against distributions of which it is known."""

import math
import warnings
from importlib import import_module

import pytest
import torch
from torch.distributions import Normal, Uniform

from pyrometa.diagnostics import pareto_smoothed

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import arviz

REPEATS = 40


def shapes(draw, size=4000):
    """k-hat of some sets of weights, its mean and that mean's standard error."""
    torch.manual_seed(0)
    found = torch.tensor([pareto_smoothed(draw(size))[1] for _ in range(REPEATS)])
    return found.mean().item(), found.std().item() / math.sqrt(REPEATS)


@pytest.mark.parametrize("k", [0.3, 0.7, 1.2])
def test_of_a_pareto_distribution(k):
    """Drawn towards 1/2 by the weight of ten in 190."""
    mean, error = shapes(lambda size: -k * torch.rand(size).double().log())
    expected = (190 * k + 10 * 0.5) / 200
    assert abs(mean - expected) < 4 * error + 0.01  # the fit's own bias


def test_of_bounded_weights():
    """Uniform ones: the shape is -1."""
    mean, error = shapes(lambda size: Uniform(0.0, 1.0).sample((size,)).double().log())
    assert abs(mean - (190 * -1 + 5) / 200) < 4 * error + 0.05


def test_smoothing_makes_means_of_heavy_weights_better():
    """E[z^2] = 1 from draws half as wide, of which the plain weights' estimates have no variance."""
    torch.manual_seed(0)
    plain, smooth = [], []
    for _ in range(200):
        z = 0.5 * torch.randn(1000).double()
        logs = Normal(0.0, 1.0).log_prob(z) - Normal(0.0, 0.5).log_prob(z)
        for estimates, weights in ((plain, logs.softmax(0)), (smooth, pareto_smoothed(logs)[0].exp())):
            estimates.append((weights * z.square()).sum() - 1)
    assert torch.stack(smooth).square().mean() < 0.9 * torch.stack(plain).square().mean()


def by_arviz(logs):
    """Log weights and k-hat by ArviZ, and how near they are: from version 1 on it rounds the tail's size down."""
    if hasattr(arviz, "psislw"):
        return *arviz.psislw(logs.numpy().copy()), 1e-9
    found = import_module("arviz_stats.base").array_stats.psislw(-logs.numpy())
    return *found, 1e-9 if len(logs) <= 225 or math.sqrt(len(logs)).is_integer() else 0.05


@pytest.mark.parametrize("size", [100, 1000, 3600])
@pytest.mark.parametrize(
    "draw",
    [
        lambda size: 0.5 * torch.randn(size),
        lambda size: 5 * torch.randn(size),
        lambda size: -1.2 * torch.rand(size).log(),
        lambda size: torch.rand(size).log(),
        lambda size: (0.75 * torch.randn(size, 20).square()).sum(1),
    ],
    ids=["lognormal", "wide", "pareto", "uniform", "20 latents"],
)
def test_as_arviz(draw, size):
    torch.manual_seed(0)
    logs = draw(size).double()
    smooth, k_hat = pareto_smoothed(logs)
    expected, expected_k_hat, tolerance = by_arviz(logs)
    assert k_hat == pytest.approx(float(expected_k_hat), abs=tolerance)
    torch.testing.assert_close(smooth, torch.as_tensor(expected), atol=tolerance, rtol=0.0)


def test_only_the_tail_moves_and_the_largest_weight_bounds_it():
    torch.manual_seed(0)
    logs = 2 * torch.randn(1000).double()
    smooth, _ = pareto_smoothed(logs)
    body = logs.argsort()[:-95]
    assert torch.allclose((smooth - logs)[body], (smooth - logs)[body[0]].expand(len(body)))
    assert torch.equal(smooth.argsort(), logs.argsort())
    assert (smooth - logs)[logs.argmax()] <= (smooth - logs)[body[0]] + 1e-12
    assert smooth.exp().sum().item() == pytest.approx(1)


@pytest.mark.parametrize("scale", [1e-9, 1.0, 900.0])
def test_weights_of_any_size(scale):
    torch.manual_seed(0)
    smooth, k_hat = pareto_smoothed(1e6 + scale * torch.randn(1000).double())
    assert smooth.isfinite().all()
    assert k_hat < 1 if scale <= 1 else k_hat > 1


def test_equal_weights():
    smooth, k_hat = pareto_smoothed(torch.full((10,), -3.0))
    assert k_hat == -math.inf
    assert smooth.exp().tolist() == pytest.approx([0.1] * 10)


def test_draws_outside_of_the_support_weigh_nothing():
    logs = torch.zeros(100)
    logs[::2] = -math.inf
    smooth, k_hat = pareto_smoothed(logs)
    assert k_hat == math.inf  # no tail above the other weights
    assert smooth.exp()[::2].sum() == 0


@pytest.mark.parametrize(
    ("logs", "told"),
    [
        (torch.zeros(3, 2), "shape"),
        (torch.zeros(1), "at least 2"),
        (torch.tensor([0.0, math.nan]), "NaN"),
        (torch.tensor([0.0, math.inf]), "inf"),
        (torch.full((5,), -math.inf), "some may"),
    ],
)
def test_other_weights_are_refused(logs, told):
    with pytest.raises(ValueError, match=told):
        pareto_smoothed(logs)
