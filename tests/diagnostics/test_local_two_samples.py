"""Calibration of one task's posterior, on a model whose posterior is known."""

import functools
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO
from torch import nn

import pyrometa as pm
from pyrometa.diagnostics import lc2st, local_two_samples, sbc
from pyrometa.diagnostics.simulated import simulated
from pyrometa.tasks import PriorTasks

ROWS = 8
COUNTS = {"rows": ROWS, "tasks": 200, "draws": 40, "nulls": 100}
FEW = {**COUNTS, "tasks": 150, "draws": 20}


def model(x):
    mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(mean, 1.0), obs=x)


class Posterior(nn.Module):
    """The exact one, that many times as wide and so many of its deviations off, everywhere or below zero only."""

    def __init__(self, width=1.0, shift=0.0, everywhere=True):
        super().__init__()
        self.width = nn.Parameter(torch.tensor(width))
        self.shift, self.everywhere = shift, everywhere

    def forward(self, x):
        deviation = (len(x) + 1) ** -0.5
        wrong = self.everywhere | (x.sum() < 0)
        mean = x.sum() / (len(x) + 1) + wrong * self.shift * deviation
        pyro.sample("mean", dist.Normal(mean, torch.where(wrong, self.width, 1.0) * deviation))


def learned(guide):
    return pm.MetaSVI(model, guide, pyro.optim.Adam({"lr": 0.1}), steps=0)


def data(mean):
    torch.manual_seed(0)
    return mean + torch.randn(ROWS)


MEANS = PriorTasks(model, lambda rows, _: torch.zeros(rows), observed={"x": 0})
GUIDES = {
    "calibrated": (1.0, 0.0),
    "over-confident": (0.5, 0.0),
    "under-confident": (2.0, 0.0),
    "shifted": (1.0, 1.0),
}


@pytest.mark.parametrize("word", GUIDES)
def test_the_four_are_told_apart(word):
    found = lc2st(learned(Posterior(*GUIDES[word])), MEANS, data(0.5), **COUNTS)
    assert found.verdict.startswith(f"{word} here")
    assert found.null.shape == (100,)
    assert (found.p_value > 0.01) == (word == "calibrated")


def test_it_says_where_and_ranks_say_that(monkeypatch):
    """One guide, wrong for half of the tasks: ranks find it, and this finds for which."""
    once = functools.cache(functools.partial(simulated, learned(Posterior(0.4, everywhere=False))))
    for place in ("rank_calibration", "local_two_samples"):
        monkeypatch.setattr(f"pyrometa.diagnostics.{place}.simulated", lambda _, *args, **kwargs: once(*args, **kwargs))
    meta = learned(Posterior(0.4, everywhere=False))
    assert sbc(meta, MEANS, rows=ROWS, tasks=200, draws=40).verdict.startswith("over-confident")
    below, above = (lc2st(meta, MEANS, data(mean), **COUNTS) for mean in (-1.0, 1.0))
    assert below.verdict.startswith("over-confident here: 'mean'")
    assert above.p_value > 0.01
    assert once.cache_info().misses == 1


def test_a_posterior_that_is_right_here_and_shifted_elsewhere_is_right_here():
    """The log ratio is z d(m) - d(m)**2 / 2, whose last term is of the data alone."""

    class Shrunk(Posterior):
        def forward(self, x):
            mean = 0.7 * x.sum() / (len(x) + 1)
            pyro.sample("mean", dist.Normal(mean, self.width * (len(x) + 1) ** -0.5))

    centred = data(0.0) - data(0.0).mean()
    assert lc2st(learned(Shrunk()), MEANS, centred, **COUNTS).p_value > 0.01


def coins(x):
    fair = pyro.sample("fair", dist.Bernoulli(0.5))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Bernoulli(0.3 + 0.2 * fair), obs=x)


