"""Small Pyro programs, one for each way that Pyro holds parameters: the rows of the conformance suites."""

from collections.abc import Callable
from dataclasses import dataclass

import pyro
import pyro.distributions as dist
import torch
from pyro.infer.autoguide import AutoDiagonalNormal, AutoNormal
from pyro.nn import PyroModule, PyroParam, PyroSample
from torch import nn
from torch.distributions import constraints

TASKS, ROWS, DIM = 3, 4, 2


@dataclass(frozen=True)
class Case:
    """A program and tasks for it, in float64."""

    model: Callable
    guide: Callable
    support: object
    query: object


def rows():
    return torch.randn(TASKS, ROWS, DIM, dtype=torch.float64)


def _data_plate(x, z_dim, guide_of):
    with pyro.plate("data", len(x)):
        pyro.sample("z", guide_of(x).to_event(1))


class Decoder(PyroModule):
    """z -> x through a plain nn.Linear, with a constrained noise scale."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(1, DIM)
        self.noise = PyroParam(torch.tensor(0.7), constraint=constraints.positive)

    def forward(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.linear(z), self.noise).to_event(1), obs=x)


class Encoder(PyroModule):
    def __init__(self):
        super().__init__()
        self.hidden = nn.Linear(DIM, 3)
        self.loc = nn.Linear(3, 1)
        self.scale = PyroParam(torch.tensor(0.4), constraint=constraints.positive)

    def forward(self, x):
        _data_plate(x, 1, lambda x: dist.Normal(self.loc(torch.tanh(self.hidden(x))), self.scale))


def modules():
    """PyroModules that hold nn.Linear and PyroParam."""
    return Case(Decoder().double(), Encoder().double(), rows(), rows())


class PlainGuide(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(DIM, 2)

    def forward(self, x):
        _data_plate(x, 1, lambda x: dist.Normal(self.net(x)[:, :1], self.net(x)[:, 1:].exp()))


class PlainModel(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(1, DIM, bias=False)

    def forward(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.net(z), 1.0).to_event(1), obs=x)


def plain_modules():
    """nn.Modules that Pyro knows nothing of."""
    return Case(PlainModel().double(), PlainGuide().double(), rows(), rows())


class TutorialVAE(nn.Module):
    """One nn.Module with bound model and guide and pyro.module inside, as in Pyro's VAE tutorial."""

    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = nn.Linear(DIM, 2), nn.Linear(1, DIM)

    def model(self, x):
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.decoder(z), 1.0).to_event(1), obs=x)

    def guide(self, x):
        pyro.module("encoder", self.encoder)
        _data_plate(x, 1, lambda x: dist.Normal(self.encoder(x)[:, :1], self.encoder(x)[:, 1:].exp()))


def bound_methods():
    vae = TutorialVAE().double()
    return Case(vae.model, vae.guide, rows(), rows())


def bare_params():
    """Functions with bare pyro.param, constrained and not, on both sides."""

    def model(x):
        noise = pyro.param("noise", torch.tensor(0.8, dtype=torch.float64), constraint=constraints.positive)
        loc = pyro.sample("loc", dist.Normal(x.new_zeros(DIM), 2.0).to_event(1))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(loc, noise).to_event(1), obs=x)

    def guide(x):
        mean = pyro.param("mean", torch.full((DIM,), 0.3, dtype=torch.float64))
        scale = pyro.param("scale", torch.full((DIM,), 0.5, dtype=torch.float64), constraint=constraints.positive)
        pyro.sample("loc", dist.Normal(mean, scale).to_event(1))

    return Case(model, guide, rows(), rows())


def registered_modules():
    """Functions over modules from their closure, registered by pyro.module."""
    encoder, decoder = nn.Linear(DIM, 2).double(), nn.Linear(1, DIM).double()

    def model(x):
        pyro.module("decoder", decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(decoder(z), 1.0).to_event(1), obs=x)

    def guide(x):
        pyro.module("encoder", encoder)
        _data_plate(x, 1, lambda x: dist.Normal(encoder(x)[:, :1], encoder(x)[:, 1:].exp()))

    return Case(model, guide, rows(), rows())


class Regression(PyroModule):
    """Bayesian linear regression with PyroSample weights and a learned prior scale."""

    def __init__(self):
        super().__init__()
        self.prior = PyroParam(torch.tensor(1.5, dtype=torch.float64), constraint=constraints.positive)
        self.weight = PyroSample(
            lambda self: dist.Normal(torch.zeros(DIM, dtype=torch.float64), self.prior).to_event(1)
        )

    def forward(self, x, y):
        mean = x @ self.weight
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Normal(mean, 0.5), obs=y)


def _regression(autoguide):
    model = Regression()
    targets = [torch.randn(TASKS, ROWS, dtype=torch.float64) for _ in range(2)]
    return Case(model, autoguide(model), (rows(), targets[0]), (rows(), targets[1]))


def auto_normal():
    return _regression(AutoNormal)


def auto_diagonal():
    return _regression(AutoDiagonalNormal)


PROGRAMS = [
    modules,
    plain_modules,
    bound_methods,
    bare_params,
    registered_modules,
    auto_normal,
    auto_diagonal,
]
