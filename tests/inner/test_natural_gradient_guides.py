"""Which guides NaturalGradient knows its way in: parts of several kinds, what it leaves to others, what it refuses."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from gaussian_guides import F64, bound
from pyro.infer import TraceMeanField_ELBO
from pyro.infer.autoguide import (
    AutoDelta,
    AutoGuideList,
    AutoLowRankMultivariateNormal,
    AutoMultivariateNormal,
    AutoNormal,
)

import pyrometa as pm

POSITIVE = dist.constraints.softplus_positive


def model(y):
    """Three latents of different kinds."""
    rate = pyro.sample("rate", dist.LogNormal(torch.tensor(0.0, dtype=F64), 1.0))
    shift = pyro.sample("shift", dist.Normal(torch.zeros(2, dtype=F64), 1.0).to_event(1))
    with pyro.plate("data", len(y)):
        z = pyro.sample("z", dist.Normal(shift.sum(-1), rate))
        pyro.sample("y", dist.Normal(z, 1.0), obs=y)


def encoder(y):
    """A site on its own, one with a scale for two coordinates, and one that is computed from the data."""
    loc, scale = (
        pyro.param("rate_loc", torch.tensor(0.1, dtype=F64)),
        pyro.param("rate_scale", torch.tensor(0.2, dtype=F64)),
    )
    pyro.sample("rate", dist.LogNormal(loc, torch.nn.functional.softplus(scale)))
    both = pyro.param("width", torch.tensor(0.5, dtype=F64), constraint=dist.constraints.positive)
    pyro.sample("shift", dist.Normal(pyro.param("shift_loc", torch.zeros(2, dtype=F64)), both).to_event(1))
    slope = pyro.param("slope", torch.tensor(0.3, dtype=F64))
    with pyro.plate("data", len(y)):
        pyro.sample("z", dist.Normal(slope * y, pyro.param("noise", torch.tensor(0.4, dtype=F64)).exp()))


def program(guide, rule, **options):
    elbo = TraceMeanField_ELBO() if guide is encoder else None
    meta = pm.MetaSVI(model, guide, pyro.optim.Adam({"lr": 0.01}), elbo, inner=rule, steps=2, **options)
    meta.init(torch.randn(2, 5, dtype=F64))
    return meta


def test_what_is_no_gaussians_moves_by_the_other_rule():
    meta = program(encoder, pm.NaturalGradient(0.3, "layer", others=pm.Momentum(0.01, learn="layer"), outer_lr=0.1))
    rule, values = bound(meta), {n: v.detach() for n, v in meta.named_parameters() if not n.startswith("inner.")}
    assert rule._known.others.keys() == {"guide.slope", "guide.noise"}
    learned = rule.learned(values, 2)
    assert learned.keys() == {
        *(f"log_lr.guide.{name}" for name in ("rate_loc", "rate_scale", "shift_loc", "width")),
        *(f"others.log_lr.guide.{name}" for name in ("slope", "noise")),
    }
    grads = {n: torch.randn_like(v) for n, v in values.items()}
    moved, state = rule.update(values, grads, rule.init(values), learned, 0)
    moved, state = rule.update(moved, grads, state, learned, 1)
    assert moved.keys() == values.keys()
    for n in ("guide.slope", "guide.noise"):
        torch.testing.assert_close(moved[n], values[n] - 0.01 * 2.9 * grads[n])
        torch.testing.assert_close(state[n], 1.9 * grads[n])
    once, _ = rule.update(values, grads, rule.init(values), learned, 0)
    width = values["guide.width"].exp() / (1 + 0.3 * grads["guide.width"] / 2).sqrt()  # one scale for two coordinates
    torch.testing.assert_close(once["guide.width"], width.log())
    torch.testing.assert_close(once["guide.shift_loc"], -0.3 * width**2 * grads["guide.shift_loc"])
    meta.step(torch.randn(2, 5, dtype=F64))


def test_guides_of_several_parts_are_read_part_by_part():
    guide = AutoGuideList(model)
    guide.append(AutoNormal(pyro.poutine.block(model, expose=["rate", "z"])))
    guide.append(AutoMultivariateNormal(pyro.poutine.block(model, expose=["shift"])))
    geometry = bound(program(guide, pm.NaturalGradient()))._known
    assert [(g.mean, g.scale) for g in geometry.diagonal] == [
        (f"guide.0.locs.{site}", f"guide.0.scales.{site}") for site in ("rate", "z")
    ]
    assert [(g.mean, g.scale, g.tril) for g in geometry.full] == [
        ("guide.1.loc", "guide.1.scale", "guide.1.scale_tril")
    ]
    assert not geometry.others


@pytest.mark.parametrize(
    ("guide", "options", "message"),
    [
        (
            AutoDelta(model),
            {},
            r"'guide.rate' is neither: 'rate' comes from a distribution of kind Delta .* others=pm.SGD",
        ),
        (
            AutoLowRankMultivariateNormal(model),
            {"adapt": "guide.loc"},
            r"'guide.loc' is neither: the covariance that goes with it is no parameter .*=pm.Newton",
        ),
        (
            encoder,
            {},
            r"'guide.slope' is neither: 'z' comes from a distribution of kind Normal .* leave it out by adapt=",
        ),
        (encoder, {"adapt": "guide.noise"}, r"'guide.noise' is neither: the draws of a plate share it"),
        (encoder, {"adapt": "guide.shift_loc"}, r"'guide.shift_loc' is neither: the scale that goes with it is no"),
        (AutoNormal(model), {"adapt": "both", "reduction": "mean"}, r"reduction='mean' divides .* use reduction='sum'"),
    ],
)
def test_what_it_cannot_move_is_refused_by_name_with_the_cure(guide, options, message):
    with pytest.raises(ValueError, match=message):
        program(guide, pm.NaturalGradient(), **options)


def test_a_frozen_scale_is_refused_and_a_frozen_mean_is_not():
    meta = program(AutoNormal(model), pm.NaturalGradient())
    leaves, y = dict(meta.named_parameters()), torch.randn(2, 5, dtype=F64)
    leaves["guide.locs.rate"].requires_grad_(False)
    meta.step(y)
    leaves["guide.scales.rate"].requires_grad_(False)
    meta.step(y)
    leaves["guide.locs.rate"].requires_grad_(True)
    with pytest.raises(ValueError, match=r"'guide.locs.rate' is neither: the scale that goes with it does not adapt"):
        meta.step(y)


def test_a_plan_says_why_its_parameters_are_dense():
    y = torch.randn(2, 5, dtype=F64)
    plan = program(AutoMultivariateNormal(model), pm.NaturalGradient()).plan(y)
    assert set(plan.values()) == {"dense: the rule moves the numbers of a Gaussian together"}


def test_one_rule_and_geometry_for_all_steps():
    meta = program(AutoNormal(model), pm.NaturalGradient())
    y = torch.randn(2, 5, dtype=F64)
    first = meta._problem(y, None, None, 2)[0].rule
    meta.step(y)
    assert meta._problem(y, None, None, 2)[0].rule is first


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": 0.0}, "lr"),
        ({"learn": "step"}, "learn must be None or one of"),
        ({"others": pm.SGD(outer_lr=0.1)}, "give outer_lr to NaturalGradient"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        pm.NaturalGradient(**options)


def test_it_has_to_see_a_guide_first():
    with pytest.raises(ValueError, match="has seen no guide yet: give it to MetaSVI"):
        pm.NaturalGradient().learned({"guide.loc": torch.zeros(1)}, 1)


@pytest.mark.parametrize("size", [10, 400], ids=["few numbers", "many numbers"])
def test_no_number_of_a_large_parameter_passes_for_a_mean_by_chance(size):
    """In single precision 160,000 different numbers lie so close that any other is near one of them."""

    def line(x):
        loc = pyro.sample("loc", dist.Normal(0.0, 2.0))
        with pyro.plate("rows", len(x)):
            pyro.sample("x", dist.Normal(loc, 1.0), obs=x)

    def guide(x):
        large = pyro.param("large", torch.zeros(size, size))
        loc, scale = pyro.param("mean", torch.tensor(0.3)), pyro.param("scale", torch.tensor(0.7), constraint=POSITIVE)
        pyro.sample("nothing", dist.Delta(0.0 * large.sum()), infer={"is_auxiliary": True})
        pyro.sample("loc", dist.Normal(loc, scale))

    rule = pm.NaturalGradient(1.0, others=pm.SGD(1e-3))
    meta = pm.MetaSVI(line, guide, pyro.optim.Adam({"lr": 0.01}), inner=rule)
    x = torch.ones(2, 6)
    meta.init(x)
    geometry = bound(meta)._geometry
    assert set(geometry.others) == {"guide.large"}
    assert set(geometry.scales) == {"guide.scale"}
    assert [gaussian.mean for gaussian in geometry.diagonal] == ["guide.mean"]
