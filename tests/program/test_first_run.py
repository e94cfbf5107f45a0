"""First data are run as the ELBO runs them, and the guards look at everything that the loss does."""

import pyro
import pyro.contrib.gp as gp
import pyro.distributions as dist
import pyro.distributions.transforms as T
import pytest
import torch
from pyro.distributions.util import gather
from pyro.infer import SVI, Trace_ELBO, TraceEnum_ELBO
from pyro.infer.autoguide import AutoNormal
from pyro.infer.reparam import LocScaleReparam
from pyro.nn import PyroModule, pyro_method
from torch import nn

import pyrometa as pm

DOUBLE = torch.float64


def adam():
    return pyro.optim.Adam({"lr": 0.01})


def normal_model(y):
    z = pyro.sample("z", dist.Normal(torch.zeros((), dtype=DOUBLE), 5.0))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(z, 1.0), obs=y)


def by_differences(meta, *data):
    """The meta-gradient along a random direction, and its central difference."""

    def run():
        torch.manual_seed(7)
        return meta.loss_and_grads(*data)

    grads = run()[1]
    leaves = dict(meta.named_parameters())
    way = {name: torch.randn_like(leaf) for name, leaf in leaves.items()}

    def at(step):
        with torch.no_grad():
            for name, leaf in leaves.items():
                leaf.add_(step * way[name])
        value = run()[0]
        with torch.no_grad():
            for name, leaf in leaves.items():
                leaf.sub_(step * way[name])
        return value

    return sum((grads[name] * way[name]).sum() for name in grads), (at(1e-5) - at(-1e-5)) / 2e-5


def mixture(y):
    with pyro.plate("rows", len(y)):
        k = pyro.sample("k", dist.Categorical(torch.ones(2, dtype=DOUBLE)))
        mean = gather(torch.tensor([[0.0, 5.0]], dtype=DOUBLE), k, -1)  # of the right shape only if k is enumerated
        pyro.sample("y", dist.Normal(mean, 1.0), obs=y)


def mixture_guide(y):
    p = pyro.param("p", torch.tensor([0.4, 0.6], dtype=DOUBLE), constraint=dist.constraints.simplex)
    with pyro.plate("rows", len(y)):
        pyro.sample("k", dist.Categorical(p), infer={"enumerate": "parallel"})


def test_a_model_whose_shapes_need_enumeration():
    elbo = TraceEnum_ELBO(max_plate_nesting=1)
    y = torch.tensor([[0.1, 4.8, 5.1], [0.0, 0.2, 5.0]], dtype=DOUBLE)
    plain = SVI(mixture, mixture_guide, adam(), elbo).evaluate_loss(y[0])
    pyro.clear_param_store()
    meta = pm.MetaSVI(mixture, mixture_guide, adam(), elbo, inner=pm.SGD(1e-2), steps=2)
    assert meta.evaluate(y[:1], steps=(0,)).item() == pytest.approx(plain, rel=1e-12)
    found, expected = by_differences(meta, y)
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)


def test_ragged_tasks_of_an_enumerated_model():
    y = [torch.randn(n, dtype=DOUBLE) for n in (3, 5, 4)]

    def value(engine):
        elbo = TraceEnum_ELBO(max_plate_nesting=1)
        meta = pm.MetaSVI(mixture, mixture_guide, adam(), elbo, inner=pm.SGD(1e-2), steps=2, engine=engine)
        return meta.evaluate_loss(y)

    assert value(pm.Engine()) == pytest.approx(value(pm.Engine(vectorize=False)), rel=1e-9)


class Flow:
    """A guide through a transform that moves buffers in its log density only."""

    def __init__(self, registered):
        self.flow, self.registered = T.batchnorm(3).double(), registered

    def model(self, y):
        z = pyro.sample("z", dist.Normal(torch.zeros(3, dtype=DOUBLE), 1.0).to_event(1))
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Normal(z[0], 1.0), obs=y)

    def guide(self, y):
        if self.registered:
            pyro.module("flow", self.flow)
        base = dist.Normal(pyro.param("base", torch.zeros(3, dtype=DOUBLE)), 1.0).to_event(1)
        pyro.sample("z", dist.TransformedDistribution(base, [self.flow]))


