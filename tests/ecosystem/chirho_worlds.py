"""chirho's causal programs: interventions, counterfactual worlds and soft conditioning on the user's own model."""

import pyro
import pyro.distributions as dist
import torch
from chirho.interventional.handlers import do
from chirho.observational.handlers import condition
from pyro.infer.autoguide import AutoNormal
from row import Program, Row


def outcome_model(x, t):
    effect = pyro.sample("effect", dist.Normal(0.0, 1.0))
    slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(x), dim=-1):
        treated = pyro.sample("t", dist.Normal(0.5 * x, 1.0))
        return pyro.sample("y", dist.Normal(slope * x + effect * treated, 0.5))


def conditioned(x, t, y):
    with condition(data={"t": t, "y": y}):
        return outcome_model(x, t)


def intervened(x, t, y):
    with condition(data={"t": t, "y": y}), do(actions={"t": t}):
        return outcome_model(x, t)


def _program(model):
    def build():
        guide = AutoNormal(pyro.poutine.block(model, expose=["effect", "slope"]))
        return Program(model, guide, tuple(torch.randn(3, 3, 5).unbind(0)), None)

    return build


ROWS = [
    Row("condition", _program(conditioned)),
    Row("do", _program(intervened)),
]
