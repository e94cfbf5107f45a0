"""The outer optimiser is an ordinary torch optimiser over the named leaves."""

import functools
import io

import pyro
import pytest
import torch
from meta_cases import assert_equal, meta_svi, values
from programs import bare_params, modules, plain_modules
from torch.nn.utils import clip_grad_norm_, clip_grad_value_

import pyrometa as pm


def in_step(ours, theirs, case, hand_step, steps=4):
    """Step ours by MetaSVI and theirs by hand on the same gradients; both from the same start, on their own copies."""
    for seed in range(steps):
        torch.manual_seed(seed)
        ours.step(case.support, case.query)
        torch.manual_seed(seed)
        hand_step(theirs.loss_and_grads(case.support, case.query)[1])
        assert_equal(values(ours), values(theirs), rtol=1e-12, atol=1e-13)


def pair(optim, **options):
    """Two MetaSVIs on equal programs."""
    metas = []
    for _ in range(2):
        torch.manual_seed(0)
        case = plain_modules()
        meta = meta_svi(case, optim=optim, **options)
        meta.init(case.support)
        metas.append(meta)
    return (*metas, case)


def hand(meta, constructor, clip=None, **options):
    leaves = dict(meta.named_parameters())
    optimizer = constructor(list(leaves.values()), **options)

    def step(grads):
        for name, leaf in leaves.items():
            leaf.grad = grads[name].clone()
            if clip is not None:
                clip(leaf)
        optimizer.step()
        optimizer.zero_grad()

    return step


KINDS = {
    "adam": (pyro.optim.Adam, torch.optim.Adam, {"lr": 0.02, "betas": (0.8, 0.99)}),
    "momentum": (pyro.optim.SGD, torch.optim.SGD, {"lr": 0.01, "momentum": 0.9}),
    "clipped_adam": (
        pyro.optim.ClippedAdam,
        pyro.optim.clipped_adam.ClippedAdam,
        {"lr": 0.02, "clip_norm": 0.5, "lrd": 0.9},
    ),
    "adagrad_rmsprop": (
        pyro.optim.AdagradRMSProp,
        pyro.optim.adagrad_rmsprop.AdagradRMSProp,
        {"eta": 0.1, "t": 0.2},
    ),
    "rmsprop": (pyro.optim.RMSprop, torch.optim.RMSprop, {"lr": 0.01}),
}


@pytest.mark.parametrize("kind", KINDS)
def test_equals_torch_by_hand(kind):
    ours, theirs, constructor, options = *KINDS[kind][:2], KINDS[kind][1], KINDS[kind][2]
    first, second, case = pair(ours(options))
    in_step(first, second, case, hand(second, constructor, **options))
    assert theirs is constructor


def test_factory():
    first, second, case = pair(lambda groups: torch.optim.AdamW(groups, lr=0.03))
    in_step(first, second, case, hand(second, torch.optim.AdamW, lr=0.03))
    assert isinstance(first.optimizer, torch.optim.AdamW)
    first, second, case = pair(functools.partial(torch.optim.SGD, lr=0.01, momentum=0.5))
    in_step(first, second, case, hand(second, torch.optim.SGD, lr=0.01, momentum=0.5))


@pytest.mark.parametrize("how", ["clip_norm", "clip_value"])
def test_clip_arguments(how):
    first, second, case = pair(pyro.optim.SGD({"lr": 0.01}, {how: 0.05}))
    clip = {"clip_norm": clip_grad_norm_, "clip_value": clip_grad_value_}[how]
    in_step(first, second, case, hand(second, torch.optim.SGD, clip=lambda leaf: clip(leaf, 0.05), lr=0.01))


class Rates:
    def __init__(self):
        self.asked = []

    def method(self, name):
        self.asked.append(name)
        return {"lr": 0.1 if name.endswith("bias") else 0.001}

    def two(self, module, name):
        return self.method(f"{module}.{name}")


@pytest.mark.parametrize(
    "ask", [Rates().method, lambda n: Rates().method(n), Rates().two], ids=["method", "one", "two"]
)
def test_callable_arguments_get_the_public_names(ask, module_local_params):
    case = modules()
    meta = meta_svi(case, optim=pyro.optim.SGD(ask))
    meta.init(case.support)
    names = {id(leaf): name for name, leaf in meta.named_parameters()}
    rates = {names[id(p)]: group["lr"] for group in meta.optimizer.param_groups for p in group["params"]}
    assert rates == {n: 0.1 if n.endswith("bias") else 0.001 for n in names.values()}
    asked = getattr(getattr(ask, "__self__", None), "asked", None)
    assert asked is None or set(asked) == set(names.values())


def test_callable_clip_arguments():
    asked = set()

    def clip(name):
        asked.add(name)
        return {"clip_value": 1e-9} if name.startswith("model") else {}

    first, _, case = pair(pyro.optim.SGD({"lr": 1.0}, clip))
    before = values(first)
    first.step(case.support, case.query)
    moved = {n: (v - before[n]).abs().max() for n, v in values(first).items()}
    assert asked == set(moved)
    assert all((m <= 2e-9) == n.startswith("model") for n, m in moved.items())


