"""What is refused, by name and with the cure, and what must not be."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from meta_cases import LR, discrete, guide_of, meta_svi
from programs import Case, PlainModel, rows
from pyro.infer import Trace_ELBO
from pyro.infer.autoguide import AutoGuideList, AutoNormal
from torch import nn
from torch.distributions import constraints
from torch.nn.functional import linear

import pyrometa as pm

pytestmark = pytest.mark.filterwarnings("ignore::pyrometa.errors.LoopWarning")  # how tasks are run is not the matter

FIRST = pm.Unrolled(first_order=True)


@pytest.mark.parametrize("fails", [False, True])
def test_batch_norm(fails):
    norm = nn.BatchNorm1d(2)
    case = guide_of(nn.Sequential(norm, nn.Linear(2, 1)))
    buffers = dict(norm.named_buffers())
    before = {name: buffer.clone() for name, buffer in buffers.items()}
    model = (lambda x: 1 / 0) if fails else case.model
    with pytest.raises(
        ZeroDivisionError if fails else pm.UnsupportedProgramError, match=r"BatchNorm1d.*GroupNorm|zero"
    ):
        pm.MetaSVI(model, case.guide, pyro.optim.Adam({"lr": 0.1})).step(case.support)
    assert all(norm._buffers[name] is buffer for name, buffer in buffers.items())
    assert all(torch.equal(buffer, before[name]) for name, buffer in buffers.items())
    norm.eval()
    meta_svi(case).step(case.support, case.query)
    assert all(torch.equal(buffer, before[name]) for name, buffer in buffers.items())


def local_model(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z[:, None], 1.0).expand([len(x), 2]).to_event(1), obs=x.float())


def wrapped_in_a_function():
    auto = AutoNormal(local_model)
    return lambda x: auto(x)


def in_a_list():
    guide = AutoGuideList(local_model)
    guide.append(AutoNormal(local_model))
    return guide


@pytest.mark.parametrize("make", [lambda: AutoNormal(local_model), in_a_list, wrapped_in_a_function])
def test_local_sites_of_an_autoguide(make):
    x = rows()
    meta = pm.MetaSVI(local_model, make(), pyro.optim.Adam({"lr": 0.1}), inner=pm.SGD(LR))
    meta.step(x)
    meta.step(x, x.clone())
    for use in (meta.step, meta.evaluate, meta.loss_and_grads):
        with pytest.raises(pm.UnsupportedProgramError, match=r"each row of the support set at z.*query=None"):
            use(x, rows())
    with pytest.raises(pm.UnsupportedProgramError, match=r"each row of the support set at z.*differ in their rows"):
        meta.step([x[0], x[1][:-1]])


def test_score_function_sites():
    case, elbo = discrete(), Trace_ELBO
    with pytest.raises(pm.UnsupportedProgramError, match=r"guide site 'z' is not reparameterised.*TraceEnum_ELBO"):
        meta_svi(case, loss=elbo()).step(case.support)
    meta_svi(case, loss=elbo(), meta_gradient=FIRST).step(case.support, case.query)
    meta = meta_svi(case, loss=elbo())
    meta.evaluate(case.support)
    meta.adapt(case.support[0])


POSITIVE = {
    "Gamma": lambda a: dist.Gamma(a, 1.0),
    "Beta": lambda a: dist.Beta(a, 1.0),
    "Dirichlet": lambda a: dist.Dirichlet(torch.stack([a, a])),
    "LogNormal": lambda a: dist.LogNormal(a, 1.0),
    "Kumaraswamy": lambda a: dist.Kumaraswamy(a, 2.0),
}


@pytest.mark.parametrize("kind", POSITIVE)
def test_draws_that_torch_differentiates_once(kind):
    def draw(concentration):
        value = pyro.sample("w", POSITIVE[kind](concentration))
        return value.sum()

    def model(x):
        w = draw(torch.tensor(2.0).double())
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(w, 1.0).expand([len(x), 2]).to_event(1), obs=x)

    def guide(x):
        draw(pyro.param("a", torch.tensor(1.5).double(), constraint=constraints.positive))

    case = Case(model, guide, rows(), rows())
    meta_svi(case, loss=Trace_ELBO(), meta_gradient=FIRST).step(case.support, case.query)
    second = meta_svi(case, loss=Trace_ELBO())
    if kind in ("LogNormal", "Kumaraswamy"):
        second.step(case.support, case.query)
    else:
        with pytest.raises(
            pm.UnsupportedProgramError, match=r"guide site 'w' draws a Gamma, Beta or Dirichlet.*LogNormal"
        ):
            second.step(case.support, case.query)
    meta_svi(case, loss=Trace_ELBO(), steps=0).step(case.support)


class Alias(nn.Module):
    """A weight that is also held where Python, not torch, sees it."""

    def __init__(self, container):
        super().__init__()
        self.net = nn.Linear(2, 1).double()
        self.kept = container([self.net.weight])

    def forward(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(linear(x, self.kept[0], self.net.bias), 0.5).to_event(1))


@pytest.mark.parametrize("container", [tuple, list])
def test_proof_of_reach_finds_an_alias(container, module_local_params):
    case = Case(PlainModel().double(), Alias(container), rows(), rows())
    with pytest.raises(pm.ReachError, match=r"reads 'guide.net.weight' from somewhere") as caught:
        meta_svi(case).step(case.support)
    assert caught.value.parameters == ("guide.net.weight",)
    meta_svi(case, adapt="guide.net.bias").step(case.support)  # what is not adapted may be read from anywhere


def test_proof_of_reach_finds_a_closure():
    net = nn.Linear(2, 1).double()
    weight = net.weight

    def guide(x):
        pyro.module("net", net)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(linear(x, weight, net.bias), 0.5).to_event(1))

    with pytest.raises(pm.ReachError, match=r"'guide.net.weight'"):
        meta_svi(Case(PlainModel().double(), guide, rows(), rows())).init(rows())


def test_proof_of_reach_finds_a_read_of_the_store():
    def guide(x):
        pyro.param("loc", torch.zeros(1).double())
        loc = pyro.get_param_store()["loc"]
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc.expand(len(x), 1), 0.5).to_event(1))

    with pytest.raises(pm.ReachError, match=r"'guide.loc'"):
        meta_svi(Case(PlainModel().double(), guide, rows(), rows())).init(rows())


def test_a_parameter_that_comes_later():
    calls = []

    def guide(x):
        calls.append(1)
        loc = pyro.param("loc" if len(calls) == 1 else "late", torch.zeros(1).double())
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc.expand(len(x), 1), 0.5).to_event(1))

    with pytest.raises(pm.ReachError, match=r"'late', which it did not have on first data"):
        meta_svi(Case(PlainModel().double(), guide, rows(), rows())).init(rows())
