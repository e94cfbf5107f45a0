"""The draws of a program are found out once for each shape, by a run of it."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import TraceMeanField_ELBO
from torch import nn

import pyrometa as pm
from pyrometa.types import Data


def model(y):
    mean = pyro.sample("mean", dist.Normal(0.0, 2.0))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(mean, 1.0), obs=y)


class Guide(nn.Module):
    def __init__(self):
        super().__init__()
        self.loc, self.runs = nn.Parameter(torch.zeros(2)), []

    def forward(self, y):
        self.runs.append(len(y))
        pyro.sample("mean", dist.Normal(self.loc[0], 1.0))


class Conditioned(Guide):
    """It draws where the support set has three rows, and nowhere else."""

    def condition(self, support):
        def guide(y):
            self.runs.append(len(support))
            pyro.sample("mean", dist.Normal(self.loc[0], 1.0) if len(support) == 3 else dist.Delta(self.loc[1]))

        return guide


@pytest.mark.parametrize(
    ("guide", "score", "runs"),
    [(Guide, None, [3]), (Guide, TraceMeanField_ELBO(), [3, 3]), (Conditioned, None, [3, 4])],
)
def test_a_score_that_is_the_loss_is_run_for_its_draws_once(guide, score, runs):
    guide = guide()
    meta = pm.MetaSVI(model, guide, pyro.optim.Adam({"lr": 0.1}), score=score, adapt="guide.loc")
    meta.init(torch.zeros(2, 5))
    guide.runs.clear()
    query, support = (Data((torch.zeros(rows),), {}) for rows in (3, 4))
    tapes = [meta._program.tape(query), meta._program.tape(query, support)]
    assert guide.runs == runs
    assert [len(tape) for tape in tapes] == [1, 0 if guide.runs[-1] == 4 else 1]
