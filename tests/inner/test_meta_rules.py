"""Every rule inside MetaSVI: the meta-gradient is exact, and what the rule learns is learned."""

from dataclasses import fields, replace

import meta_cases
import pyro
import pytest
import torch
from inner_rules import RULES
from programs import auto_normal, bare_params, modules

import pyrometa as pm

pytestmark = pytest.mark.gpu

ONE_BY_ONE = pm.Engine(vectorize=False)


def rule_of(name, **options):
    """A rule of the table at a rate that the programs can take."""
    rule = RULES[name]
    given = {field.name: getattr(rule, field.name) for field in fields(rule) if field.init}
    return type(rule)(**{**given, "lr": 0.02, **options})


def meta_svi(case, name, **options):
    """With what the rule learns away from its start, where some derivatives are zero."""
    options = {"inner": rule_of(name), "engine": ONE_BY_ONE, "steps": 3, **options}
    meta = meta_cases.meta_svi(case, **options)
    meta.init(case.support)
    with torch.no_grad():
        for learned, leaf in meta.named_parameters():
            if learned.startswith("inner."):
                leaf.add_(0.2 * torch.randn_like(leaf))
    return meta


def two_tasks(case):
    def first(given):
        return tuple(x[:2] for x in given) if isinstance(given, tuple) else given[:2]

    return type(case)(case.model, case.guide, first(case.support), first(case.query))


def loss_and_grads(meta, case):
    torch.manual_seed(1)
    return meta.loss_and_grads(case.support, case.query)


def assert_slopes(meta, case, eps=1e-6):
    """The meta-gradient against central differences, along a random direction in the program and in the rule."""
    _, grads = loss_and_grads(meta, case)
    leaves = dict(meta.named_parameters())
    assert grads.keys() == leaves.keys()
    for group in ([n for n in leaves if n.startswith("inner.")], [n for n in leaves if not n.startswith("inner.")]):
        direction = {name: torch.randn_like(leaves[name]) for name in group}
        ends = []
        for move in (eps, -2 * eps):  # to one side, then to the other
            with torch.no_grad():
                for name, d in direction.items():
                    leaves[name].add_(d, alpha=move)
            torch.manual_seed(1)
            ends.append(meta.evaluate(case.support, case.query, (meta.steps,)).mean())
        slope = sum((grads[name] * d).sum().item() for name, d in direction.items())
        difference = (ends[0] - ends[1]).item() / (2 * eps)
        assert slope == pytest.approx(difference, rel=2e-6, abs=2e-7)
        with torch.no_grad():
            for name, d in direction.items():
                leaves[name].add_(d, alpha=eps)


@pytest.mark.parametrize("name", RULES)
def test_second_order_against_finite_differences(name):
    case = two_tasks(modules())
    assert_slopes(meta_svi(case, name), case)


@pytest.mark.parametrize("make", [bare_params, auto_normal], ids=lambda make: make.__name__)
@pytest.mark.parametrize("name", ["momentum", "adam-parameter", "proximal", "meta-curvature", "learned"])
def test_bare_and_constrained_parameters(name, make):
    case = two_tasks(make())
    assert_slopes(meta_svi(case, name), case)


