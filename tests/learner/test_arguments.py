"""Bad input is a clear error before any work: leaves, optimiser state and param store stay as they were."""

import copy

import learn2learn as l2l
import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from meta_cases import assert_equal, meta_svi, store, values
from programs import Case, auto_normal, bare_params, modules, plain_modules, rows
from pyro.infer import ReweightedWakeSleep, Trace_ELBO, TraceGraph_ELBO
from pyro.infer.autoguide import AutoNormal
from torch import nn

import pyrometa as pm
from pyrometa.tasks import MetaBatch

ADAM = pyro.optim.Adam({"lr": 0.1})


def with_value(x, value, task=1):
    x = x.clone()
    x[task, 0, 0] = value
    return x


X = rows()

DATA = {
    "a scalar": (torch.tensor(1.0), None, ValueError, "support is a scalar: it needs a leading task dimension"),
    "another rank": (X[0], None, ValueError, "support has 1 dimension a task .* 2 dimensions"),
    "a query of another rank": (X, X[0][:3], ValueError, "query has 1 dimension a task where support has 2 dimensions"),
    "task counts": (X, X[:2], ValueError, "support has 3 tasks and query has 2"),
    "argument counts": (X, (X, X), ValueError, "query has 2 arguments and support has 1"),
    "more arguments": ((X, X), None, ValueError, "support has 2 arguments"),
    "tuple of differing counts": ((X, X[:1]), None, ValueError, r"support\[0\]: 3, support\[1\]: 1"),
    "NaN": (with_value(X, torch.nan), None, ValueError, "support holds NaN or infinite values in task 1"),
    "infinite": (X, with_value(X, torch.inf, 2), ValueError, "query holds NaN or infinite values in task 2"),
    "NaN in a list": ([X[0], with_value(X, torch.nan)[1]], None, ValueError, r"support\[1\] holds NaN"),
    "no tasks": (X[:0], None, ValueError, "support holds no tasks"),
    "no rows": (X[:, :0], None, ValueError, r"support is empty: shape \(3, 0, 2\)"),
    "no rows in a list": ([X[0], X[1, :0]], None, ValueError, r"support\[1\] is empty"),
    "no query rows": (X, X[:, :0], ValueError, "query is empty"),
    "an empty list": ([], None, ValueError, "support is an empty list"),
    "an empty tuple": ((), None, ValueError, "support is a tuple without a tensor"),
    "differing ranks in a list": ([X[0], X[0][0]], None, ValueError, r"support\[1\] has 1 dimension a task"),
    "a packed Task": (MetaBatch(X, X), None, TypeError, r"meta.step\(\*task\)"),
    "numpy": (X.numpy(), None, TypeError, "support must be a tensor.* got ndarray"),
    "numpy in a list": ([np.zeros((4, 2))], None, TypeError, r"support\[0\] must be a tensor.* got ndarray"),
    "numpy in a tuple": ((np.zeros((3, 4, 2)),), None, ValueError, "support is a tuple without a tensor"),
    "None": (None, None, TypeError, "got NoneType"),
    "a dictionary without a tensor": ({"x": None}, None, ValueError, "support is a dict without a tensor"),
    "a set": ({X}, None, TypeError, "got set"),
}
USES = {
    "step": lambda meta, s, q: meta.step(s, q),
    "evaluate": lambda meta, s, q: meta.evaluate(s, q),
    "loss_and_grads": lambda meta, s, q: meta.loss_and_grads(s, q),
    "adapt_many": lambda meta, s, q: meta.adapt_many(s),
}


def state(meta, case):
    return values(meta), copy.deepcopy(meta.optimizer.state_dict()["state"]), store()


@pytest.mark.parametrize("what", DATA)
def test_data(what):
    support, query, error, message = DATA[what]
    case = modules()
    meta = meta_svi(case)
    meta.step(rows(), rows())
    leaves, moments, params = state(meta, case)
    generator = torch.get_rng_state()
    for name, use in USES.items():
        if query is not None and name == "adapt_many":
            continue
        with pytest.raises(error, match=message.replace("support", "supports?")):
            use(meta, support, query)
    assert torch.equal(torch.get_rng_state(), generator)
    after = state(meta, case)
    assert_equal(after[0], leaves, rtol=0, atol=0)
    assert all(torch.equal(v, after[1][i][k]) for i, m in moments.items() for k, v in m.items())
    assert after[2].keys() == params.keys()
    assert all(after[2][n] is leaf for n, leaf in params.items())


@pytest.mark.parametrize("what", [what for what, row in DATA.items() if "rank" not in what and "more" not in what])
def test_first_data(what):
    support, query, error, message = DATA[what]
    meta = meta_svi(bare_params())
    with pytest.raises(error, match=message):
        meta.step(support, query)
    assert not store()
    with pytest.raises(pm.NotInitializedError):
        meta.named_parameters()


