"""Particles as a guide."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import Trace_ELBO

from pyrometa.guides import ParticleGuide

F64 = torch.float64


def model(x):
    loc = pyro.sample("loc", dist.Normal(x.new_zeros(2), 2.0).to_event(1))
    scale = pyro.sample("net.scale", dist.LogNormal(x.new_zeros(()), 0.5))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(loc, scale[..., None]).to_event(1), obs=x)


def test_the_loss_is_the_mean_negative_log_joint_of_the_unconstrained_particles():
    x = torch.randn(6, 2, dtype=F64)
    guide = ParticleGuide(model, 4, max_plate_nesting=1)
    values = guide(x)
    assert {name: tuple(value.shape) for name, value in values.items()} == {"loc": (4, 1, 2), "net.scale": (4, 1)}
    assert dict(guide.named_parameters()).keys() == {"particles.loc", "particles.net.scale"}
    elbo = Trace_ELBO(num_particles=4, vectorize_particles=True, max_plate_nesting=1)
    logs = []
    for p in range(4):
        one = {name: value[p, 0] for name, value in values.items()}
        log = poutine.trace(poutine.condition(model, one)).get_trace(x).log_prob_sum()
        logs.append(log + one["net.scale"].log())  # d scale / d log scale
    loss = elbo.differentiable_loss(model, guide, x)
    torch.testing.assert_close(loss, -torch.stack(logs).mean(), rtol=1e-12, atol=1e-12)


def test_particles_start_as_draws_from_the_model():
    guide = ParticleGuide(model, 2000, max_plate_nesting=1)
    values = guide(torch.zeros(1, 2, dtype=F64))
    assert abs(values["loc"].std().item() - 2) < 5 * 2 / (2 * 4000) ** 0.5
    assert abs(values["net.scale"].log().std().item() - 0.5) < 5 * 0.5 / (2 * 2000) ** 0.5


def local(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(0.0, 1.0))


def discrete(x):
    pyro.sample("k", dist.Categorical(torch.ones(3)))


@pytest.mark.parametrize(("program", "message"), [(local, "in the plate 'data'"), (discrete, "is discrete")])
def test_sites_that_it_refuses(program, message):
    with pytest.raises(ValueError, match=message):
        ParticleGuide(program, 3, max_plate_nesting=1)(torch.zeros(4))


@pytest.mark.parametrize(
    ("given", "error"), [((3, 3, 1), TypeError), ((model, 0, 1), ValueError), ((model, 2, -1), ValueError)]
)
def test_bad_options(given, error):
    with pytest.raises(error):
        ParticleGuide(*given)
