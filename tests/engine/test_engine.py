"""The vectorised engine says what the loop says, and says why where it can't."""

import functools
import itertools
from dataclasses import dataclass

import meta_cases
import pyro
import pyro.distributions as dist
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from programs import PROGRAMS, Case, Decoder, modules, rows
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from pyro.nn import PyroModule
from torch import nn

import pyrometa as pm

pytestmark = pytest.mark.gpu

LOOP = pm.Engine(vectorize=False)


def meta_svi(case, engine, **options):
    return meta_cases.meta_svi(case, **{"inner": pm.SGD(0.02), "steps": 3, "engine": engine, **options})


def gradients(meta, case):
    torch.manual_seed(3)
    return meta.loss_and_grads(case.support, case.query)


def assert_same(case, engine, **options):
    loss, grads = gradients(meta_svi(case, engine, **options), case)
    expected_loss, expected = gradients(meta_svi(case, LOOP, **options), case)
    torch.testing.assert_close(loss, expected_loss, rtol=1e-10, atol=1e-12)
    meta_cases.assert_equal(grads, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.thinned(2)
@pytest.mark.parametrize("local", [False, True], ids=["store", "local"])
@pytest.mark.parametrize("low_rank", [False, True])
@pytest.mark.parametrize("steps", [0, 1, 5])
@pytest.mark.parametrize("make", PROGRAMS, ids=lambda p: p.__name__)
def test_engine_equals_loop(make, steps, low_rank, local):
    with pyro.settings.context(module_local_params=local):
        assert_same(make(), pm.Engine(vectorize=True, low_rank=low_rank), steps=steps)


@pytest.mark.thinned(2)
@pytest.mark.parametrize("low_rank", [False, True])
@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("learn", [None, "rate", "layer", "layer_step", "parameter"])
@pytest.mark.parametrize("elbo", [Trace_ELBO, TraceMeanField_ELBO])
def test_rules_orders_and_losses(elbo, learn, first_order, low_rank):
    assert_same(
        modules(),
        pm.Engine(vectorize=True, low_rank=low_rank),
        loss=elbo(num_particles=2),
        inner=pm.SGD(0.02, learn=learn),
        meta_gradient=pm.Unrolled(first_order=first_order),
        reduction="mean",
    )


class Network(nn.Module):
    """A guide of any depth and width."""

    def __init__(self, widths, bias):
        super().__init__()
        self.layers = nn.ModuleList(nn.Linear(a, b, bias) for a, b in itertools.pairwise([2, *widths, 2]))

    def forward(self, x):
        h = x
        for layer in self.layers[:-1]:
            h = torch.tanh(layer(h))
        loc, log_scale = self.layers[-1](h).split(1, -1)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))


@given(
    rule=st.sampled_from([pm.SGD, pm.Momentum, functools.partial(pm.Momentum, nesterov=True)]),
    widths=st.lists(st.integers(1, 6), max_size=3),
    bias=st.booleans(),
    sizes=st.lists(st.integers(1, 5), min_size=1, max_size=5),
    steps=st.integers(0, 4),
    learn=st.sampled_from([None, "rate", "layer", "layer_step", "parameter"]),
    low_rank=st.sampled_from([True, False, "auto"]),
    first_order=st.booleans(),
    chunk_size=st.none() | st.integers(1, 3),
)
def networks_and_tasks_of_any_size(rule, widths, bias, sizes, steps, learn, low_rank, first_order, chunk_size):
    pyro.clear_param_store()
    torch.manual_seed(0)
    tasks = [[torch.randn(n, 2, dtype=torch.float64) for n in sizes] for _ in range(2)]
    assert_same(
        Case(Decoder().double(), Network(widths, bias).double(), *tasks),
        pm.Engine(vectorize=True, low_rank=low_rank, chunk_size=chunk_size),
        steps=steps,
        inner=rule(0.02, learn=learn),
        meta_gradient=pm.Unrolled(first_order=first_order),
        reduction="mean",
    )


@pytest.mark.parametrize("examples", [15, pytest.param(60, marks=pytest.mark.slow)])
def test_networks_and_tasks_of_any_size(examples):
    settings(max_examples=examples, deadline=None, derandomize=True)(networks_and_tasks_of_any_size)()


