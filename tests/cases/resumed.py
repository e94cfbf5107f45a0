"""Training that is interrupted and goes on in another process: run as a script it goes on with all of ``RUNS``."""

import random
import sys
from functools import partial
from pathlib import Path

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from programs import DIM, ROWS, TASKS, modules
from torch import nn
from torch.distributions import constraints

import pyrometa as pm
from pyrometa import saving

HALF = 3


class FirstData(nn.Module):
    """A guide of which first data set a buffer, and noise with numpy's and Python's generators in it."""

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(DIM, 2).double()
        self.frozen = nn.Parameter(torch.randn(DIM, dtype=torch.float64), requires_grad=False)
        self.register_buffer("center", torch.zeros(DIM, dtype=torch.float64))
        self.register_buffer("ready", torch.tensor(False))

    def forward(self, x):
        if not self.ready:
            self.center.copy_(x.mean(0))
            self.ready.fill_(True)
        loc, scale = self.net((x - self.center) * self.frozen).chunk(2, -1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, scale.exp()).to_event(1))


def from_data(x):
    """A guide of bare parameters, of which one starts where first data are."""
    loc = pyro.param("loc", lambda: x.mean(0)[:1])
    scale = pyro.param("scale", torch.ones(1, dtype=torch.float64), constraint=constraints.positive)
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(loc.expand(len(x), 1), scale).to_event(1))


def meta_svi(guide=None, **options):
    case = modules()
    options = {"inner": pm.SGD(0.01), "steps": 2, "optim": pyro.optim.Adam({"lr": 1e-2}), **options}
    return pm.MetaSVI(case.model, guide() if guide else case.guide, options.pop("optim"), **options)


RUNS = {
    "adam": partial(meta_svi, adapt="both"),
    "clipped, and rates that fall": partial(meta_svi, optim=pyro.optim.ClippedAdam({"lr": 1e-2, "lrd": 0.9})),
    "a rule with moments and learned rates": partial(meta_svi, inner=pm.Adam(0.01, learn="layer_step")),
    "learned rates": partial(meta_svi, inner=pm.SGD(0.01, learn="parameter")),
    "displacement": partial(meta_svi, meta_gradient=pm.Displacement()),
    "a learned optimizer": partial(meta_svi, inner=pm.LearnedOptimizer(hidden=3)),
    "momentum outside": partial(meta_svi, optim=lambda groups: torch.optim.SGD(groups, lr=1e-3, momentum=0.9)),
    "the loop": partial(meta_svi, engine=pm.Engine(vectorize=False)),
    "recorded": partial(meta_svi, engine=pm.Engine(record=True)),
    "what first data set": partial(meta_svi, guide=FirstData),
    "what starts at first data": partial(meta_svi, guide=lambda: from_data),
}


def data():
    """A meta-batch with numbers of three generators, and of two sizes."""
    noise = np.random.standard_normal((TASKS, ROWS, DIM)) + random.gauss(0.0, 1.0)  # noqa: NPY002
    rows = torch.randn(TASKS, ROWS, DIM, dtype=torch.float64) + torch.from_numpy(noise)
    return rows, torch.randn_like(rows)


def seed(number):
    torch.manual_seed(number)
    np.random.seed(number)  # noqa: NPY002
    random.seed(number)
    pyro.clear_param_store()


def steps(meta, count):
    return [meta.step(*data()) for _ in range(count)]


def files(folder, name):
    return folder / f"{name} meta.safetensors", folder / f"{name} generators.safetensors"


def interrupt(folder, name):
    """Train to the half, save, and go on: what it ends with is what a run that goes on has to end with."""
    seed(1)
    meta = RUNS[name]()
    steps(meta, HALF)
    saved, generators = files(folder, name)
    meta.save(saved)
    saving.write(generators, saving.generators(), kind="generators")
    return {"losses": steps(meta, HALF), "state": meta.state_dict()}


def go_on(folder, name):
    """Go on from what :func:`interrupt` saved, where it was seeded otherwise."""
    seed(2)
    meta = RUNS[name]()
    saved, generators = files(folder, name)
    meta.load(saved)
    saving.set_generators(saving.read(generators, kind="generators"))
    return {"losses": steps(meta, HALF), "state": meta.state_dict()}


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    for name in RUNS:
        saving.write(folder / f"{name} end.safetensors", go_on(folder, name), kind="end")
