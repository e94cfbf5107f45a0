"""A program that recipes in tests name."""

import pyro
import pyro.distributions as dist
import torch
from pyro.infer.autoguide import AutoNormal

import pyrometa as pm

NUMBER = 3


def model(x, y):
    slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
    with pyro.plate("rows", y.shape[-1]):
        pyro.sample("y", dist.Normal(slope * x, 0.5), obs=y)


def guide(x, y):
    scale = pyro.param("scale", torch.tensor(1.0), constraint=dist.constraints.positive)
    pyro.sample("slope", dist.Normal(pyro.param("mean", torch.tensor(0.0)), scale))


def make_meta(steps: int = 2):
    return pm.MetaSVI(model, AutoNormal(model), pyro.optim.Adam({"lr": 0.01}), steps=steps)


def make_tasks(count: int = 4):
    def drawn(step):
        x = torch.randn(count, 6)
        y = torch.randn(count, 1) * x + 0.5 * torch.randn(count, 6)
        return (x[:, :3], y[:, :3]), (x[:, 3:], y[:, 3:])

    with torch.random.fork_rng():
        torch.manual_seed(0)
        return drawn, drawn(0)


def one_thing():
    return 3


def wrong():
    raise ValueError("the disk is\nfull")


class Schools:
    """No module of a program."""


class Lines:
    """Tasks of which each is a line through zero."""

    def draw(self, tasks, rows, generator):
        x = torch.randn(tasks, rows, generator=generator)
        return x, torch.randn(tasks, 1, generator=generator) * x


def make_sampler():
    return tuple(pm.tasks.TaskSampler(Lines(), shots=3, queries=3, seed=seed) for seed in (0, 1))


def drawn_tasks():
    return torch.randn(4, 3), torch.randn(2, 3)


class Guide(torch.nn.Module):
    """A guide that is made anew for each run."""

    def __init__(self):
        super().__init__()
        self.mean = torch.nn.Parameter(torch.tensor(0.0))

    def forward(self, x, y):
        pyro.sample("slope", dist.Normal(self.mean, 0.3))
