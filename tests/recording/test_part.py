"""A part of a longer function: recorded once, replayed under autograd."""

import pytest
import torch

import pyrometa as pm
from pyrometa.engine.forms import Form
from pyrometa.recording.part import record_part


def function(tensors):
    x, y, _ = tensors
    both = x.sin() * y
    first, second = both.split([1, 2], 0)
    return [both, both, x, first.exp() + second.sum(), y.detach() * 2]


def given():
    x, y, other = torch.randn(3, 3, 2, dtype=torch.float64)
    return [x.requires_grad_(), y.requires_grad_(), other]


def recorded(by, function=function):
    return record_part(function, given(), [True, True, False], by, {}, compiled=False)


def test_a_replay_is_differentiated_as_the_function_is():
    part, tensors = recorded([0, 1]), given()
    found, expected = part(tensors), function(tensors)
    torch.testing.assert_close(list(found), expected, rtol=1e-12, atol=1e-14)
    assert [value.requires_grad for value in found] == [True, True, True, True, False]
    weights = [torch.randn_like(value) for value in expected]
    grads, right = (
        torch.autograd.grad(sum((w * value).sum() for w, value in zip(weights, made, strict=True)), tensors[:2])
        for made in (found, expected)
    )
    torch.testing.assert_close(grads, right, rtol=1e-12, atol=1e-14)


def test_by_some_of_its_tensors_or_none():
    tensors = given()
    [grad] = torch.autograd.grad(recorded([1])(tensors)[0].sum(), tensors[1])
    torch.testing.assert_close(grad, tensors[0].sin(), rtol=1e-12, atol=1e-14)
    assert not any(value.requires_grad for value in recorded([])(given()))


def test_any_layout_in_memory():
    """Recorded as views, on tensors and cotangents with other strides."""
    part = recorded([0, 1], lambda tensors: [(tensors[0].reshape(-1) * tensors[1].reshape(-1)).reshape(3, 2)])
    x, y, other = (value.detach().mT.contiguous().mT.requires_grad_() for value in given())
    [grad] = torch.autograd.grad(part([x, y, other])[0].sum(), x)
    torch.testing.assert_close(grad, y, rtol=1e-12, atol=1e-14)


def test_what_writes_to_a_tensor_is_refused():
    with pytest.raises(pm.UnsupportedProgramError, match="writes to tensors"):
        recorded([0], lambda tensors: [tensors[0].clone().cumsum_(0)])


def test_a_form_knows_what_lies_in_the_data():
    data, other = torch.randn(3, 4, 2, 5), torch.randn(3)
    point = {"rows": data.flatten(1, 2), "some": data[:, 1:], "own": [other.requires_grad_(), 7]}
    form, own = Form.of(point, [torch.ones(2), data])
    assert own == [other]
    assert form.on_graph == (True,)
    moved = torch.randn(3, 4, 2, 5)
    filled = form.filled([torch.zeros(3)], [torch.ones(2), moved])
    expected = {"rows": moved.flatten(1, 2), "some": moved[:, 1:], "own": [torch.zeros(3), 7]}
    torch.testing.assert_close(filled, expected, rtol=0, atol=0)
    assert Form.of(filled, [torch.ones(2), moved])[0].key != form.key  # off the graph
