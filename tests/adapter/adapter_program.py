"""A regression and its table, importable so that an adapter of it can be pickled."""

import numpy as np
import pyarrow as pa
import pyarrow.compute
import pyro
import pyro.distributions as dist
import torch
from pyro.infer.autoguide import AutoNormal

import pyrometa as pm


def model(x, y):
    slope = pyro.sample("slope", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    with pyro.plate("rows", y.shape[-1]):
        pyro.sample("y", dist.Normal((x * slope).sum(-1), 0.5), obs=y)


def made_meta():
    return pm.MetaSVI(model, AutoNormal(model), pyro.optim.Adam({"lr": 0.01}), inner=pm.SGD(0.01), steps=3)


def made_table(sizes, seed=0):
    rng = np.random.default_rng(seed)
    users = np.repeat(np.arange(len(sizes)), sizes)
    slopes, x = rng.normal(size=(len(sizes), 2)), rng.normal(size=(len(users), 2))
    y = (x * slopes[users]).sum(1) + 0.5 * rng.normal(size=len(users))
    return pa.table({"user": users, "x0": x[:, 0], "x1": x[:, 1], "y": y})


def task(table, user):
    rows = table.filter(pa.compute.equal(table["user"], user))
    x = np.stack([rows["x0"].to_numpy(), rows["x1"].to_numpy()], 1)
    return torch.tensor(x, dtype=torch.float32), torch.tensor(rows["y"].to_numpy(), dtype=torch.float32)


def classes(x, y):
    w = pyro.sample("w", dist.Normal(torch.zeros(3), 1.0).to_event(1))
    with pyro.plate("rows", y.shape[-1]):
        pyro.sample("y", dist.Categorical(logits=x[:, None] * w), obs=y)


def made_classes():
    return pm.MetaSVI(classes, AutoNormal(classes), pyro.optim.Adam({"lr": 0.01}), inner=pm.SGD(0.01), steps=2)


def local(x):
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def local_guide(x):
    with pyro.plate("rows", len(x)):
        pyro.sample("z", dist.Normal(pyro.param("slope", torch.tensor(0.5)) * x, 1.0))


def made_local():
    return pm.MetaSVI(local, local_guide, pyro.optim.Adam({"lr": 0.01}), steps=1)


def mean_of_rows(y):
    mean = pyro.sample("mean", dist.Normal(0.0, 2.0))
    with pyro.plate("rows", y.shape[-1], dim=-1):
        pyro.sample("y", dist.Normal(mean, 1.0), obs=y)
