"""A regression within each school: how grades rise with hours of study."""

import pyro
import pyro.distributions as dist


def model(hours, grade):
    """Each school has a slope and an offset of its own; ``hours`` and ``grade`` have shape ``(pupils,)``."""
    slope = pyro.sample("slope", dist.Normal(0.0, 2.0))
    offset = pyro.sample("offset", dist.Normal(0.0, 5.0))
    with pyro.plate("pupils", grade.shape[-1]):
        pyro.sample("grade", dist.Normal(offset + slope * hours, 1.0), obs=grade)
