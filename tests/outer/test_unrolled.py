"""Options of Unrolled and Displacement: what they refuse, and what they are equal to."""

from itertools import pairwise

import pyro
import pytest
import torch
from meta_cases import assert_equal, meta_svi, values
from programs import modules

import pyrometa as pm

pytestmark = pytest.mark.gpu


def seeded(meta, case):
    torch.manual_seed(1)
    return meta.loss_and_grads(case.support, case.query)


def gradients(case, meta_gradient, **options):
    return seeded(meta_svi(case, meta_gradient=meta_gradient, steps=3, **options), case)


def test_truncation_goes_from_first_to_second_order():
    case = modules()
    found = [
        gradients(case, mg)[1]
        for mg in (
            pm.Unrolled(first_order=True),
            pm.Unrolled(truncate=1),
            pm.Unrolled(truncate=2),
            pm.Unrolled(truncate=3),
        )
    ]
    full = gradients(case, pm.Unrolled())[1]
    assert_equal(found[-1], full, rtol=0, atol=0)
    assert_equal(gradients(case, pm.Unrolled(truncate=9))[1], full, rtol=0, atol=0)
    for less, more in pairwise(found):
        assert (less["guide.hidden.weight"] - more["guide.hidden.weight"]).abs().max() > 1e-6


def test_the_multi_step_loss_is_the_weighted_sum_of_the_steps_losses():
    """Its gradient is that of the losses after 1, 2 and 3 steps, one by one; the loss that of the last."""
    case, weights = modules(), (0.2, 0.3, 0.5)
    loss, grads = gradients(case, pm.Unrolled(step_weights=weights))
    single = [gradients(case, pm.Unrolled(step_weights=tuple(float(i == k) for i in range(3)))) for k in range(3)]
    assert_equal(single[2][1], gradients(case, pm.Unrolled())[1], rtol=0, atol=0)
    assert all(torch.equal(loss, other) for other, _ in single)
    expected = {n: sum(w * g[n] for w, (_, g) in zip(weights, single, strict=True)) for n in grads}
    assert_equal(grads, expected, rtol=1e-12, atol=1e-12)


def test_weights_may_be_annealed():
    case = modules()
    meta = meta_svi(case, meta_gradient=pm.Unrolled(step_weights=(0.5, 0.5)), steps=2)
    before = seeded(meta, case)[1]
    meta.meta_gradient = pm.Unrolled(step_weights=(0.0, 1.0))
    after = seeded(meta, case)[1]
    assert_equal(after, seeded(meta_svi(case, steps=2), case)[1], rtol=0, atol=0)
    assert not torch.equal(before["guide.loc.weight"], after["guide.loc.weight"])
    meta.meta_gradient = pm.Unrolled(step_weights=(0.2, 0.3, 0.5))
    with pytest.raises(ValueError, match="step_weights has 3 weights for 2 inner steps: give one for each step"):
        meta.step(case.support, case.query)


def test_reptile_with_a_rate_of_one_arrives_at_the_mean_of_the_adapted_parameters():
    case = modules()
    meta = pm.reptile(case.model, case.guide, pyro.optim.SGD({"lr": 1.0}), steps=4)
    torch.manual_seed(1)
    meta.init(case.support)
    adapted = meta.adapt_many(case.support)
    torch.manual_seed(1)
    meta.step(case.support)
    with torch.no_grad():
        mean = [torch.stack(parts).mean(0) for parts in zip(*(guide.parameters() for guide in adapted), strict=True)]
    for value in mean:
        assert any(v.shape == value.shape and torch.allclose(v, value, rtol=1e-12) for v in values(meta).values())


def test_what_does_not_adapt_learns_by_the_query_loss_under_displacement():
    case = modules()
    displaced = gradients(case, pm.Displacement(), adapt="guide")[1]
    first = gradients(case, pm.Unrolled(first_order=True), adapt="guide")[1]
    for name in displaced:
        close = torch.allclose(displaced[name], first[name], rtol=1e-10, atol=1e-12)
        assert close == name.startswith("model.")


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"first_order": 1}, TypeError, "first_order must be True or False, got 1"),
        ({"truncate": 0}, ValueError, "truncate must be at least 1, got 0: first_order=True differentiates through"),
        ({"truncate": 1.0}, TypeError, r"truncate must be a number of steps or None, got 1\.0"),
        ({"truncate": 1, "first_order": True}, ValueError, "truncate says how many steps .* drop one"),
        ({"step_weights": [1.0]}, TypeError, "step_weights must be a tuple of numbers"),
        ({"step_weights": ("a",)}, TypeError, "step_weights must be numbers, got 'a'"),
        ({"step_weights": (-0.5, 1.5)}, ValueError, r"must be finite and at least 0, got -0\.5"),
        ({"step_weights": (0.5, 0.4)}, ValueError, r"must be 1 in sum, got 0\.9: divide each by their sum"),
        ({"step_weights": ()}, ValueError, "must be 1 in sum, got 0"),
    ],
)
def test_bad_options(options, error, message):
    with pytest.raises(error, match=message):
        pm.Unrolled(**options)


@pytest.mark.parametrize("rule", [pm.SGD(0.1, learn="layer"), pm.LearnedOptimizer()], ids=repr)
def test_a_displacement_can_not_learn_a_rule(rule):
    case = modules()
    meta = pm.reptile(case.model, case.guide, pyro.optim.SGD({"lr": 1.0}), inner=rule)
    with pytest.raises(ValueError, match=rf"{type(rule).__name__} has '.*' to learn, of which a displacement says"):
        meta.init(case.support)
