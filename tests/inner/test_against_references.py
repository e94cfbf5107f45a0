"""Each rule's numbers against code that is not ours: torch.optim, learn2learn's transforms, or a loop by hand."""

import math

import inner_rules
import pytest
import torch
from inner_rules import SHAPES
from learn2learn.nn import KroneckerLinear
from learn2learn.optim.transforms import KroneckerTransform, MetaCurvatureTransform, ModuleTransform
from torch import nn

import pyrometa as pm

STEPS = 5
EXACT = {"rtol": 1e-12, "atol": 1e-12}


def by_torch(params, data, steps, make):
    leaves = {name: p.clone().requires_grad_() for name, p in params.items()}
    optimizer = make(list(leaves.values()))
    for _ in range(steps):
        optimizer.zero_grad()
        inner_rules.loss(leaves, data).backward()
        optimizer.step()
    return {name: leaf.detach() for name, leaf in leaves.items()}


@pytest.mark.parametrize(
    ("rule", "make"),
    [
        (pm.SGD(0.1), lambda p: torch.optim.SGD(p, 0.1)),
        (pm.Momentum(0.1), lambda p: torch.optim.SGD(p, 0.1, momentum=0.9)),
        (pm.Momentum(0.1, 0.5, nesterov=True), lambda p: torch.optim.SGD(p, 0.1, momentum=0.5, nesterov=True)),
        (pm.Momentum(0.1, 0.0), lambda p: torch.optim.SGD(p, 0.1)),
        (pm.Adam(0.1), lambda p: torch.optim.Adam(p, 0.1)),
        (pm.Adam(0.05, (0.5, 0.8), 1e-3), lambda p: torch.optim.Adam(p, 0.05, (0.5, 0.8), 1e-3)),
        (pm.Adam(0.05, (0.0, 0.0)), lambda p: torch.optim.Adam(p, 0.05, (0.0, 0.0))),
        (pm.LearnedOptimizer(0.1), lambda p: torch.optim.Adam(p, 0.1)),
    ],
    ids=lambda value: repr(value) if not callable(value) else "",
)
def test_the_numbers_of_torchs_optimisers(rule, make):
    params, data = inner_rules.start(), inner_rules.task()
    params["scale"] = torch.tensor(0.0, dtype=torch.float64)
    got = inner_rules.adapted(rule, params, rule.learned(params, STEPS), data, STEPS)
    torch.testing.assert_close(got, by_torch(params, data, STEPS, make), **EXACT)


@pytest.mark.parametrize("make", [pm.SGD, pm.Momentum, pm.Adam])
def test_learned_rates_start_at_lr(make):
    params, data = inner_rules.start(), inner_rules.task()
    fixed = inner_rules.adapted(make(0.05), params, {}, data, STEPS)
    for learn in ("rate", "layer", "layer_step", "parameter"):
        rule = make(0.05, learn=learn)
        learned = rule.learned(params, STEPS)
        torch.testing.assert_close(inner_rules.adapted(rule, params, learned, data, STEPS), fixed, **EXACT)
        assert {name.removeprefix("log_lr.") for name in learned} == ({"log_lr"} if learn == "rate" else set(SHAPES))


@pytest.mark.parametrize("make", [pm.Momentum, pm.Adam])
def test_a_rate_for_each_layer_and_step_is_used_at_that_step(make):
    params, data = inner_rules.start(), inner_rules.task()
    rule = make(0.05, learn="layer_step")
    learned = inner_rules.learned(rule, params, 2, shake=1.0)
    got, state = params, rule.init(params)
    for step in range(3):
        plain = make({name: learned[f"log_lr.{name}"][min(step, 1)].exp().item() for name in params})
        grads = inner_rules.gradients(got, data)
        expected = plain.update(got, grads, state, {}, step)[0]
        got, state = rule.update(got, grads, state, learned, step)
        torch.testing.assert_close(got, expected, **EXACT)


@pytest.mark.parametrize("make", [pm.Momentum, pm.Adam, pm.ProximalSGD, pm.Preconditioned, pm.LearnedOptimizer])
def test_the_first_pattern_that_matches_gives_the_rate(make):
    params, data = inner_rules.start(), inner_rules.task()
    lr = {"net.b*": 0.3, "net.*": 0.2, "*": 0.1}
    rates = {"net.weight": 0.2, "net.bias": 0.3, "scale": 0.1}
    rule = make(lr=lr)
    got = inner_rules.adapted(rule, params, rule.learned(params, 1), data, 1)
    for name, rate in rates.items():
        rule = make(lr=rate)
        expected = inner_rules.adapted(rule, params, rule.learned(params, 1), data, 1)[name]
        torch.testing.assert_close(got[name], expected, **EXACT)


