"""Steps that are recorded once say what the loop says, however many they are."""

import meta_cases
import pytest
import torch
from programs import Case, bare_params, modules

import pyrometa as pm
from pyrometa.engine import batch_function

pytestmark = pytest.mark.gpu

LOOP = pm.Engine(vectorize=False)
STEPS = 6


def meta_svi(case, engine=LOOP, **options):
    return meta_cases.meta_svi(case, **{"inner": pm.SGD(0.02), "steps": STEPS, "engine": engine, **options})


def gradients(meta, case):
    torch.manual_seed(3)
    return meta.loss_and_grads(case.support, case.query)


def assert_same(case, engine=None, parts=3, **options):
    """Replayed on other data than it was recorded on, against the loop."""
    meta = meta_svi(case, engine or pm.Engine(record=True), **options)
    meta.loss_and_grads(case.query, case.support)
    before = meta.recordings()
    found, expected = gradients(meta, case), gradients(meta_svi(case, **options), case)
    torch.testing.assert_close(found[0], expected[0], rtol=1e-10, atol=1e-12)
    meta_cases.assert_equal(found[1], expected[1], rtol=1e-9, atol=1e-11)
    assert meta.recordings() == before
    assert all(line.startswith(f"{parts} parts") for line in before), before


@pytest.mark.parametrize("learn", ["layer_step", "parameter", pytest.param("layer", marks=pytest.mark.slow)])
def test_learned_rates(learn):
    weights = (0.0, 0.25, 0.0, 0.25, 0.0, 0.5) if learn == "layer_step" else None
    gradient = pm.Unrolled(step_weights=weights)
    assert_same(bare_params(), inner=pm.SGD(0.02, learn=learn), meta_gradient=gradient)


@pytest.mark.parametrize(
    ("inner", "parts"),
    [
        pytest.param(pm.Momentum(0.02, nesterov=True), 4, marks=pytest.mark.slow),  # a velocity from the second step on
        (pm.Adam(0.02, learn="layer_step"), 4),
        pytest.param(pm.LearnedOptimizer(0.02), 4, marks=pytest.mark.slow),
        pytest.param(pm.Newton(0.1, learn="step"), 3, marks=pytest.mark.slow),
    ],
    ids=lambda value: type(value).__name__,
)
def test_rules(inner, parts):
    assert_same(bare_params(), inner=inner, parts=parts)


@pytest.mark.parametrize(
    ("gradient", "parts"),
    [(pm.Unrolled(first_order=True), 3), (pm.Unrolled(truncate=2), 4), (pm.Displacement(), 5)],
    ids=["first order", "truncated", "displacement"],
)
def test_meta_gradients(gradient, parts):
    assert_same(bare_params(), meta_gradient=gradient, parts=parts)


def test_factors_of_a_layer_on_the_data():
    case = modules()
    assert_same(case, pm.Engine(record=True, low_rank=True), parts=4, adapt=["guide.hidden.weight"])


def test_tasks_of_several_sizes():
    case = bare_params()
    ragged = [[torch.randn(n, 2, dtype=torch.float64) for n in (3, 2, 3)] for _ in range(2)]
    assert_same(Case(case.model, case.guide, *ragged), pm.Engine(record=True, chunk_size=2), reduction="mean")


def scores(meta, case, at):
    torch.manual_seed(3)
    return meta.evaluate(case.support, case.query, steps=at)


def test_a_recorded_step_serves_for_any_number_of_them():
    case = bare_params()
    meta, loop = meta_svi(case, pm.Engine(record=True)), meta_svi(case)
    for at in ((6,), (0, 9, 30)):
        torch.testing.assert_close(scores(meta, case, at), scores(loop, case, at), rtol=1e-10, atol=1e-12)
    first, second = meta.recordings()
    assert first == second
    for found, expected in zip(meta.adapt_many(case.support, 30), loop.adapt_many(case.support, 30), strict=True):
        assert found.state_dict().keys() == expected.state_dict().keys()


class Plain:
    """Gradient descent by a rate that depends on the step, as only Python can tell."""

    outer_lr = None

    def learned(self, params, steps):
        return {}

    def init(self, params):
        return None

    def update(self, params, grads, state, learned, step):
        return {name: p - self.rate(step) * grads[name] for name, p in params.items()}, None


class Warmed(Plain):
    def rate(self, step):
        return 0.01 if step < 2 else 0.03


class Typed(Plain):
    def rate(self, step):
        return 0.01 / (1 + step) if isinstance(step, int) else 0.01


class Counted(Plain):
    """Its state is a number that no tensor tells."""

    def init(self, params):
        return 0

    def update(self, params, grads, state, learned, step):
        return {name: p - 0.01 / (1 + state) * grads[name] for name, p in params.items()}, state + 1


class Decayed(Plain):
    def rate(self, step):
        return 0.03 * 0.9**step


@pytest.mark.parametrize(
    ("rule", "in_parts"),
    [
        (Decayed(), True),
        (Warmed(), False),
        pytest.param(Typed(), False, marks=pytest.mark.slow),
        pytest.param(Counted(), False, marks=pytest.mark.slow),
    ],
    ids=lambda value: type(value).__name__,
)
def test_rules_that_ask_which_step_it_is(rule, in_parts):
    case = bare_params()
    meta, loop = meta_svi(case, pm.Engine(record=True), inner=rule), meta_svi(case, inner=rule)
    torch.testing.assert_close(scores(meta, case, (6,)), scores(loop, case, (6,)), rtol=1e-10, atol=1e-12)
    assert (" parts of " in meta.recordings()[0]) is in_parts


def test_a_change_of_the_program_is_noticed():
    case = bare_params()
    scale = {"value": 1.0}
    changed = Case(lambda x: case.model(scale["value"] * x), case.guide, case.support, case.query)
    meta, loop = meta_svi(changed, pm.Engine(record=True)), meta_svi(changed)
    for value in (1.0, 0.5):
        scale["value"] = value
        torch.testing.assert_close(scores(meta, changed, (6,)), scores(loop, changed, (6,)), rtol=1e-10, atol=1e-12)
    assert len(meta.recordings()) == 2


@pytest.mark.parametrize(
    ("inner", "parts"),
    [
        (pm.SGD(0.02, learn="layer_step"), 4),
        pytest.param(pm.Momentum(0.02), 4, marks=pytest.mark.slow),
        pytest.param(pm.Momentum(0.02, nesterov=True), 4, marks=pytest.mark.slow),
    ],
)
def test_factors_that_would_grow(inner, parts, monkeypatch):
    """The layers on top of the first see other rows at each step."""
    monkeypatch.setattr(batch_function, "_FEW_THAT_GROW", 5)
    assert_same(modules(), pm.Engine(record=True, low_rank=True), parts=parts, inner=inner)


@pytest.mark.slow
def test_inductor_says_the_same():
    assert_same(bare_params(), pm.Engine(compile=True))
