"""Lines through the origin, tasks of any sizes, and an ELBO without much noise."""

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import TraceMeanField_ELBO


def line(x, y):
    slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
    with pyro.plate("rows", x.shape[-1], dim=-1):
        pyro.sample("y", dist.Normal(slope * x, 0.5), obs=y)


def lines(*sizes):
    return [(torch.randn(n), torch.randn(n)) for n in sizes]


ELBO = TraceMeanField_ELBO(num_particles=4000, vectorize_particles=True, max_plate_nesting=2)
