"""Sums of products in log space are Pyro's, with two derivatives, and can be batched."""

import pytest
import torch
from pyro.ops.einsum import torch_log
from torch.func import vmap

from pyrometa.elbos import log_space

SIZES = {"a": 2, "b": 3, "c": 4, "é": 2}


def derivatives(einsum, equation, operands):
    """The value, the gradient of a weighted sum of it, and the gradient of a weighted sum of that."""
    operands = [operand.clone().requires_grad_() for operand in operands]
    value = einsum(equation, *operands)
    grads = torch.autograd.grad((weights(value) * value).sum(), operands, create_graph=True)
    total = sum((weights(grad) * grad).sum() for grad in grads)
    return [value, *grads, *torch.autograd.grad(total, operands)]


def weights(like):
    return torch.linspace(1.0, 2.0, like.numel(), dtype=like.dtype).reshape(like.shape)


@pytest.mark.parametrize("spread", [1.0, 60.0], ids=["near", "far apart"])
@pytest.mark.parametrize("equation", ["a->", "ba->a", "ab,b->a", "ab,bc->ca", "ab,bc,ac->", "aé,bé->ba"])
def test_einsum(equation, spread):
    torch.manual_seed(0)
    inputs = equation.split("->")[0].split(",")
    operands = [spread * torch.randn(5, *(SIZES[d] for d in dims), dtype=torch.float64) for dims in inputs]
    if len(inputs) == 1 and spread > 1.0:
        operands[0][0] -= torch.inf
    batched = derivatives(vmap_over(equation), equation, operands)
    looped = derivatives(
        lambda e, *xs: torch.stack([torch_log.einsum(e, *x) for x in zip(*xs, strict=True)]), equation, operands
    )
    for found, expected in zip(batched, looped, strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


def vmap_over(equation):
    return lambda _, *operands: vmap(lambda *each: log_space.einsum(equation, *each))(*operands)


def test_the_slope_of_a_vanishing_sum_is_bounded_as_pyros():
    left, right = torch.tensor([0.0, -50.0]).double(), torch.tensor([-50.0, 0.0]).double()
    found = derivatives(log_space.einsum, "a,a->", [left, right])
    expected = derivatives(torch_log.einsum, "a,a->", [left, right])
    assert 0 < expected[1].abs().max() < 0.1
    for ours, pyros in zip(found, expected, strict=True):
        torch.testing.assert_close(ours, pyros, rtol=1e-12, atol=0)