def test_proximal_steps_by_hand():
    params, data = inner_rules.start(), inner_rules.task()

    def regularized(fast, data):
        pull = sum((p - params[n]).square().sum() for n, p in fast.items())
        return inner_rules.loss(fast, data) + 0.7 / 2 * pull

    fast = params
    for _ in range(STEPS):
        leaves = {name: p.detach().requires_grad_() for name, p in fast.items()}
        grads = torch.autograd.grad(regularized(leaves, data), list(leaves.values()))
        fast = {name: p - 0.05 * grad for (name, p), grad in zip(fast.items(), grads, strict=True)}
    got = inner_rules.adapted(pm.ProximalSGD(0.05, strength=0.7), params, {}, data, STEPS)
    torch.testing.assert_close(got, fast, **EXACT)
    plain = inner_rules.adapted(pm.SGD(0.05), params, {}, data, STEPS)
    assert (got["net.weight"] - plain["net.weight"]).abs().max() > 1e-3


def test_proximal_steps_converge_to_the_closed_form():
    """On loss = curvature / 2 (phi - target)^2 the minimum is between target and initialisation."""
    curvature, target, start = 3.0, 2.0, -1.0
    rule = pm.ProximalSGD(0.1, strength=0.5)
    params = {"loc": torch.tensor(start, dtype=torch.float64, requires_grad=True)}
    fast, state = params, rule.init(params)
    for step in range(200):
        fast, state = rule.update(fast, {"loc": curvature * (fast["loc"] - target)}, state, {}, step)
    expected = (curvature * target + 0.5 * start) / (curvature + 0.5)
    assert fast["loc"].item() == pytest.approx(expected, rel=1e-12)
    (slope,) = torch.autograd.grad(fast["loc"], params["loc"])
    assert slope.item() == pytest.approx(0.5 / (curvature + 0.5), rel=1e-12)


def adams_step(grad):
    params = {"loc": torch.zeros((), dtype=torch.float64)}
    rule = pm.Adam(0.1, eps=1e-3)
    return rule.update(params, {"loc": grad}, rule.init(params), {}, 0)[0]["loc"]


