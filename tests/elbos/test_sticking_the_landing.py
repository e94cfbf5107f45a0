"""The gradient along the draws alone: its value, its lack of variance at the posterior, its own derivative."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from central import central_slope
from meta_cases import assert_equal
from programs import Case
from pyro.infer import SVI, Trace_ELBO
from pyro.infer.autoguide import AutoDiagonalNormal, AutoMultivariateNormal, AutoNormal
from torch.distributions import constraints

import pyrometa as pm

LOOP, TOGETHER = pm.Engine(vectorize=False), pm.Engine(vectorize=True)


def tensor(value):
    return torch.tensor(value, dtype=torch.float64)


def model(x):
    width = pyro.param("width", tensor(1.5), constraint=constraints.positive)
    loc = pyro.sample("loc", dist.Normal(tensor(0.0), width))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(loc, 1.0), obs=x)


def guide(x):
    mean = pyro.param("mean", tensor(0.3))
    scale = pyro.param("scale", tensor(0.7), constraint=constraints.positive)
    pyro.sample("loc", dist.Normal(mean, scale))


def chain_guide(x):
    first = pyro.sample("first", dist.Normal(pyro.param("a", tensor(0.3)), 0.8))
    pyro.sample("second", dist.Normal(pyro.param("b", tensor(0.5)) * first, pyro.param("c", tensor(0.6))))


def chain_model(x):
    first = pyro.sample("first", dist.Normal(tensor(0.0), 1.0))
    second = pyro.sample("second", dist.Normal(first, 1.0))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(second**2, 1.0), obs=x)


def positive_model(x):
    rate = pyro.sample("rate", dist.LogNormal(tensor(0.0), 1.0))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(rate, 1.0), obs=x)


PROGRAMS = {
    "one site": lambda: (model, guide),
    "a chain": lambda: (chain_model, chain_guide),
    "transformed": lambda: (positive_model, AutoNormal(positive_model)),
}


@pytest.fixture(params=PROGRAMS)
def case(request):
    data = torch.randn(2, 3, 4, dtype=torch.float64) + 1
    return Case(*PROGRAMS[request.param](), *data)


def meta_svi(case, engine=TOGETHER, **options):
    pyro.clear_param_store()
    options = {"loss": pm.StickingTheLanding_ELBO(num_particles=2), "score": Trace_ELBO(), **options}
    options = {"inner": pm.SGD(0.02), "steps": 3, "engine": engine, **options}
    return pm.MetaSVI(case.model, case.guide, pyro.optim.Adam({"lr": 0.01}), **options)


def gradients(case, engine=TOGETHER, **options):
    torch.manual_seed(2)
    meta = meta_svi(case, engine, **options)
    meta.init(case.support)
    torch.manual_seed(3)
    return meta.loss_and_grads(case.support, case.query)


def test_no_variance_at_the_posterior():
    x = tensor([1.0, 2.0, 0.5])
    pyro.param("mean", x.sum() / (3 + 1 / 1.5**2))
    pyro.param("scale", tensor(3 + 1 / 1.5**2) ** -0.5, constraint=constraints.positive)
    model(x)
    names = ["mean", "scale"]
    leaves = [pyro.get_param_store()._params[name] for name in names]

    def grads(elbo):
        return torch.stack(torch.autograd.grad(elbo.differentiable_loss(model, guide, x), leaves))

    assert grads(pm.StickingTheLanding_ELBO()).abs().max() < 1e-12
    assert grads(Trace_ELBO()).abs().max() > 1e-3


def test_the_gradient_by_hand():
    """The loss on draws of the leaves, its density on copies of them."""
    x, mean, log_scale = tensor([1.0, 2.0]), tensor(0.4).requires_grad_(), tensor(-0.3).requires_grad_()
    noise = tensor([0.7, -1.1])
    z = mean + log_scale.exp() * noise
    log_q = dist.Normal(mean.detach(), log_scale.exp().detach()).log_prob(z)
    log_p = dist.Normal(0.0, 1.5).log_prob(z) + dist.Normal(z[:, None], 1.0).log_prob(x).sum(1)
    expected = torch.autograd.grad((log_q - log_p).mean(), [mean, log_scale])

    pyro.param("mean", tensor(0.4))
    pyro.param("scale", tensor(-0.3).exp(), constraint=constraints.positive)
    draws = iter(noise)
    elbo = pm.StickingTheLanding_ELBO(num_particles=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("torch.distributions.normal._standard_normal", lambda *_, **__: next(draws))
        loss = elbo.differentiable_loss(model, guide, x)
        store = pyro.get_param_store()._params
        found = torch.autograd.grad(loss, [store["mean"], store["scale"]])
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=0)
    plain = iter(noise)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("torch.distributions.normal._standard_normal", lambda *_, **__: next(plain))
        same = Trace_ELBO(num_particles=2).differentiable_loss(model, guide, x)
    assert loss.item() == pytest.approx(same.item(), rel=1e-12)


def assert_same(case, engine, **options):
    value, grads = gradients(case, engine, **options)
    expected_value, expected = gradients(case, LOOP, **options)
    torch.testing.assert_close(value, expected_value, rtol=1e-10, atol=0)
    assert_equal(grads, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("vectorize_particles", [False, True])
def test_side_by_side(case, vectorize_particles):
    elbo = pm.StickingTheLanding_ELBO(num_particles=2, vectorize_particles=vectorize_particles, max_plate_nesting=1)
    assert_same(case, TOGETHER, loss=elbo)


def test_recorded():
    case = Case(chain_model, chain_guide, *torch.randn(2, 3, 4, dtype=torch.float64))
    assert_same(case, pm.Engine(record=True), loss=pm.StickingTheLanding_ELBO(), steps=2)


@pytest.mark.parametrize("engine", [LOOP, TOGETHER], ids=["loop", "together"])
def test_meta_gradients_against_finite_differences(case, engine):
    """Through the draws and the densities of the inner steps both."""
    torch.manual_seed(2)
    meta = meta_svi(case, engine)
    meta.init(case.support)

    def evaluated():
        torch.manual_seed(3)
        return meta.loss_and_grads(case.support, case.query)

    _, grads = evaluated()
    for name, leaf in meta.named_parameters():
        way = torch.randn_like(leaf)
        slope = central_slope(lambda: evaluated()[0].item(), {name: leaf}, {name: way}, 1e-5)
        assert (grads[name] * way).sum().item() == pytest.approx(slope, rel=1e-6, abs=1e-8)


@pytest.mark.parametrize("autoguide", [AutoDiagonalNormal, AutoMultivariateNormal])
def test_autoguides_and_plain_svi(autoguide):
    x = torch.randn(6, dtype=torch.float64)
    pyro.clear_param_store()
    svi = SVI(model, autoguide(model), pyro.optim.Adam({"lr": 0.02}), pm.StickingTheLanding_ELBO(num_particles=4))
    losses = [svi.step(x) for _ in range(40)]
    assert losses[-1] < losses[0]


def dropping_guide(x):
    noise = torch.nn.functional.dropout(torch.ones(100, dtype=torch.float64)).mean()
    pyro.sample("loc", dist.Normal(pyro.param("mean", tensor(0.3)) * noise, 1.0))


def scored_guide(x):
    pyro.sample("loc", dist.testing.fakes.NonreparameterizedNormal(pyro.param("mean", tensor(0.3)), 1.0))


def test_refused():
    x = torch.randn(3, 4, dtype=torch.float64)
    elbo = pm.StickingTheLanding_ELBO()
    with pytest.raises(pm.UnsupportedProgramError, match="guide site 'loc' has a draw that is not reparameterised"):
        elbo.differentiable_loss(model, scored_guide, x[0])
    with pytest.raises(pm.UnsupportedProgramError, match="it draws besides its sites, as dropout does; use Trace_ELBO"):
        elbo.differentiable_loss(model, dropping_guide, x[0])
    meta = pm.MetaSVI(model, guide, pyro.optim.Adam({}), elbo, inner=pm.ProximalSGD(0.01), meta_gradient=pm.Implicit())
    with pytest.raises(ValueError, match="of StickingTheLanding_ELBO is that of no function"):
        meta.step(x)
