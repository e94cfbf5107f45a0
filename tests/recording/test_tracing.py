"""A run is written down as it was: aliases, writes, constants, and what Python may read of it."""

import gc
import weakref

import pytest
import torch
from torch import nn

import pyrometa as pm
from pyrometa.internals import tree_leaves
from pyrometa.recording.record import record, trace
from pyrometa.recording.tracing import Tracing

FLOAT64 = {"dtype": torch.float64}
SHIFT = torch.arange(3, **FLOAT64)
WEIGHT = nn.Parameter(torch.full((3,), 2.0, **FLOAT64))


def given():
    return [torch.randn(2, 3, **FLOAT64), torch.randn(2, 3, **FLOAT64)]


def input_returned(x, y):
    return x, x, y.detach()


def aliases(x, y):
    return x.t(), x.view(3, 2)[0], (x * y).T.detach()


def in_place(x, y):
    total = x.clone()
    total[0] += y[1]
    total.mul_(y).clamp_(min=-0.5)
    return total, total.sum()


def constants(x, y):
    return x + SHIFT, y * WEIGHT, SHIFT * WEIGHT, torch.tensor([1.0, 2.0, 3.0], **FLOAT64) + x, SHIFT


def several_results(x, y):
    values, places = (x + y).sort(-1)
    mean, *_ = torch.var_mean(x, 0)
    return values, places, mean, [part.exp() for part in x.split([1, 2], 1)], {"none": None, "number": 3}


def derivatives(x, y):
    x = x.detach().requires_grad_()
    [slope] = torch.autograd.grad((x.tanh() * y).square().sum(), x, create_graph=True)
    [twice] = torch.autograd.grad(slope.exp().sum(), x)
    return slope.detach(), twice


def batched(x, y):
    return torch.vmap(lambda row, other: (row * SHIFT).softmax(0) @ other)(x, y)


def by_a_written_number(x, y):
    step = torch.tensor(2.0, **FLOAT64)
    step += 1
    total = x.clone().mul_(step)  # a write to something else
    return total * step.item() if step > 1 else y


@pytest.mark.parametrize(
    "function",
    [
        input_returned,
        aliases,
        in_place,
        constants,
        several_results,
        derivatives,
        batched,
        by_a_written_number,
    ],
)
def test_a_replay_is_the_function_of_other_tensors(function):
    made = record(lambda tensors: function(*tensors), given(), {}, compiled=False)
    for tensors in (given(), given()):
        expected = function(*(value.clone() for value in tensors))
        found = made.replay(tensors)
        for mine, theirs in zip(tree_leaves(found), tree_leaves(expected), strict=True):
            torch.testing.assert_close(mine, theirs, rtol=1e-13, atol=1e-14)


def overwritten(x):
    step = torch.tensor(2.0, **FLOAT64)
    step.view(1).copy_(x[0, :1])
    return x * step.item()


@pytest.mark.parametrize(
    "function",
    [
        lambda x: x * x.sum().item(),
        lambda x: x if (x > 0).all() else -x,
        lambda x: x * (SHIFT + 1)[0].item(),
        lambda x: x * torch.rand(()).item(),
        overwritten,
    ],
    ids=["item", "if", "made of a constant", "random", "overwritten"],
)
def test_what_python_reads_of_a_tensor_is_refused(function):
    with pytest.raises(pm.UnsupportedProgramError, match=r"\.item\(\), float\(\) or int\(\) reads a tensor's value"):
        record(lambda tensors: function(*tensors), given()[:1], {}, compiled=False)


def test_what_a_graph_can_not_hold_is_refused():
    generator = torch.Generator()
    with pytest.raises(pm.UnsupportedProgramError, match="can't hold a Generator"):
        record(lambda tensors: tensors[0] + torch.rand(3, generator=generator), given()[:1], {}, compiled=False)

    class Tagged(torch.Tensor):
        pass

    with pytest.raises(TypeError, match="Tagged"):
        record(lambda tensors: tensors[0].as_subclass(Tagged) + 1, given()[:1], {}, compiled=False)


def test_a_parameter_that_is_returned_is_refused():
    alias = WEIGHT.detach()
    with pytest.raises(pm.UnsupportedProgramError, match="shares memory with 'weight'"):
        record(lambda tensors: [tensors[0], alias], given()[:1], {"weight": WEIGHT}, compiled=False)


def test_draws_are_drawn_anew():
    made = record(lambda tensors: tensors[0] + torch.randn(2, 3, **FLOAT64), given()[:1], {}, compiled=False)
    x = torch.zeros(2, 3, **FLOAT64)
    assert not torch.equal(made.replay([x]), made.replay([x]))


def test_nothing_holds_the_tensors_of_the_run():
    seen = []

    def function(tensors):
        x = tensors[0].detach().requires_grad_()
        inner = x.exp()
        [slope] = torch.autograd.grad((inner * x).sin().sum(), x, create_graph=True)
        seen.extend(weakref.ref(value) for value in (x, inner, slope))
        return [slope.detach()]

    gc.disable()
    try:
        traced, _ = trace(function, given(), {})
        assert [ref() for ref in seen] == [None] * 3
    finally:
        gc.enable()
    assert len(traced.graph.nodes) > 10


def test_inputs_that_come_later_are_read_after_the_others():
    x, y = given()
    tracing = Tracing([x], {})
    with tracing:
        product = x * SHIFT
    tracing.read([y])
    with tracing:
        total = product + y
    traced = tracing.traced([total])
    assert [node.op for node in traced.graph.nodes][:2] == ["placeholder", "placeholder"]
    graph = torch.fx.GraphModule(traced, traced.graph)
    torch.testing.assert_close(graph(y, x), [y * SHIFT + x], rtol=0, atol=0)
