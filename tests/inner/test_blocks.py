"""Newton's steps on programs whose elements have numbers of their own: the dense ones, by few products."""

import pickle

import pyro
import pyro.distributions as dist
import pytest
import torch
from meta_cases import assert_equal
from pyro.infer import Trace_ELBO
from pyro.infer.autoguide import AutoDelta, AutoDiagonalNormal, AutoNormal, init_to_value
from torch.distributions import constraints

import pyrometa as pm
from pyrometa.inner import Arrow, Surface
from pyrometa.program.elements import find_elements
from pyrometa.types import Data

GROUPS, ROWS = 4, 3


@pytest.fixture(autouse=True)
def double():
    """Autoguides make their parameters in the default precision."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def y():
    """Tables of groups side by side."""
    return torch.randn(3, 1, GROUPS) + 0.5 * torch.randn(3, ROWS, GROUPS)


def levels(y, pull=None):
    """Levels of groups about a mean, all unknown; with a pull, each is drawn to the one beside it."""
    mean = pyro.sample("mean", dist.Normal(0.0, 2.0))
    with pyro.plate("groups", y.shape[-1], dim=-1):
        z = pyro.sample("z", dist.Normal(mean, 0.7))
        with pyro.plate("rows", y.shape[-2], dim=-2):
            pyro.sample("y", dist.Normal(z, 0.5), obs=y)
    if pull is not None:
        pyro.factor("pull", -pull.squeeze(-1) * (z[..., 1:] - z[..., :-1]).square().sum(-1))


def walk(y):
    """Every group's level is the last one's and a step: what is drawn of a group is its own, and the loss is not."""
    with pyro.plate("groups", y.shape[-1], dim=-1):
        step = pyro.sample("step", dist.Normal(0.0, 0.7))
    with pyro.plate("together", y.shape[-1], dim=-1), pyro.plate("rows", y.shape[-2], dim=-2):
        pyro.sample("y", dist.Normal(step.cumsum(-1), 0.5), obs=y)


def own_guide(y):
    """No names or shapes to go by: a group's numbers are a column of the one and a row of the other."""
    ab = pyro.param("ab", torch.zeros(2, y.shape[-1]))
    c = pyro.param("c", 0.3 * torch.ones(y.shape[-1] + 1), constraint=constraints.positive)
    pyro.sample("mean", dist.Normal(pyro.param("d", torch.zeros(())), c[-1]))
    with pyro.plate("groups", y.shape[-1], dim=-1):
        pyro.sample("z", dist.Normal(ab[0] + 0.1 * ab[1] ** 2, c[:-1]))


def learner(model=levels, guide=AutoNormal, **options):
    pyro.clear_param_store()
    elbo = Trace_ELBO(num_particles=8, vectorize_particles=True, max_plate_nesting=2)
    options = {"loss": elbo, "inner": pm.Newton(), "steps": 3, "noise": pm.Noise("sobol", shared=True), **options}
    guide = guide if guide is own_guide else guide(model)
    return pm.MetaSVI(model, guide, pyro.optim.Adam({"lr": 0.01}), **options)


@pytest.fixture
def dense(monkeypatch):
    """Within it, no blocks are found."""

    def of(function, *args, **options):
        with monkeypatch.context() as patched:
            patched.setattr("pyrometa.learner.bound_rules.find_blocks", lambda *args: None)
            return function(*args, **options)

    return of


@pytest.fixture
def products(monkeypatch):
    """How many products each Hessian took."""
    noted, whole = [], Surface.products
    monkeypatch.setattr(
        Surface, "products", lambda self, vectors: (noted.append(len(vectors)), whole(self, vectors))[1]
    )
    return noted


def losses(meta, *tasks):
    torch.manual_seed(3)
    return meta.evaluate(tasks if len(tasks) > 1 else tasks[0])


