"""NaturalGradient: exact on Gaussian posteriors, against the Fisher matrix, positive definite, exact derivatives."""

import copy
import pickle

import pyro
import pyro.distributions as dist
import pytest
import torch
from central import along, central_slope
from gaussian_guides import DIAGONAL, DIM, F64, FULL, INCLINED, UPRIGHT, bound, meta_svi, pin, posterior, regression
from torch.autograd import gradcheck
from torch.distributions import MultivariateNormal, kl_divergence

import pyrometa as pm
from pyrometa.inner.covariance import SAFE, inverse, matrix_inverse

pytestmark = pytest.mark.gpu

ENGINES = {"loop": pm.Engine(vectorize=False), "vmap": pm.Engine(vectorize=True), "recorded": pm.Engine(record=True)}
KINDS = [*(("diagonal", name) for name in DIAGONAL), *(("full", name) for name in FULL)]


def built(kind, name, rule, **options):
    """An algorithm on a program whose posterior the guide can be, and its design."""
    design, guides = (UPRIGHT, DIAGONAL) if kind == "diagonal" else (INCLINED, FULL)
    model = regression(design)
    return meta_svi(model, guides[name](model), rule, **options), design


def gaussian(guide, y):
    """Mean and covariance of the guide's draws, affine in the noise, read off its distributions."""
    trace = pyro.poutine.trace(guide).get_trace(y)
    fn = next(site["fn"] for site in trace.nodes.values() if site["type"] == "sample")
    if hasattr(fn, "transforms"):
        (transform,) = fn.transforms
        scale = transform.scale_tril if hasattr(transform, "scale_tril") else transform.scale.diag()
        return transform.loc, scale @ scale.T
    normal = getattr(fn, "base_dist", fn)
    cov = normal.covariance_matrix if isinstance(normal, MultivariateNormal) else normal.scale.square().diag()
    return normal.mean, cov


RUNS = [(*kind, engine) for kind in KINDS for engine in ("loop", "vmap")]
RUNS += [("diagonal", "AutoNormal", "recorded"), ("full", "AutoMultivariateNormal", "recorded")]


@pytest.mark.parametrize(("kind", "name", "engine"), RUNS)
def test_one_step_of_rate_one_is_the_exact_posterior(kind, name, engine, monkeypatch):
    pin(monkeypatch)
    meta, design = built(kind, name, pm.NaturalGradient(1.0), engine=ENGINES[engine])
    y = torch.randn(3, len(design), dtype=F64)
    for one, guide in zip(y, meta.adapt_many(y), strict=True):
        with torch.no_grad():
            found = gaussian(guide, one)
        for value, expected in zip(found, posterior(design, one), strict=True):
            torch.testing.assert_close(value, expected, rtol=1e-9, atol=1e-9)
    assert bool(meta.recordings()) == (engine == "recorded")


def test_several_particles_of_pinned_noise_are_needed_for_that():
    meta, design = built("full", "by hand", pm.NaturalGradient(1.0))
    y = torch.randn(len(design), dtype=F64)
    mean, _ = gaussian(meta.adapt(y), y)
    assert (mean - posterior(design, y)[0]).abs().max() > 1e-3


def fisher(meta, values, y):
    """The Fisher matrix of the guide in its unconstrained parameters, as the Hessian of a divergence from itself."""
    program, names = meta._program, list(values)
    shapes = [values[name].shape for name in names]
    here = torch.cat([values[name].flatten() for name in names])

    def at(flat):
        parts = flat.split([shape.numel() for shape in shapes])
        with program.using({n: part.view(shape) for n, part, shape in zip(names, parts, shapes, strict=True)}):
            mean, cov = gaussian(meta.guide, y)
            return MultivariateNormal(mean, cov)

    start = at(here)
    return torch.autograd.functional.hessian(lambda flat: kl_divergence(start, at(flat)), here)


