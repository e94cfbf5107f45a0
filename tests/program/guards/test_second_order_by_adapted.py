"""A rule that takes second derivatives needs them by what adapts; a meta-gradient, by all that learns."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import pyrometa as pm
from pyrometa import guides

TASKS = torch.linspace(-1, 2, 12).reshape(2, 6)


class Detached(nn.Module):
    """An encoder of which no gradient passes on, as of rounds that are run to their end."""

    def __init__(self):
        super().__init__()
        self.network = nn.Linear(2, 2)

    def forward(self, x):
        return self.network(torch.stack([x.mean(), x.std()])[None]).detach()


def model(x):
    z = pyro.sample("z", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def learner(meta_gradient):
    torch.manual_seed(0)
    guide = guides.SetEncoderGuide(model, Detached(), pooling="mean")
    guide(TASKS[0])
    heads = "guide.amortized.heads.*.bias"
    optim = pyro.optim.Adam({"lr": 0.01})
    return pm.MetaSVI(model, guide, optim, inner=pm.Newton(), adapt=heads, steps=1, meta_gradient=meta_gradient)


def test_newton_on_biases_behind_a_detach_is_let_pass_at_first_order():
    meta = learner(pm.Unrolled(first_order=True))
    meta.step(TASKS)
    assert meta.adapt(TASKS[0])(TASKS[0])["z"].shape == ()


def test_what_passed_at_meta_test_is_still_refused_through_the_steps():
    meta = learner(pm.Unrolled())
    meta.adapt(TASKS[0])
    with pytest.raises(pm.UnsupportedProgramError, match=r"wrong second derivative, by 'guide.amortized.encoder"):
        meta.step(TASKS)