@pytest.mark.parametrize("record", [False, True])
def test_single_precision(record):
    case = modules()
    case = Case(case.model.float(), case.guide.float(), case.support.float(), case.query.float())
    loss, grads = gradients(meta_svi(case, pm.Engine(vectorize=True, record=record)), case)
    expected_loss, expected = gradients(meta_svi(case, LOOP), case)
    torch.testing.assert_close(loss, expected_loss, rtol=1e-5, atol=0)
    meta_cases.assert_equal(grads, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("chunk_size", [1, 2, 3, 100])
def test_chunks_change_nothing(chunk_size):
    assert_same(modules(), pm.Engine(vectorize=True, chunk_size=chunk_size))


def test_tasks_of_different_sizes():
    case = modules()
    sizes = (4, 2, 4, 3, 2)
    case = Case(case.model, case.guide, *([torch.randn(n, 2, dtype=torch.float64) for n in sizes] for _ in range(2)))
    assert_same(case, pm.Engine(vectorize=True), reduction="mean")
    engines = (pm.Engine(vectorize=True), LOOP)
    losses = []
    for engine in engines:
        torch.manual_seed(0)
        losses.append(meta_svi(case, engine).evaluate(case.support, case.query, steps=(0, 2, 5)))
    torch.testing.assert_close(*losses, rtol=1e-10, atol=1e-12)


def test_adapted_guides_equal_the_loops():
    case = modules()
    guides = []
    for engine in (pm.Engine(vectorize=True, low_rank=True), LOOP):
        torch.manual_seed(0)
        guides.append(meta_svi(case, engine).adapt_many(case.support))
    for fast, slow in zip(*guides, strict=True):
        for left, right in zip(fast.parameters(), slow.parameters(), strict=True):
            torch.testing.assert_close(left, right, rtol=1e-10, atol=1e-12)


class Shared(PyroModule):
    """One layer called twice, on rows with an extra dimension, without a bias; and its weight used once more."""

    def __init__(self, use):
        super().__init__()
        self.layer = nn.Linear(2, 2, bias=False)
        self.head = nn.Linear(2, 2)
        self.use = use

    def forward(self, x):
        h = torch.tanh(self.layer(torch.stack([x, x**2], 1))).mean(1)
        out = self.head(torch.tanh(self.layer(h))) + self.use(self.layer, h)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(out[:, :1], out[:, 1:].exp()).to_event(1))


def shared(use):
    return Case(Decoder().double(), Shared(use).double(), rows(), rows())


@pytest.mark.parametrize(
    "rule",
    [
        pytest.param(pm.Momentum(0.02), marks=pytest.mark.slow),
        pm.Momentum(0.02, momentum=0.5, nesterov=True),
    ],
    ids=str,
)
def test_momentum_in_factors(rule):
    case = shared(lambda layer, h: 0.0)
    for engine in (pm.Engine(vectorize=True, low_rank=True), pm.Engine(vectorize=True, low_rank=True, record=True)):
        assert_same(case, engine, inner=rule)
    plan = meta_svi(case, pm.Engine(low_rank=True), inner=rule).plan(case.support, case.query)
    assert plan["guide.layer.weight"] == "low-rank: rank 36"


def test_several_calls_and_extra_dimensions():
    case = shared(lambda layer, h: 0.0)
    assert_same(case, pm.Engine(vectorize=True, low_rank=True))
    plan = meta_svi(case, pm.Engine(low_rank=True)).plan(case.support, case.query)
    assert plan["guide.layer.weight"] == "low-rank: rank 36"  # 3 steps x (8 + 4) rows
    assert plan["guide.head.weight"] == "low-rank: rank 12"
    assert plan["guide.head.bias"].startswith("dense")
    encoder = modules()
    plan = meta_svi(encoder, pm.Engine(low_rank=True)).plan(encoder.support, encoder.query)
    assert plan["guide.hidden.weight"] == "low-rank: rank 4"  # the support set's rows, whatever the steps
    assert plan["guide.loc.weight"] == "low-rank: rank 12"


def test_rates_by_name_are_not_rounded_to_single_precision():
    assert_same(modules(), pm.Engine(vectorize=True), inner=pm.SGD({"guide.*": 0.02, "*": 0.01}), adapt="both")


