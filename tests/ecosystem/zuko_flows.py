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


class Sized(ZukoToPyro):
    """The bridge for zuko's Mixture: Pyro's plate expands by a list, where it wants a ``torch.Size``."""

    def expand(self, batch_shape, *args):
        return Sized(self.dist.expand(torch.Size(batch_shape)))


class Mixed(Density):
    """The density for zuko's Mixture."""

    def model(self, x):
        pyro.module("flow", self.flow)
        with pyro.plate("data", len(x)):
            pyro.sample("x", Sized(self.flow()), obs=x)


def _posterior(make, **options):
    def build():
        program = Fitted(make(2, 2))
        return Program(program.model, program.guide, torch.randn(3, 5, 2), torch.randn(3, 4, 2), **options)

    return build


def _density(make, kind=Density):
    def build():
        program = kind(make(2, 0))
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
FIRST_LOOP = "first order, loop"
AGAIN = "its backward pass calls the network again, which has no fast weights by then: MAF or NSF instead"
INVERTED = {"distance": 1e-2, "within": 5e-4}  # draws are bisected to 1e-6, so that the loss is a staircase
POSTERIORS = {
    **dict.fromkeys(("SOSPF", "BPF", "GF"), (FIRST_LOOP, INVERTED, "")),
    **{name: ("refused", {}, AGAIN) for name in ("NAF", "UNAF", "CNF")},
    "GMM": ("first order, side by side", {"pathwise": False}, ""),
}
DENSITIES = {
    "SOSPF": (FIRST_LOOP, Density, ""),
    **dict.fromkeys(("BPF", "GF", "NAF"), ("loop", Density, "")),
    **dict.fromkeys(("UNAF", "CNF"), ("refused", Density, AGAIN)),
    "GMM": (
        "side by side",
        Mixed,
        "a `ZukoToPyro` whose `expand` makes a `torch.Size` of the list that Pyro's plate passes",
    ),
}


def _posterior_row(name):
    outcome, options, change = POSTERIORS.get(name, ("side by side", {}, ""))
    return Row(f"{name}, posterior", _posterior(FLOWS[name], **options), outcome, change)


def _density_row(name):
    outcome, kind, change = DENSITIES.get(name, ("side by side", Density, ""))
    return Row(f"{name}, density", _density(FLOWS[name], kind), outcome, change)


ROWS = [*map(_posterior_row, FLOWS), *map(_density_row, FLOWS)]
