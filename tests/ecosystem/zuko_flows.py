"""Every flow of zuko as the posterior of a guide, through Pyro's bridge, conditional on the task's data."""

import pyro
import pyro.distributions as dist
import torch
import zuko
from pyro.contrib.zuko import ZukoToPyro
from row import Program, Row
from torch import nn


class Fitted(nn.Module):
    """A latent of two columns; its posterior is a flow given the mean of the data."""

    def __init__(self, flow):
        super().__init__()
        self.flow = flow

    def model(self, x):
        z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(z, 0.8).to_event(1), obs=x)

    def guide(self, x):
        pyro.module("flow", self.flow)
        pyro.sample("z", ZukoToPyro(self.flow(x.mean(0))))


class Density(Fitted):
    """The flow as the density of the data, learned by maximum likelihood."""

    def model(self, x):
        pyro.module("flow", self.flow)
        with pyro.plate("data", len(x)):
            pyro.sample("x", ZukoToPyro(self.flow()), obs=x)

    def guide(self, x):
        pass


def _posterior(make):
    def build():
        program = Fitted(make(2, 2))
        return Program(program.model, program.guide, torch.randn(3, 5, 2), torch.randn(3, 4, 2))

    return build


def _density(make):
    def build():
        program = Density(make(2, 0))
        return Program(program.model, program.guide, torch.randn(3, 5, 2), torch.randn(3, 4, 2), adapt="model")

    return build


def _made(name, **options):
    return lambda features, context: getattr(zuko.flows, name)(features, context, **options)


SMALL = {"transforms": 1, "hidden_features": (4,)}
FLOWS = {
    "NICE": _made("NICE", **SMALL),
    "RealNVP": _made("RealNVP", **SMALL),
    "MAF": _made("MAF", **SMALL),
    "NSF": _made("NSF", **SMALL),
    "NCSF": _made("NCSF", **SMALL),
    "SOSPF": _made("SOSPF", degree=2, polynomials=2, **SMALL),
    "BPF": _made("BPF", degree=4, **SMALL),
    "GF": _made("GF", components=3, **SMALL),
    "NAF": _made("NAF", signal=4, network={"hidden_features": (4,)}, **SMALL),
    "UNAF": _made("UNAF", signal=4, network={"hidden_features": (4,)}, **SMALL),
    "CNF": _made("CNF", hidden_features=(4,)),
    "GMM": lambda features, context: zuko.flows.GMM(features, context, components=2, hidden_features=(4,)),
}
SECOND = "first order, side by side"
LOOP = "first order, loop"
POSTERIOR = {
    "SOSPF": LOOP,
    "BPF": SECOND,
    "GF": SECOND,
    "NAF": "refused",
    "UNAF": SECOND,
    "CNF": SECOND,
    "GMM": "refused",
}
DENSITY = {"SOSPF": SECOND, "UNAF": SECOND, "CNF": SECOND}

ROWS = [
    *(Row(f"{name}, posterior", _posterior(make), POSTERIOR.get(name, "side by side")) for name, make in FLOWS.items()),
    *(Row(f"{name}, density", _density(make), DENSITY.get(name, "side by side")) for name, make in FLOWS.items()),
]
