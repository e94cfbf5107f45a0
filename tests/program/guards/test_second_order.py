"""Second derivatives are proved on first data: what is wrong is refused by name, and what is right is let pass."""

import itertools

import pyro
import pyro.distributions as dist
import pytest
import torch
import torch.nn.functional as F
from meta_cases import LR, guide_of, meta_svi
from programs import Case, rows
from pyro.infer import Trace_ELBO, TraceEnum_ELBO
from torch import nn
from torch.distributions import constraints
from torch.nn.utils.parametrizations import weight_norm

import pyrometa as pm

pytestmark = pytest.mark.filterwarnings("ignore::pyrometa.errors.LoopWarning")  # how tasks are run is not the matter

FIRST = pm.Unrolled(first_order=True)
TYPES = [torch.float64, torch.float32]


class Cube(torch.autograd.Function):
    """Right once; as if constant the second time."""

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return grad * 3 * x.detach() ** 2


class RightCube(Cube):
    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return grad * 3 * x**2


class OnceCube(Cube):
    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        return grad * 3 * x**2


class Apply(nn.Module):
    def __init__(self, function):
        super().__init__()
        self.function, self.last = function, None

    def forward(self, x):
        self.last = self.function(x)
        return self.last


def deep(function, dtype):
    """A network with some function deep in it, as a guide's encoder."""
    net = nn.Sequential(nn.Linear(2, 16), nn.Tanh(), nn.Linear(16, 4), Apply(function), nn.Linear(4, 2)).to(dtype)

    def model(x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2, dtype=dtype), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).to_event(1), obs=x)

    def guide(x):
        pyro.module("net", net)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(net(x), 0.5).to_event(1))

    x = rows().to(dtype)
    return Case(model, guide, x, x)


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("function", [Cube, OnceCube])
def test_a_wrong_function_deep_in_a_network(function, dtype):
    case = deep(function.apply, dtype)
    match = rf"guide site 'z' \(Normal\), through {function.__name__},.*'guide.net.0.weight'.*first_order=True"
    for _ in range(2):
        with pytest.raises(pm.UnsupportedProgramError, match=match):
            meta_svi(case).step(case.support)
    meta_svi(case, meta_gradient=FIRST).step(case.support)


def straight(x):
    return x + (x.round() - x).detach()


def test_a_straight_through_function():
    case = deep(straight, torch.float64)
    with pytest.raises(pm.UnsupportedProgramError, match="straight-through"):
        meta_svi(case).step(case.support)


COUNT = itertools.count()
SMOOTH_OR_KINKED = {
    "right": RightCube.apply,
    "relu": F.relu,
    "abs": torch.abs,
    "clamp": lambda x: x.clamp(-0.1, 0.1),
    "topk": lambda x: x * (x >= x.topk(2, -1).values[..., -1:]),
    "another at each call": lambda x: x * (1 + next(COUNT) % 7),
}


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("function", SMOOTH_OR_KINKED.values(), ids=SMOOTH_OR_KINKED)
def test_no_false_alarm(function, dtype):
    case = deep(function, dtype)
    meta_svi(case).loss_and_grads(case.support)


