"""Posterior means and deviations after adaptation against NUTS, on two models whose posteriors are nearly normal."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import MCMC, NUTS, Trace_ELBO
from pyro.infer.autoguide import AutoMultivariateNormal
from pyro.ops.stats import effective_sample_size

import pyrometa as pm

F64 = torch.float64
WARMUP, SAMPLES = 100, 400


def logistic(x, y):
    weights = pyro.sample("weights", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
    with pyro.plate("data", len(x)):
        pyro.sample("y", dist.Bernoulli(logits=(x * weights).sum(-1)), obs=y)


def regression(x, y):
    """Correlated coefficients, and a noise scale that is unknown too: compared by its logarithm."""
    slope = pyro.sample("slope", dist.Normal(x.new_zeros(()), 2.0))
    level = pyro.sample("level", dist.Normal(x.new_zeros(()), 2.0))
    noise = pyro.sample("noise", dist.LogNormal(x.new_zeros(()), 1.0))
    with pyro.plate("data", len(x)):
        pyro.sample("y", dist.Normal(level + slope * x, noise), obs=y)


def tasks(model):
    if model is logistic:
        x = torch.randn(2, 60, 2, dtype=F64)
        weights = torch.tensor([[1.0, -0.5], [-0.3, 0.8]], dtype=F64)
        return x, torch.bernoulli((x * weights[:, None]).sum(-1).sigmoid())
    x = 0.5 + torch.randn(2, 60, dtype=F64)
    return x, torch.tensor([[0.5], [-1.0]], dtype=F64) + x * 1.5 + 0.4 * torch.randn(2, 60, dtype=F64)


def draws_of_nuts(model, x, y):
    """Unconstrained draws, and the effective number of them."""
    mcmc = MCMC(NUTS(model), SAMPLES, WARMUP, disable_progbar=True)
    mcmc.run(x, y)
    draws = unconstrained(mcmc.get_samples())
    return draws, effective_sample_size(draws[None], chain_dim=0, sample_dim=1)


def unconstrained(samples):
    parts = [samples[name].log() if name == "noise" else samples[name] for name in sorted(samples)]
    return torch.cat([part.reshape(len(part), -1) for part in parts], 1)


@pytest.mark.slow
@pytest.mark.parametrize("model", [logistic, regression])
def test_posterior_moments(model):
    """Within five standard errors of NUTS and a twentieth of a deviation that Adam's last steps leave."""
    x, y = tasks(model)
    guide = AutoMultivariateNormal(model, init_scale=0.3)
    elbo = Trace_ELBO(num_particles=16, vectorize_particles=True, max_plate_nesting=1)
    meta = pm.MetaSVI(model, guide, pyro.optim.Adam({"lr": 0.01}), elbo, pm.Adam(0.01), steps=500)
    adapted = meta.adapt_many((x, y))[1]
    with torch.no_grad(), pyro.plate("draws", 20_000, dim=-2):
        fitted = unconstrained({name: value.squeeze(1) for name, value in adapted(x[1], y[1]).items()})
    nuts, sizes = draws_of_nuts(model, x[1], y[1])
    deviation = nuts.std(0)
    assert ((fitted.mean(0) - nuts.mean(0)).abs() <= deviation * (5 * sizes**-0.5 + 0.05)).all()
    assert ((fitted.std(0) / deviation - 1).abs() <= 5 * (2 * sizes) ** -0.5 + 0.05).all()