@pytest.mark.parametrize("registered", [True, False])
def test_buffers_that_move_in_a_transform_are_refused(registered):
    program = Flow(registered)
    meta = pm.MetaSVI(program.model, program.guide, adam(), inner=pm.SGD(0.01), steps=1)
    with pytest.raises(
        pm.UnsupportedProgramError, match=r"BatchNorm updates its buffer 'moving_mean'.*another transform"
    ):
        meta.step(torch.randn(2, 4, dtype=DOUBLE))


def test_buffers_of_a_net_that_a_function_registers_are_refused_and_put_back():
    net = nn.Sequential(nn.Linear(1, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).double()

    def guide(y):
        pyro.module("net", net)
        loc, log_scale = net(y[:, None]).mean(0)
        pyro.sample("z", dist.Normal(loc, log_scale.exp()))

    meta = pm.MetaSVI(normal_model, guide, adam(), inner=pm.SGD(0.01), steps=1)
    with pytest.raises(pm.UnsupportedProgramError, match=r"BatchNorm1d updates its buffer 'running_mean'.*GroupNorm"):
        meta.step(torch.randn(2, 4, dtype=DOUBLE))
    assert net[1].running_mean.eq(0).all()
    assert net[1].num_batches_tracked == 0


def test_buffers_that_move_in_another_mode_are_refused_and_put_back():
    net = nn.Sequential(nn.Linear(1, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)).double().eval()

    def guide(y):
        pyro.module("net", net)
        loc, log_scale = net(y[:, None]).mean(0)
        pyro.sample("z", dist.Normal(loc, log_scale.exp()))

    meta = pm.MetaSVI(normal_model, guide, adam(), inner=pm.SGD(0.01), steps=1)
    meta.step(torch.randn(2, 4, dtype=DOUBLE))
    net.train()
    with pytest.raises(pm.UnsupportedProgramError, match=r"BatchNorm1d updates its buffer 'running_mean'.*GroupNorm"):
        meta.evaluate_loss(torch.randn(2, 4, dtype=DOUBLE))
    assert net[1].num_batches_tracked == 0


class FirstUse(nn.Module):
    """A flag that is set when it is first used, and stays."""

    def __init__(self):
        super().__init__()
        self.loc = nn.Parameter(torch.zeros((), dtype=DOUBLE))
        self.register_buffer("ready", torch.tensor(0))

    def forward(self, y):
        if not self.ready.item():
            self.ready.fill_(1)
        return pyro.sample("z", dist.Normal(self.loc, 1.0))


def test_a_flag_of_first_use_is_accepted_and_left_as_svi_leaves_it():
    guide = FirstUse()
    pm.MetaSVI(normal_model, guide, adam(), inner=pm.SGD(0.01), steps=1).init(torch.randn(2, 4, dtype=DOUBLE))
    assert guide.ready == 1


class Counter(FirstUse):
    def forward(self, y):
        self.ready += 1
        return pyro.sample("z", dist.Normal(self.loc, 1.0))


def test_another_moving_buffer_is_not_told_to_use_group_norm():
    guide = Counter()
    with pytest.raises(pm.UnsupportedProgramError, match=r"Counter updates its buffer 'ready'.*keep what changes"):
        pm.MetaSVI(normal_model, guide, adam(), inner=pm.SGD(0.01)).init(torch.randn(2, 4, dtype=DOUBLE))
    assert guide.ready == 0


class Location(PyroModule):
    def __init__(self):
        super().__init__()
        self.loc = nn.Parameter(torch.zeros((), dtype=DOUBLE))

    @pyro_method
    def guide(self, y):
        pyro.sample("z", dist.Normal(self.loc, 1.0))


@pytest.mark.parametrize("local", [False, True])
def test_parameters_read_in_a_pyro_method(local):
    with pyro.settings.context(module_local_params=local):
        location = Location()
        meta = pm.MetaSVI(normal_model, lambda y: location.guide(y), adam(), Trace_ELBO(), inner=pm.SGD(1e-2), steps=2)
        found, expected = by_differences(meta, torch.randn(3, 10, dtype=DOUBLE))
    assert found.item() == pytest.approx(expected.item(), rel=1e-6)


def _process(kind, x, y):
    kernel = gp.kernels.RBF(1)
    points = torch.linspace(0, 5, 4, dtype=DOUBLE)[:, None]
    if kind == "VariationalGP":
        return gp.models.VariationalGP(x, y, kernel, gp.likelihoods.Gaussian(), jitter=1e-3)
    if kind == "VariationalSparseGP":
        return gp.models.VariationalSparseGP(x, y, kernel, points, gp.likelihoods.Gaussian())
    return getattr(gp.models, kind)(x, y, kernel, *([points] if "Sparse" in kind else []))


@pytest.mark.parametrize("kind", ["VariationalGP", "VariationalSparseGP", "SparseGPRegression", "GPRegression"])
def test_gaussian_processes_of_pyro(kind):
    x = torch.linspace(0, 5, 8, dtype=DOUBLE)[:, None] + torch.rand(2, 1, 1, dtype=DOUBLE)
    y = torch.randn(2, 8, dtype=DOUBLE)
    process = _process(kind, x[0], y[0]).double()

    def model(x, y):
        process.set_data(x, y)
        process.model()

    def guide(x, y):
        process.set_data(x, y)
        process.guide()

    # A process holds the data of its last task, so that its tasks are run one by one.
    engine, adapted = pm.Engine(vectorize=False), "both" if kind.startswith("Variational") else "model"
    meta = pm.MetaSVI(model, guide, adam(), inner=pm.SGD(1e-3), steps=2, adapt=adapted, engine=engine)
    found, expected = by_differences(meta, (x, y))
    assert found.item() == pytest.approx(expected.item(), rel=1e-5)


def coefficients(centered):
    def model(x, y):
        with pyro.plate("features", 2):
            if centered:
                w = pyro.sample("w", dist.Normal(torch.zeros(2, dtype=DOUBLE), 2.0))
            else:
                unit = pyro.sample("w_decentered", dist.Normal(torch.zeros(2, dtype=DOUBLE), 1.0))
                w = pyro.deterministic("w", 2.0 * unit)
        with pyro.plate("rows", len(y)):
            pyro.sample("y", dist.Normal(x @ w, 1.0), obs=y)

    return model


def test_a_plate_of_coefficients_is_not_one_of_rows():
    """By hand and reparameterised, on a query of another size than the support set."""
    x, y = torch.randn(2, 9, 2, dtype=DOUBLE), torch.randn(2, 9, dtype=DOUBLE)
    values = []
    for model in (coefficients(False), pyro.poutine.reparam(coefficients(True), {"w": LocScaleReparam(0.0)})):
        pyro.clear_param_store()
        torch.manual_seed(0)
        guide = AutoNormal(model, init_loc_fn=pyro.infer.autoguide.init_to_mean)
        meta = pm.MetaSVI(model, guide, adam(), Trace_ELBO(), inner=pm.SGD(1e-2), steps=2)
        torch.manual_seed(1)
        values.append(meta.evaluate_loss((x[:, :5], y[:, :5]), (x[:, 5:], y[:, 5:])))
    assert values[0] == pytest.approx(values[1], rel=1e-9)


def test_keyword_arguments_of_a_custom_loss_are_its_own():
    def loss(model, guide, y, weight=1.0):
        return weight * Trace_ELBO().differentiable_loss(model, guide, y)

    y = torch.randn(2, 5, dtype=DOUBLE)
    values = []
    for kwargs in ({}, {"weight": 3.0}):
        pyro.clear_param_store()
        meta = pm.MetaSVI(
            normal_model, AutoNormal(normal_model), adam(), loss, steps=0, engine=pm.Engine(vectorize=False)
        )
        torch.manual_seed(0)
        values.append(meta.evaluate_loss(y, kwargs=kwargs))
    assert values[1] == pytest.approx(3 * values[0], rel=1e-9)


def test_keyword_arguments_of_a_score_are_its_own():
    def score(model, guide, y, temperature=1.0):
        return temperature * Trace_ELBO().differentiable_loss(model, guide, y)

    y = torch.randn(2, 5, dtype=DOUBLE)
    values = []
    for kwargs in ({}, {"temperature": 3.0}):
        pyro.clear_param_store()
        options = {"inner": pm.SGD(1e-3), "steps": 2, "score": score, "engine": pm.Engine(vectorize=False)}
        meta = pm.MetaSVI(normal_model, AutoNormal(normal_model), adam(), Trace_ELBO(), **options)
        torch.manual_seed(0)
        values.append(meta.evaluate_loss(y, kwargs=kwargs))
    assert values[1] == pytest.approx(3 * values[0], rel=1e-9)
