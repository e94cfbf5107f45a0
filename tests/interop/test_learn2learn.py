"""learn2learn's wrappers in the guide's place say what driving them by hand says, on the same noise."""

import warnings

import pyro
import pytest
import torch
from learn2learn.algorithms import GBML, MAML, MetaSGD
from learn2learn.nn import KroneckerLinear
from learn2learn.optim import KroneckerTransform, LearnableOptimizer, MetaCurvatureTransform, ModuleTransform
from programs import DIM, Case, PlainModel, _data_plate, modules, plain_modules, rows
from pyro import distributions as dist
from pyro.infer import TraceMeanField_ELBO
from torch import nn

import pyrometa as pm

LR, STEPS, TASKS = 0.02, 3, 3
ADAM = pyro.optim.Adam({"lr": 1e-2})


class Noise:
    """Draws by task and evaluation, in the order of MetaSVI's: all of the support's, then the query's."""

    def __init__(self, rows, monkeypatch, steps=STEPS):
        torch.manual_seed(1)
        self.support = torch.empty(TASKS, steps, rows, 1, dtype=torch.float64).normal_()
        self.query = torch.empty(TASKS, 1, rows, 1, dtype=torch.float64).normal_()
        self.patch = monkeypatch

    def use(self, noise):
        self.patch.setattr(torch.Tensor, "normal_", lambda tensor, *_, **__: tensor.copy_(noise))


def by_hand(wrapper, case, noise, **adapt):
    """What a user of learn2learn writes: clone, adapt, and the gradient of the mean query loss."""
    elbo, losses = TraceMeanField_ELBO(), []
    for t in range(TASKS):
        learner = wrapper.clone()
        for k in range(STEPS):
            noise.use(noise.support[t, k])
            learner.adapt(elbo.differentiable_loss(case.model, learner, case.support[t]), **adapt)
        noise.use(noise.query[t, 0])
        losses.append(elbo.differentiable_loss(case.model, learner, case.query[t]))
    loss = torch.stack(losses).mean()
    rates = [lr for lr in wrapper.lrs if lr.requires_grad] if isinstance(wrapper, MetaSGD) else []
    leaves = {id(p): p for p in [*wrapper.parameters(), *rates, *case.model.parameters()]}
    found = torch.autograd.grad(loss, list(leaves.values()), allow_unused=True)
    return loss.detach(), dict(zip(leaves, found, strict=True))


def curvature(param):
    return MetaCurvatureTransform(param).to(param) if param.dim() else None


def shaken(module):
    """Away from the start, where some derivatives are zero."""
    with torch.no_grad():
        for param in module.parameters():
            param.add_(0.1 * torch.randn_like(param))
    return module


def meta_sgd(guide, **options):
    wrapper = MetaSGD(guide, lr=LR, **options)
    with torch.no_grad():
        for lr in wrapper.lrs:
            lr.add_(0.5 * LR * torch.randn_like(lr))
    return wrapper


def gbml(transform, **options):
    def wrap(guide):
        wrapper = GBML(guide, transform, lr=LR, **options)
        shaken(wrapper.compute_update.double())
        return wrapper

    return wrap


SHARED = nn.Linear(DIM, DIM, bias=False).double()
ONE_RATE = nn.Parameter(torch.tensor(LR, dtype=torch.float64))

WRAPPERS = {
    "MAML": lambda guide: MAML(guide, lr=LR),
    "MAML first order": lambda guide: MAML(guide, lr=LR, first_order=True),
    "MetaSGD": meta_sgd,
    "MetaSGD first order": lambda guide: meta_sgd(guide, first_order=True),
    "MetaSGD, a rate a tensor": lambda guide: MetaSGD(
        guide,
        lrs=[nn.Parameter(torch.tensor(LR * (i + 1), dtype=torch.float64)) for i, _ in enumerate(guide.parameters())],
    ),
    "MetaSGD, one rate": lambda guide: MetaSGD(guide, lrs=[ONE_RATE for _ in guide.parameters()]),
    "MetaSGD, fixed rates": lambda guide: MetaSGD(guide, lrs=[torch.tensor(LR) for _ in guide.parameters()]),
    "GBML": gbml(curvature),
    "GBML first order": gbml(curvature, first_order=True),
    "GBML Kronecker": gbml(lambda p: KroneckerTransform(KroneckerLinear)(p) if p.dim() else None),
    "GBML module": gbml(ModuleTransform(nn.Linear)),
    "GBML one module": gbml(lambda param: SHARED if param.dim() == 2 and param.shape[1] == DIM else None),
    "GBML without a transform": gbml(lambda param: None),
}


