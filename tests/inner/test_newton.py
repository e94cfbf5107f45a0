"""Newton: its steps against dense ones, convergence, what it does at a saddle, and its derivatives."""

import pickle

import pyro
import pyro.distributions as dist
import pytest
import torch
from meta_cases import assert_equal, store
from programs import modules
from pyro.infer import Trace_ELBO
from pyro.infer.autoguide import AutoNormal
from torch.autograd import gradcheck
from torch.func import grad, jacrev, vmap

import pyrometa as pm
from pyrometa.inner import Newton, Surface, TaskRows

pytestmark = pytest.mark.gpu

F64 = torch.float64
DATA = torch.tensor([[0.3, -1.2, 0.7, 2.0, -0.4], [1.1, 0.2, -0.6, 0.5, 1.9]], dtype=F64)


def bowl(x, at=DATA[0]):
    """Smooth, convex and not quadratic."""
    return (x - at).cosh().sum() + 0.5 * x.sum().square() + 0.1 * (x[0] * x[1]) ** 2


def saddle(x, at=DATA[0]):
    return bowl(x, at) - 4 * (x[0] - 1) ** 2 - x[2] * x[3]


def moved(rule, loss, rows, learned=None, *, exact=False, batched=True):
    """One step of a rule for tasks that have one loss."""
    rows = rows if rows.requires_grad else rows.detach().requires_grad_()
    losses = torch.stack([loss(row) for row in rows])
    fast = TaskRows([rows], len(rows))
    slope = fast.gradient(losses.sum(), create_graph=True)

    def losses_at(candidates):
        return torch.stack([torch.stack([loss(row) for row in some]) for some in candidates]).detach()

    return rule.moved(Surface(fast, losses, slope, exact, losses_at, batched), learned or {}, 0)


