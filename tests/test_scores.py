"""The predictive loss in closed form, at once and one by one."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoNormal

import pyrometa as pm
from pyrometa.scores import PredictiveLoss

F64 = torch.float64


def model(x, mask=None):
    mean = pyro.sample("mean", dist.Normal(x.new_zeros(()), 2.0))
    with pyro.plate("data", len(x)), poutine.mask(mask=torch.ones(len(x), dtype=torch.bool) if mask is None else mask):
        pyro.sample("x", dist.Normal(mean, 1.0), obs=x)


def guide(x, mask=None):
    pyro.sample("mean", dist.Normal(pyro.param("loc", torch.tensor(0.4, dtype=F64)), 0.5))


def test_the_predictive_density_of_a_conjugate_model():
    """Under N(0.4, 0.5), rows are jointly normal; 20,000 samples come within their own standard error."""
    x = torch.tensor([0.2, 1.0, -0.7], dtype=F64)
    covariance = torch.eye(3, dtype=F64) + 0.5**2
    exact = -dist.MultivariateNormal(torch.full((3,), 0.4, dtype=F64), covariance).log_prob(x)
    draws = 0.4 + 0.5 * torch.randn(20_000, 1, dtype=F64)
    likelihoods = dist.Normal(draws, 1.0).log_prob(x).sum(1).exp()
    error = (likelihoods.std() / likelihoods.mean() / math.sqrt(20_000)).item()
    loss = PredictiveLoss(20_000, vectorize_particles=True, max_plate_nesting=1)(model, guide, x)
    torch.testing.assert_close(loss, exact, rtol=0, atol=5 * error)


@pytest.mark.parametrize("mask", [None, torch.tensor([True, False, True])])
def test_at_once_and_one_by_one(mask):
    x = torch.randn(3, dtype=F64)
    losses = []
    for options in ({}, {"vectorize_particles": True, "max_plate_nesting": 1}):
        torch.manual_seed(3)
        losses.append(PredictiveLoss(4, **options)(model, guide, x, mask))
    torch.testing.assert_close(*losses, rtol=1e-12, atol=1e-12)
    torch.manual_seed(3)
    draws = 0.4 + 0.5 * torch.randn(4, 1, dtype=F64)
    logs = dist.Normal(draws, 1.0).log_prob(x)[:, torch.ones(3, dtype=torch.bool) if mask is None else mask].sum(1)
    torch.testing.assert_close(losses[0], math.log(4) - logs.logsumexp(0), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("options", [{}, {"vectorize_particles": True, "max_plate_nesting": 1}])
def test_as_a_score_the_engines_agree(options):
    support, query = torch.randn(3, 4, dtype=F64), torch.randn(3, 5, dtype=F64)
    found = []
    for engine in (pm.Engine(vectorize=True), pm.Engine(vectorize=False), pm.Engine(record=True)):
        pyro.clear_param_store()
        score = PredictiveLoss(3, **options)
        meta = pm.MetaSVI(
            model, guide, pyro.optim.Adam({"lr": 0.1}), inner=pm.SGD(0.05), steps=2, score=score, engine=engine
        )
        meta.init(support)
        torch.manual_seed(5)
        loss, grads = meta.loss_and_grads(support, query)
        found.append((loss, grads["guide.loc"]))
    for other in found[1:]:
        torch.testing.assert_close(other, found[0], rtol=1e-9, atol=1e-11)


def test_it_learns_what_predicts():
    """The KL divergence from the prior, which the ELBO of the query set counts again, is not in it."""
    x = torch.full((4, 6), 3.0)
    auto = AutoNormal(model, init_scale=0.1)
    meta = pm.MetaSVI(model, auto, pyro.optim.Adam({"lr": 0.1}), inner=pm.SGD(1e-5), steps=1, score=PredictiveLoss(5))
    for _ in range(60):
        meta.step(x)
    assert abs(auto.median()["mean"].item() - 3.0) < 0.05  # the posterior mean is 2.88


@pytest.mark.parametrize("options", [{"num_particles": 0}, {"num_particles": 1.5}, {"vectorize_particles": True}])
def test_bad_options(options):
    with pytest.raises(ValueError, match=r"num_particles|max_plate_nesting"):
        PredictiveLoss(**options)


def test_nothing_to_predict():
    def empty(x):
        pyro.sample("mean", dist.Normal(0.0, 1.0))

    with pytest.raises(ValueError, match=r"no observed site.*give it data to observe"):
        PredictiveLoss()(empty, empty, torch.zeros(3))