@pytest.mark.thinned(2)
@pytest.mark.parametrize("guide", [AutoNormal, AutoDiagonalNormal, own_guide])
@pytest.mark.parametrize("vectorize", [True, False])
def test_steps_are_those_of_the_whole_hessian(y, guide, vectorize, dense, products):
    """Of 10 numbers, or 14 of which each group has three, by 5 or 6 products."""
    engine = pm.Engine(vectorize=vectorize)
    expected = dense(lambda: losses(learner(guide=guide, engine=engine), y))
    size = {own_guide: 14}.get(guide, 10)
    assert set(products) == {size}
    products.clear()
    torch.testing.assert_close(losses(learner(guide=guide, engine=engine), y), expected, rtol=1e-11, atol=1e-11)
    assert set(products) == {6 if guide is own_guide else 5}


def conjugate(y):
    """The posterior means of a table's mean and levels."""
    precision = torch.zeros(GROUPS + 1, GROUPS + 1)
    precision[0, 0] = 0.25 + GROUPS / 0.49
    precision[0, 1:] = precision[1:, 0] = -1 / 0.49
    precision[1:, 1:] = (1 / 0.49 + ROWS / 0.25) * torch.eye(GROUPS)
    return torch.linalg.solve(precision, torch.cat([torch.zeros(1), y.sum(0) / 0.25]))


@pytest.mark.parametrize("max_dim", [200, 2])
def test_one_step_solves_a_linear_gaussian_hierarchy(y, max_dim, products):
    """Its modes; above max_dim by the blocks and a Schur complement."""
    start = init_to_value(values={"mean": torch.tensor(1.0), "z": torch.arange(4.0)})
    meta = learner(guide=lambda model: AutoDelta(model, init_loc_fn=start), inner=pm.Newton(max_dim=max_dim), steps=1)
    for guide, table in zip(meta.adapt_many(y), y, strict=True):
        found = guide.median()
        torch.testing.assert_close(torch.cat([found["mean"].view(1), found["z"]]), conjugate(table))
    assert set(products) == {3}


@pytest.mark.parametrize("guide", [AutoNormal, own_guide])
def test_the_meta_gradient(y, guide, dense):
    """That of whole Hessians, and of differences."""
    inner = pm.Newton(0.05, learn="step")

    def found():
        meta = learner(guide=guide, inner=inner, steps=2)
        torch.manual_seed(3)
        return meta, meta.loss_and_grads(y)[1]

    meta, grads = found()
    assert_equal(grads, dense(found)[1], rtol=1e-9, atol=1e-10)
    for leaf, grad in zip(meta.named_parameters(), grads.values(), strict=True):
        way, value = torch.randn_like(grad), leaf[1].detach().clone()
        ends = []
        for sign in (1, -1):
            leaf[1].data = value + sign * 1e-5 * way
            torch.manual_seed(3)
            ends.append(meta.loss_and_grads(y)[0])
        leaf[1].data = value
        torch.testing.assert_close(
            (grad * way).sum(), torch.as_tensor((ends[0] - ends[1]) / 2e-5), rtol=1e-5, atol=1e-7
        )


def test_a_walk_along_the_elements_is_taken_densely(y, dense, products):
    expected = dense(lambda: losses(learner(walk), y))
    products.clear()
    meta = learner(walk)
    meta.init(y)
    assert products == [3]  # what shows it
    assert meta._state.rules._blocks is None
    torch.testing.assert_close(losses(meta, y), expected, rtol=0, atol=0)
    assert set(products[1:]) == {8}


def test_what_is_an_elements_own(y):
    """A level is no row's own, as the rows of its group share it, and the mean is no group's."""
    meta = learner()
    meta.init(y)
    values = {name: leaf.detach().requires_grad_() for name, leaf in meta.named_parameters()}
    (found,) = find_elements(meta._state.program, Data((y[0],)), values)
    own = {"mean": -1, "z": [0, 1, 2, 3]}
    assert {name: each.tolist() for name, each in found.items()} == {
        f"guide.{part}.{site}": at for part in ("locs", "scales") for site, at in own.items()
    }


LOOP, TOGETHER, RECORDED = pm.Engine(vectorize=False), pm.Engine(), pm.Engine(record=True)


