"""Empirical Bayes by implicit differentiation: groups with a common prior, against the closed form."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch.distributions import constraints

import pyrometa as pm

NOISE = 0.7
"""The standard deviation of the data around their group's mean."""


def tensor(value):
    return torch.tensor(value, dtype=torch.float64)


def model(x):
    mean = pyro.param("mean", tensor(0.4))
    spread = pyro.param("spread", tensor(0.6), constraint=constraints.positive)
    loc = pyro.sample("loc", dist.Normal(mean, spread))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(loc, NOISE), obs=x)


def guide(x):
    at = pyro.param("at", tensor(-0.2))
    width = pyro.param("width", tensor(0.9), constraint=constraints.positive)
    pyro.sample("loc", dist.Normal(at, width))


def loss(model, guide, x):
    """The negative ELBO, its expectation in closed form."""
    store = pyro.poutine.trace(guide).get_trace(x).nodes["loc"]["fn"]
    prior = pyro.poutine.trace(model).get_trace(x).nodes["loc"]["fn"]
    return torch.distributions.kl_divergence(store, prior) + expected(store.loc, store.scale, x)


def expected(loc, scale, x):
    """The expected negative log likelihood of data under a normal posterior."""
    return (((x - loc) ** 2 + scale**2) / (2 * NOISE**2) + math.log(NOISE * math.sqrt(2 * math.pi))).sum()


def meta_svi(steps=5, **options):
    options = {"inner": pm.Newton(), "meta_gradient": pm.Implicit(), **options}
    return pm.MetaSVI(model, guide, pyro.optim.Adam({"lr": 0.05}), loss, steps=steps, **options)


def groups(tasks=6, rows=5):
    at = 1.0 + 1.3 * torch.randn(tasks, 1, dtype=torch.float64)
    return (at + NOISE * torch.randn(tasks, rows, dtype=torch.float64) for _ in range(2))


def posterior(mean, spread, x):
    precision = spread**-2 + x.shape[1] / NOISE**2
    return (mean / spread**2 + x.sum(1) / NOISE**2) / precision, precision**-0.5


@pytest.mark.parametrize(
    ("engine", "max_dim"),
    [
        ({"vectorize": False}, 300),
        ({"vectorize": True}, 300),
        ({"record": True}, 300),
        ({"vectorize": False}, 1),
        ({"vectorize": True}, 1),
    ],
    ids=["loop", "side by side", "recorded", "cg", "cg side by side"],
)
def test_meta_gradients_of_the_prior(engine, max_dim):
    """The query loss of the support set's exact posterior, differentiated through the posterior's closed form."""
    support, query = groups()
    inner = pm.Newton(max_dim=max_dim)
    meta = meta_svi(inner=inner, engine=pm.Engine(**engine), meta_gradient=pm.Implicit(iterations=2))
    value, grads = meta.loss_and_grads(support, query)
    mean, log_spread = tensor(0.4).requires_grad_(), tensor(0.6).log().requires_grad_()
    locs, scale = posterior(mean, log_spread.exp(), support)
    prior = torch.distributions.Normal(mean, log_spread.exp())
    divergence = torch.distributions.kl_divergence(torch.distributions.Normal(locs, scale), prior)
    closed = torch.stack([d + expected(loc, scale, x) for d, loc, x in zip(divergence, locs, query, strict=True)])
    wanted = torch.autograd.grad(closed.mean(), [mean, log_spread])
    assert value.item() == pytest.approx(closed.mean().item(), rel=1e-9)
    assert grads["model.mean"].item() == pytest.approx(wanted[0].item(), rel=1e-8)
    assert grads["model.spread"].item() == pytest.approx(wanted[1].item(), rel=1e-8)
    assert grads["guide.at"] == grads["guide.width"] == 0


def test_it_is_not_the_gradient_at_constant_posteriors():
    """So that the test above can fail."""
    support, query = groups()
    _, exact = meta_svi().loss_and_grads(support, query)
    pyro.clear_param_store()
    _, direct = meta_svi(meta_gradient=pm.Unrolled(first_order=True)).loss_and_grads(support, query)
    assert abs(exact["model.mean"] - direct["model.mean"]) > 0.05 * abs(exact["model.mean"])


def test_more_steps_change_nothing():
    support, query = groups()
    grads = []
    for steps in (6, 24):
        pyro.clear_param_store()
        grads.append(meta_svi(steps).loss_and_grads(support, query)[1])
    for name, grad in grads[0].items():
        torch.testing.assert_close(grad, grads[1][name], rtol=1e-9, atol=1e-12)


def test_a_direction_that_the_loss_does_not_see():
    """The Hessian is singular there, and the gradient of the prior as without it."""

    def twofold(x):
        at = pyro.param("at", tensor(-0.5)) + pyro.param("shift", tensor(0.3))
        width = pyro.param("width", tensor(0.9), constraint=constraints.positive)
        pyro.sample("loc", dist.Normal(at, width))

    support, query = groups()
    _, expected = meta_svi().loss_and_grads(support, query)
    pyro.clear_param_store()
    optim, rule = pyro.optim.Adam({"lr": 0.05}), pm.Newton()
    meta = pm.MetaSVI(model, twofold, optim, loss, inner=rule, meta_gradient=pm.Implicit(), steps=5)
    _, grads = meta.loss_and_grads(support, query)
    for name in ("model.mean", "model.spread"):
        assert grads[name].item() == pytest.approx(expected[name].item(), rel=1e-7)


def test_empirical_bayes():
    """The prior that Adam arrives at is the one of the greatest marginal likelihood, which balanced groups have."""
    (x, _), meta = groups(tasks=40), meta_svi(steps=4)
    for _ in range(150):
        meta.step(x)
    mean = x.mean()
    spread = ((x.mean(1) - mean).square().mean() - NOISE**2 / x.shape[1]).sqrt()
    found = {name: pyro.param(name).item() for name in ("mean", "spread")}
    assert found["mean"] == pytest.approx(mean.item(), abs=2e-3)
    assert found["spread"] == pytest.approx(spread.item(), rel=2e-3)


def test_refused():
    support, query = groups()
    for options, message in (
        ({"inner": pm.SGD(0.1)}, r"use inner=ProximalSGD\(lr, strength\), or inner=Newton\(\)"),
        (
            {"inner": pm.Newton(0.1, learn="step")},
            r"no damping moves: Newton\(learn='step'\) would learn nothing",
        ),
        ({"meta_gradient": pm.Implicit(solver="neumann")}, "needs the rate of ProximalSGD"),
    ):
        pyro.clear_param_store()
        with pytest.raises(ValueError, match=message):
            meta_svi(**options).step(support, query)