def draw_of(kind, dtype):
    def number(name, value, constraint=constraints.real):
        return pyro.param(name, torch.tensor(value, dtype=dtype), constraint=constraint)

    def scales(*value):
        return number("scales", [*value], constraints.positive)

    if kind == "OMT":
        return dist.OMTMultivariateNormal(number("loc", [0.3, -0.2]), torch.diag_embed(scales(0.7, 0.5)))
    if kind == "AVF":
        factor, control = torch.diag_embed(scales(0.7, 0.5)), number("control", [[[0.3, 0.3]], [[0.3, 0.3]]])
        return dist.AVFMultivariateNormal(number("loc", [0.3, -0.2]), factor, control)
    locs, logits = number("locs", [[0.3, -0.2], [1.0, 0.5]]), number("logits", [0.2, -0.3])
    if kind == "mixture":
        return dist.MixtureOfDiagNormals(locs, number("s", [[0.7, 0.5], [0.6, 0.9]], constraints.positive), logits)
    if kind == "shared":
        return dist.MixtureOfDiagNormalsSharedCovariance(locs, scales(0.7, 0.5), logits)
    return dist.MultivariateNormal(number("loc", [0.3, -0.2]), scale_tril=torch.diag_embed(scales(0.7, 0.5)))


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("kind", ["OMT", "AVF", "mixture", "shared", "plain"])
def test_pyros_own_draws(kind, dtype):
    def model(x):
        z = pyro.sample("z", dist.Normal(torch.zeros(2, dtype=dtype), 2.0).to_event(1))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal((z * z).sum() + z, 1.0).to_event(1), obs=x)

    x = rows().to(dtype)
    meta = meta_svi(Case(model, lambda x: pyro.sample("z", draw_of(kind, dtype)), x, x), loss=Trace_ELBO())
    if kind == "plain":
        meta.loss_and_grads(x)
    else:
        with pytest.raises(pm.UnsupportedProgramError, match=r"site 'z'.*through _.*wrong second.*first_order=True"):
            meta.loss_and_grads(x)


class Broken(Cube):
    @staticmethod
    def backward(ctx, grad):
        raise RuntimeError("not today")


def test_a_backward_pass_that_fails():
    case = deep(Broken.apply, torch.float64)
    with pytest.raises(
        pm.UnsupportedProgramError, match=r"site 'z'.*through Broken, can't be .*not today.*use another"
    ):
        meta_svi(case).step(case.support)
    with pytest.raises(pm.UnsupportedProgramError, match=r"test_second_order.py:\d+ fails on fast weights \(not today"):
        meta_svi(case, meta_gradient=FIRST).step(case.support)