def test_adams_derivative_at_a_gradient_of_zero():
    """The first step is -lr g / (|g| + eps), whose derivative at 0 is -lr / eps."""
    zero = torch.zeros((), dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(adams_step(zero), zero)
    difference = (adams_step(zero.detach() + 1e-9) - adams_step(zero.detach() - 1e-9)) / 2e-9
    assert slope.item() == pytest.approx(-0.1 / 1e-3, rel=1e-12)
    assert difference.item() == pytest.approx(slope.item(), rel=1e-5)


def by_hand(weights, gradients, lr, decays):
    """A learned optimiser's path of one tensor, coordinate by coordinate, in plain numbers."""
    w0, b0, w2, b2 = (weights[f"net.{name}"].tolist() for name in ("0.weight", "0.bias", "2.weight", "2.bias"))
    count = len(gradients[0])
    moved, squares, averages = [0.0] * count, [0.0] * count, [[0.0] * count for _ in decays]
    for step, grads in enumerate(gradients):
        squares = [0.999 * v + 0.001 * g * g for v, g in zip(squares, grads, strict=True)]
        averages = [
            [decay * m + (1 - decay) * g for m, g in zip(average, grads, strict=True)]
            for average, decay in zip(averages, decays, strict=True)
        ]
        sizes = [math.sqrt(v / (1 - 0.999 ** (step + 1))) + 1e-8 for v in squares]
        overall = math.sqrt(sum(s * s for s in sizes) / count)
        for i in range(count):
            momenta = [m[i] / (1 - decay ** (step + 1)) for m, decay in zip(averages, decays, strict=True)]
            features = [g / sizes[i] for g in (grads[i], *momenta)]
            features += [g / overall for g in (grads[i], *momenta)]
            features += [math.log(sizes[i] / overall) / 10, math.log(overall) / 10]
            features += [step / (step + horizon) for horizon in (1, 10, 100)]
            hidden = [
                math.tanh(b + sum(w * x for w, x in zip(row, features, strict=True)))
                for row, b in zip(w0, b0, strict=True)
            ]
            shift, log_scale = (
                b + sum(w * h for w, h in zip(row, hidden, strict=True)) for row, b in zip(w2, b2, strict=True)
            )
            moved[i] -= lr * math.exp(log_scale) * (momenta[-1] / sizes[i] + shift)
    return moved


def test_a_learned_optimiser_by_hand():
    rule = pm.LearnedOptimizer(0.1, hidden=3, decays=(0.3, 0.6, 0.9))
    params = {"loc": torch.zeros(2, 2, dtype=torch.float64)}
    weights = inner_rules.learned(rule, params, 1)
    gradients = [torch.randn(2, 2, dtype=torch.float64) * 3**i for i in range(4)]
    fast, state = params, rule.init(params)
    for step, grad in enumerate(gradients):
        fast, state = rule.update(fast, {"loc": grad}, state, weights, step)
    expected = by_hand(weights, [g.flatten().tolist() for g in gradients], 0.1, (0.3, 0.6, 0.9))
    torch.testing.assert_close(fast["loc"].flatten(), torch.tensor(expected, dtype=torch.float64), **EXACT)


def test_a_learned_optimiser_carries_over_to_other_sizes():
    rule = pm.LearnedOptimizer(0.1)
    small, large = {"a": torch.zeros(2)}, {"b": torch.zeros(30, 7), "c": torch.zeros(()), "d": torch.zeros(3, 2, 1, 1)}
    learned = rule.learned(small, 5)
    assert {n: v.shape for n, v in learned.items()} == {n: v.shape for n, v in rule.learned(large, 9).items()}
    grads = {name: torch.randn_like(p) for name, p in large.items()}
    moved, _ = rule.update(large, grads, rule.init(large), learned, 0)
    assert {n: p.shape for n, p in moved.items()} == {n: p.shape for n, p in large.items()}


def test_the_seed_of_a_learned_optimiser():
    params = inner_rules.start()
    first, again, other = (pm.LearnedOptimizer(seed=seed).learned(params, 1)["net.0.weight"] for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


KRONECKER = KroneckerTransform(KroneckerLinear)
TRANSFORMS = [
    ("meta_curvature", MetaCurvatureTransform),
    ("kronecker", KRONECKER),
    (KroneckerTransform(KroneckerLinear, bias=True, psd=False), None),
    (MetaCurvatureTransform, None),
    (ModuleTransform(nn.Linear), None),
]
KERNELS = {"conv.weight": (4, 3, 2, 2), "linear.weight": (2, 3), "linear.bias": (2,)}


@pytest.mark.parametrize(("transform", "same"), TRANSFORMS, ids=["mc", "kronecker", "bias", "own-mc", "module"])
def test_the_numbers_of_learn2learns_transforms(transform, same):
    params = {name: torch.randn(shape, dtype=torch.float64) for name, shape in KERNELS.items()}
    grads = {
        name: torch.randn(shape[::-1], dtype=torch.float64).permute(*range(len(shape))[::-1])
        for name, shape in KERNELS.items()
    }
    assert not grads["conv.weight"].is_contiguous()  # as autograd's may be
    rule = pm.Preconditioned(transform, lr=0.1)
    learned = inner_rules.learned(rule, params, 1)
    moved, _ = rule.update(params, grads, rule.init(params), learned, 0)
    for name, param in params.items():
        module = (same or transform)(param).double()
        prefix = f"transform.{name}."
        module.load_state_dict({n.removeprefix(prefix): v for n, v in learned.items() if n.startswith(prefix)})
        expected = param - 0.1 * module(grads[name].contiguous())
        torch.testing.assert_close(moved[name], expected.detach(), **EXACT)
        assert (expected - (param - 0.1 * grads[name])).abs().max() > 1e-3


@pytest.mark.parametrize("transform", ["meta_curvature", "kronecker"])
def test_named_transforms_start_as_gradient_descent(transform):
    params = {name: torch.randn(shape, dtype=torch.float64) for name, shape in {**KERNELS, "scalar": ()}.items()}
    grads = {name: torch.randn_like(p) for name, p in params.items()}
    rule = pm.Preconditioned(transform, lr=0.1)
    moved, _ = rule.update(params, grads, None, rule.learned(params, 1), 0)
    torch.testing.assert_close(moved, {n: p - 0.1 * grads[n] for n, p in params.items()}, **EXACT)


def test_a_transform_of_none_leaves_the_gradient():
    rule = pm.Preconditioned(lambda p: MetaCurvatureTransform(p) if p.dim() == 2 else None, lr=0.1)
    params, grads = inner_rules.start(), inner_rules.start()
    learned = inner_rules.learned(rule, params, 1)
    assert set(learned) == {"transform.net.weight.mc_in", "transform.net.weight.mc_out"}
    moved, _ = rule.update(params, grads, None, learned, 0)
    torch.testing.assert_close(moved["net.bias"], params["net.bias"] - 0.1 * grads["net.bias"], **EXACT)


def test_learned_transforms_are_not_tied_to_the_rule_that_made_them():
    """One rule for two programs of the same names."""
    rule = pm.Preconditioned("meta_curvature", lr=0.1)
    params, grads = inner_rules.start(), inner_rules.start()
    first = rule.learned(params, 1)
    shaken = {n: v + 1.0 for n, v in first.items()}
    expected, _ = rule.update(params, grads, None, shaken, 0)
    rule.learned(params, 1)
    rule.learned({"net.weight": torch.zeros(5, 5)}, 1)
    torch.testing.assert_close(rule.update(params, grads, None, shaken, 0)[0], expected, rtol=0, atol=0)