class Fair(nn.Module):
    """The exact posterior's log odds, and so much."""

    def __init__(self, bias):
        super().__init__()
        self.bias = nn.Parameter(torch.tensor(bias))

    def forward(self, x):
        odds = dist.Bernoulli(0.5).log_prob(x).sum() - dist.Bernoulli(0.3).log_prob(x).sum()
        pyro.sample("fair", dist.Bernoulli(logits=odds + self.bias))


@pytest.mark.parametrize(
    ("bias", "told"),
    [
        (3.0, "'fair', the truth is 1 less often than the draws"),
        (-30.0, "'fair', the truth is 0 less often than the draws"),
    ],
)
def test_a_coin_has_values_and_no_width(bias, told):
    """Of the last one all draws are 0, which is no reason to refuse them."""
    meta = pm.MetaSVI(coins, Fair(bias), pyro.optim.Adam({"lr": 0.1}), loss=Trace_ELBO(), steps=0)
    prior_tasks = PriorTasks(coins, lambda rows, _: torch.zeros(rows), observed={"x": 0})
    assert lc2st(meta, prior_tasks, torch.ones(ROWS).cumsum(0) % 2, **FEW).verdict.startswith(f"shifted here: {told}")


def test_categories_are_told_by_value():
    """Too much of the category in the middle: a width would be too small."""

    def kinds(x):
        kind = pyro.sample("kind", dist.Categorical(torch.tensor([0.2, 0.5, 0.3])))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(0.4 * (kind - 1), 1.0), obs=x)

    class Kind(Fair):
        def forward(self, x):
            fits = torch.stack([dist.Normal(0.4 * (kind - 1), 1.0).log_prob(x).sum() for kind in range(3)])
            logits = fits + torch.tensor([0.2, 0.5, 0.3]).log() + self.bias * torch.tensor([0.0, 1.0, 0.0])
            pyro.sample("kind", dist.Categorical(logits=logits))

    meta = pm.MetaSVI(kinds, Kind(3.0), pyro.optim.Adam({"lr": 0.1}), loss=Trace_ELBO(), steps=0)
    prior_tasks = PriorTasks(kinds, lambda rows, _: torch.zeros(rows), observed={"x": 0})
    verdict = lc2st(meta, prior_tasks, torch.zeros(ROWS), **FEW).verdict
    assert verdict.startswith("shifted here: 'kind', the truth is 1 less often than the draws")


def test_bad_input_and_no_draw_of_the_global_generator():
    meta = learned(Posterior())
    few = {**COUNTS, "tasks": 20}
    before = torch.get_rng_state()
    one, other = (lc2st(meta, MEANS, torch.ones(ROWS), **few, seed=3) for _ in range(2))
    assert torch.equal(before, torch.get_rng_state())
    assert (one.statistic, one.p_value) == (other.statistic, other.p_value)
    with pytest.raises(ValueError, match="nulls must be at least 100, got 99: a p-value"):
        lc2st(meta, MEANS, torch.ones(ROWS), nulls=99)
    with pytest.raises(TypeError, match=r"nulls must be a whole number, got 150\.0"):
        lc2st(meta, MEANS, torch.ones(ROWS), nulls=150.0)
    with pytest.raises(TypeError, match=r"draws must be a whole number, got 40\.0"):
        lc2st(meta, MEANS, torch.ones(ROWS), draws=40.0)
    with pytest.raises(ValueError, match="no data: give the task's support set"):
        lc2st(meta, MEANS)
    with pytest.raises(ValueError, match="tasks must be at least 20"):
        lc2st(meta, MEANS, torch.ones(ROWS), tasks=2)


def test_a_number_without_a_width_is_never_the_one_that_is_off():
    draws = torch.randn(50, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    values = torch.cat([torch.ones(50, 1, dtype=torch.float64), draws], 1)
    z = torch.cat([torch.full((50, 1), math.nan, dtype=torch.float64), draws], 1)
    ways = local_two_samples._ways(["constant", "mean"], values, z, [False, False])
    by_lot = torch.rand(100, 50, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    assert "'mean'" in local_two_samples._verdict(ways, torch.sigmoid(3 * draws[:, 0]), by_lot, 0.005)
