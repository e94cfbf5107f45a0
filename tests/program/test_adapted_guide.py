"""An adapted guide is an ordinary Pyro guide."""

import copy
import functools

import pyro
import pyro.distributions as dist
import pytest
import torch
from meta_cases import LR, as_args, assert_equal, meta_svi, task, values
from programs import TutorialVAE, auto_diagonal, auto_normal, modules, plain_modules, rows
from pyro.infer import SVI, Predictive, TraceMeanField_ELBO
from pyro.infer.autoguide import AutoNormal
from pyro.nn import PyroModule
from torch import nn

import pyrometa as pm


def by_name(guide):
    return {name: value.detach().clone() for name, value in guide.adapted.by_name().items()}


def sample(guide, *args, seed=7):
    torch.manual_seed(seed)
    trace = pyro.poutine.trace(guide).get_trace(*args)
    return {name: trace.nodes[name]["value"] for name in trace.stochastic_nodes}


@pytest.mark.usefixtures("zero_noise")
def test_equals_plain_gradient_steps(case):
    meta, plain = meta_svi(case), meta_svi(case, steps=0)
    guides = meta.adapt_many(case.support)
    plain.init(case.support)
    start = values(plain)
    for t, guide in enumerate(guides):
        support = tuple(x[t : t + 1] for x in as_args(case.support))
        for _ in range(2):
            grads = plain.loss_and_grads(support)[1]
            with torch.no_grad():
                for name, leaf in plain.named_parameters():
                    leaf -= LR * grads[name]
        assert_equal(by_name(guide), values(plain), rtol=1e-11, atol=1e-12)
        with torch.no_grad():
            for name, leaf in plain.named_parameters():
                leaf.copy_(start[name])


@pytest.mark.usefixtures("zero_noise")
def test_adapt_many_is_adapt_task_by_task(case):
    meta = meta_svi(case)
    guides = meta.adapt_many(case.support)
    for i, guide in enumerate(guides):
        assert_equal(by_name(meta.adapt(task(case.support, i))), by_name(guide), rtol=1e-11, atol=1e-12)
        assert_equal(by_name(meta.adapt(task(case.support, i), steps=0)), values(meta))
        assert not any(torch.equal(v, values(meta)[n]) for n, v in by_name(guide).items())


def test_is_a_module_with_the_adapted_values_only(case):
    guide = meta_svi(case, adapt="guide").adapt(task(case.support, 0))
    assert isinstance(guide, nn.Module)
    assert not isinstance(guide, PyroModule)
    assert {id(p) for p in guide.parameters()} == {id(p) for p in guide.adapted.by_name().values()}
    assert guide.model is case.model
    assert all(name.startswith("guide.") for name in guide.adapted.names)


def test_predictive(case):
    guide = meta_svi(case).adapt(task(case.support, 0))
    predictive = Predictive(guide.model, guide=guide, num_samples=5)(*as_args(task(case.support, 0)))
    assert predictive
    assert all(len(value) == 5 and torch.isfinite(value).all() for value in predictive.values())


@pytest.mark.thinned(2)
def test_svi_goes_on(case):
    """It improves, and touches only the adapted values: not the leaves, not another task's guide, not the store."""
    meta = meta_svi(case)
    guide, other = meta.adapt_many(case.support)[:2]
    before, leaves, others = by_name(guide), values(meta), by_name(other)
    stored = dict(pyro.get_param_store()._params)
    args = as_args(task(case.support, 0))

    def loss():
        torch.manual_seed(1)
        with torch.no_grad():
            return TraceMeanField_ELBO(num_particles=20).differentiable_loss(guide.model, guide, *args)

    first = loss()
    svi = SVI(guide.model, guide, pyro.optim.Adam({"lr": 0.03}), TraceMeanField_ELBO())
    for _ in range(30):
        svi.step(*args)
    assert loss() < first
    assert not any(torch.equal(before[n], v) for n, v in by_name(guide).items())
    assert_equal(values(meta), leaves, rtol=0, atol=0)
    assert_equal(by_name(other), others, rtol=0, atol=0)
    assert dict(pyro.get_param_store()._params).keys() == stored.keys()
    assert all(pyro.get_param_store()._params[n] is leaf for n, leaf in stored.items())


@pytest.mark.parametrize("make_case", [modules, plain_modules], ids=lambda p: p.__name__)
def test_svi_leaves_what_did_not_adapt_alone(make_case, module_local_params):
    case = make_case()
    meta = meta_svi(case, adapt=["guide.*.bias", "guide.net.*", "model.*"][: 1 if make_case is modules else 2])
    guide = meta.adapt(case.support[0])
    frozen = {n: v for n, v in values(meta).items() if n.startswith("guide.")}
    svi = SVI(
        pyro.poutine.block(case.model, hide_types=["param"]),
        guide,
        pyro.optim.Adam({"lr": 0.03}),
        TraceMeanField_ELBO(),
    )
    for _ in range(3):
        svi.step(case.support[0])
    assert_equal({n: v for n, v in values(meta).items() if n.startswith("guide.")}, frozen, rtol=0, atol=0)


