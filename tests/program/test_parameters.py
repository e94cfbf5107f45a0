"""Which parameters a program has, what they are called, and which adapt."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from meta_cases import meta_svi, task
from programs import Case, modules, rows
from pyro.nn import PyroModule, PyroParam
from torch import nn
from torch.distributions import constraints

import pyrometa as pm

NAMES = {
    "modules": [
        "guide.scale",
        "guide.hidden.weight",
        "guide.hidden.bias",
        "guide.loc.weight",
        "guide.loc.bias",
        "model.noise",
        "model.linear.weight",
        "model.linear.bias",
    ],
    "plain_modules": ["guide.net.weight", "guide.net.bias", "model.net.weight"],
    "bound_methods": ["guide.encoder.weight", "guide.encoder.bias", "model.decoder.weight", "model.decoder.bias"],
    "bare_params": ["guide.mean", "guide.scale", "model.noise"],
    "registered_modules": ["guide.encoder.weight", "guide.encoder.bias", "model.decoder.weight", "model.decoder.bias"],
    "auto_normal": ["guide.locs.weight", "guide.scales.weight", "model.prior"],
    "auto_diagonal": ["guide.loc", "guide.scale", "model.prior"],
}


def named(meta, case):
    meta.init(case.support)
    return dict(meta.named_parameters())


def adapted(meta, case):
    return list(meta.adapt(task(case.support, 0)).adapted.names)


def test_names(make):
    case = make()
    assert list(named(meta_svi(case), case)) == NAMES[make.__name__]


def test_leaves_are_the_users_own(case):
    meta = meta_svi(case)
    leaves = named(meta, case)
    roots = [getattr(f, "__self__", f) for f in (case.model, case.guide)]
    own = {id(p) for root in roots if isinstance(root, nn.Module) for p in root.parameters()}
    own |= {id(p) for p in pyro.get_param_store()._params.values()}
    assert own == {id(leaf) for leaf in leaves.values()} or not own
    assert all(leaf.requires_grad and leaf.is_leaf for leaf in leaves.values())


@pytest.mark.thinned(2)
def test_a_change_in_place_changes_the_loss(case):
    meta = meta_svi(case, steps=1)
    leaves = named(meta, case)

    def loss():
        torch.manual_seed(0)
        return meta.loss_and_grads(case.support, case.query)[0]

    for name, leaf in leaves.items():
        before = loss()
        with torch.no_grad():
            leaf += 0.01
        assert loss() != before, name


def test_pyro_params_are_unconstrained():
    case = modules()
    leaves = named(meta_svi(case), case)
    torch.testing.assert_close(leaves["guide.scale"].exp(), case.guide.scale)
    torch.testing.assert_close(leaves["model.noise"].exp(), case.model.noise)


class Nested(PyroModule):
    def __init__(self):
        super().__init__()
        self.inner = PyroModule()
        self.inner.scale = PyroParam(torch.tensor(0.5).double(), constraints.positive)
        self.enc = nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 1)).double()

    def forward(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.enc(x), self.inner.scale).to_event(1))


def test_nested_paths(module_local_params):
    case = modules()
    meta = pm.MetaSVI(case.model, Nested(), pyro.optim.Adam({"lr": 0.1}))
    names = list(named(meta, case))
    assert set(names[:5]) == {
        f"guide.{n}" for n in ("inner.scale", "enc.0.weight", "enc.0.bias", "enc.2.weight", "enc.2.bias")
    }


class Shared(nn.Module):
    """A model and a guide over one embedding."""

    def __init__(self, net):
        super().__init__()
        self.net, self.own = net, nn.Linear(2, 1).double()


class SharedGuide(Shared):
    def forward(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.own(self.net(x)), 1.0).to_event(1))


class SharedModel(Shared):
    def forward(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(self.own(self.net(x)), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(z, 1.0).expand_by([]).expand([len(x), 2]).to_event(1), obs=x)


def test_shared_parameters_are_the_guides_and_adapt_in_both(module_local_params):
    net = nn.Linear(2, 2).double()
    case = Case(SharedModel(net), SharedGuide(net), rows(), rows())
    meta = meta_svi(case, adapt="guide")
    assert list(named(meta, case)) == [
        "guide.net.weight",
        "guide.net.bias",
        "guide.own.weight",
        "guide.own.bias",
        "model.own.weight",
        "model.own.bias",
    ]
    guide = meta.adapt(case.support[0])
    assert isinstance(guide.model, pm.program.AdaptedModel)
    before = net(case.support[0])
    seen = pyro.poutine.trace(guide.model).get_trace(case.support[0]).nodes["z"]["fn"].base_dist.loc
    assert not torch.allclose(case.model.own(before), seen)


HIDDEN = ["guide.hidden.weight", "guide.hidden.bias"]


@pytest.mark.parametrize(
    ("adapt", "expected"),
    [
        ("guide", NAMES["modules"][:5]),
        ("model", NAMES["modules"][5:]),
        ("both", NAMES["modules"]),
        ("guide.hidden.*", HIDDEN),
        ("*.weight", ["guide.hidden.weight", "guide.loc.weight", "model.linear.weight"]),
        (["model.noise", "guide.hidden.*"], [*HIDDEN, "model.noise"]),
        (("guide.hidden.weight", "model"), [HIDDEN[0], *NAMES["modules"][5:]]),
        (lambda name: name.endswith("bias"), ["guide.hidden.bias", "guide.loc.bias", "model.linear.bias"]),
    ],
)
def test_what_adapts(adapt, expected, module_local_params):
    case = modules()
    assert adapted(meta_svi(case, adapt=adapt), case) == expected


def test_anil_the_body_learns_in_the_outer_loop_only():
    case = modules()
    meta = meta_svi(case, adapt="guide.loc.*")
    before = {n: leaf.detach().clone() for n, leaf in named(meta, case).items()}
    guide = meta.adapt(case.support[0])
    assert {name for name, _ in guide.named_parameters()} == {"adapted.guide/loc/weight", "adapted.guide/loc/bias"}
    meta.step(case.support, case.query)
    assert not any(torch.equal(before[n], leaf) for n, leaf in meta.named_parameters())


@pytest.mark.filterwarnings("ignore:weight was not registered:UserWarning")  # pyro.module's own
@pytest.mark.filterwarnings("ignore:bias was not registered:UserWarning")
@pytest.mark.parametrize("adapt", ["guide", "both"])
def test_frozen_parameters_are_no_leaves(adapt, module_local_params):
    case = modules()
    case.guide.hidden.weight.requires_grad_(False)
    case.model.linear.requires_grad_(False)
    meta = meta_svi(case, adapt=adapt)
    frozen = {"guide.hidden.weight", "model.linear.weight", "model.linear.bias"}
    assert set(named(meta, case)) == set(NAMES["modules"]) - frozen
    before = case.guide.hidden.weight.clone()
    meta.step(case.support, case.query)
    assert torch.equal(before, case.guide.hidden.weight)
    assert not case.guide.hidden.weight.requires_grad


def test_named_parameters_before_first_data():
    case = modules()
    meta = meta_svi(case)
    for read in (meta.named_parameters, meta.state_dict, lambda: meta.optimizer, lambda: meta.load_state_dict({})):
        with pytest.raises(pm.NotInitializedError, match=r"meta.init"):
            read()


@pytest.mark.parametrize(
    ("learn", "expected"),
    [
        ("rate", {"inner.log_lr": ()}),
        ("layer", {"inner.log_lr.guide.loc.weight": (), "inner.log_lr.guide.loc.bias": ()}),
        ("layer_step", {"inner.log_lr.guide.loc.weight": (2,), "inner.log_lr.guide.loc.bias": (2,)}),
        ("parameter", {"inner.log_lr.guide.loc.weight": (1, 3), "inner.log_lr.guide.loc.bias": (1,)}),
    ],
)
def test_learned_rates(learn, expected):
    case = modules()
    leaves = named(meta_svi(case, adapt="guide.loc.*", inner=pm.SGD(0.1, learn=learn)), case)
    assert {n: tuple(p.shape) for n, p in leaves.items() if n.startswith("inner.")} == expected


class SameNames(PyroModule):
    """Both sides call their parameters alike."""

    def __init__(self, scale):
        super().__init__()
        self.scale = PyroParam(torch.tensor(scale).double(), constraints.positive)

    def forward(self, x):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x[:, :1] * 0, self.scale).to_event(1))
            if self.observes:
                pyro.sample("x", dist.Normal(z, self.scale).expand([len(x), 2]).to_event(1), obs=x)


def test_local_parameters_of_one_name_are_two():
    with pyro.settings.context(module_local_params=True):
        model, guide = SameNames(0.9), SameNames(0.4)
        model.observes, guide.observes = True, False
        case = Case(model, guide, rows(), rows())
        meta = meta_svi(case, steps=0)
        assert list(named(meta, case)) == ["guide.scale", "model.scale"]
        torch.manual_seed(1)
        ours = meta.evaluate(case.support)[0, 0]
        torch.manual_seed(1)
        noise = torch.empty(3, 1, 4, 1, dtype=torch.float64).normal_()[0, 0]
        z = 0.4 * noise
        kl = 4 * torch.distributions.kl_divergence(dist.Normal(0.0, 0.4), dist.Normal(0.0, 0.9))
        likelihood = dist.Normal(z, 0.9).log_prob(case.support[0]).sum()
        torch.testing.assert_close(ours, kl - likelihood, rtol=1e-6, atol=1e-6)
        adapted_guide = meta_svi(case, adapt="guide", steps=2).adapt(case.support[0])
        seen = pyro.poutine.trace(adapted_guide.model).get_trace(case.support[0]).nodes["x"]["fn"].base_dist.scale
        torch.testing.assert_close(seen, torch.full_like(seen, 0.9))


def test_an_initial_value_may_be_a_parameter(module_local_params):
    def guide(x):
        loc = pyro.param("loc", nn.Parameter(torch.tensor(0.5).double()))
        scale = pyro.param("scale", nn.Parameter(torch.tensor(2.0).double()), constraint=constraints.positive)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc.expand(len(x), 1), scale).to_event(1))

    for _ in range(2):  # the second finds them in the store
        case = Case(modules().model, guide, rows(), rows())
        leaves = named(meta_svi(case), case)
        torch.testing.assert_close(leaves["guide.scale"], torch.tensor(2.0).double().log())
        stored = pyro.get_param_store()._params
        assert leaves["guide.scale"] is stored["scale"]
        assert leaves["guide.loc"] is stored["loc"]


@pytest.mark.filterwarnings("ignore:.*requires_grad=False:UserWarning")  # of pyro.module, as under plain SVI
def test_a_leaf_frozen_later_goes_and_comes():
    case = modules()
    meta = meta_svi(case, adapt="both", inner=pm.SGD(0.02, learn="layer"))
    meta.step(case.support, case.query)
    frozen, free = case.guide.hidden.bias, case.guide.loc.bias
    state = meta.state_dict()
    frozen.requires_grad_(False)
    before = frozen.clone(), free.clone()
    _, grads = meta.loss_and_grads(case.support, case.query)
    meta.step(case.support, case.query)
    adapted = meta.adapt(case.support[0])
    assert "guide.hidden.bias" not in grads
    assert "guide.hidden.bias" not in dict(meta.named_parameters())
    assert "guide.hidden.bias" not in adapted.adapted.names
    assert torch.equal(frozen, before[0])
    assert not torch.equal(free, before[1])
    meta.load_state_dict(state)
    frozen.requires_grad_(True)
    meta.step(case.support, case.query)
    assert not torch.equal(frozen, before[0])