@pytest.mark.parametrize("batched", [True, False])
def test_near_a_minimum_it_is_newtons_step(batched):
    rows = DATA
    for _ in range(5):
        rows = moved(Newton(), bowl, rows).detach()
    rows = rows + 1e-3
    expected = rows - torch.linalg.solve(vmap(jacrev(grad(bowl)))(rows), vmap(grad(bowl))(rows))
    torch.testing.assert_close(moved(Newton(), bowl, rows, batched=batched).detach(), expected, rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("damping", [0.0, 0.05])
def test_a_damped_step_at_a_saddle(damping):
    """The least loss of dense steps with all dampings, of which plain Newton's would go up."""
    (found,) = moved(Newton(damping), saddle, DATA[1:]).detach()
    x, h = DATA[1], jacrev(grad(saddle))(DATA[1])
    size, vectors = torch.linalg.eigh(h)
    assert size.min() < -1
    more = [0, 1e-3, 3e-3, 1e-2, 3e-2, 0.1, 0.3, 1, 3, 10, 100]
    stiff = [vectors @ torch.diag(size.abs() + (damping + m) * size.abs().max()) @ vectors.T for m in more]
    tried = [x - torch.linalg.solve(each, grad(saddle)(x)) for each in stiff]
    torch.testing.assert_close(found, min(tried, key=saddle), rtol=1e-7, atol=1e-9)
    assert saddle(found) < saddle(x)


def test_a_step_that_only_goes_up_is_not_taken():
    """On a ridge with a wall on both sides, all the way."""

    def walled(x):
        return torch.where(x.detach() == 1, x, torch.inf).sum() + x.square().sum()

    rows = torch.ones(2, 3, dtype=F64)
    assert torch.equal(moved(Newton(), walled, rows).detach(), rows)


def test_steps_to_where_the_loss_is_not_finite_are_not_taken():
    rows = torch.tensor([[1e-3, 1.0]], dtype=F64)

    def half_line(x):
        return (x - 1 - x.log()).sum()

    at = rows
    for _ in range(60):
        at = moved(Newton(), half_line, at).detach()
    torch.testing.assert_close(at, torch.ones_like(at))


@pytest.mark.parametrize("loss", [bowl, saddle])
def test_the_derivative_of_a_step_by_start_damping_and_loss(loss):
    def step(rows, log_damping, scale):
        return moved(Newton(0.1, "damping"), lambda x: scale * loss(x), rows, {"log_damping": log_damping}, exact=True)

    at = [DATA.clone(), torch.tensor(-1.0, dtype=F64), torch.tensor(1.5, dtype=F64)]
    assert gradcheck(step, [value.requires_grad_() for value in at], eps=1e-6, atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_derivative_where_eigenvalues_are_equal(sign):
    """Derivatives of eigenvectors would be infinite here; third derivatives of the loss tell these directions apart."""

    def loss(x):
        equal = sign * x[:4].square().sum() + x[0] * x[1] * x[2] + 0.3 * x[3] ** 3
        return equal + 5 * x[4] ** 2 + x[4] ** 3 + x[0] * x[4] ** 2 + (x * DATA[0]).sum()

    rows = torch.zeros(1, 5, dtype=F64)
    found = torch.autograd.functional.jacobian(lambda at: moved(Newton(0.1), loss, at, exact=True), rows)
    for i, way in enumerate(1e-5 * torch.eye(5, dtype=F64)):
        ahead, behind = (moved(Newton(0.1), loss, rows + s * way).detach() for s in (1, -1))
        torch.testing.assert_close(found[0, :, 0, i], (ahead - behind)[0] / 2e-5, rtol=1e-6, atol=1e-8)


def test_first_order_takes_gradient_and_hessian_for_constants():
    rows = DATA.clone().requires_grad_()
    total = moved(Newton(), bowl, rows).sum()
    assert torch.equal(torch.autograd.grad(total, rows)[0], torch.ones_like(rows))


def test_past_max_dim_the_step_is_the_same_where_products_suffice():
    """Five products span all of five numbers; at a saddle too."""
    for loss in (bowl, saddle):
        exact, some = (moved(Newton(max_dim=size), loss, DATA).detach() for size in (5, 4))
        torch.testing.assert_close(some, exact, rtol=1e-7, atol=1e-8)


def test_past_max_dim_a_step_is_constant():
    """Also where its derivative is asked for: who needs it is refused before."""
    rows = DATA.clone().requires_grad_()
    found = moved(Newton(max_dim=4), bowl, rows, exact=True)
    assert torch.equal(found, moved(Newton(max_dim=4), bowl, rows))
    assert torch.equal(torch.autograd.grad(found.sum(), rows)[0], torch.ones_like(rows))


@pytest.mark.usefixtures("double")
def test_past_max_dim_no_exact_meta_gradient(tasks, monkeypatch):
    """Refused before any step; first order is not, nor is meta-test."""
    meta = learner(inner=pm.Newton(max_dim=3), steps=1)
    refused = pytest.raises(
        ValueError, match=r"4 numbers of a task adapt, .*max_dim=3\).* use meta_gradient=Unrolled\("
    )
    with monkeypatch.context() as patched, refused:
        patched.setattr(pm.Newton, "moved", None)
        meta.step(tasks)
    assert meta.evaluate(tasks).isfinite().all()
    pyro.clear_param_store()
    assert learner(inner=pm.Newton(max_dim=3), steps=1, meta_gradient=pm.Unrolled(first_order=True)).step(tasks) > 0


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize("vectorize", [True, False])
def test_divergence_says_what_helps(tasks, vectorize):
    """There is no rate to lower."""
    meta = learner(engine=pm.Engine(vectorize=vectorize))
    tasks[1, 0] = 1e200
    with pytest.raises(pm.NonFiniteError, match=r"task 1, inner step 0: .*second derivatives are finite") as caught:
        meta.evaluate(tasks)
    assert "lower the inner rate" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"damping": -1.0}, "damping must be positive and finite, got -1.0"),
        ({"damping": float("nan")}, "damping must be positive and finite"),
        ({"learn": "damping"}, "learns the logarithm of the damping: give damping above 0"),
        ({"damping": 0.1, "learn": "rate"}, "learn must be None, 'damping' or 'step', got 'rate'"),
        ({"outer_lr": 0.0}, "outer_lr must be positive"),
        ({"max_dim": 0}, "max_dim must be at least 1, got 0"),
    ],
)
def test_bad_values(options, message):
    with pytest.raises(ValueError, match=message):
        Newton(**options)


def positive(x):
    rate = pyro.sample("rate", dist.LogNormal(x.new_zeros(()), 1.0))
    shift = pyro.sample("shift", dist.Normal(x.new_zeros(()), 2.0))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(rate + shift * 0.5, 0.4 + 0.1 * rate), obs=x)


