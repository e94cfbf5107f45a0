"""Nothing leaks: generators, settings, the param store, the users' modules and tensors."""

import pyro
import pytest
import torch
from meta_cases import as_args, meta_svi, numbers, store, task, values
from programs import bare_params, modules
from pyro.infer import TraceMeanField_ELBO
from torch import nn

import pyrometa as pm

USES = {
    "init": lambda meta, case: meta.init(case.support),
    "step": lambda meta, case: meta.step(case.support, case.query),
    "evaluate": lambda meta, case: meta.evaluate(case.support, case.query),
    "evaluate_loss": lambda meta, case: meta.evaluate_loss(case.support),
    "adapt": lambda meta, case: meta.adapt(task(case.support, 0)),
    "adapt_many": lambda meta, case: meta.adapt_many(case.support),
    "loss_and_grads": lambda meta, case: meta.loss_and_grads(case.support, case.query),
}


def held(case):
    """Every parameter slot of the user's modules, with what it holds."""
    roots = [getattr(f, "__self__", f) for f in (case.model, case.guide)]
    return {
        (root_index, prefix, key): tensor
        for root_index, root in enumerate(roots)
        if isinstance(root, nn.Module)
        for prefix, module in root.named_modules()
        for key, tensor in module._parameters.items()
        if tensor is not None
    }


def plain_store(make):
    """What plain SVI's first evaluation puts in the store, on the same program freshly built."""
    torch.manual_seed(5)
    case = make()
    torch.manual_seed(6)
    TraceMeanField_ELBO().differentiable_loss(case.model, case.guide, *as_args(task(case.support, 0)))
    found = {name: leaf.detach().clone() for name, leaf in store().items()}
    pyro.clear_param_store()
    return found


def test_the_store_ends_as_plain_svi_leaves_it(make):
    expected = plain_store(make)
    torch.manual_seed(5)
    case = make()
    meta = meta_svi(case)
    torch.manual_seed(6)
    meta.init(case.support)
    found = store()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    for name, use in USES.items():
        use(meta, case)
        after = store()
        assert after.keys() == expected.keys(), name
        assert all(after[n] is found[n] for n in found), name
    ids = {id(leaf) for _, leaf in meta.named_parameters()}
    assert all(id(leaf) in ids for leaf in found.values())


def test_a_cleared_store_never_gets_a_fast_weight(case):
    meta = meta_svi(case)
    meta.step(case.support, case.query)
    ids = {id(leaf) for _, leaf in meta.named_parameters()}
    for use in USES.values():
        pyro.clear_param_store()
        use(meta, case)
        assert all(id(leaf) in ids for leaf in store().values())


def test_a_cleared_store_that_others_filled_never_gets_a_fast_weight(case):
    meta = meta_svi(case)
    meta.step(case.support, case.query)
    names = set(store())
    pyro.clear_param_store()
    for i in range(20):
        pyro.param(f"another program's {i}", torch.zeros(()))
    meta.adapt_many(case.support)
    ids = {id(leaf) for _, leaf in meta.named_parameters()}
    assert all(id(store()[name]) in ids for name in names & store().keys())


def test_modules_hold_the_users_tensors(case):
    meta_svi(case).init(case.support)  # an autoguide makes its parameters on first data
    before = held(case)
    meta = meta_svi(case)
    for name, use in USES.items():
        use(meta, case)
        after = held(case)
        assert after.keys() == before.keys()
        assert all(after[slot] is before[slot] for slot in before), name
        assert all(leaf.grad is None for leaf in after.values()), name
    ids = {id(leaf) for _, leaf in meta.named_parameters()}
    assert all(id(tensor) in ids for tensor in before.values())


@pytest.mark.thinned(2)
def test_only_step_changes_a_value(case):
    meta = meta_svi(case, inner=pm.SGD(0.01, learn="layer"))
    meta.init(case.support)
    for name, use in USES.items():
        before = values(meta)
        use(meta, case)
        same = [torch.equal(before[n], value) for n, value in values(meta).items()]
        assert not all(same) if name == "step" else all(same), name


@pytest.mark.thinned(2, shift=1)
def test_a_users_grad_is_left_alone(case):
    meta = meta_svi(case)
    meta.init(case.support)
    grads = {name: torch.ones_like(leaf) for name, leaf in meta.named_parameters()}
    for name, leaf in meta.named_parameters():
        leaf.grad = grads[name]
    for use in USES.values():
        use(meta, case)
    assert all(leaf.grad is grads[name] for name, leaf in meta.named_parameters())
    assert all((grad == 1).all() for grad in grads.values())


def test_init_draws_nothing(case):
    state = torch.get_rng_state()
    meta_svi(case).init(case.support)
    assert torch.equal(torch.get_rng_state(), state)


def seeded(use, meta, case):
    torch.manual_seed(3)
    return numbers(USES[use](meta, case)), torch.get_rng_state()


def assert_agree(first, second):
    assert torch.equal(first[1], second[1])
    assert all(torch.equal(a, b) for a, b in zip(first[0], second[0], strict=True))


@pytest.mark.thinned(2)
def test_first_and_second_call_agree(case):
    for use in USES.keys() - {"init", "step"}:
        meta = meta_svi(case)
        assert_agree(seeded(use, meta, case), seeded(use, meta, case))


@pytest.mark.thinned(2, shift=1)
def test_under_no_grad(case):
    for use in USES.keys() - {"init", "step"}:
        with torch.no_grad():
            found = seeded(use, meta_svi(case), case)
            assert not torch.is_grad_enabled()
        assert_agree(found, seeded(use, meta_svi(case), case))
    meta = meta_svi(case)
    meta.init(case.support)
    before = values(meta)
    with torch.no_grad():
        meta.step(case.support, case.query)
    assert not any(torch.equal(before[n], v) for n, v in values(meta).items())


class Boom(Exception):
    pass


@pytest.mark.parametrize("at", [0, 1, 3, 5])
@pytest.mark.parametrize("make_case", [modules, bare_params], ids=lambda p: p.__name__)
def test_an_exception_in_the_middle(make_case, at):
    case = make_case()
    calls = iter(range(10_000))

    def model(x):
        if armed and next(calls) == at:
            raise Boom
        return case.model(x)

    armed = []
    meta = pm.MetaSVI(model, case.guide, pyro.optim.Adam({"lr": 1e-2}), adapt="both", steps=3, inner=pm.SGD(0.005))
    meta.init(case.support)
    slots, leaves, params = held(case), values(meta), store()
    armed.append(True)
    with pytest.raises(Boom):
        meta.step(case.support, case.query)
    assert all(held(case)[slot] is tensor for slot, tensor in slots.items())
    assert all(torch.equal(leaves[n], v) for n, v in values(meta).items())
    assert store().keys() == params.keys()
    assert all(store()[n] is leaf for n, leaf in params.items())
    assert not pyro.poutine.runtime._PYRO_STACK
    meta.step(case.support, case.query)


def test_an_exception_on_first_data_can_be_tried_again():
    case, fail = modules(), [True]

    def model(x):
        if fail:
            raise Boom
        return case.model(x)

    meta = pm.MetaSVI(model, case.guide, pyro.optim.Adam({"lr": 1e-2}), steps=1)
    with pytest.raises(Boom):
        meta.step(case.support)
    fail.clear()
    meta.step(case.support)