@pytest.mark.thinned(2)
@pytest.mark.parametrize("make", [modules, auto_normal], ids=lambda make: make.__name__)
@pytest.mark.parametrize("name", RULES)
def test_tasks_side_by_side_have_the_numbers_of_one_by_one(name, make):
    case, found = make(), []
    for engine in (ONE_BY_ONE, pm.Engine(vectorize=True)):
        torch.manual_seed(2)
        found.append(loss_and_grads(meta_svi(case, name, engine=engine), case))
    (loss, grads), (expected_loss, expected) = found
    torch.testing.assert_close(loss, expected_loss, rtol=1e-10, atol=1e-10)
    meta_cases.assert_equal(grads, expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("name", ["momentum-layer", "adam-rate", "meta-curvature", "kronecker", "learned"])
def test_a_meta_step_learns_what_the_rule_learns_at_its_own_step_size(name):
    case = modules()
    optim = pyro.optim.SGD({"lr": 1e-3})
    meta = meta_svi(case, name, inner=rule_of(name, outer_lr=0.03), optim=optim)
    before = meta_cases.values(meta)
    _, grads = loss_and_grads(meta, case)
    torch.manual_seed(1)
    meta.step(case.support, case.query)
    learned = {n for n in grads if n.startswith("inner.")}
    assert learned
    assert all(grads[n].abs().max() > 0 for n in learned)
    expected = {n: v - (0.03 if n in learned else 1e-3) * grads[n] for n, v in before.items()}
    meta_cases.assert_equal(meta_cases.values(meta), expected, rtol=1e-12, atol=1e-12)


def test_a_learned_optimiser_takes_over_weights_of_another_program():
    first, second = (meta_svi(make(), "learned") for make in (modules, bare_params))
    weights = {n: v for n, v in meta_cases.values(first).items() if n.startswith("inner.net.")}
    state = second.state_dict()
    second.load_state_dict({**state, "parameters": {**state["parameters"], **weights}})
    meta_cases.assert_equal({n: v for n, v in meta_cases.values(second).items() if n in weights}, weights)


@pytest.mark.parametrize("name", ["momentum", "adam-layer-step", "proximal", "kronecker", "learned"])
def test_more_steps_at_meta_test_than_were_trained(name):
    case = modules()
    losses = meta_svi(case, name, steps=2).evaluate(case.support, case.query, steps=(0, 2, 6))
    assert torch.isfinite(losses).all()
    assert (losses[2] - losses[1]).abs().min() > 0


@pytest.mark.parametrize("engine", [ONE_BY_ONE, pm.Engine(vectorize=True)], ids=["loop", "vmap"])
def test_a_rule_that_had_no_steps_to_learn_from_runs_from_its_start(engine):
    case = modules()
    options = {"steps": 0, "engine": engine}
    for name in ("adam-parameter", "learned"):
        scores = []
        for rule in (rule_of(name), pm.Adam(0.02)):
            torch.manual_seed(1)
            scores.append(meta_svi(case, name, inner=rule, **options).evaluate(case.support, case.query, (3,)))
        torch.testing.assert_close(scores[0], scores[1], rtol=1e-10, atol=1e-10)


def test_transforms_that_had_no_steps_to_be_made_for_are_asked_for():
    case = modules()
    with pytest.raises(ValueError, match=r"no transform of .* is known: .* where steps > 0"):
        meta_svi(case, "kronecker", steps=0).adapt(case.support[0], steps=1)


@pytest.mark.parametrize("engine", [ONE_BY_ONE, pm.Engine(vectorize=True)], ids=["loop", "vmap"])
def test_a_rule_that_has_learned_is_replaced_by_one_at_another_rate(engine):
    """The factory draws, so that what it made can't be had again: the new rule must go on with the very same."""
    case, asked = two_tasks(modules()), []

    def transform(param):
        asked.append(param)
        return torch.nn.Sequential(torch.nn.Linear(len(param), len(param)), torch.nn.Tanh())

    first = meta_svi(case, "own-transform", inner=pm.Preconditioned(transform, 0.1), engine=engine, adapt="*.bias")
    first.step(case.support, case.query)
    count = len(asked)
    first.inner = replace(first.inner, lr=0.02)
    found = loss_and_grads(first, case)
    assert 0 < count == len(asked)
    fresh = meta_svi(case, "own-transform", inner=pm.Preconditioned(transform, 0.02), engine=engine, adapt="*.bias")
    fresh.load_state_dict(first.state_dict())
    expected = loss_and_grads(fresh, case)
    torch.testing.assert_close(found[0], expected[0], rtol=0, atol=0)
    meta_cases.assert_equal(found[1], expected[1], rtol=0, atol=0)