def test_an_observed_guide_site_is_scored():
    def guide(x):
        rate = pyro.param("rate", torch.tensor(0.3).double())
        pyro.sample("count", dist.Poisson(rate.exp()), obs=torch.tensor(2.0).double(), infer={"is_auxiliary": True})
        pyro.sample("z", dist.Normal(rate, 1.0))

    def model(x):
        z = pyro.sample("z", dist.Normal(torch.zeros(()).double(), 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(z, 1.0).expand([2]).to_event(1), obs=x)

    with pytest.raises(pm.UnsupportedProgramError, match="guide site 'count' is not reparameterised"):
        meta_svi(Case(model, guide, rows(), rows()), loss=Trace_ELBO()).step(rows())


def switched(function, enumerate):
    """Two means, chosen by a draw of the guide whose probabilities pass a function."""
    net = nn.Sequential(nn.Linear(2, 4), nn.Tanh(), Apply(function), nn.Linear(4, 1)).double()
    means = torch.tensor([[-1.0, 0.0], [1.0, 0.5]]).double()

    def model(x):
        with pyro.plate("data", len(x)):
            which = pyro.sample("which", dist.Bernoulli(torch.tensor(0.4).double()), infer={"enumerate": enumerate})
            pyro.sample("x", dist.Normal(means[which.long()], 1.0).to_event(1), obs=x)

    def guide(x):
        pyro.module("net", net)
        with pyro.plate("data", len(x)):
            pyro.sample("which", dist.Bernoulli(logits=net(x)[..., 0]), infer={"enumerate": enumerate})

    return Case(model, guide, rows(), rows())


@pytest.mark.parametrize("enumerate", ["parallel", "sequential", None])
def test_a_wrong_function_before_a_discrete_draw(enumerate):
    loss = TraceEnum_ELBO(max_plate_nesting=1, strict_enumeration_warning=False)
    case = switched(Cube.apply, enumerate)
    match = r"the density of guide site 'which' \(Bernoulli\), through Cube,.*'guide.net.0.weight'.*first_order=True"
    with pytest.raises(pm.UnsupportedProgramError, match=match):
        meta_svi(case, loss=loss).step(case.support)
    meta_svi(case, loss=loss, meta_gradient=FIRST).step(case.support)
    pyro.clear_param_store()
    case = switched(RightCube.apply, enumerate)
    meta_svi(case, loss=loss).step(case.support)


def test_what_adapts_anew_is_proved_anew():
    case = deep(Cube.apply, torch.float64)
    with pytest.raises(pm.UnsupportedProgramError):
        meta_svi(case, adapt="guide.net.0.*").step(case.support)
    meta_svi(case, steps=0).step(case.support)


class InTraining(nn.Module):
    """Cubes while it is trained."""

    def forward(self, x):
        return Cube.apply(x) if self.training else x


def test_another_mode_is_proved_anew():
    case = guide_of(nn.Sequential(nn.Linear(2, 1), InTraining()))
    case.guide.eval()
    meta = meta_svi(case)
    meta.step(case.support)
    case.guide.train()
    with pytest.raises(pm.UnsupportedProgramError, match="through Cube"):
        meta.step(case.support)


class GammaInTraining(nn.Module):
    """A guide that draws once-differentiably while it is trained."""

    def model(self, x):
        z = pyro.sample("z", dist.Gamma(2.0, 2.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(z, 1.0).expand([2]).to_event(1), obs=x)

    def forward(self, x):
        scale = pyro.param("scale", lambda: torch.ones(()), constraint=constraints.positive)
        pyro.sample("z", dist.Gamma(scale, 1.0) if self.training else dist.LogNormal(scale, 1.0))


def test_a_draw_of_another_mode_is_refused_in_that_mode_alone():
    guide = GammaInTraining().eval()
    meta = meta_svi(Case(guide.model, guide, rows(), rows()), adapt="guide", loss=Trace_ELBO())
    meta.step(rows())
    guide.train()
    for _ in range(2):
        with pytest.raises(pm.UnsupportedProgramError, match="draws a Gamma"):
            meta.step(rows())
    guide.eval()
    meta.step(rows())


def test_the_proof_leaves_no_trace():
    case = deep(torch.tanh, torch.float32)
    meta = meta_svi(case, engine=pm.Engine(vectorize=False))
    meta.init(case.support)
    before = torch.get_rng_state()
    keeper = next(leaf for leaf in meta._program.modules() if isinstance(leaf, Apply))
    kept = keeper.last
    pm.program.guards.second_order.check(meta._program, meta._state.adapted, pm.types.Data((case.support[0],)))
    assert keeper.last is kept
    assert torch.equal(torch.get_rng_state(), before)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x):
        mask = torch.ones(len(x), len(x)).tril().bool()
        return F.scaled_dot_product_attention(self.scale * x[None], x[None], x[None], attn_mask=mask)[0]


class Heads(nn.Module):
    def __init__(self):
        super().__init__()
        self.heads = nn.MultiheadAttention(2, 1)

    def forward(self, x):
        return self.heads(x, x, x, need_weights=False)[0]


ENCODERS = {
    "function": Attention,
    "heads": Heads,
    "layer": lambda: nn.TransformerEncoderLayer(2, 1, 4, dropout=0.0),
    "weight norm": lambda: nn.Sequential(weight_norm(nn.Linear(2, 4)), nn.Tanh(), weight_norm(nn.Linear(4, 2))),
}


@pytest.mark.parametrize("engine", [pm.Engine(), pm.Engine(vectorize=False)], ids=["batched", "loop"])
@pytest.mark.parametrize("encoder", ENCODERS.values(), ids=ENCODERS)
def test_what_torch_differentiates_once_is_right_twice(encoder, engine):
    case = guide_of(nn.Sequential(encoder(), nn.Linear(2, 1)))
    meta = meta_svi(case, engine=engine, inner=pm.SGD(10 * LR))
    meta.init(case.support)
    leaves = dict(meta.named_parameters())
    way = {name: torch.randn_like(leaf) for name, leaf in leaves.items()}

    def loss(step):
        with torch.no_grad():
            for name, leaf in leaves.items():
                leaf.add_(step * way[name])
        torch.manual_seed(7)
        return meta.loss_and_grads(case.support)

    _, grads = loss(0.0)
    (ahead, _), (behind, _) = loss(1e-5), loss(-2e-5)
    claimed = sum((grads[name] * way[name]).sum() for name in leaves)
    torch.testing.assert_close((ahead - behind) / 2e-5, claimed, rtol=1e-5, atol=1e-7)
