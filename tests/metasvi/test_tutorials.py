"""Pyro's tutorial programs run under MetaSVI as they are."""

import warnings

import meta_cases
import pyro
import pytest
import torch
import tutorial_programs
from pyro import poutine
from pyro.infer import SVI, Predictive, infer_discrete
from tutorial import meta_svi
from tutorial_programs import TUTORIALS

import pyrometa as pm


@pytest.fixture(params=TUTORIALS, ids=lambda t: t.__name__)
def tutorial(request):
    return request.param()


def task(data, i):
    return meta_cases.as_args(meta_cases.task(data, i))


@pytest.mark.filterwarnings("ignore::pyrometa.LoopWarning")
def test_runs_under_meta_svi(tutorial):
    meta = meta_svi(tutorial)
    torch.manual_seed(1)
    before = meta.evaluate(tutorial.support, tutorial.query, steps=(0, 2))
    assert before.shape == (2, 3)
    start = meta_cases.values(meta)
    steps = 8 if tutorial.looped is None else 2
    losses = [meta.step(tutorial.support, tutorial.query) for _ in range(steps)]
    assert all(torch.tensor(losses).isfinite())
    moved = meta_cases.values(meta)
    assert all(not torch.equal(moved[name], start[name]) for name in start)
    if tutorial.looped is None:
        torch.manual_seed(1)
        assert meta.evaluate(tutorial.support, tutorial.query, steps=(2,)).mean() < before[1].mean()

    adapted = meta.adapt(task(tutorial.support, 0))
    trace = poutine.trace(adapted).get_trace(*task(tutorial.support, 0))
    for site in trace.nodes.values():
        if site["type"] == "param" and site["kwargs"].get("constraint") is not None:
            assert site["kwargs"]["constraint"].check(site["value"]).all()
    assert SVI(adapted.model, adapted, pyro.optim.Adam({"lr": 1e-3}), tutorial.loss).step(*task(tutorial.support, 0))


def test_runs_side_by_side_or_says_why_not(tutorial):
    meta = meta_svi(tutorial)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        meta.step(tutorial.support, tutorial.query)
    found = [str(warning.message) for warning in caught if issubclass(warning.category, pm.LoopWarning)]
    if tutorial.looped is None:
        assert found == []
    else:
        assert tutorial.looped in found[0]


@pytest.mark.parametrize("make", [tutorial_programs.coin, tutorial_programs.coin_in_a_plate])
def test_the_coin_is_refused_second_order_with_the_cure(make):
    tutorial = make()
    tutorial.first_order = False
    with pytest.raises(pm.UnsupportedProgramError, match=r"latent_fairness.*Beta(?s:.*)first_order"):
        meta_svi(tutorial).step(tutorial.support, tutorial.query)


def test_the_regression_predicts_after_adaptation():
    tutorial = tutorial_programs.rugged_autoguide()
    meta = meta_svi(tutorial)
    adapted = meta.adapt(task(tutorial.support, 0))
    predictive = Predictive(
        adapted.model, guide=adapted, num_samples=7, return_sites=("linear.weight", "obs", "_RETURN")
    )
    drawn = predictive(task(tutorial.query, 0)[0])
    assert {name: tuple(value.shape) for name, value in drawn.items()} == {
        "linear.weight": (7, 1, 1, 3),
        "obs": (7, 6),
        "_RETURN": (7, 6),
    }


def test_the_mixture_classifies_after_adaptation():
    """The tutorial's classifier, with the adapted guide in the guide's place, agrees with Bayes' rule."""
    tutorial = tutorial_programs.mixture()
    meta = meta_svi(tutorial)
    (data,) = task(tutorial.support, 0)
    adapted = meta.adapt(data, steps=30)
    guide_trace = poutine.trace(adapted).get_trace(data)
    trained_model = poutine.replay(tutorial.model, trace=guide_trace)
    inferred_model = infer_discrete(trained_model, temperature=0, first_available_dim=-2)
    assignment = poutine.trace(inferred_model).get_trace(data).nodes["assignment"]["value"]
    values = {name: guide_trace.nodes[name]["value"] for name in ("weights", "locs", "scale")}
    normal = torch.distributions.Normal(values["locs"], values["scale"])
    by_rule = (values["weights"].log() + normal.log_prob(data[:, None])).argmax(1)
    assert torch.equal(assignment, by_rule)
    assert set(by_rule.tolist()) == {0, 1}