@pytest.mark.parametrize(
    ("support", "error", "message"),
    [
        (X[0, 0], ValueError, "support has 1 dimension a task where the first meta-batch has 2 dimensions"),
        (X, ValueError, "support has 3 dimensions a task"),
        (X[0, :0], ValueError, "support is empty"),
        (with_value(X, torch.nan)[1], ValueError, "support holds NaN"),
        ([X[0]], TypeError, "got list"),
    ],
)
def test_one_task(support, error, message):
    meta = meta_svi(modules())
    meta.init(X)
    with pytest.raises(error, match=message):
        meta.adapt(support)


STEPS = {"negative": (-1, ValueError), "float": (2.0, TypeError), "bool": (True, TypeError), "text": ("5", TypeError)}


@pytest.mark.parametrize("kind", STEPS)
def test_step_counts(kind):
    steps, error = STEPS[kind]
    with pytest.raises(error, match=r"steps must"):
        meta_svi(modules(), steps=steps)
    meta = meta_svi(modules())
    for use in (
        lambda: meta.adapt(X[0], steps),
        lambda: meta.adapt_many(X, steps),
        lambda: meta.evaluate(X, X, (0, steps)),
    ):
        with pytest.raises(error, match=r"steps must"):
            use()


@pytest.mark.parametrize(("steps", "error"), [((), ValueError), (5, TypeError), ("05", TypeError)])
def test_where_to_evaluate(steps, error):
    with pytest.raises(error, match=r"steps.*steps=\(0, 1, 5\)|steps must"):
        meta_svi(modules()).evaluate(X, X, steps)


BAD_ARGUMENTS = {
    "a model that can't be called": ({"model": 3}, TypeError, "model must be callable, got int"),
    "a guide that can't be called": ({"guide": "AutoNormal"}, TypeError, "guide must be callable, got str"),
    "TraceGraph_ELBO": ({"loss": TraceGraph_ELBO()}, TypeError, "TraceGraph_ELBO has no differentiable_loss"),
    "ReweightedWakeSleep": ({"loss": ReweightedWakeSleep()}, TypeError, "has no differentiable_loss"),
    "a score without one": (
        {"score": TraceGraph_ELBO()},
        TypeError,
        "score: TraceGraph_ELBO has no differentiable_loss",
    ),
    "a loss's class": ({"loss": Trace_ELBO}, TypeError, r"loss is the class Trace_ELBO itself: .* Trace_ELBO\(...\)"),
    "a rule's class": ({"inner": pm.SGD}, TypeError, "inner is the class SGD itself"),
    "a meta-gradient's class": ({"meta_gradient": pm.Unrolled}, TypeError, "meta_gradient is the class Unrolled"),
    "an engine's class": ({"engine": pm.Engine}, TypeError, "engine is the class Engine itself"),
    "a guide's class": ({"guide": AutoNormal}, TypeError, "guide is the class AutoNormal itself"),
    "a loss by name": ({"loss": "elbo"}, TypeError, "loss must be a Pyro ELBO or a function, got str"),
    "a reduction": ({"reduction": "none"}, ValueError, "reduction must be 'sum' or 'mean', got 'none'"),
    "a torch optimiser": (
        {"optim": torch.optim.Adam([nn.Parameter(torch.zeros(1))])},
        TypeError,
        r"already bound to parameters.*lambda groups: torch.optim.Adam\(groups",
    ),
    "a Pyro scheduler": (
        {"optim": pyro.optim.ExponentialLR({"optimizer": torch.optim.SGD, "optim_args": {"lr": 0.1}, "gamma": 0.1})},
        TypeError,
        "build a torch scheduler on meta.optimizer",
    ),
    "an optimiser by name": ({"optim": "adam"}, TypeError, "optim must be a pyro.optim.PyroOptim.* got str"),
    "no optimiser": ({"optim": None}, TypeError, "optim must be"),
}


@pytest.mark.parametrize("what", BAD_ARGUMENTS)
def test_constructor(what):
    options, error, message = BAD_ARGUMENTS[what]
    case = modules()
    arguments = {"model": case.model, "guide": case.guide, "optim": ADAM, **options}
    with pytest.raises(error, match=message):
        pm.MetaSVI(**arguments)


def test_a_factory_of_something_else():
    with pytest.raises(TypeError, match=r"must return a torch optimiser, got list"):
        meta_svi(modules(), optim=lambda groups: groups).init(X)


@pytest.mark.parametrize("lr", [0, -0.1, float("nan"), float("inf"), "0.1", True, None, {"*": 0.0}])
def test_rates(lr):
    with pytest.raises(ValueError, match=r"must be positive and finite"):
        pm.SGD(lr)
    with pytest.raises(ValueError, match=r"outer_lr must be positive"):
        pm.SGD(0.1, outer_lr=-1.0)
    with pytest.raises(ValueError, match=r"learn must be None or one of 'rate', 'layer'"):
        pm.SGD(0.1, learn="each")


def test_a_rate_is_missing():
    meta = meta_svi(modules(), inner=pm.SGD({"guide.*.weight": 0.1}, learn="layer"))
    with pytest.raises(ValueError, match=r"lr has no rate for 'guide.scale'"):
        meta.init(X)