@pytest.mark.parametrize(
    "optim", [pyro.optim.Adam({"lr": 0.1}), lambda g: torch.optim.Adam(g, lr=0.1)], ids=["pyro", "factory"]
)
def test_learned_rates_have_their_own_step_size(optim):
    case = bare_params()
    meta = meta_svi(case, optim=optim, inner=pm.SGD(0.005, learn="layer", outer_lr=0.02))
    meta.init(case.support)
    before = values(meta)
    meta.step(case.support, case.query)
    for name, value in values(meta).items():  # Adam's first step is lr long
        expected = 0.02 if name.startswith("inner.") else 0.1
        torch.testing.assert_close((value - before[name]).abs().max().item(), expected, rtol=1e-4, atol=0)
    own = meta_svi(case, optim=optim, inner=pm.SGD(0.005, learn="layer"))
    own.init(case.support)
    assert {group["lr"] for group in own.optimizer.param_groups} == {0.1}


def test_a_torch_scheduler():
    first, _, case = pair(pyro.optim.SGD({"lr": 0.1}))
    scheduler = torch.optim.lr_scheduler.StepLR(first.optimizer, step_size=1, gamma=0.0)
    first.step(case.support, case.query)
    scheduler.step()
    before = values(first)
    first.step(case.support, case.query)
    assert_equal(values(first), before, rtol=0, atol=0)


def saved(state):
    file = io.BytesIO()
    torch.save(state, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


@pytest.mark.parametrize("make_case", [modules, bare_params], ids=lambda p: p.__name__)
@pytest.mark.parametrize("optim", [pyro.optim.Adam({"lr": 0.1}), pyro.optim.SGD({"lr": 0.01, "momentum": 0.9})])
def test_resumes_bit_for_bit(make_case, optim, module_local_params):
    def build():
        torch.manual_seed(0)
        case = make_case()
        pyro.clear_param_store()
        meta = meta_svi(case, optim=optim, inner=pm.SGD(0.005, learn="layer", outer_lr=0.01))
        meta.init(case.support)
        return meta, case

    def train(meta, case, seeds):
        for seed in seeds:
            torch.manual_seed(seed)
            meta.step(case.support, case.query)

    whole, case = build()
    train(whole, case, range(3))
    state = saved(whole.state_dict())
    train(whole, case, range(3, 6))
    resumed, case = build()
    ids = [id(leaf) for _, leaf in resumed.named_parameters()]
    resumed.load_state_dict(state)
    assert [id(leaf) for _, leaf in resumed.named_parameters()] == ids
    train(resumed, case, range(3, 6))
    assert_equal(values(resumed), values(whole), rtol=0, atol=0)


def test_a_state_is_a_snapshot():
    first, second, case = pair(pyro.optim.Adam({"lr": 0.1}))
    first.step(case.support, case.query)
    state = first.state_dict()
    kept = saved(state)
    first.step(case.support, case.query)
    second.load_state_dict(state)
    second.step(case.support, case.query)
    for name, moments in kept["optimizer"]["state"].items():
        assert_equal(state["optimizer"]["state"][name], moments, rtol=0, atol=0)
    assert_equal(state["parameters"], kept["parameters"], rtol=0, atol=0)


def without(state, part, name):
    return {**state, part: {k: v for k, v in state[part].items() if k != name}}


BROKEN = {
    "no optimiser": lambda s: {"parameters": s["parameters"]},
    "no parameters": lambda s: {"optimizer": s["optimizer"]},
    "a parameter missing": lambda s: without(s, "parameters", "guide.net.bias"),
    "another parameter": lambda s: {**s, "parameters": {**s["parameters"], "guide.x": torch.zeros(())}},
    "another shape": lambda s: {**s, "parameters": {**s["parameters"], "guide.net.bias": torch.zeros(7)}},
    "no groups": lambda s: {**s, "optimizer": {**s["optimizer"], "param_groups": []}},
    "groups of others": lambda s: {
        **s,
        "optimizer": {**s["optimizer"], "param_groups": [{**s["optimizer"]["param_groups"][0], "params": ["a"]}]},
    },
    "another optimiser's": lambda s: {
        **s,
        "optimizer": {"state": {}, "param_groups": [{"params": list(s["parameters"]), "lr": 0.1, "momentum": 0.9}]},
    },
    "state of others": lambda s: {
        **s,
        "optimizer": {**s["optimizer"], "state": {"a": s["optimizer"]["state"]["guide.net.bias"]}},
    },
}


@pytest.mark.parametrize("broken", BROKEN)
def test_a_mismatched_state_changes_nothing(broken):
    first, _, case = pair(pyro.optim.Adam({"lr": 0.1}))
    first.step(case.support, case.query)
    good = first.state_dict()
    state = BROKEN[broken](saved(good))
    for value in state.get("parameters", {}).values():
        value += 1.0
    with pytest.raises(ValueError, match=r"state"):
        first.load_state_dict(state)
    assert_equal(first.state_dict()["parameters"], good["parameters"], rtol=0, atol=0)
    for name, moments in first.state_dict()["optimizer"]["state"].items():
        assert_equal(moments, good["optimizer"]["state"][name], rtol=0, atol=0)
