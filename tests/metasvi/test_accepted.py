"""What must not be refused, though it is unusual."""

import functools

import pyro
import pyro.distributions as dist
import pytest
import torch
from meta_cases import as_args, discrete, guide_of, meta_svi, mixture_guide, task
from programs import Case, auto_normal, plain_modules, rows
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceEnum_ELBO, config_enumerate
from pyro.infer.autoguide import AutoDelta, AutoDiagonalNormal, AutoGuideList, AutoLowRankMultivariateNormal, AutoNormal
from pyro.nn import PyroModule, PyroSample
from torch import nn
from torch.distributions import constraints
from torch.nn.functional import linear, one_hot
from torch.nn.utils.parametrizations import weight_norm

import pyrometa as pm

pytestmark = pytest.mark.filterwarnings("ignore::pyrometa.errors.LoopWarning")  # how tasks are run is not the matter


def assert_works(case, **options):
    """It learns, evaluates and adapts, and all that is adapted moves unless its gradient is zero."""
    meta = meta_svi(case, **options)
    loss, grads = meta.loss_and_grads(case.support, case.query)
    assert torch.isfinite(loss)
    assert any(grad.abs().sum() > 0 for grad in grads.values())
    meta.step(case.support, case.query)
    assert torch.isfinite(meta.evaluate(case.support, case.query)).all()
    guide = meta.adapt(task(case.support, 0))
    args = as_args(task(case.support, 0))
    assert torch.isfinite(torch.as_tensor(options.get("loss", Trace_ELBO()).loss(guide.model, guide, *args)))
    return meta


@pytest.mark.filterwarnings("ignore:TraceEnum_ELBO found no sample sites:UserWarning")  # its own, not enumerated
@pytest.mark.parametrize("enumerated", [True, False])
def test_trace_enum_needs_no_refusal(enumerated):
    case = discrete(config_enumerate(mixture_guide) if enumerated else mixture_guide)
    assert_works(case, loss=TraceEnum_ELBO(max_plate_nesting=1))


def test_a_model_enumerated_under_trace_enum():
    @config_enumerate
    def model(x):
        locs = pyro.sample("locs", dist.Normal(torch.zeros(2).double(), 3.0).to_event(1))
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Categorical(torch.full((2,), 0.5).double()))
            pyro.sample("x", dist.Normal(locs[z][..., None], 1.0).expand_by([]).to_event(1), obs=x[:, :1])

    guide = AutoNormal(poutine.block(model, hide=["z"]))
    case = Case(model, guide, rows(), rows())
    assert_works(case, adapt="guide", loss=TraceEnum_ELBO(max_plate_nesting=1))


def zero_head():
    net = nn.Linear(3, 1)
    nn.init.zeros_(net.weight)
    nn.init.zeros_(net.bias)
    return nn.Sequential(nn.Linear(2, 3), net)


def dead_relu():
    net = nn.Linear(2, 3)
    nn.init.constant_(net.bias, -100.0)
    return nn.Sequential(net, nn.ReLU(), nn.Linear(3, 1))


class Unused(nn.Linear):
    def __init__(self):
        super().__init__(2, 1)
        self.spare = nn.Parameter(torch.zeros(3))


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second, self.out = nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 1)
        self.second.weight = self.first.weight

    def forward(self, x):
        return self.out(self.second(torch.tanh(self.first(x))))


