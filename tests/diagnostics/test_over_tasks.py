"""Calibration over tasks, on a model whose posterior is known."""

import functools

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO
from torch import nn

import pyrometa as pm
from pyrometa.diagnostics import coverage, sbc
from pyrometa.diagnostics.simulated import simulated
from pyrometa.tasks import PriorTasks

GUIDES = {
    "calibrated": (1.0, 0.0),
    "over-confident": (0.5, 0.0),
    "under-confident": (2.0, 0.0),
    "shifted": (1.0, 1.0),
}
COUNTS = {"rows": 4, "tasks": 200, "draws": 40}
FEW = {**COUNTS, "tasks": 20}


def model(x):
    mean = pyro.sample("mean", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(mean, 1.0).to_event(1), obs=x)


class Posterior(nn.Module):
    """The exact one, that many times as wide, so many of its standard deviations off, and with that correlation."""

    def __init__(self, width=1.0, shift=0.0, correlation=0.0):
        super().__init__()
        self.width = nn.Parameter(torch.tensor(width))
        self.shift, self.correlation = shift, correlation

    def forward(self, x):
        deviation = (len(x) + 1) ** -0.5
        covariance = torch.tensor([[1.0, self.correlation], [self.correlation, 1.0]])
        scale = self.width * deviation * torch.linalg.cholesky(covariance)
        mean = x.sum(0) / (len(x) + 1) + self.shift * deviation
        pyro.sample("mean", dist.MultivariateNormal(mean, scale_tril=scale))


def learned(guide):
    return pm.MetaSVI(model, guide, pyro.optim.Adam({"lr": 0.1}), steps=0)


MEANS = PriorTasks(model, lambda rows, _: torch.zeros(rows, 2), observed={"x": 0})


@pytest.fixture
def both(monkeypatch):
    """The two verdicts on a posterior, from one simulation."""

    def verdicts(guide):
        once = functools.cache(functools.partial(simulated, learned(guide)))
        monkeypatch.setattr(
            "pyrometa.diagnostics.rank_calibration.simulated", lambda _, *args, **kwargs: once(*args, **kwargs)
        )
        monkeypatch.setattr(
            "pyrometa.diagnostics.joint_coverage.simulated", lambda _, *args, **kwargs: once(*args, **kwargs)
        )
        return [diagnostic(None, MEANS, **COUNTS).verdict.split(":")[0] for diagnostic in (sbc, coverage)]

    return verdicts


@pytest.mark.parametrize("word", GUIDES)
def test_the_four_are_told_apart(both, word):
    assert both(Posterior(*GUIDES[word])) == [word, word]


def test_coverage_sees_a_correlation_that_single_numbers_hide(both):
    assert both(Posterior(correlation=0.99)) == ["calibrated", "over-confident"]


def test_what_they_hold():
    torch.manual_seed(7)
    here = torch.rand(1)
    torch.manual_seed(7)
    ranks = sbc(learned(Posterior()), MEANS, **FEW)
    assert torch.equal(torch.rand(1), here)  # nothing was drawn from the global generator
    assert ranks.ranks["mean"].shape == (20, 2)
    assert ranks.ranks["mean"].max() <= 40
    assert ranks.p_values["mean"].shape == (2,)
    covered = coverage(learned(Posterior()), MEANS, **FEW)
    assert covered.coverage.shape == covered.credibility.shape == (40,)
    assert (covered.coverage.diff() >= 0).all()


def test_discrete_sites():
    """Ties are broken by lot, so that few values are no pattern."""

    def coins(x):
        fair = pyro.sample("fair", dist.Bernoulli(0.5))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Bernoulli(0.3 + 0.2 * fair), obs=x)

    class Exact(nn.Module):
        def __init__(self):
            super().__init__()
            self.bias = nn.Parameter(torch.zeros(()))

        def forward(self, x):
            odds = dist.Bernoulli(0.5).log_prob(x).sum() - dist.Bernoulli(0.3).log_prob(x).sum()
            pyro.sample("fair", dist.Bernoulli(logits=odds + self.bias))

    meta = pm.MetaSVI(coins, Exact(), pyro.optim.Adam({"lr": 0.1}), loss=Trace_ELBO(), steps=0)
    found = sbc(
        meta, PriorTasks(coins, lambda rows, _: torch.zeros(rows), observed={"x": 0}), **{**COUNTS, "tasks": 60}
    )
    assert found.verdict.startswith("calibrated")


def test_bad_input():
    meta = learned(Posterior())
    with pytest.raises(TypeError, match="meta must be a MetaSVI, got Posterior"):
        sbc(Posterior(), MEANS)
    with pytest.raises(TypeError, match="PriorTasks"):
        sbc(meta, [torch.zeros(4, 2)])
    with pytest.raises(ValueError, match="tasks must be at least 20, got 3"):
        coverage(meta, MEANS, tasks=3)
    other = PriorTasks(with_another_name, lambda rows, _: torch.zeros(rows, 2), observed={"x": 0})
    with pytest.raises(ValueError, match=r"none of the latent sites 'middle'.* give PriorTasks the model"):
        sbc(meta, other, **FEW)


def with_another_name(x):
    middle = pyro.sample("middle", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(middle, 1.0).to_event(1), obs=x)