def test_what_adapts():
    with pytest.raises(ValueError, match=r"'guide.hiden.weight' matches no parameter; .* guide.hidden.weight"):
        meta_svi(modules(), adapt="guide.hiden.weight").init(X)
    with pytest.raises(ValueError, match=r"'encoder' matches no parameter"):
        meta_svi(modules(), adapt=["guide", "encoder"]).init(X)
    with pytest.raises(ValueError, match=r"leaves nothing to adapt: the program's parameters are guide.scale"):
        meta_svi(modules(), adapt=lambda name: False).init(X)
    with pytest.raises(ValueError, match=r"leaves nothing to adapt"):
        meta_svi(modules(), adapt=[]).init(X)
    case = plain_modules()
    case.guide.net.bias.requires_grad_(False)
    with pytest.raises(ValueError, match=r"matches only frozen parameters \(guide.net.bias\): set requires_grad=True"):
        meta_svi(case, adapt="guide.net.bias").init(X)
    case.guide.requires_grad_(False)
    with pytest.raises(ValueError, match=r"leaves nothing to adapt"):
        meta_svi(case, adapt="guide").init(X)
    case.model.requires_grad_(False)
    with pytest.raises(ValueError, match=r"there is nothing to learn.*give one of them a pyro.param"):
        meta_svi(case, steps=0).init(X)


def program(model_sites, guide_sites):
    def model(x):
        for site in model_sites:
            pyro.sample(site, dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(torch.zeros_like(x), 1.0).to_event(1), obs=x)

    def guide(x):
        for site in guide_sites:
            pyro.sample(site, dist.Normal(pyro.param(f"loc_{site}", torch.tensor(0.0)), 1.0))

    return Case(model, guide, X, X)


def test_sites():
    with pytest.raises(ValueError, match=r"the guide has no site for 'b' of the model \(it has 'a'\)"):
        meta_svi(program("ab", "a")).init(X)
    with pytest.raises(ValueError, match=r"the guide samples 'c', which the model does not have \(it has 'a'\)"):
        meta_svi(program("a", "ac")).init(X)
    meta_svi(program("ab", "ba"), loss=Trace_ELBO()).init(X)


def test_not_finite_in_the_inner_loop():
    """Named: the task, the step and the parameter; nothing is changed."""

    def model(x):
        w = pyro.sample("w", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(0.0, 1.0).expand([2]).to_event(1), obs=x[0])
        pyro.factor("steep", -x.sum().exp() * w.double() ** 4)

    def guide(x):
        pyro.sample("w", dist.Normal(pyro.param("loc", torch.tensor(0.5, dtype=torch.float64)), 1e-3))

    support = torch.zeros(3, 1, 2, dtype=torch.float64)
    support[2] = 20.0
    meta = pm.MetaSVI(model, guide, ADAM, Trace_ELBO(), inner=pm.SGD(0.1), steps=8)
    meta.init(support)
    before, params = values(meta), store()
    for use in (meta.step, meta.evaluate, meta.adapt_many):
        with pytest.raises(pm.NonFiniteError) as caught:
            use(support)
        assert (caught.value.task, caught.value.parameter) == (2, "guide.loc")
        assert 0 < caught.value.step < 8
        assert "task 2" in str(caught.value)
        assert "lower the inner rate" in str(caught.value)
    assert_equal(values(meta), before, rtol=0, atol=0)
    assert not meta.optimizer.state
    assert store().keys() == params.keys()


def test_learn2learn_wrappers():
    case = plain_modules()
    with pytest.raises(ValueError, match=r"brings its own inner rule: drop inner="):
        pm.MetaSVI(case.model, l2l.algorithms.MAML(case.guide, lr=0.1), ADAM, inner=pm.SGD(0.1))


def test_arguments_that_are_not_batched():
    """In a tuple, what is not a tensor is the same for every task."""
    case = auto_normal()

    def model(x, y, scale):
        return case.model(x * scale, y)

    guide = pyro.infer.autoguide.AutoNormal(model)
    meta = pm.MetaSVI(model, guide, ADAM, inner=pm.SGD(0.001))
    meta.step((*case.support, 2.0), (*case.query, 2.0))
    with pytest.raises(ValueError, match=r"support\[1\] has 2 dimensions a task"):
        meta.step((case.support[0], case.support[0], 2.0))


def test_inference_mode():
    case = modules()
    meta = meta_svi(case)
    with torch.inference_mode(), pytest.raises(ValueError, match=r"leave torch.inference_mode\(\)"):
        meta.evaluate(case.support, case.query)


def test_keyword_arguments():
    case = modules()
    meta = meta_svi(case)
    scale = torch.tensor([1.0, float("nan")])
    for call in (meta.step, meta.evaluate, meta.adapt_many):
        with pytest.raises(ValueError, match=r"kwargs\['scale'\] holds NaN or infinite values"):
            call(case.support, kwargs={"scale": scale})
    with pytest.raises(ValueError, match=r"kwargs\['scale'\]"):
        meta.adapt(case.support[0], kwargs={"scale": scale})
