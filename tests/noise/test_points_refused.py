"""Points that do not suit a program are refused, with the cure."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO

import pyrometa as pm


def particles(count=8, *, together=False):
    return Trace_ELBO(num_particles=count, vectorize_particles=together, max_plate_nesting=1)


def model(x):
    loc = pyro.sample("loc", dist.Normal(0.0, 3.0))
    with pyro.plate("data", x.shape[-1]):
        pyro.sample("x", dist.Normal(loc, 1.0), obs=x)


def guide(x):
    pyro.sample("loc", dist.Normal(pyro.param("m", torch.tensor(0.3)), 1.0))


def meta_svi(points="sobol", *, program=(model, guide), loss=None, **options):
    loss = loss or particles(together=True)
    return pm.MetaSVI(*program, pyro.optim.Adam({"lr": 0.01}), loss, noise=pm.Noise(points), **options)


def data():
    return torch.ones(2, 4)


class Moody:
    """A guide that draws once more in every other run."""

    def __init__(self):
        self.runs = 0

    def __call__(self, x):
        self.runs += 1
        extra = torch.randn(2).sum() * 0 if self.runs % 2 else 0.0
        pyro.sample("loc", dist.Normal(pyro.param("m", torch.tensor(0.3)) + extra, 1.0))


def wide(x):
    pyro.sample("wide", dist.Normal(pyro.param("m", torch.zeros(30_000)), 1.0).to_event(1))


def function(model, guide, *args):
    return Trace_ELBO().differentiable_loss(model, guide, *args)


REFUSED = {
    "other points": (lambda: pm.Noise("halton"), "points must be one of random, antithetic, sobol, got 'halton'"),
    "no noise": (
        lambda: pm.MetaSVI(model, guide, pyro.optim.Adam({}), noise="sobol"),
        "noise must be a pyrometa.Noise, got str: give Noise(points='sobol'), say",
    ),
    "the default loss": (
        lambda: pm.MetaSVI(model, guide, pyro.optim.Adam({}), noise=pm.Noise("antithetic")),
        "loss has num_particles=1: give an even number, as in loss=TraceMeanField_ELBO(num_particles=8",
    ),
    "an odd number": (lambda: meta_svi("antithetic", loss=particles(3)), "loss has num_particles=3: give an even"),
    "one particle": (
        lambda: meta_svi("sobol", loss=Trace_ELBO()),
        "loss has num_particles=1: give several, best a power of two, as in loss=Trace_ELBO(num_particles=8",
    ),
    "one particle of a score": (
        lambda: meta_svi("sobol", score=Trace_ELBO()),
        "score has num_particles=1: give several, best a power of two, as in score=Trace_ELBO(num_particles=8",
    ),
    "a function": (
        lambda: meta_svi("sobol", loss=function),
        "loss is a function: give a Pyro ELBO with num_particles, or Noise(points='random')",
    ),
    "many dimensions": (
        lambda: meta_svi(program=(wide, wide), loss=particles(2), steps=1).step(data()),
        "draws 30000 numbers, and Sobol points have at most 21201 dimensions: give noise=Noise(",
    ),
    "other draws": (
        lambda: meta_svi("sobol", program=(model, Moody()), loss=particles()).loss_and_grads(data()),
        "needs the same draws in every particle, and under Trace_ELBO(num_particles=8, vectorize_particles=False)",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    act, message = REFUSED[name]
    with pytest.raises((TypeError, ValueError)) as caught:
        act()
    assert message in str(caught.value)
    if isinstance(caught.value, pm.UnsupportedProgramError):
        assert f"{__file__.rpartition('/')[2]}:" in str(caught.value)  # the line of the program
