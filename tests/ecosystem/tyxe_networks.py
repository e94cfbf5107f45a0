"""tyxe's Bayesian neural networks, by their own ``model`` and ``guide``."""

import pyro
import pyro.distributions as dist
import torch
import tyxe
from row import Program, Row
from torch import nn


def _network(guide, likelihood, **options):
    def build():
        net = nn.Sequential(nn.Linear(1, 4), nn.Tanh(), nn.Linear(4, 1))
        prior = tyxe.priors.IIDPrior(dist.Normal(torch.tensor(0.0), torch.tensor(1.0)))
        bayesian = tyxe.VariationalBNN(net, prior, likelihood(), guide)
        x = torch.randn(3, 6, 1)
        return Program(bayesian.model, bayesian.guide, (x, x.sin()), None, **options)

    return build


def _gaussian():
    return tyxe.likelihoods.HomoskedasticGaussian(6, scale=0.1)


CHANGE = "Pyro's AutoNormal: tyxe's own calls `pyro.util.deep_getattr`, which Pyro 1.9 no longer has"

ROWS = [
    Row(
        "VariationalBNN, AutoNormal",
        _network(pyro.infer.autoguide.AutoNormal, _gaussian),
        change=CHANGE,
    ),
    Row("VariationalBNN, AutoDiagonalNormal", _network(pyro.infer.autoguide.AutoDiagonalNormal, _gaussian)),
    Row("VariationalBNN, AutoLowRank", _network(pyro.infer.autoguide.AutoLowRankMultivariateNormal, _gaussian)),
]