def learner(**options):
    elbo = Trace_ELBO(num_particles=16, vectorize_particles=True, max_plate_nesting=1)
    options = {"loss": elbo, "inner": pm.Newton(), "steps": 9, "noise": pm.Noise("sobol", shared=True), **options}
    return pm.MetaSVI(positive, AutoNormal(positive), pyro.optim.Adam({"lr": 0.01}), **options)


@pytest.fixture
def double():
    """Autoguides make their parameters in the default precision."""
    torch.set_default_dtype(F64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.fixture
def tasks():
    return 1.5 + 0.4 * torch.randn(3, 8, dtype=F64)


@pytest.mark.usefixtures("double")
def test_digits_double_at_each_step_of_an_elbo(tasks):
    meta = learner()
    torch.manual_seed(1)
    meta.init(tasks)
    ends = []
    for steps in range(10):
        torch.manual_seed(1)
        guides = meta.adapt_many(tasks, steps)
        ends.append(torch.stack([torch.cat([p.detach().view(-1) for p in guide.parameters()]) for guide in guides]))
    off = [(end - ends[-1]).norm().item() for end in ends]
    last = next(i for i, distance in enumerate(off) if distance < 1e-2)
    assert off[last + 1] < 30 * off[last] ** 2
    assert off[last + 2] < max(30 * off[last + 1] ** 2, 1e-10)


def run(tasks, engine, *, learn):
    """What one seed gives on ragged tasks."""
    pyro.clear_param_store()
    meta = learner(engine=engine, steps=2, inner=pm.Newton(0.02, learn="step"), reduction="mean")
    meta.init(tasks)
    torch.manual_seed(3)
    grads = meta.loss_and_grads(tasks)[1] if learn else {}
    torch.manual_seed(3)
    return {**grads, "losses": meta.evaluate(tasks)}


@pytest.mark.usefixtures("double")
@pytest.mark.parametrize(
    ("other", "learn"),
    [
        (pm.Engine(vectorize=True), True),
        (pm.Engine(record=True), False),
        pytest.param(pm.Engine(record=True), True, marks=pytest.mark.slow),
    ],
)
def test_all_ways_to_run_agree_on_ragged_tasks(tasks, other, learn):
    ragged = [tasks[0], tasks[1, :5]]
    alone, found = (run(ragged, engine, learn=learn) for engine in (pm.Engine(vectorize=False), other))
    assert_equal(found, alone, rtol=1e-8, atol=1e-9)


def test_a_wrong_second_derivative_is_refused_at_meta_test_too():
    def guide(x):
        shape = pyro.param("shape", torch.tensor(2.0))
        pyro.sample("rate", dist.Gamma(shape.exp(), 1.0))
        pyro.sample("shift", dist.Normal(pyro.param("mean", torch.tensor(0.0)), 1.0))

    first = pm.Unrolled(first_order=True)
    meta = pm.MetaSVI(positive, guide, pyro.optim.Adam({}), inner=pm.Newton(), meta_gradient=first)
    with pytest.raises(
        pm.UnsupportedProgramError, match=r"'rate' draws a Gamma.* another inner rule than Newton, which"
    ):
        meta.adapt(torch.ones(4))


def test_a_gradient_of_no_function_is_refused(tasks):
    meta = learner(loss=pm.StickingTheLanding_ELBO(), noise=pm.Noise(shared=True))
    with pytest.raises(ValueError, match=r"Newton lowers a loss, .* StickingTheLanding_ELBO .* use loss=Trace_ELBO"):
        meta.adapt(tasks[0].float())


def test_it_adapts_a_subset_leaves_the_store_and_is_pickled():
    case = modules()
    meta = pm.MetaSVI(
        case.model, case.guide, pyro.optim.Adam({"lr": 0.01}), inner=pm.Newton(0.1), adapt="guide.loc.*", steps=2
    )
    meta.init(case.support)
    before = {name: value.detach().clone() for name, value in store().items()}
    loss = meta.step(case.support, case.query)
    copy = pickle.loads(pickle.dumps(meta))
    ends = []
    for each in (meta, copy):
        torch.manual_seed(5)
        ends.append(each.evaluate(case.support, case.query))
    assert torch.equal(*ends)
    assert loss > 0
    assert store().keys() == before.keys()