class Recurrent(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.rnn, self.out = kind(1, 3, batch_first=True), nn.Linear(3, 1)

    def forward(self, x):
        return self.out(self.rnn(x[:, :, None])[0][:, -1])


ENCODERS = {
    "zero head": zero_head,
    "dead ReLU": dead_relu,
    "unused": Unused,
    "tied": Tied,
    "LSTM": lambda: Recurrent(nn.LSTM),
    "GRU": lambda: Recurrent(nn.GRU),
    "weight norm": lambda: nn.Sequential(weight_norm(nn.Linear(2, 3)), nn.Tanh(), nn.Linear(3, 1)),
    "layer norm": lambda: nn.Sequential(nn.LayerNorm(2), nn.Linear(2, 1)),
    "dropout": lambda: nn.Sequential(nn.Linear(2, 3), nn.Dropout(0.5), nn.Linear(3, 1)),
}


@pytest.mark.parametrize("kind", ENCODERS)
def test_encoders(kind):
    meta = assert_works(guide_of(ENCODERS[kind]()))
    if kind == "tied":
        assert [n for n, _ in meta.named_parameters()].count("guide.encoder.first.weight") == 1
        assert "guide.encoder.second.weight" not in dict(meta.named_parameters())


def test_a_recurrent_net_is_adapted():
    """Its weights are held twice, by name and flat."""
    case = guide_of(Recurrent(nn.LSTM))
    flat = [*case.guide.encoder.rnn._flat_weights]
    meta = meta_svi(case, inner=pm.SGD(0.05), adapt="guide.encoder.rnn.*")
    losses = meta.evaluate(case.support, steps=(0, 2))
    assert not torch.equal(losses[0], losses[1])
    assert all(a is b for a, b in zip(case.guide.encoder.rnn._flat_weights, flat, strict=True))


HANDLERS = {
    "scale": lambda f: poutine.scale(f, scale=0.5),
    "mask": lambda f: poutine.mask(f, mask=torch.tensor(True)),
    "partial": functools.partial,
    "scale of partial": lambda f: poutine.scale(functools.partial(f), scale=0.5),
}


@pytest.mark.thinned(2)
@pytest.mark.parametrize("handler", HANDLERS)
def test_handlers_around_modules(handler, make):
    case = make()
    wrap = HANDLERS[handler]
    names = [
        n
        for n, _ in assert_works(Case(wrap(case.model), wrap(case.guide), case.support, case.query)).named_parameters()
    ]
    plain = meta_svi(case)
    plain.init(case.support)
    assert sorted(names) == sorted(n for n, _ in plain.named_parameters())


def subsampled():
    x = rows()

    def model(x):
        w = pyro.sample("w", dist.Normal(torch.zeros(2).double(), 1.0).to_event(1))
        with pyro.plate("data", len(x), subsample_size=2) as i:
            offset = pyro.sample("offset", dist.Normal(torch.zeros(2).double(), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(w + offset, 1.0).to_event(1), obs=x[i])

    def guide(x):
        pyro.sample("w", dist.Normal(pyro.param("w_loc", torch.zeros(2).double()), 0.3).to_event(1))
        with pyro.plate("data", len(x), subsample_size=2):
            loc = pyro.param("loc", lambda: 0.1 * torch.randn(len(x), 2).double(), event_dim=1)
            scale = pyro.param("scale", torch.ones(len(x), 2).double(), constraints.positive, event_dim=1)
            pyro.sample("offset", dist.Normal(loc, scale).to_event(1))

    return Case(model, guide, x, None)


def test_subsampled_plates():
    meta = assert_works(subsampled())
    assert {n: tuple(p.shape) for n, p in meta.named_parameters()} == {
        "guide.w_loc": (2,),
        "guide.loc": (4, 2),
        "guide.scale": (4, 2),
    }


class BayesianLinear(PyroModule):
    def __init__(self):
        super().__init__()
        self.net = PyroModule[nn.Linear](2, 1)
        self.net.weight = PyroSample(dist.Normal(torch.zeros(1, 2).double(), 1.0).to_event(2))
        self.net.bias = PyroSample(dist.Normal(torch.zeros(1).double(), 1.0).to_event(1))

    def forward(self, x, y):
        mean = self.net(x).squeeze(-1)
        with pyro.plate("data", len(x)):
            pyro.sample("y", dist.Normal(mean, 0.5), obs=y)


@pytest.mark.parametrize("auto", [AutoNormal, AutoDiagonalNormal, AutoDelta, AutoLowRankMultivariateNormal])
def test_bayesian_networks(auto, module_local_params):
    model = BayesianLinear()
    y = torch.randn(3, 4).double()
    options = {"loss": Trace_ELBO()}
    assert_works(Case(model, auto(model), (rows(), y), (rows(), y)), **options)


def test_lists_of_autoguides(module_local_params):
    case = auto_normal()
    model = BayesianLinear()
    guide = AutoGuideList(model)
    guide.append(AutoNormal(poutine.block(model, expose=["net.weight"])))
    guide.append(AutoDiagonalNormal(poutine.block(model, expose=["net.bias"])))
    assert_works(Case(model, guide, case.support, case.query))


def test_a_model_function_over_the_guides_submodule(module_local_params):
    case = plain_modules()

    def model(x):
        weight = case.guide.net.weight[:, :1]
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(linear(z, weight), 1.0).to_event(1), obs=x)

    meta = assert_works(Case(model, case.guide, case.support, case.query), adapt="guide")
    assert {n for n, _ in meta.named_parameters()} == {"guide.net.weight", "guide.net.bias"}


def test_categories_in_the_data():
    case = guide_of(nn.Linear(2, 1))

    def model(x, label):
        shift = pyro.param("shift", torch.zeros(3, 2).double())
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 1), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z + one_hot(label, 3).double() @ shift, 1.0).to_event(1), obs=x)

    labels = torch.randint(3, (3, 4))
    assert_works(
        Case(model, lambda x, label: case.guide(x), (case.support, labels), (case.query, labels)), adapt="model"
    )
