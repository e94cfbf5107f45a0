"""NaturalGradient on covariances of low rank and a diagonal: the Fisher matrix, convergence, exact derivatives."""

import copy

import pytest
import torch
from central import along, central_slope
from gaussian_guides import DIM, F64, INCLINED, auto, bound, meta_svi, pin, posterior, regression
from pyro.infer.autoguide import AutoLowRankMultivariateNormal
from torch.distributions import MultivariateNormal, kl_divergence

import pyrometa as pm
from pyrometa.inner.low_rank_moves import fisher, low_rank_moved

ENGINES = {"loop": pm.Engine(vectorize=False), "vmap": pm.Engine(vectorize=True), "recorded": pm.Engine(record=True)}
RANK = 2
NOISE = DIM + RANK


def covariance(scale, factor):
    return scale[:, None] * (torch.eye(len(scale), dtype=F64) + factor @ factor.T) * scale


def divergence(one, other):
    zero = torch.zeros(len(one), dtype=F64)
    return kl_divergence(MultivariateNormal(zero, one), MultivariateNormal(zero, other))


def somewhere(size=4, rank=RANK):
    return torch.rand(size, dtype=F64) + 0.5, torch.randn(size, rank, dtype=F64)


def full_fisher(scale, factor):
    """The Hessian of the divergence from itself, by automatic differentiation."""
    size, here = len(scale), covariance(scale, factor)

    def from_here(flat):
        return divergence(here, covariance(flat[:size].exp(), flat[size:].view_as(factor)))

    return torch.autograd.functional.hessian(from_here, torch.cat([scale.log(), factor.flatten()]))


def test_the_fisher_matrix_is_the_hessian_of_the_divergence():
    scale, factor = somewhere()
    torch.testing.assert_close(fisher(factor), full_fisher(scale, factor), rtol=1e-9, atol=1e-9)


def test_a_small_step_is_that_of_the_fisher_matrix(monkeypatch):
    monkeypatch.setattr("pyrometa.inner.low_rank_moves._SMALL", 1e-5)
    scale, factor = somewhere(5)
    matrix = full_fisher(scale, factor)
    grad = matrix @ torch.randn(len(matrix), dtype=F64)  # a turn of W, which changes nothing, has no gradient
    slopes = grad[:5], grad[5:].view_as(factor)
    rate = 1e-8
    moved, turned = low_rank_moved(scale, factor, slopes, (rate, rate))
    way = -rate * torch.linalg.pinv(matrix, rtol=1e-10) @ grad
    there = covariance(scale * way[:5].exp(), factor + way[5:].view_as(factor))
    change = covariance(moved, turned) - covariance(scale, factor)
    torch.testing.assert_close(change, there - covariance(scale, factor), rtol=0, atol=2e-5 * rate)


def test_a_gradient_along_what_changes_no_covariance_counts_for_nothing():
    scale, factor = somewhere(5)
    slopes = torch.randn(5, dtype=F64), torch.randn_like(factor)
    turn = factor @ torch.tensor([[0.0, 1.0], [-1.0, 0.0]], dtype=F64)
    plain, turned = (
        covariance(*low_rank_moved(scale, factor, (slopes[0], slopes[1] + t), (0.5, 0.5))) for t in (0, 30 * turn)
    )
    torch.testing.assert_close(turned, plain, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("size", [1e-2, 1.0, 1e2, 1e6])
def test_covariances_stay_positive_definite_whatever_the_gradient(size):
    scale, factor = somewhere()
    for _ in range(5):
        matrix = full_fisher(torch.ones_like(scale), factor)
        grad = size * matrix @ torch.randn(len(matrix), dtype=F64)
        scale, factor = low_rank_moved(scale, factor, (grad[:4], grad[4:].view_as(factor)), (1.0, 1.0))
        assert (scale > 0).all()
        assert factor.isfinite().all()


def built(rule, **options):
    model = regression(INCLINED)
    guide = auto(lambda *args, **given: AutoLowRankMultivariateNormal(*args, rank=RANK, **given))(model)
    return meta_svi(model, guide, rule, 2 * NOISE, **options)


def test_steps_of_rate_one_arrive_at_the_exact_posterior(monkeypatch):
    """Three numbers have any covariance at rank two. Their mean is there one step after the covariance."""
    pin(monkeypatch, NOISE)
    meta, y = built(pm.NaturalGradient(1.0), steps=8), torch.randn(len(INCLINED), dtype=F64)
    normal = meta.adapt(y).get_posterior()
    mean, expected = posterior(INCLINED, y)
    torch.testing.assert_close(normal.loc.detach(), mean, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(normal.covariance_matrix.detach(), expected, rtol=1e-7, atol=1e-7)


def test_meta_gradients_against_central_differences():
    meta = built(pm.NaturalGradient(0.8, "layer"), steps=2)
    support, query = torch.randn(2, 2, len(INCLINED), dtype=F64)

    def loss():
        torch.manual_seed(1)
        return meta.loss_and_grads(support, query)

    _, grads = loss()
    leaves = dict(meta.named_parameters())
    direction = {n: torch.randn_like(v) for n, v in leaves.items()}
    slope = central_slope(lambda: loss()[0].item(), leaves, direction)
    assert along(grads, direction) == pytest.approx(slope, rel=1e-5)
    assert all(grads[n].abs().max() > 0 for n in grads)


@pytest.mark.parametrize(("engine", "steps"), [("vmap", 2), ("recorded", 1)])
def test_a_recording_and_side_by_side_say_what_the_loop_says(engine, steps):
    start, y, found = None, torch.randn(3, len(INCLINED), dtype=F64), []
    for each in ("loop", engine):
        meta = built(pm.NaturalGradient(0.7, "layer"), engine=ENGINES[each], steps=steps)
        meta.init(y)
        start = start or meta.state_dict()
        meta.load_state_dict(start)
        torch.manual_seed(5)
        found.append(meta.evaluate(y, steps=(0, steps)))
        if each != "recorded":
            torch.manual_seed(6)
            found.append(meta.loss_and_grads(y)[0])
        assert bool(meta.recordings()) == (each == "recorded")
    torch.testing.assert_close(found[2:], found[: len(found) - 2], rtol=1e-8, atol=1e-8)


def test_a_frozen_factor_is_refused_and_a_copy_goes_on():
    meta, y = built(pm.NaturalGradient(0.5)), torch.randn(2, len(INCLINED), dtype=F64)
    meta.init(y)
    (gaussian,) = bound(copy.deepcopy(meta))._known.low_rank
    assert (gaussian.mean, gaussian.scale, gaussian.factor) == ("guide.loc", "guide.scale", "guide.cov_factor")
    dict(meta.named_parameters())["guide.cov_factor"].requires_grad_(False)
    with pytest.raises(ValueError, match=r"is neither: the scale that goes with it does not adapt"):
        meta.step(y)