@pytest.mark.parametrize("engine", [LOOP, TOGETHER, pytest.param(RECORDED, marks=pytest.mark.slow)])
def test_a_coupling_that_only_some_tasks_have_is_noticed(y, engine, dense):
    """First data have none; a recording was made where no task has any."""
    apart, pull = torch.zeros(3, 1), torch.tensor([[0.3], [0.0], [0.3]])

    def run():
        meta = learner(engine=engine, steps=1)
        return meta, *(losses(meta, y, each) for each in (apart, pull, apart))

    meta, *found = run()
    _, *expected = dense(run)
    assert not meta._state.rules._blocks.hold
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("engine", [LOOP, TOGETHER, pytest.param(RECORDED, marks=pytest.mark.slow)])
def test_beyond_max_dim_no_tasks_step_depends_on_another_task(y, engine, dense):
    """Blocks and directions are different steps there; those with a coupling take the latter."""
    apart, pull = torch.zeros(3, 1), torch.tensor([[0.3], [0.0], [0.3]])

    def run():
        meta = learner(engine=engine, inner=pm.Newton(max_dim=4), steps=1)
        return [losses(meta, y, each) for each in (apart, pull, apart)]

    first, mixed, again = run()
    expected = dense(run)[1]
    torch.testing.assert_close(again, first, rtol=1e-12, atol=0.0)
    torch.testing.assert_close(mixed[:, 1], first[:, 1], rtol=1e-10, atol=0.0)
    torch.testing.assert_close(mixed[:, ::2], expected[:, ::2], rtol=1e-10, atol=0.0)


@pytest.mark.parametrize(
    ("engine", "max_dim"), [(TOGETHER, 5), (RECORDED, 200), pytest.param(RECORDED, 5, marks=pytest.mark.slow)]
)
def test_all_ways_to_run_agree(y, engine, max_dim):
    inner = pm.Newton(0.02, max_dim=max_dim)
    found, expected = (losses(learner(engine=each, inner=inner, steps=1), y[:2]) for each in (engine, LOOP))
    torch.testing.assert_close(found, expected, rtol=1e-9, atol=1e-9)


def test_what_a_start_hides_is_seen_on_first_data(y):
    """Levels pull on each other by as much as they differ from zero, where they start."""

    def model(y):
        levels(y)
        z = pyro.sample("w", dist.Normal(torch.zeros(GROUPS), 1.0).to_event(1))
        pyro.sample("v", dist.Normal((z.roll(1, -1) * z).square(), 1.0).to_event(1), obs=torch.zeros(GROUPS))

    def guide(y):
        pyro.sample("mean", dist.Delta(pyro.param("at", torch.zeros(()))))
        with pyro.plate("groups", GROUPS, dim=-1):
            both = pyro.param("both", torch.zeros(GROUPS, 2))
            pyro.sample("z", dist.Delta(both[:, 0]))
            w = pyro.sample("each", dist.Delta(both[:, 1]), infer={"is_auxiliary": True})
        pyro.sample("w", dist.Delta(w, event_dim=1))

    meta = pm.MetaSVI(model, guide, pyro.optim.Adam({}), Trace_ELBO(), pm.Newton(), steps=1)
    meta.init(y)
    assert meta._state.rules._blocks is None


def test_a_frozen_parameter_and_a_pickle(y, dense):
    def run():
        meta = learner()
        meta.init(y)
        dict(meta.named_parameters())["guide.scales.z"].requires_grad_(False)
        copy = pickle.loads(pickle.dumps(meta))
        return losses(meta, y), losses(copy, y)

    torch.testing.assert_close(run(), dense(run), rtol=1e-11, atol=1e-11)


def test_two_plates_share_the_smaller(y):
    """Crossed effects: of the larger plate's elements each has its own numbers, and the smaller plate's are shared."""

    def model(y):
        with pyro.plate("groups", GROUPS, dim=-1):
            a = pyro.sample("a", dist.Normal(0.0, 1.0))
        with pyro.plate("rows", ROWS, dim=-2):
            b = pyro.sample("b", dist.Normal(0.0, 1.0))
        with pyro.plate("groups_", GROUPS, dim=-1), pyro.plate("rows_", ROWS, dim=-2):
            pyro.sample("y", dist.Normal(a * b + a, 0.5), obs=y)

    meta = learner(model, AutoNormal)
    meta.init(y)
    elements = meta._state.rules._blocks.elements
    arrow = Arrow.of(torch.cat([own.flatten() for own in elements.values()]))
    assert (arrow.own.shape, len(arrow.shared)) == ((GROUPS, 2), 2 * ROWS)