@dataclass(frozen=True)
class OwnDescent:
    """A user's own gradient descent, which tells its rates, or tells others than those it moves by."""

    told: float = 0.02
    outer_lr: float | None = None
    one_rate_for: str = "tensor"

    def learned(self, params, steps):
        return {}

    def init(self, params):
        return None

    def update(self, params, grads, state, learned, step):
        return {name: p - 0.02 * grads[name] for name, p in params.items()}, None

    def rate(self, name, learned, step):
        return self.told


def test_a_rule_of_ones_own_is_held_as_factors_by_the_rates_that_it_tells():
    case, engine = modules(), pm.Engine(vectorize=True, low_rank=True)
    assert_same(case, engine, inner=OwnDescent())
    plan = meta_svi(case, engine, inner=OwnDescent()).plan(case.support, case.query)
    assert plan["guide.hidden.weight"] == "low-rank: rank 4"
    with pytest.raises(pm.UnsupportedProgramError, match="differs from the reference"):
        meta_svi(case, engine, inner=OwnDescent(told=0.03)).step(case.support, case.query)


@pytest.mark.parametrize(
    ("use", "operation"),
    [
        (lambda layer, h: h @ layer.weight.t(), "t"),
        (lambda layer, h: layer.weight.pow(2).sum(), "pow"),
        (lambda layer, h: torch.cat([layer.weight, layer.weight]).mean(), "cat"),
        (lambda layer, h: torch.nn.functional.linear(h, h.new_ones(2, 2), layer.weight[0]), "__getitem__"),
    ],
    ids=["transpose", "regulariser", "in a list", "bias"],
)
def test_a_weight_in_another_operation_is_held_dense(use, operation):
    case = shared(use)
    assert_same(case, pm.Engine(vectorize=True, low_rank=True))
    plan = meta_svi(case, pm.Engine(low_rank=True)).plan(case.support, case.query)
    assert plan["guide.layer.weight"] == f"dense: used by {operation}"
    assert plan["guide.head.weight"].startswith("low-rank")


@pytest.mark.filterwarnings("ignore:`torch.jit.trace`:FutureWarning")
def test_a_weight_that_escapes_python_is_not_stale():
    escaped = torch.jit.trace(lambda w: (w**2).sum(), torch.ones(2, 2, dtype=torch.float64))
    case = shared(lambda layer, h: escaped(layer.weight))
    with pytest.warns(pm.LoopWarning, match="held dense.*in factors the vectorised.*low_rank=False"):
        assert_same(case, pm.Engine(low_rank=True))
    meta = meta_svi(case, pm.Engine(low_rank=True))
    with pytest.warns(pm.LoopWarning, match="held dense"):
        plan = meta.plan(case.support, case.query)
    gradients(meta, case)  # another trial, and no other warning
    assert plan["guide.head.weight"].startswith("dense: in factors the vectorised loss or gradient differs")


def test_tasks_one_by_one_hold_no_factors():
    with pytest.raises(ValueError, match="one by one hold no factors: drop vectorize=False, or low_rank"):
        pm.Engine(vectorize=False, low_rank=True)


def test_dense_past_the_rank_that_pays():
    case = shared(lambda layer, h: 0.0)
    plan = meta_svi(case, pm.Engine()).plan(case.support, case.query)
    assert plan["guide.layer.weight"] == "dense: rank 36 is past what pays"


def test_programs_that_vmap_can_not_batch_fall_back_with_one_warning():
    def model(x):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide(x):
        loc = pyro.param("loc", torch.tensor(0.5, dtype=torch.float64))
        scale = 0.5 if loc.item() > 0 else 0.6
        pyro.sample("z", dist.Normal(loc, scale))

    case = Case(model, guide, torch.randn(3, 4, dtype=torch.float64), torch.randn(3, 4, dtype=torch.float64))
    meta = meta_svi(case, pm.Engine(), adapt="guide")
    with pytest.warns(pm.LoopWarning, match=r"one by one.*item"):
        loss, _ = gradients(meta, case)
    assert gradients(meta, case)[0] == loss  # and no second warning
    assert loss == gradients(meta_svi(case, LOOP, adapt="guide"), case)[0]
    with pytest.raises(pm.UnsupportedProgramError, match="item"):
        gradients(meta_svi(case, pm.Engine(vectorize=True), adapt="guide"), case)