@pytest.mark.parametrize("vectorize", [True, False])
@pytest.mark.parametrize("name", WRAPPERS)
def test_equal_to_driving_it_by_hand(name, vectorize, monkeypatch):
    with pyro.settings.context(module_local_params=True):  # where learn2learn's clones are right
        case = modules()
        wrapper = WRAPPERS[name](case.guide)
        noise = Noise(len(case.support[0]), monkeypatch)
        with monkeypatch.context() as noise.patch:
            expected, by_id = by_hand(wrapper, case, noise)
        meta = pm.MetaSVI(case.model, wrapper, ADAM, steps=STEPS, engine=pm.Engine(vectorize=vectorize))
        meta.init(case.support)
        torch.manual_seed(1)
        loss, grads = meta.loss_and_grads(case.support, case.query)
    torch.testing.assert_close(loss, expected, rtol=1e-9, atol=1e-9)
    leaves = dict(meta.named_parameters())
    assert {id(leaf) for leaf in leaves.values()} == by_id.keys() - {i for i, g in by_id.items() if g is None}
    for learned, leaf in leaves.items():
        torch.testing.assert_close(grads[learned], by_id[id(leaf)], rtol=1e-9, atol=1e-9)


def linear(into, out):
    return nn.Linear(into, out).double()


def learnable(case):
    optimizer = LearnableOptimizer(case.guide, ModuleTransform(linear), lr=LR)
    shaken(optimizer)
    return optimizer


def moved_by_hand(steps, t, monkeypatch):
    """LearnableOptimizer has no clone: it moves the module itself. Its gradient is that of its last step."""
    torch.manual_seed(0)
    case = modules()
    optimizer, elbo, noise = learnable(case), TraceMeanField_ELBO(), Noise(len(case.support[0]), monkeypatch, steps)
    with monkeypatch.context() as noise.patch:
        for k in range(steps):
            optimizer.zero_grad()
            noise.use(noise.support[t, k])
            elbo.differentiable_loss(case.model, case.guide, case.support[t]).backward()
            optimizer.step()
        noise.use(noise.query[t, 0])
        loss = elbo.differentiable_loss(case.model, case.guide, case.query[t])
    return loss.detach(), torch.autograd.grad(loss, list(optimizer.parameters()))


@pytest.mark.parametrize("steps", [1, STEPS])
def test_a_learnable_optimizer(steps, monkeypatch):
    with pyro.settings.context(module_local_params=True):
        losses, grads = zip(*(moved_by_hand(steps, t, monkeypatch) for t in range(TASKS)), strict=True)
        torch.manual_seed(0)
        case = modules()
        optimizer = learnable(case)
        meta = pm.MetaSVI(case.model, optimizer, ADAM, steps=steps)
        meta.init(case.support)
        torch.manual_seed(1)
        loss, found = meta.loss_and_grads(case.support, case.query)
    torch.testing.assert_close(loss, torch.stack(losses).mean(), rtol=1e-9, atol=1e-9)
    names = {id(leaf): name for name, leaf in meta.named_parameters()}
    for param, *parts in zip(optimizer.parameters(), *grads, strict=True):
        name = names[id(param)]
        assert name.startswith("inner.transform.guide.")
        if steps == 1:
            torch.testing.assert_close(found[name], sum(parts) / TASKS, rtol=1e-9, atol=1e-9)


def test_rates_and_transforms_are_learned_in_place():
    for wrap, module, name in (
        (meta_sgd, lambda w: w.lrs, "inner.lrs.guide.net.weight"),
        (gbml(curvature), lambda w: w.compute_update, "inner.transform.guide.net.weight.mc_in"),
    ):
        case = plain_modules()
        wrapper = wrap(case.guide)
        meta = pm.MetaSVI(case.model, wrapper, ADAM, steps=2)
        meta.init(case.support)
        leaves, own = dict(meta.named_parameters()), list(module(wrapper).parameters())
        assert any(leaves[name] is param for param in own)
        before = [param.detach().clone() for param in own]
        meta.step(case.support, case.query)
        assert not any(torch.equal(old, param) for old, param in zip(before, own, strict=True))
        state = meta.state_dict()["parameters"]
        assert torch.equal(state[name], leaves[name])


def test_a_rule_that_we_know_is_run_by_the_fast_engine():
    for wrap in (WRAPPERS["MAML"], WRAPPERS["GBML without a transform"]):
        case = plain_modules()
        meta = pm.MetaSVI(case.model, wrap(case.guide), ADAM, engine=pm.Engine(low_rank=True))
        assert isinstance(meta.inner, pm.SGD)
        assert meta.plan(case.support)["guide.net.weight"].startswith("low-rank")


class OneUnused(nn.Module):
    def __init__(self):
        super().__init__()
        self.net, self.idle = nn.Linear(DIM, 1), nn.Linear(DIM, 1)

    def forward(self, x):
        _data_plate(x, 1, lambda x: dist.Normal(self.net(x), 0.5))


