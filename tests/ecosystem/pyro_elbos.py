"""Every ELBO of Pyro with a differentiable loss, and its reparameterisations."""

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import RenyiELBO, Trace_ELBO, TraceEnum_ELBO, TraceMeanField_ELBO, autoguide, config_enumerate
from pyro.infer.autoguide import AutoNormal
from pyro.infer.reparam import AutoReparam, LocScaleReparam
from pyro.poutine import reparam
from row import Program, Row
from torch.distributions import constraints


def normal_model(x):
    loc = pyro.sample("loc", dist.Normal(0.0, 3.0))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(loc, 1.0), obs=x)


def normal_guide(x):
    scale = pyro.param("scale", torch.tensor(0.5), constraint=constraints.positive)
    pyro.sample("loc", dist.Normal(pyro.param("mean", torch.tensor(0.3)), scale))


def _elbo(make):
    return lambda: Program(normal_model, normal_guide, torch.randn(3, 5) + 1, torch.randn(3, 4) + 1, make())


def _particles():
    return Trace_ELBO(num_particles=4, vectorize_particles=True, max_plate_nesting=1)


@config_enumerate
def mixture_model(x):
    loc = pyro.sample("loc", dist.Normal(torch.zeros(2), 3.0).to_event(1))
    with pyro.plate("data", len(x)):
        k = pyro.sample("k", dist.Categorical(torch.tensor([0.4, 0.6])))
        pyro.sample("x", dist.Normal(loc[k], 1.0), obs=x)


def _enumerated():
    guide = autoguide.AutoNormal(pyro.poutine.block(mixture_model, expose=["loc"]))
    return Program(mixture_model, guide, torch.randn(3, 5), torch.randn(3, 4), TraceEnum_ELBO(max_plate_nesting=1))


def schools_model(y):
    mu = pyro.sample("mu", dist.Normal(0.0, 5.0))
    tau = pyro.sample("tau", dist.LogNormal(0.0, 0.5))
    with pyro.plate("schools", 4):
        theta = pyro.sample("theta", dist.Normal(mu, tau))
        with pyro.plate("pupils", y.shape[-2]):
            pyro.sample("y", dist.Normal(theta, 1.0), obs=y)


def _reparameterized(wrap):
    def build():
        model = wrap(schools_model)
        return Program(model, AutoNormal(model), torch.randn(3, 3, 4))

    return build


ROWS = [
    Row("Trace_ELBO", _elbo(Trace_ELBO)),
    Row(
        "Trace_ELBO, 4 particles, vectorised",
        _elbo(_particles),
    ),
    Row("TraceMeanField_ELBO", _elbo(TraceMeanField_ELBO)),
    Row("TraceEnum_ELBO, enumerated mixture", _enumerated),
    Row("RenyiELBO", _elbo(lambda: RenyiELBO(alpha=0.5, num_particles=3))),
    Row("eight schools, centred", _reparameterized(lambda m: m)),
    Row("eight schools, LocScaleReparam", _reparameterized(lambda m: reparam(m, {"theta": LocScaleReparam(0.0)}))),
    Row("eight schools, AutoReparam", _reparameterized(lambda m: AutoReparam()(m))),
]