@pytest.mark.thinned(2, shift=1)
def test_does_not_follow_the_outer_loop(case):
    meta = meta_svi(case)
    args = as_args(task(case.support, 0))
    guide = meta.adapt(task(case.support, 0))
    before, drawn = by_name(guide), sample(guide, *args)
    meta.step(case.support, case.query)
    pyro.clear_param_store()
    meta.adapt_many(case.support)
    assert_equal(by_name(guide), before, rtol=0, atol=0)
    assert_equal(sample(guide, *args), drawn, rtol=0, atol=0)


@pytest.mark.parametrize("adapt", ["guide", "model", "both"])
def test_sides(adapt):
    case = modules()
    meta = meta_svi(case, adapt=adapt)
    guide = meta.adapt(case.support[0])
    expected = {"guide": ("guide",), "model": ("model",), "both": ("guide", "model")}[adapt]
    assert {name.split(".")[0] for name in guide.adapted.names} == set(expected)
    assert (guide.model is case.model) is (adapt == "guide")
    if adapt != "guide":
        assert {id(p) for p in guide.model.parameters()} == {id(p) for p in guide.parameters()}
        noise = guide.adapted.by_name()["model.noise"].exp()
        seen = pyro.poutine.trace(guide.model).get_trace(case.support[0]).nodes["x"]["fn"].base_dist.scale
        torch.testing.assert_close(seen[0, 0], noise)


def test_copies_and_states(case):
    meta = meta_svi(case)
    args = as_args(task(case.support, 0))
    guide, other = meta.adapt_many(case.support)[:2]
    copied = copy.deepcopy(guide)
    assert_equal(sample(copied, *args), sample(guide, *args), rtol=0, atol=0)
    assert not {id(p) for p in copied.parameters()} & {id(p) for p in guide.parameters()}
    other.load_state_dict(guide.state_dict())
    assert_equal(sample(other, *args), sample(guide, *args), rtol=0, atol=0)
    with torch.no_grad():
        for p in copied.parameters():
            p += 1.0
    assert_equal(by_name(other), by_name(guide), rtol=0, atol=0)
    assert not any(torch.equal(v, by_name(guide)[n]) for n, v in by_name(copied).items())


@pytest.mark.parametrize("make_auto", [auto_normal, auto_diagonal], ids=lambda p: p.__name__)
def test_median_and_quantiles(make_auto, module_local_params):
    case = make_auto()
    guide = meta_svi(case, adapt="guide").adapt(task(case.support, 0))
    loc, scale = guide.adapted.by_name().values()
    scale = nn.functional.softplus(scale)  # autoguides' softplus_positive
    args = as_args(task(case.support, 0))
    torch.testing.assert_close(guide.median(*args)["weight"], loc)
    low, high = guide.quantiles([0.25, 0.75], *args)["weight"]
    width = dist.Normal(0.0, 1.0).icdf(torch.tensor(0.75, dtype=loc.dtype))
    torch.testing.assert_close(low, loc - scale * width)
    torch.testing.assert_close(high, loc + scale * width)
    assert not torch.equal(case.guide.median(*args)["weight"], loc)


class EncodingVAE(TutorialVAE):
    scale_factor = 3

    def encode(self, x):
        return self.encoder(x)[:, :1]


@pytest.mark.parametrize("partial", [False, True])
def test_own_methods_run_on_the_adapted_values(partial):
    vae = EncodingVAE().double()
    given = functools.partial(vae.guide) if partial else vae.guide
    meta = pm.MetaSVI(vae.model, given, pyro.optim.Adam({"lr": 0.1}), inner=pm.SGD(LR))
    x = rows()
    guide = meta.adapt(x[0])
    weight, bias = guide.adapted.by_name().values()
    torch.testing.assert_close(guide.encode(x[0]), nn.functional.linear(x[0], weight, bias)[:, :1])
    torch.testing.assert_close(guide.encoder(x[0])[:, :1], guide.encode(x[0]))
    assert not torch.equal(guide.encode(x[0]), vae.encode(x[0]))
    assert guide.scale_factor == 3
    with pytest.raises(AttributeError, match=r"nothing_of_that_name"):
        _ = guide.nothing_of_that_name


def test_ragged_lists():
    case = plain_modules()
    meta = meta_svi(case, reduction="mean")
    tasks = [torch.randn(n, 2, dtype=torch.float64) for n in (3, 5, 3, 8)]
    queries = [torch.randn(n, 2, dtype=torch.float64) for n in (6, 1, 2, 2)]
    assert torch.isfinite(torch.tensor(meta.step(tasks, queries)))
    assert meta.evaluate(tasks, queries).shape == (3, 4)
    assert [len(sample(g, x)["z"]) for g, x in zip(meta.adapt_many(tasks), tasks, strict=True)] == [3, 5, 3, 8]
    tuples = [(x,) for x in tasks]
    torch.manual_seed(0)
    expected = meta.evaluate(tasks, queries)
    torch.manual_seed(0)
    assert torch.equal(meta.evaluate(tuples, [(q,) for q in queries]), expected)


def test_adapts_under_an_autoguide_with_a_prototype_of_another_task():
    """An autoguide initialises on the first task and serves every other."""
    case = auto_normal()
    guide = AutoNormal(case.model, init_scale=0.3)
    meta = pm.MetaSVI(case.model, guide, pyro.optim.Adam({"lr": 0.1}), inner=pm.SGD(LR))
    guides = meta.adapt_many(case.support)
    medians = [g.median(*as_args(task(case.support, i)))["weight"] for i, g in enumerate(guides)]
    assert not torch.equal(medians[0], medians[1])
