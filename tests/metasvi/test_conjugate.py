"""A linear-Gaussian model, where the posterior, the evidence and the K-step adapted guide are known."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from meta_cases import assert_equal
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO

import pyrometa as pm

TASKS, ROWS, DIM, NOISE, K, LR = 3, 6, 2, 0.7, 4, 0.05
DESIGN = torch.linspace(-1.0, 1.5, ROWS * DIM, dtype=torch.float64).view(ROWS, DIM).sin()
PRIOR = torch.tensor([1.3, 0.8], dtype=torch.float64)
PRECISION = DESIGN.T @ DESIGN / NOISE**2 + torch.diag(PRIOR**-2)  # of the posterior


def model(y):
    w = pyro.sample("w", dist.Normal(torch.zeros_like(PRIOR), PRIOR).to_event(1))
    with pyro.plate("data", ROWS):
        pyro.sample("y", dist.Normal(DESIGN @ w, NOISE), obs=y)


def exact_guide(y):
    offset = pyro.param("offset", torch.zeros(DIM, dtype=torch.float64))
    pyro.sample("w", dist.MultivariateNormal(posterior_mean(y) + offset, precision_matrix=PRECISION))


def mean_guide(y):
    """A learned mean, and a scale that is given: the ELBO is quadratic in the mean."""
    mean = pyro.param("mean", torch.tensor([0.4, -0.3], dtype=torch.float64))
    pyro.sample("w", dist.Normal(mean, torch.full((DIM,), 0.3, dtype=torch.float64)).to_event(1))


def diagonal_guide(y):
    mean = pyro.param("mean", torch.zeros(DIM, dtype=torch.float64))
    log_scale = pyro.param("log_scale", torch.zeros(DIM, dtype=torch.float64))
    pyro.sample("w", dist.Normal(mean, log_scale.exp()).to_event(1))


def posterior_mean(y):
    return torch.linalg.solve(PRECISION, DESIGN.T @ y / NOISE**2)


def log_evidence(y):
    covariance = DESIGN @ torch.diag(PRIOR**2) @ DESIGN.T + NOISE**2 * torch.eye(ROWS, dtype=torch.float64)
    return dist.MultivariateNormal(torch.zeros(ROWS, dtype=torch.float64), covariance).log_prob(y)


def data():
    return torch.randn(TASKS, ROWS, dtype=torch.float64), torch.randn(TASKS, ROWS, dtype=torch.float64)


def by_hand(mean, y, noise=None):
    """K steps with the draws w = mean + 0.3 noise: phi_K = m* + (I - lr A)^K (phi_0 - m*) where the noise is 0."""
    for k in range(K):
        shift = 0 if noise is None else 0.3 * noise[k]
        mean = mean - LR * PRECISION @ (mean + shift - posterior_mean(y))
    return mean


def contraction():
    return torch.linalg.matrix_power(torch.eye(DIM, dtype=torch.float64) - LR * PRECISION, K)


def meta_svi(guide, loss=None, **options):
    options = {"inner": pm.SGD(LR), "steps": K, **options}
    return pm.MetaSVI(model, guide, pyro.optim.SGD({"lr": 0.1}), loss or Trace_ELBO(), **options)


def test_the_exact_posterior_scores_the_evidence():
    support, query = data()
    meta = meta_svi(exact_guide, steps=0)
    losses = meta.evaluate(support, query)
    torch.testing.assert_close(losses[0], -log_evidence(query), rtol=1e-12, atol=1e-12)
    assert meta.evaluate_loss(support) == pytest.approx(-log_evidence(support).mean().item(), rel=1e-12)


def test_reduction_mean_divides_by_the_rows():
    support, query = data()
    losses = meta_svi(exact_guide, steps=0, reduction="mean").evaluate(support, query)
    torch.testing.assert_close(losses[0], -log_evidence(query) / ROWS, rtol=1e-12, atol=1e-12)


@pytest.mark.usefixtures("zero_noise")
@pytest.mark.parametrize("loss", [Trace_ELBO, TraceMeanField_ELBO])
def test_k_steps_in_closed_form(loss):
    support, _ = data()
    guides = meta_svi(mean_guide, loss()).adapt_many(support)
    start = torch.tensor([0.4, -0.3], dtype=torch.float64)
    for guide, y in zip(guides, support, strict=True):
        target = posterior_mean(y)
        expected = target + contraction() @ (start - target)
        torch.testing.assert_close(guide.adapted.by_name()["guide.mean"].detach(), expected, rtol=1e-12, atol=1e-13)


def test_k_steps_with_their_noise():
    """The draws of a task are one tensor for all its steps, in the order task, step."""
    support, _ = data()
    meta = meta_svi(mean_guide)
    meta.init(support)
    torch.manual_seed(11)
    guides = meta.adapt_many(support)
    torch.manual_seed(11)
    noise = torch.empty(TASKS, K, DIM, dtype=torch.float64).normal_()
    start = torch.tensor([0.4, -0.3], dtype=torch.float64)
    for guide, y, draws in zip(guides, support, noise, strict=True):
        adapted = guide.adapted.by_name()["guide.mean"].detach()
        torch.testing.assert_close(adapted, by_hand(start, y, draws), rtol=1e-12, atol=1e-13)


def expected_loss(mean, y):
    """The ELBO's loss at the mean, with the noise 0: quadratic, its least value at the posterior mean."""
    offset = mean - posterior_mean(y)
    entropy = (torch.log(torch.tensor(0.3, dtype=torch.float64)) + 0.5 * math.log(2 * math.pi)) * DIM
    posterior_mode = 0.5 * torch.logdet(PRECISION) - 0.5 * DIM * math.log(2 * math.pi)
    return -log_evidence(y) - posterior_mode + 0.5 * offset @ PRECISION @ offset - entropy


