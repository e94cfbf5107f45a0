"""The meta-gradient is exact: for every way of holding parameters, under both settings of module_local_params."""

import meta_cases
import pyro
import pyro.distributions as dist
import pytest
import torch
from learn2learn.algorithms import MAML
from programs import auto_normal, modules, plain_modules
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO

import pyrometa as pm

pytestmark = pytest.mark.gpu

LR = 0.02


def meta_svi(case, **options):
    return meta_cases.meta_svi(case, **{"inner": pm.SGD(LR), "steps": 3, **options})


def gradients(meta, case, seed=1):
    torch.manual_seed(seed)
    return meta.loss_and_grads(case.support, case.query)


def loss_of(meta, case):
    torch.manual_seed(1)
    return meta.evaluate(case.support, case.query, (meta.steps,)).mean()


def assert_finite_differences(meta, case, eps=1e-6):
    loss, grads = gradients(meta, case)
    torch.testing.assert_close(loss_of(meta, case), loss, rtol=1e-12, atol=0)
    assert loss.dtype == torch.float64
    leaves = dict(meta.named_parameters())
    assert grads.keys() == leaves.keys()
    for name, leaf in leaves.items():
        flat, grad = leaf.detach().view(-1), grads[name].view(-1)
        for i in range(min(len(flat), 3)):
            center = flat[i].item()
            ends = []
            for end in (center + eps, center - eps):
                flat[i] = end
                ends.append(loss_of(meta, case))
            flat[i] = center
            slope = (ends[0] - ends[1]) / (2 * eps)
            torch.testing.assert_close(grad[i], slope, rtol=2e-6, atol=2e-7, msg=lambda m, n=name: f"{n}: {m}")


@pytest.mark.thinned(2)
@pytest.mark.parametrize("adapt", ["guide", "both"])
def test_second_order_against_finite_differences(case, adapt):
    assert_finite_differences(meta_svi(case, adapt=adapt), case)


@pytest.mark.parametrize("learn", ["rate", "layer", "layer_step", "parameter"])
def test_learned_rates_against_finite_differences(learn):
    case = modules()
    meta = meta_svi(case, inner=pm.SGD(LR, learn=learn))
    assert_finite_differences(meta, case)
    grads = gradients(meta, case)[1]
    learned = {name: grad for name, grad in grads.items() if name.startswith("inner.log_lr")}
    assert learned
    assert all(grad.abs().sum() > 0 for grad in learned.values())


@pytest.mark.parametrize("reduction", ["sum", "mean"])
def test_reductions_and_support_as_query(reduction):
    case = modules()
    meta = meta_svi(case, reduction=reduction)
    case = type(case)(case.model, case.guide, case.support, None)
    assert_finite_differences(meta, case)


def set_leaves(meta, values):
    with torch.no_grad():
        for name, leaf in meta.named_parameters():
            leaf.copy_(values[name])


def by_hand(case, adapted, steps):
    """K plain gradient steps, task by task, through the surface at steps=0: mean loss and mean gradient at the end."""
    plain = meta_svi(case, steps=0)
    plain.init(case.support)
    start = {name: leaf.detach().clone() for name, leaf in plain.named_parameters()}
    losses, totals = [], {name: torch.zeros_like(leaf) for name, leaf in start.items()}
    for t in range(3):
        support, query = (
            tuple(x[t : t + 1] for x in given) if isinstance(given, tuple) else given[t : t + 1]
            for given in (case.support, case.query)
        )
        fast = dict(start)
        for _ in range(steps):
            set_leaves(plain, fast)
            _, grads = plain.loss_and_grads(support)
            fast = {n: v - LR * grads[n] if n in adapted else v for n, v in fast.items()}
        set_leaves(plain, fast)
        loss, grads = plain.loss_and_grads(support, query)
        losses.append(loss)
        for name, total in totals.items():
            total += grads[name] / 3
    set_leaves(plain, start)
    return torch.stack(losses).mean(), totals


