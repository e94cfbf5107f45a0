"""SVGD: its step by hand and as Pyro takes it, exact derivatives, and particles that are a posterior."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO
from pyro.infer.svgd import SVGD as PyroSVGD
from pyro.infer.svgd import RBFSteinKernel
from torch.autograd import gradcheck, gradgradcheck
from torch.func import vmap

import pyrometa as pm
from pyrometa.guides import ParticleGuide
from pyrometa.inner import SVGD

F64 = torch.float64


def particles(count=5):
    return {"w": torch.randn(count, 3, 2, dtype=F64), "b": torch.randn(count, dtype=F64)}


def by_hand(params, grads, lr, bandwidth=None):
    """One step, pair by pair."""
    count = len(params["b"])
    x = [torch.cat([params["w"][p].flatten(), params["b"][p : p + 1]]) for p in range(count)]
    g = [torch.cat([grads["w"][p].flatten(), grads["b"][p : p + 1]]) for p in range(count)]
    squares = sorted((x[i] - x[j]).square().sum().item() for i in range(count) for j in range(i))
    h = squares[len(squares) // 2] / math.log(count) if bandwidth is None else bandwidth
    moved = []
    for i in range(count):
        along = torch.zeros_like(x[i])
        for j in range(count):
            kernel = math.exp(-(x[j] - x[i]).square().sum().item() / h)
            along += kernel * g[j] - (-2 * (x[j] - x[i]) / h * kernel) / count
        moved.append(x[i] - lr * along)
    return {"w": torch.stack([m[:-1].view(3, 2) for m in moved]), "b": torch.stack([m[-1] for m in moved])}


@pytest.mark.parametrize("bandwidth", [None, 3.0])
@pytest.mark.parametrize("count", [2, 5])
def test_a_step_by_hand(count, bandwidth):
    params, grads = particles(count), particles(count)
    rule = SVGD(0.1, bandwidth)
    moved, state = rule.update(params, grads, rule.init(params), {}, 0)
    assert state is None
    expected = by_hand(params, grads, 0.1, bandwidth)
    for name, value in moved.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-12, atol=1e-12)


def test_one_particle_is_gradient_descent():
    params, grads = particles(1), particles(1)
    moved, _ = SVGD(0.1).update(params, grads, None, {}, 0)
    expected, _ = pm.SGD(0.1).update(params, grads, None, {}, 0)
    assert all(torch.equal(moved[name], expected[name]) for name in params)


def test_particles_in_one_place_stay_finite():
    params = {"w": torch.zeros(3, 2, dtype=F64, requires_grad=True)}
    moved, _ = SVGD(0.1).update(params, {"w": params["w"] + 1}, None, {}, 0)
    (grad,) = torch.autograd.grad(moved["w"].square().sum(), params["w"])
    assert moved["w"].isfinite().all()
    assert grad.isfinite().all()


@pytest.mark.parametrize("learn", [None, "parameter"])
@pytest.mark.parametrize("bandwidth", [None, 3.0])
def test_exact_derivatives(bandwidth, learn):
    params = particles(4)
    rule = SVGD(0.1, bandwidth, learn)
    learned = rule.learned(params, 2)
    matrix = torch.randn(7, 7, dtype=F64)

    def score(*leaves):
        fast, rates = dict(zip(params, leaves, strict=False)), dict(zip(learned, leaves[2:], strict=True))
        for step in range(2):
            flat = torch.cat([fast["w"].flatten(1), fast["b"][:, None]], 1)
            slope = torch.tanh(flat @ matrix)
            grads = {"w": slope[:, :-1].view(4, 3, 2), "b": slope[:, -1]}
            fast, _ = rule.update(fast, grads, None, rates, step)
        return fast["w"].square().sum() + fast["b"].exp().sum()

    leaves = [value.detach().requires_grad_() for value in (*params.values(), *learned.values())]
    assert gradcheck(score, leaves, eps=1e-6, atol=1e-6, rtol=1e-5)
    assert gradgradcheck(score, leaves, eps=1e-6, atol=1e-5, rtol=1e-4, fast_mode=True)


def test_vmap_over_tasks_equals_a_loop():
    params, grads, rule = particles(12), particles(12), SVGD(0.1)
    tasks = [{n: v.view(3, 4, *v.shape[1:]) for n, v in given.items()} for given in (params, grads)]
    together = vmap(lambda p, g: rule.update(p, g, None, {}, 0)[0])(*tasks)
    for task in range(3):
        alone = rule.update(*({n: v[task] for n, v in given.items()} for given in tasks), None, {}, 0)[0]
        for name, value in alone.items():
            torch.testing.assert_close(together[name][task], value, rtol=1e-12, atol=1e-12)


def model(x):
    rate = pyro.sample("rate", dist.LogNormal(torch.tensor(0.0, dtype=F64), 1.0))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Exponential(rate), obs=x)


def particle_svi(count, lr, loss_particles=None, **options):
    guide = ParticleGuide(model, count, max_plate_nesting=1)
    elbo = Trace_ELBO(num_particles=loss_particles or count, vectorize_particles=True, max_plate_nesting=1)
    return pm.MetaSVI(model, guide, pyro.optim.Adam({"lr": 1e-2}), elbo, inner=SVGD(lr), **options)


def test_a_step_of_pyros_own_svgd():
    """Pyro's kernel on one dimension, its bandwidth by log(P + 1) made ours."""
    count, lr, x = 7, 0.05, torch.rand(6, dtype=F64)
    meta = particle_svi(count, lr)
    meta.init(x[None])
    (start,) = (leaf.detach().clone() for _, leaf in meta.named_parameters())
    kernel = RBFSteinKernel(bandwidth_factor=math.log(count + 1) / math.log(count))
    svgd = PyroSVGD(model, kernel, pyro.optim.SGD({"lr": lr}), count, 1, mode="multivariate")
    with pyro.poutine.block():
        svgd.guide(x)
    pyro.get_param_store()["svgd_particles"] = start.view(-1).clone()
    for _ in range(3):
        svgd.step(x)
    expected = pyro.param("svgd_particles").detach().view(-1)
    (moved,) = meta.adapt(x, steps=3).adapted.parameters()
    torch.testing.assert_close(moved.detach().view(-1), expected, rtol=1e-9, atol=1e-10)
    assert (expected - start.view(-1)).abs().max() > 1e-2