@pytest.mark.parametrize(
    ("wrap", "cure"),
    [
        (MAML, r"MAML\(..., allow_unused=True\)"),
        (MetaSGD, "adapt= other names"),
        (lambda guide, lr: GBML(guide, curvature, lr), r"GBML\(..., allow_unused=True\)"),
    ],
    ids=["MAML", "MetaSGD", "GBML"],
)
def test_unused_parameters(wrap, cure):
    """learn2learn fails on them with an unbound local variable, or a message without a name."""
    case = Case(PlainModel().double(), OneUnused().double(), rows(), rows())
    meta = pm.MetaSVI(case.model, wrap(case.guide, lr=LR), ADAM, steps=2)
    with pytest.raises(ValueError, match=rf"does not depend on 'guide.idle.weight', 'guide.idle.bias'.*give {cure}"):
        meta.step(case.support)
    frozen = Case(PlainModel().double(), OneUnused().double(), rows(), rows())
    frozen.guide.idle.requires_grad_(False)
    pm.MetaSVI(frozen.model, wrap(frozen.guide, lr=LR), ADAM, steps=2).step(frozen.support)


def test_unused_parameters_that_are_allowed():
    case = Case(PlainModel().double(), OneUnused().double(), rows(), rows())
    for wrapper in (MAML(case.guide, LR, allow_unused=True), GBML(case.guide, curvature, LR, allow_unused=True)):
        grads = pm.MetaSVI(case.model, wrapper, ADAM, steps=2).loss_and_grads(case.support)[1]
        assert (grads["guide.idle.weight"] == 0).all()
        assert (grads["guide.net.weight"] != 0).any()


def test_the_order_is_the_wrappers_or_the_users():
    """MetaSGD.clone takes no first_order; here the meta-gradient says it for every wrapper."""
    case = plain_modules()
    first = pm.Unrolled(first_order=True)
    for wrap in (MAML, MetaSGD):
        assert pm.MetaSVI(case.model, wrap(case.guide, LR), ADAM).meta_gradient == pm.Unrolled()
        assert pm.MetaSVI(case.model, wrap(case.guide, LR, first_order=True), ADAM).meta_gradient == first
        assert pm.MetaSVI(case.model, wrap(case.guide, LR), ADAM, meta_gradient=first).meta_gradient == first
        wrapper = wrap(case.guide, LR, first_order=True)
        assert pm.MetaSVI(case.model, wrapper, ADAM, meta_gradient=first).meta_gradient == first
        with pytest.raises(ValueError, match=f"learn2learn {wrap.__name__} of first order, and meta_gradient is of"):
            pm.MetaSVI(case.model, wrapper, ADAM, meta_gradient=pm.Unrolled())


class OwnAdapt(MAML):
    def adapt(self, loss, **options):
        pass


def test_refusals():
    case = plain_modules()
    with pytest.raises(ValueError, match=r"MetaSGD, which brings its own inner rule: drop inner="):
        pm.MetaSVI(case.model, MetaSGD(case.guide, LR), ADAM, inner=pm.SGD(0.1))
    with pytest.raises(TypeError, match="learn2learn's OwnAdapt is not supported in the guide's place"):
        pm.MetaSVI(case.model, OwnAdapt(case.guide, LR), ADAM)
    with pytest.raises(ValueError, match="adapt_transform=True, which moves its transforms within the inner loop"):
        pm.MetaSVI(case.model, GBML(case.guide, curvature, LR, adapt_transform=True), ADAM)
    with pytest.raises(ValueError, match=r"MetaSGD has no rate for 'model.net.weight': adapt parameters of the guide"):
        pm.MetaSVI(case.model, MetaSGD(case.guide, LR), ADAM, adapt="both").step(case.support)
    with pytest.raises(ValueError, match=r"the transform of 'guide.net.weight' has 'mc_in' in torch.float32, the"):
        pm.MetaSVI(case.model, GBML(case.guide, MetaCurvatureTransform, LR), ADAM).step(case.support)
    with pytest.raises(ValueError, match=r"'lrs\.guide\.net\.weight' to learn, of which a displacement says nothing"):
        pm.MetaSVI(case.model, MetaSGD(case.guide, LR), ADAM, meta_gradient=pm.Displacement()).step(case.support)
    meta = pm.MetaSVI(case.model, MetaSGD(case.guide, LR), ADAM, steps=0)
    with pytest.raises(ValueError, match=r"the rule has not seen 'guide\.net\.weight'"):
        meta.evaluate(case.support, steps=(2,))


def test_what_is_imported_changes_no_filter():
    before = list(warnings.filters)
    case = plain_modules()
    pm.MetaSVI(case.model, GBML(case.guide, curvature, LR), ADAM)
    assert warnings.filters == before
