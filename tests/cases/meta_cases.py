"""How the contract tests build a MetaSVI on the programs of the conformance suites, and what they compare."""

import pyro
import pyro.distributions as dist
import torch
from programs import Case, PlainModel, rows
from torch import nn

import pyrometa as pm

LR = 0.005


def meta_svi(case, **options):
    options = {"inner": pm.SGD(LR), "steps": 2, "adapt": "both", **options}
    return pm.MetaSVI(case.model, case.guide, options.pop("optim", pyro.optim.Adam({"lr": 1e-2})), **options)


def as_args(given):
    return given if isinstance(given, tuple) else (given,)


def task(given, i):
    """The i-th task of a meta-batch, as the model takes it."""
    return tuple(x[i] for x in given) if isinstance(given, tuple) else given[i]


def values(meta):
    return {name: leaf.detach().clone() for name, leaf in meta.named_parameters()}


def store():
    """The param store: the very leaf of each name."""
    return dict(pyro.get_param_store()._params)


def assert_equal(got, expected, **tolerance):
    assert got.keys() == expected.keys()
    for name, value in got.items():
        torch.testing.assert_close(value, expected[name], msg=lambda m, n=name: f"{n}: {m}", **tolerance)


def numbers(found):
    """All numbers that a method of MetaSVI returned."""
    if isinstance(found, pm.AdaptedGuide):
        return list(found.state_dict().values())
    if isinstance(found, list | tuple):
        return [number for item in found for number in numbers(item)]
    return list(found.values()) if isinstance(found, dict) else [torch.as_tensor(found)]


def guide_of(encoder):
    """A guide module that encodes each row to the mean of its latent."""

    class Guide(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = encoder.double()

        def forward(self, x):
            with pyro.plate("data", len(x)):
                pyro.sample("z", dist.Normal(self.encoder(x), 0.5).to_event(1))

    return Case(PlainModel().double(), Guide(), rows(), rows())


def mixture(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Bernoulli(torch.tensor(0.3, dtype=torch.float64)))
        pyro.sample("x", dist.Normal(z[..., None].expand(*z.shape, 2), 1.0).to_event(1), obs=x)


def mixture_guide(x):
    logit = pyro.param("logit", torch.tensor(0.2, dtype=torch.float64))
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Bernoulli(logits=logit))


def discrete(guide=mixture_guide):
    return Case(mixture, guide, rows(), rows())