def test_particles_become_the_posterior():
    """Of an exponential's rate under a log-normal prior, by quadrature; 30 particles have its mean and deviation."""
    x = torch.rand(20, dtype=F64)
    meta = particle_svi(30, 0.05)
    (log_rates,) = meta.adapt(x, steps=300).adapted.parameters()
    log_rates = log_rates.detach().view(-1)
    grid = torch.linspace(-4, 4, 4001, dtype=F64)
    weights = (dist.Normal(0.0, 1.0).log_prob(grid) + len(x) * grid - grid.exp() * x.sum()).softmax(0)
    mean = (weights * grid).sum()
    deviation = (weights * (grid - mean).square()).sum().sqrt()
    torch.testing.assert_close(log_rates.mean(), mean, rtol=0, atol=0.1 * deviation.item())
    torch.testing.assert_close(log_rates.std(), deviation, rtol=0.15, atol=0)


@pytest.mark.parametrize("record", [False, True])
def test_the_meta_gradient_against_finite_differences(record):
    support, query = torch.rand(3, 5, dtype=F64), torch.rand(3, 4, dtype=F64)
    meta = particle_svi(3, 0.02, steps=2, engine=pm.Engine(record=record))
    loss, grads = meta.loss_and_grads(support, query)
    slow = particle_svi(3, 0.02, steps=2, engine=pm.Engine(vectorize=False))
    slow.init(support)
    ((name, leaf),) = meta.named_parameters()
    assert name == "guide.particles.rate"
    for i in range(3):
        ends = []
        for eps in (1e-6, -2e-6, 1e-6):
            with torch.no_grad():
                leaf[i] += eps
            ends.append(meta.evaluate_loss(support, query))
        torch.testing.assert_close(grads[name][i].item(), (ends[0] - ends[1]) / 2e-6, rtol=1e-5, atol=1e-7)
    with torch.no_grad():
        next(iter(slow.named_parameters()))[1].copy_(leaf)
    torch.testing.assert_close(slow.loss_and_grads(support, query)[0], loss, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": 0.0}, "lr must be positive"),
        ({"bandwidth": -1.0}, "bandwidth must be positive"),
        ({"learn": "all"}, "learn must be"),
    ],
)
def test_bad_options(options, message):
    with pytest.raises(ValueError, match=message):
        SVGD(**options)


@pytest.mark.parametrize("other", [torch.zeros(()), torch.zeros(4)])
def test_parameters_must_share_the_particle_dimension(other):
    with pytest.raises(ValueError, match="first dimension of particles"):
        SVGD().learned({"w": torch.zeros(3, 2), "scale": other}, 1)
