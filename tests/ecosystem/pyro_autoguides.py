"""Every autoguide of Pyro over one hierarchical regression."""

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import autoguide
from pyro.infer.autoguide import initialization
from row import Program, Row


def model(x, y):
    scale = pyro.sample("scale", dist.LogNormal(0.0, 0.5))
    with pyro.plate("columns", 2):
        w = pyro.sample("w", dist.Normal(0.0, scale))
    with pyro.plate("data", len(x)):
        pyro.sample("y", dist.Normal(x @ w, 0.5), obs=y)


def _tasks():
    x, w = torch.randn(3, 8, 2), torch.randn(3, 2, 1)
    y = (x @ w).squeeze(-1) + 0.5 * torch.randn(3, 8)
    return (x[:, :5], y[:, :5]), (x[:, 5:], y[:, 5:])


def _over(make):
    def build():
        return Program(model, make(model), *_tasks())

    return build


def _listed(model):
    guide = autoguide.AutoGuideList(model)
    guide.append(autoguide.AutoNormal(pyro.poutine.block(model, expose=["scale"])))
    guide.append(autoguide.AutoDiagonalNormal(pyro.poutine.block(model, expose=["w"])))
    return guide


def _structured(model):
    return autoguide.AutoStructured(
        model, conditionals={"scale": "normal", "w": "mvn"}, dependencies={"w": {"scale": "linear"}}
    )


def _effect(model):
    return autoguide.AutoNormalMessenger(model)


def _hierarchical(model):
    return autoguide.AutoHierarchicalNormalMessenger(model)


def _recursive(model):
    return autoguide.AutoRegressiveMessenger(model)


ROWS = [
    *(
        Row(name, _over(getattr(autoguide, name)))
        for name in (
            "AutoNormal",
            "AutoDiagonalNormal",
            "AutoMultivariateNormal",
            "AutoLowRankMultivariateNormal",
            "AutoDelta",
        )
    ),
    Row("AutoLowRankMultivariateNormal", _over(autoguide.AutoLowRankMultivariateNormal)),
    Row("AutoIAFNormal", _over(lambda m: autoguide.AutoIAFNormal(m, hidden_dim=[4], num_transforms=1))),
    Row("AutoLaplaceApproximation", _over(autoguide.AutoLaplaceApproximation)),
    Row("AutoGuideList", _over(_listed)),
    Row("AutoStructured", _over(_structured)),
    Row("AutoNormalMessenger", _over(_effect)),
    Row("AutoHierarchicalNormalMessenger", _over(_hierarchical)),
    Row("AutoRegressiveMessenger", _over(_recursive)),
    Row(
        "AutoNormal, init_to_mean",
        _over(lambda m: autoguide.AutoNormal(m, init_loc_fn=initialization.init_to_mean)),
    ),
]