class OwnELBO(Trace_ELBO):
    """An ELBO of a user's."""

    def differentiable_loss(self, model, guide, *args, **kwargs):
        return 2 * super().differentiable_loss(model, guide, *args, **kwargs)


def test_other_elbos_fall_back():
    case = modules()
    with pytest.warns(pm.LoopWarning, match="OwnELBO is not one of Trace_ELBO"):
        loss, _ = gradients(meta_svi(case, pm.Engine(), loss=OwnELBO()), case)
    assert loss == gradients(meta_svi(case, LOOP, loss=OwnELBO()), case)[0]


def test_the_engine_is_checked():
    with pytest.raises(ValueError, match="vectorize must be True, False or 'auto', got 'maybe'"):
        pm.Engine(vectorize="maybe")
    with pytest.raises(ValueError, match="chunk_size must be a positive number"):
        pm.Engine(chunk_size=0)


def test_a_wrong_vectorised_pass_is_found_out(monkeypatch):
    monkeypatch.setattr("pyrometa.elbos.trace.log_prob", lambda site: site["fn"].log_prob(site["value"]) * 2)
    case = modules()
    with pytest.warns(pm.LoopWarning, match="differs from the reference"):
        loss, _ = gradients(meta_svi(case, pm.Engine(), loss=Trace_ELBO()), case)
    assert loss == gradients(meta_svi(case, LOOP, loss=Trace_ELBO()), case)[0]


@pytest.mark.parametrize("engine", [pm.Engine(vectorize=True), LOOP], ids=["vectorised", "loop"])
def test_divergence_names_task_step_and_parameter(engine):
    case = modules()
    meta = meta_svi(case, engine, steps=8, inner=pm.SGD(1e-3))
    gradients(meta, case)
    support = case.support.clone()
    support[1] *= 1e120
    before = {name: leaf.clone() for name, leaf in meta.named_parameters()}
    with pytest.raises(pm.NonFiniteError, match="task 1, inner step") as caught:
        meta.step(support, case.query)
    assert caught.value.task == 1
    assert caught.value.step is not None
    assert all(torch.equal(leaf, before[name]) for name, leaf in meta.named_parameters())


class Switched(PyroModule):
    """A guide that changes what it computes when its owner says so."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(2, 2), nn.Linear(2, 2)
        self.way = "one after the other"

    def forward(self, x):
        if self.way == "the other first":
            out = torch.tanh(self.first(torch.tanh(self.second(x))))
        elif self.way == "by hand":
            out = torch.tanh(self.second(x @ self.first.weight.t()))
        elif self.way == "by value":
            out = self.first(x) if self.first(x).sum().item() > 0 else self.second(x)
        else:
            out = torch.tanh(self.second(torch.tanh(self.first(x))))
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(out[:, :1], out[:, 1:].exp()).to_event(1))


@pytest.mark.parametrize("way", ["the other first", "by hand", "by value"])
def test_a_plan_that_the_program_has_left_is_made_anew(way):
    case = Case(Decoder().double(), Switched().double(), rows(), rows())
    meta, loop = (meta_svi(case, engine) for engine in (pm.Engine(low_rank=True), LOOP))
    before, _ = gradients(meta, case)
    case.guide.way = way
    if way == "by value":
        with pytest.warns(pm.LoopWarning, match="item"):
            loss, grads = gradients(meta, case)
    else:
        loss, grads = gradients(meta, case)
    expected_loss, expected = gradients(loop, case)
    assert loss != before
    torch.testing.assert_close(loss, expected_loss, rtol=1e-10, atol=1e-12)
    meta_cases.assert_equal(grads, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("rule", [pm.SGD(0.1), pm.Adam(0.1), pm.Newton()], ids=lambda rule: type(rule).__name__)
def test_nothing_adapts(rule):
    """A guide without parameters, as of a model that learns alone, is no reason to leave the vectorised pass."""

    def model(x):
        loc = pyro.param("loc", torch.tensor(1.0, dtype=torch.float64))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(loc, 1.0), obs=x[:, 0])

    case = Case(model, lambda x: None, rows(), rows())
    assert_same(case, pm.Engine(vectorize=True), inner=rule, steps=0, adapt="guide")
