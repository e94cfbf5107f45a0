"""Linear-Gaussian programs, whose posterior is known, under guides that can be it; and the noise that shows it."""

import math

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import TraceMeanField_ELBO
from pyro.infer.autoguide import AutoDiagonalNormal, AutoMultivariateNormal, AutoNormal
from torch.distributions import constraints

import pyrometa as pm

F64, DIM = torch.float64, 3
PARTICLES = 2 * DIM
INCLINED = torch.tensor([[1.0, 0.2, 0.0], [0.3, -0.8, 0.5], [0.0, 0.4, 1.2], [0.9, 0.1, -0.6]], dtype=F64)
UPRIGHT = torch.tensor([[1.0, 0.0, 0.0], [0.0, -0.8, 0.0], [0.0, 0.0, 1.2], [0.5, 0.0, 0.0]], dtype=F64)


def regression(design):
    """Four data that are linear in three coefficients."""

    def model(y):
        w = pyro.sample("w", dist.Normal(torch.zeros(DIM, dtype=F64), 2.0).to_event(1))
        with pyro.plate("data", len(design)):
            pyro.sample("y", dist.Normal((w * design).sum(-1), 0.5), obs=y)

    return model


def posterior(design, y):
    """Mean and covariance of the coefficients."""
    precision = design.T @ design / 0.25 + torch.eye(DIM, dtype=F64) / 4
    return torch.linalg.solve(precision, design.T @ y / 0.25), precision.inverse()


def diagonal(y):
    """A guide by hand; two of its names say the wrong thing."""
    loc = pyro.param("scale", torch.full((DIM,), 0.3, dtype=F64))
    scale = pyro.param("loc", torch.full((1, DIM), 0.6, dtype=F64), constraint=constraints.positive)
    pyro.sample("w", dist.Normal(loc, scale[0]).to_event(1))


def log_variance(y):
    loc = pyro.param("mean", torch.full((DIM,), 0.3, dtype=F64))
    variance = pyro.param("log_variance", torch.zeros(DIM, dtype=F64)).exp()
    pyro.sample("w", dist.Normal(loc.flip(0), variance.sqrt()).to_event(1))


def affine(y):
    """What an affine transform makes of a standard normal."""
    loc = pyro.param("mean", torch.full((DIM,), 0.3, dtype=F64))
    scale = pyro.param("scale", torch.full((DIM,), 0.6, dtype=F64), constraint=constraints.positive)
    standard = dist.Normal(torch.zeros(DIM, dtype=F64), 1.0).to_event(1)
    pyro.sample("w", dist.TransformedDistribution(standard, [dist.transforms.AffineTransform(loc, scale, event_dim=1)]))


def full(y):
    loc = pyro.param("mean", torch.full((DIM,), 0.3, dtype=F64))
    tril = pyro.param("tril", 0.6 * torch.eye(DIM, dtype=F64), constraint=constraints.lower_cholesky)
    pyro.sample("w", dist.MultivariateNormal(loc, scale_tril=tril))


def auto(kind):
    return lambda model: kind(model, init_loc_fn=lambda site: torch.full((DIM,), 0.3, dtype=F64), init_scale=0.6)


DIAGONAL = {
    "by hand": lambda _: diagonal,
    "log variance": lambda _: log_variance,
    "affine": lambda _: affine,
    "AutoNormal": auto(AutoNormal),
    "AutoDiagonalNormal": auto(AutoDiagonalNormal),
}
FULL = {"by hand": lambda _: full, "AutoMultivariateNormal": auto(AutoMultivariateNormal)}


def elbo(particles=PARTICLES):
    return TraceMeanField_ELBO(num_particles=particles, vectorize_particles=True, max_plate_nesting=1)


def meta_svi(model, guide, rule, particles=PARTICLES, **options):
    """Natural gradient; steps see the points of a noise that may be pinned."""
    options = {"steps": 1, "noise": pm.Noise("sobol"), **options}
    return pm.MetaSVI(model, guide, pyro.optim.Adam({"lr": 0.01}), elbo(particles), inner=rule, **options)


def bound(meta):
    """The rule as it runs."""
    return meta._state.known().rules.of(meta.inner)


def pin(monkeypatch, size=DIM):
    """Noise of mean zero and second moment one: each coordinate in turn, there and back."""
    ends = math.sqrt(size) * torch.eye(size, dtype=F64)
    points = torch.special.ndtr(torch.cat([ends, -ends]))
    monkeypatch.setattr(
        "pyrometa.noise.points.scrambled_sobol",
        lambda particles, size, tasks, steps: points.expand(tasks, steps, particles, size),
    )