@pytest.mark.usefixtures("zero_noise")
@pytest.mark.parametrize("first_order", [False, True])
def test_the_meta_gradient_in_closed_form(first_order):
    support, query = data()
    meta = meta_svi(mean_guide, meta_gradient=pm.Unrolled(first_order=first_order))
    loss, grads = meta.loss_and_grads(support, query)
    start = torch.tensor([0.4, -0.3], dtype=torch.float64)
    ends = [by_hand(start, y) for y in support]
    expected = torch.stack([expected_loss(end, y) for end, y in zip(ends, query, strict=True)]).mean()
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
    pulled = torch.eye(DIM, dtype=torch.float64) if first_order else contraction().T
    slopes = [pulled @ PRECISION @ (end - posterior_mean(y)) for end, y in zip(ends, query, strict=True)]
    assert_equal(grads, {"guide.mean": torch.stack(slopes).mean(0)}, rtol=1e-12, atol=1e-13)


@pytest.mark.usefixtures("zero_noise")
def test_the_rates_gradient_in_closed_form():
    """d loss / d log lr of one step: -lr g(phi_1; Q)' g(phi_0; S)."""
    support, query = data()
    meta = meta_svi(mean_guide, steps=1, inner=pm.SGD(LR, learn="rate"))
    grads = meta.loss_and_grads(support, query)[1]
    start = torch.tensor([0.4, -0.3], dtype=torch.float64)
    slopes = []
    for s, q in zip(support, query, strict=True):
        first = PRECISION @ (start - posterior_mean(s))
        slopes.append(-LR * first @ PRECISION @ (start - LR * first - posterior_mean(q)))
    torch.testing.assert_close(grads["inner.log_lr"], torch.stack(slopes).mean(), rtol=1e-11, atol=1e-12)


@pytest.mark.usefixtures("zero_noise")
def test_many_steps_reach_the_posterior_mean():
    support, _ = data()
    guides = meta_svi(mean_guide).adapt_many(support, steps=300)
    for guide, y in zip(guides, support, strict=True):
        torch.testing.assert_close(guide.adapted.by_name()["guide.mean"].detach(), posterior_mean(y))


def test_meta_learning_finds_the_tasks_mean():
    """Tasks around w = (2, -1): the outer loop moves the starting point there, and two steps get closer from it."""
    truth = torch.tensor([2.0, -1.0], dtype=torch.float64)

    def tasks():
        weights = truth + 0.05 * torch.randn(6, DIM, dtype=torch.float64)
        return weights @ DESIGN.T + 0.05 * torch.randn(6, ROWS, dtype=torch.float64)

    meta = pm.MetaSVI(model, diagonal_guide, pyro.optim.Adam({"lr": 0.1}), steps=2, inner=pm.SGD(0.01))
    before = meta.evaluate_loss(tasks(), tasks())
    for _ in range(50):
        meta.step(tasks(), tasks())
    assert meta.evaluate_loss(tasks(), tasks()) < before - 1
    mean = dict(meta.named_parameters())["guide.mean"].detach()
    shrunk = posterior_mean(DESIGN @ truth)
    assert (mean - shrunk).norm() < 0.5 * shrunk.norm()
