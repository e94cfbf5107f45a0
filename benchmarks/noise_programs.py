"""Programs to try kinds of noise on: from 2 numbers that a particle draws to 64, made-up data."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pyro
import pyro.distributions as dist
import torch
from pyro.infer.autoguide import AutoNormal
from torch import Tensor, nn

ROWS, COUNTIES, COLUMNS, LATENTS, PIXELS = 16, 5, 5, 4, 12


@dataclass(frozen=True)
class Program:
    """A Pyro program, a meta-batch of its tasks, and the rate of inner steps, which its curvature bounds."""

    model: Callable[..., Any]
    guide: Callable[..., Any]
    tasks: Any
    rate: float = 0.1


def regression(tasks: int) -> Program:
    """A school's scores on earlier ones, as in Chem97: 2 numbers."""

    def model(x: Tensor, y: Tensor) -> None:
        intercept = pyro.sample("intercept", dist.Normal(0.0, 1.0))
        slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
        with pyro.plate("data", x.shape[-1]):
            pyro.sample("y", dist.Normal(intercept + slope * x, 0.74), obs=y)

    x = torch.randn(tasks, ROWS)
    y = 0.4 * torch.randn(tasks, 1) + (0.6 + 0.2 * torch.randn(tasks, 1)) * x + 0.74 * torch.randn(tasks, ROWS)
    return Program(model, AutoNormal(model), (x, y))


def varying_slopes(tasks: int) -> Program:
    """Houses in counties, as of the radon data: levels and slopes vary about a state's. 14 numbers."""

    def model(county: Tensor, basement: Tensor, y: Tensor) -> None:
        mean, effect = (pyro.sample(name, dist.Normal(0.0, 2.0)) for name in ("mean", "effect"))
        spread, change = (pyro.sample(name, dist.LogNormal(-1.0, 0.5)) for name in ("spread", "change"))
        with pyro.plate("counties", COUNTIES):
            level = pyro.sample("level", dist.Normal(mean, spread))
            slope = pyro.sample("slope", dist.Normal(effect, change))
        with pyro.plate("houses", y.shape[-1]):
            at = level[..., county] + slope[..., county] * basement
            pyro.sample("y", dist.Normal(at, 0.8), obs=y)

    county = torch.randint(COUNTIES, (tasks, 2 * ROWS))
    basement = (torch.rand(tasks, 2 * ROWS) < 0.3).float()
    levels = 1.3 + 0.5 * torch.randn(tasks, COUNTIES)
    y = levels.gather(1, county) - 0.6 * basement + 0.8 * torch.randn(tasks, 2 * ROWS)
    return Program(model, AutoNormal(model), (county, basement, y))


def logistic(tasks: int) -> Program:
    """A logistic regression: 5 numbers."""

    def model(x: Tensor, y: Tensor) -> None:
        weights = pyro.sample("weights", dist.Normal(torch.zeros(COLUMNS), 2.0).to_event(1))
        with pyro.plate("data", x.shape[-2]):
            pyro.sample("y", dist.Bernoulli(logits=(x * weights).sum(-1)), obs=y)

    x = torch.randn(tasks, ROWS, COLUMNS)
    logits = (x * (0.5 + torch.randn(tasks, 1, COLUMNS))).sum(-1)
    return Program(model, AutoNormal(model), (x, torch.bernoulli(logits.sigmoid())))


class SmallVAE(nn.Module):
    """A decoder and an encoder, each with one hidden layer."""

    def __init__(self) -> None:
        super().__init__()
        self.decode = nn.Sequential(nn.Linear(LATENTS, 16), nn.Tanh(), nn.Linear(16, PIXELS))
        self.hidden, self.locs, self.scales = nn.Linear(PIXELS, 16), nn.Linear(16, LATENTS), nn.Linear(16, LATENTS)

    def model(self, x: Tensor) -> None:
        """Each row is decoded from latents of its own."""
        pyro.module("vae", self)
        with pyro.plate("data", x.shape[-2]):
            z = pyro.sample("z", dist.Normal(torch.zeros(LATENTS), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.decode(z), 0.3).to_event(1), obs=x)

    def guide(self, x: Tensor) -> None:
        """Each row is encoded."""
        pyro.module("vae", self)
        hidden = self.hidden(x).tanh()
        with pyro.plate("data", x.shape[-2]):
            pyro.sample("z", dist.Normal(self.locs(hidden), self.scales(hidden).exp()).to_event(1))


def vae(tasks: int) -> Program:
    """16 rows of 4 latents, amortised: 64 numbers."""
    maps = torch.randn(LATENTS, PIXELS) / 2 + torch.randn(tasks, LATENTS, PIXELS) / 10
    x = (torch.randn(tasks, ROWS, LATENTS) @ maps).tanh() + 0.3 * torch.randn(tasks, ROWS, PIXELS)
    program = SmallVAE()
    return Program(program.model, program.guide, x, rate=0.01)


PROGRAMS = {"regression": regression, "varying slopes": varying_slopes, "logistic": logistic, "VAE": vae}