@pytest.mark.usefixtures("zero_noise")
def test_steps_taken_by_hand(case):
    """The oracle that can't be fooled: no fast weights anywhere in it."""
    first = meta_svi(case, meta_gradient=pm.Unrolled(first_order=True))
    loss, grads = first.loss_and_grads(case.support, case.query)
    hand_loss, hand_grads = by_hand(case, set(grads), steps=3)
    torch.testing.assert_close(loss, hand_loss, rtol=1e-10, atol=1e-10)
    for name, grad in grads.items():
        torch.testing.assert_close(grad, hand_grads[name], rtol=1e-9, atol=1e-10, msg=lambda m, n=name: f"{n}: {m}")
    unadapted = meta_svi(case, steps=0).loss_and_grads(case.support, case.query)[0]
    assert (loss - unadapted).abs() > 1e-3

    second = meta_svi(case)
    loss, grads = second.loss_and_grads(case.support, case.query)
    torch.testing.assert_close(loss, hand_loss, rtol=1e-10, atol=1e-10)
    direction = {n: torch.randn_like(g) for n, g in grads.items()}
    slope = sum((grads[n] * d).sum() for n, d in direction.items())
    start = {n: leaf.detach().clone() for n, leaf in second.named_parameters()}
    ends = []
    for eps in (1e-5, -1e-5):
        set_leaves(second, {n: start[n] + eps * direction[n] for n in start})
        ends.append(by_hand(case, set(grads), steps=3)[0])
    set_leaves(second, start)
    torch.testing.assert_close(slope, (ends[0] - ends[1]) / 2e-5, rtol=1e-6, atol=1e-7)


def learn2learn_gradient(case, elbo, steps, first_order):
    """What a user writes with learn2learn: clone, adapt, backward."""
    wrapped = MAML(case.guide, lr=LR, first_order=first_order)
    unpack = (lambda x: x) if isinstance(case.support, tuple) else (lambda x: (x,))
    losses = []
    for t in range(3):
        learner = wrapped.clone()
        for _ in range(steps):
            learner.adapt(elbo.differentiable_loss(case.model, learner, *(x[t] for x in unpack(case.support))))
        losses.append(elbo.differentiable_loss(case.model, learner, *(x[t] for x in unpack(case.query))))
    loss = torch.stack(losses).mean()
    leaves = [*case.guide.parameters(), *case.model.parameters()]
    return loss.detach(), torch.autograd.grad(loss, leaves, allow_unused=True)


@pytest.mark.usefixtures("zero_noise")
@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("elbo", [Trace_ELBO, TraceMeanField_ELBO])
@pytest.mark.parametrize("make", [modules, plain_modules, auto_normal], ids=lambda p: p.__name__)
def test_against_learn2learn(make, elbo, first_order):
    with pyro.settings.context(module_local_params=True):  # where learn2learn's clones are right (design)
        case = make()
        meta = meta_svi(case, adapt="guide", loss=elbo(), meta_gradient=pm.Unrolled(first_order=first_order))
        loss, grads = meta.loss_and_grads(case.support, case.query)
        reference_loss, reference = learn2learn_gradient(case, elbo(), 3, first_order)
        torch.testing.assert_close(loss, reference_loss, rtol=1e-10, atol=1e-10)
        by_id = {id(leaf): grads[name] for name, leaf in meta.named_parameters()}
        for leaf, grad in zip([*case.guide.parameters(), *case.model.parameters()], reference, strict=True):
            torch.testing.assert_close(by_id[id(leaf)], grad, rtol=1e-9, atol=1e-10)


@pytest.mark.usefixtures("zero_noise")
def test_learn2learn_wrapper_in_the_guides_place():
    case = plain_modules()
    plain = meta_svi(case, adapt="guide").loss_and_grads(case.support, case.query)
    wrapped = pm.MetaSVI(case.model, MAML(case.guide, lr=LR), pyro.optim.Adam({"lr": 1e-3}), steps=3).loss_and_grads(
        case.support, case.query
    )
    assert plain[0] == wrapped[0]
    assert plain[1].keys() == wrapped[1].keys()
    assert all(torch.equal(plain[1][name], wrapped[1][name]) for name in plain[1])


def test_a_meta_gradient_that_is_not_finite_beside_losses_that_are():
    """A root at 0 in a prior of the model's own parameter, which no inner step moves."""

    def model(x):
        width = pyro.param("width", torch.tensor(0.0))
        z = pyro.sample("z", dist.Normal(0.0, 1.0 + width.square().sqrt()))
        pyro.sample("x", dist.Normal(z, 1.0).expand(x.shape).to_event(1), obs=x)

    def guide(x):
        pyro.sample("z", dist.Normal(pyro.param("loc", torch.tensor(0.5)), 1.0))

    meta = pm.MetaSVI(model, guide, pyro.optim.Adam({"lr": 0.1}), inner=pm.SGD(0.1), steps=1)
    with pytest.raises(
        pm.NonFiniteError, match=r"meta-gradient of 'model\.width' is not finite, though all losses are"
    ):
        meta.step(torch.zeros(2, 3))