@pytest.mark.parametrize(("kind", "name"), KINDS)
def test_a_small_step_is_that_of_the_fisher_matrix(kind, name):
    meta, design = built(kind, name, pm.NaturalGradient(1e-7))
    y = torch.randn(len(design), dtype=F64)
    meta.init(y[None])
    start = {n: v.detach() + 0.3 * torch.randn_like(v) for n, v in meta.named_parameters()}
    matrix = fisher(meta, start, y)
    read = matrix.diagonal() > 0
    flat = torch.randn(len(matrix), dtype=F64) * read  # what the guide does not read has no gradient
    grads = {
        n: part.view(v.shape)
        for (n, v), part in zip(start.items(), flat.split([v.numel() for v in start.values()]), strict=True)
    }
    moved, _ = bound(meta).update(start, grads, None, {}, 0)
    step = torch.cat([(moved[n] - start[n]).flatten() for n in start]) / 1e-7
    torch.testing.assert_close(step, -torch.linalg.pinv(matrix) @ flat, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", [1e-3, 1.0, 1e3, 1e6])
@pytest.mark.parametrize(("kind", "name"), KINDS)
def test_covariances_stay_positive_definite_whatever_the_gradient(kind, name, size):
    meta, design = built(kind, name, pm.NaturalGradient(1.0))
    y = torch.randn(len(design), dtype=F64)
    meta.init(y[None])
    values = {n: v.detach() for n, v in meta.named_parameters()}
    for _ in range(4):
        values, _ = bound(meta).update(values, {n: size * torch.randn_like(v) for n, v in values.items()}, None, {}, 0)
        with meta._program.using(values):
            _, covariance = gaussian(meta.guide, y)
        assert all(value.isfinite().all() for value in values.values())
        assert (torch.linalg.eigvalsh(covariance / covariance.diagonal().max()) > -1e-14).all()
        assert (covariance.diagonal() > 0).all()


def test_a_variance_is_bent_smoothly():
    factor = torch.tensor([5.0, SAFE, SAFE - 1e-9, SAFE + 1e-9, 0.0, -1e9], dtype=F64, requires_grad=True)
    value = inverse(factor)
    (slope,) = torch.autograd.grad(value.sum(), factor)
    assert (value > 0).all()
    assert (value <= 2 / SAFE).all()
    torch.testing.assert_close(value[0], 1 / factor[0], rtol=1e-15, atol=0)
    torch.testing.assert_close(slope[1:4], torch.full((3,), -1 / SAFE**2, dtype=F64), rtol=1e-6, atol=0)


@pytest.mark.parametrize("values", [[1.0, 1.0, 1.0], [2.0, 0.5, 0.5], [1.0, -0.5, -0.5], [3.0, SAFE / 2, -2.0]])
def test_exact_derivatives_where_eigenvalues_coincide(values):
    turn = torch.linalg.qr(torch.randn(3, 3, dtype=F64)).Q
    matrix = (turn * torch.tensor(values, dtype=F64)) @ turn.T
    held = (turn * inverse(torch.tensor(values, dtype=F64))) @ turn.T
    torch.testing.assert_close(matrix_inverse(matrix), held, rtol=1e-12, atol=1e-12)
    assert gradcheck(lambda m: matrix_inverse((m + m.T) / 2), [matrix.requires_grad_()], eps=1e-7, atol=1e-5, rtol=1e-5)


def labels(y):
    """A model that is not conjugate."""
    w = pyro.sample("w", dist.Normal(torch.zeros(DIM, dtype=F64), 1.0).to_event(1))
    with pyro.plate("data", len(INCLINED)):
        pyro.sample("y", dist.Bernoulli(logits=(w * INCLINED).sum(-1)), obs=y)


def labelled(guides, name, rule, **options):
    meta = meta_svi(labels, guides[name](labels), rule, **{"steps": 3, **options})
    return meta, torch.eye(2, len(INCLINED), dtype=F64), torch.ones(2, len(INCLINED), dtype=F64)


@pytest.mark.parametrize("learn", [None, "rate", "layer_step", "parameter"])
@pytest.mark.parametrize(
    ("guides", "name"), [(DIAGONAL, "by hand"), (FULL, "by hand"), (FULL, "AutoMultivariateNormal")]
)
@pytest.mark.parametrize("lr", [0.7, 1.6])
def test_meta_gradients_against_central_differences(guides, name, learn, lr):
    meta, support, query = labelled(guides, name, pm.NaturalGradient(lr, learn), engine=ENGINES["vmap"])

    def loss():
        torch.manual_seed(1)
        return meta.loss_and_grads(support, query)

    _, grads = loss()
    leaves = dict(meta.named_parameters())
    direction = {n: torch.randn_like(v) for n, v in leaves.items()}
    slope = central_slope(lambda: loss()[0].item(), leaves, direction)
    assert along(grads, direction) == pytest.approx(slope, rel=1e-6, abs=1e-7)
    assert all(grads[n].abs().max() > 0 for n in grads)


def test_a_recording_of_meta_steps_says_what_the_loop_says():
    found = []
    for engine in ENGINES.values():
        pyro.clear_param_store()
        torch.manual_seed(5)
        rule = pm.NaturalGradient(0.7, "layer")
        meta, support, query = labelled(FULL, "by hand", rule, engine=engine, steps=1)
        found.append([meta.step(support, query) for _ in range(3)])
        assert len(meta.recordings()) == (engine.record is True)
    assert found[1] == pytest.approx(found[0], rel=1e-9)
    assert found[2] == pytest.approx(found[0], rel=1e-9)


def test_a_copy_and_a_pickle_go_on_as_the_original():
    meta, design = built("full", "AutoMultivariateNormal", pm.NaturalGradient(0.5, "layer"), steps=2)
    y = torch.randn(2, len(design), dtype=F64)
    meta.step(y)
    losses = []
    for each in (meta, copy.deepcopy(meta)):
        torch.manual_seed(2)
        losses.append(each.step(y))
    assert losses[0] == losses[1]
    again = pickle.loads(pickle.dumps(bound(meta)))
    params = {n: v for n, v in meta.named_parameters() if not n.startswith("inner.")}
    rates = again.learned(params, 2)
    assert all(
        torch.equal(again.update(params, params, None, rates, 0)[0][n], value)
        for n, value in bound(meta).update(params, params, None, rates, 0)[0].items()
    )
