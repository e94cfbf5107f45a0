"""Plans, tapes and proofs of ever new shapes are let go of, and come again as they were."""

import copy
import pickle
import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoNormal

import pyrometa as pm
from pyrometa.engine import posterior_draws, proved_plans
from pyrometa.noise import tapes
from pyrometa.types.latest import Latest

OWNERS = (posterior_draws, proved_plans, tapes)


def model(x):
    mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
    with pyro.plate("rows", len(x)):
        pyro.sample("x", dist.Normal(mean, 1.0), obs=x)


def branching(x):
    mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
    with pyro.plate("rows", len(x)):
        pyro.sample("x", dist.Normal(mean if mean > -100 else -mean, 1.0), obs=x)


def results(program=model):
    """Losses and draws of tasks of six sizes, the first two again at the end."""
    meta = pm.MetaSVI(program, AutoNormal(program), pyro.optim.Adam({"lr": 0.01}), steps=1)
    found = []
    for rows in (3, 4, 5, 6, 7, 8, 3, 4):
        x = torch.linspace(-1.0, 2.0, 2 * rows).view(2, rows)
        torch.manual_seed(1)
        found.append(meta.evaluate(x).tolist() + meta.sample_many(x, draws=4, seed=2)["mean"].tolist())
    return meta, found


def test_the_latest_are_kept_and_the_results_are_the_same(monkeypatch):
    expected = results()[1]
    for owner in OWNERS:
        monkeypatch.setattr(owner, "_KEPT", 2)
    meta, found = results()
    assert found == expected
    runner = meta._runners.by(meta.engine)
    assert len(runner._plans.kept) == len(runner._posterior._proved) == 2
    assert len(meta._program._tapes._recorded) == len(runner._posterior._tapes._recorded) == 2


def test_a_program_without_a_plan_is_warned_of_once(monkeypatch):
    monkeypatch.setattr(proved_plans, "_KEPT", 1)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        results(branching)
    assert [str(one.message).partition(",")[0] for one in caught] == [
        "tasks are run one by one",
    ]


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda kept: pickle.loads(pickle.dumps(kept))])
def test_a_copy_keeps_as_many_in_the_same_order(copied):
    kept = Latest(3)
    kept.update(a=1, b=2, c=3)
    assert kept["a"] == 1
    again = copied(kept)
    assert list(again.items()) == [("b", 2), ("c", 3), ("a", 1)]
    again["d"] = 4
    assert list(again) == ["c", "a", "d"]
    assert list(kept) == ["b", "c", "a"]
