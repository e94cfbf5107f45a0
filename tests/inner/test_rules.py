"""What every inner rule keeps: exact derivatives, purity, and one task's numbers alone or under vmap."""

import inner_rules
import pytest
import torch
from inner_rules import RULES
from torch.autograd import gradcheck, gradgradcheck
from torch.func import vmap
from torch.utils._pytree import tree_leaves, tree_map, tree_structure

pytestmark = pytest.mark.gpu

STEPS = 3


@pytest.fixture(params=RULES.values(), ids=RULES.keys())
def rule(request):
    return request.param


def assert_close(got, expected, **tolerance):
    assert tree_structure(got) == tree_structure(expected)
    for left, right in zip(tree_leaves(got), tree_leaves(expected), strict=True):
        torch.testing.assert_close(left, right, **tolerance)


def score_of(rule, steps, params, learned):
    """The loss on a query set after adaptation, as a function of all leaves, and the leaves."""
    support, query = inner_rules.task(), inner_rules.task()
    names, learned_names = list(params), list(learned)

    def score(*leaves):
        start = dict(zip(names, leaves[: len(names)], strict=True))
        given = dict(zip(learned_names, leaves[len(names) :], strict=True))
        return inner_rules.loss(inner_rules.adapted(rule, start, given, support, steps), query)

    leaves = [*params.values(), *learned.values()]
    return score, [leaf.detach().requires_grad_() for leaf in leaves]


def test_the_gradient_through_three_steps(rule):
    params = inner_rules.start()
    score, leaves = score_of(rule, STEPS, params, inner_rules.learned(rule, params, STEPS))
    assert gradcheck(score, leaves, eps=1e-6, atol=1e-6, rtol=1e-5)
    assert all(grad.abs().max() > 0 for grad in torch.autograd.grad(score(*leaves), leaves))


def test_the_second_derivative_through_two_steps(rule):
    params = inner_rules.start()
    score, leaves = score_of(rule, 2, params, inner_rules.learned(rule, params, 2))
    assert gradgradcheck(score, leaves, eps=1e-6, atol=1e-5, rtol=1e-4, fast_mode=True)


def test_vmap_over_tasks_equals_a_loop(rule):
    params = [inner_rules.start() for _ in range(4)]
    grads = [[inner_rules.start() for _ in range(4)] for _ in range(STEPS)]
    learned = inner_rules.learned(rule, params[0], STEPS)

    def stack(tasks):
        return tree_map(lambda *leaves: torch.stack(leaves), *tasks)

    def init(p):
        return rule.init(p) or ()  # vmap takes no None

    def update(p, g, s, step):
        moved, state = rule.update(p, g, s or None, learned, step)
        return moved, state or ()

    alone = [(p, init(p)) for p in params]
    together = (stack(params), vmap(init)(stack(params)))
    for step in range(STEPS):
        alone = [update(p, g, s, step) for (p, s), g in zip(alone, grads[step], strict=True)]
        together = vmap(update, (0, 0, 0, None))(together[0], stack(grads[step]), together[1], step)
    assert_close(together, stack(alone), rtol=1e-12, atol=1e-12)


def test_the_state_is_a_tree_of_tensors_that_keeps_its_form(rule):
    params = inner_rules.start()
    state = rule.init(params)
    assert all(isinstance(leaf, torch.Tensor) for leaf in tree_leaves(state) if leaf is not None)
    _, after = rule.update(params, inner_rules.start(), state, rule.learned(params, 1), 0)
    assert tree_structure(after) == tree_structure(state)


def test_update_changes_nothing_that_it_is_given(rule):
    params, grads = inner_rules.start(), inner_rules.start()
    given = (params, grads, rule.init(params), inner_rules.learned(rule, params, 1))
    copy = tree_map(lambda x: x.clone() if isinstance(x, torch.Tensor) else x, given)
    first = rule.update(*given, 0)
    assert_close(given, copy, rtol=0, atol=0)
    assert_close(rule.update(*given, 0), first, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_dtype_and_shape_are_kept(rule, dtype):
    params, grads = inner_rules.start(dtype), inner_rules.start(dtype)
    learned = rule.learned(params, 1)
    moved, state = rule.update(params, grads, rule.init(params), learned, 0)
    assert {n: (p.shape, p.dtype) for n, p in moved.items()} == {n: (p.shape, p.dtype) for n, p in params.items()}
    assert all(leaf.dtype == dtype for leaf in [*learned.values(), *tree_leaves(state)] if leaf is not None)


def test_steps_beyond_the_trained_ones(rule):
    params = inner_rules.start()
    moved = inner_rules.adapted(rule, params, rule.learned(params, 2), inner_rules.task(), 6)
    assert all(torch.isfinite(p).all() for p in moved.values())


def test_learned_parameters_are_fresh_and_draw_nothing(rule):
    params = inner_rules.start()
    before = torch.get_rng_state()
    first, second = rule.learned(params, STEPS), rule.learned(params, STEPS)
    assert torch.equal(before, torch.get_rng_state())
    assert_close(first, second, rtol=0, atol=0)
    assert all(first[name].data_ptr() != second[name].data_ptr() for name in first)


def test_zero_gradients_have_finite_derivatives(rule):
    """As of a unit that is dead, or a parameter that is not in use."""
    params = {name: p.requires_grad_() for name, p in inner_rules.start().items()}
    learned = {n: v.requires_grad_() for n, v in inner_rules.learned(rule, params, 2).items()}
    moved, state = params, rule.init(params)
    for step in range(2):
        grads = {n: torch.where(torch.arange(p.numel()).view(p.shape) % 2 == 0, 0.0, p) for n, p in moved.items()}
        moved, state = rule.update(moved, grads, state, learned, step)
    total = sum(p.square().sum() for p in moved.values())
    leaves = [*params.values(), *learned.values()]
    found = torch.autograd.grad(total, leaves, allow_unused=True)
    assert all(grad is None or torch.isfinite(grad).all() for grad in found)
