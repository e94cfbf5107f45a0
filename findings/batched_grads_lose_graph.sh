#!/usr/bin/env bash
# torch 2.14.1 (2.15.0 too). torch.autograd.grad(..., is_grads_batched=True, create_graph=True), and with it
# torch.autograd.functional.jacobian(create_graph=True, vectorize=True): where a backward pass calls a custom
# autograd.Function, the result has no graph through it, silently; one row after the other, and torch.func.vmap, have it.
# Seen: the Jacobian is right in all three; its derivative is 6 x and more by rows, and lacks 6 x if batched.
# Exits non-zero if they agree.
set -eu
if [ -z "${PYTHON:-}" ]; then
  held=$(mktemp -d)
  trap 'rm -rf "$held"' EXIT
  python3 -m venv "$held/venv"
  PYTHON="$held/venv/bin/python"
  "$PYTHON" -m pip install --quiet torch==2.14.1 numpy
fi
"$PYTHON" -W ignore - <<'PROGRAM'
import sys

import torch
from torch.autograd import Function, grad

assert torch.__version__.split("+")[0] == "2.14.1", "another version"
torch.set_default_dtype(torch.float64)


class CubeBackward(Function):
    """The derivative of a cube, with a derivative of its own, and a rule for vmap."""

    generate_vmap_rule = True

    @staticmethod
    def forward(slope, x):
        return slope * 3 * x**2

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, along):
        slope, x = ctx.saved_tensors
        return along * 3 * x**2, along * slope * 6 * x


class Cube(Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, slope):
        return CubeBackward.apply(slope, *ctx.saved_tensors)


def function(x):
    return Cube.apply(x) + x**4


def by_rows(x):
    y = function(x)
    return torch.stack([grad(y, x, row, create_graph=True)[0] for row in torch.eye(len(x))])


def batched(x):
    return grad(function(x), x, torch.eye(len(x)), is_grads_batched=True, create_graph=True)[0]


def by_vmap(x):
    y = function(x)
    return torch.func.vmap(lambda row: grad(y, x, row, create_graph=True)[0])(torch.eye(len(x)))


def functional(x):
    return torch.autograd.functional.jacobian(function, x, create_graph=True, vectorize=True)


x = torch.tensor([1.0, 2.0, 3.0], requires_grad=True)
jacobians = [way(x) for way in (by_rows, batched, functional, by_vmap)]
assert all(torch.equal(jacobian, jacobians[0]) for jacobian in jacobians), "the Jacobians differ"
rows, *wrong, vmap = (grad(jacobian.sum(), x)[0] for jacobian in jacobians)
print(f"by rows {rows.tolist()}, batched {wrong[0].tolist()}, functional {wrong[1].tolist()}, vmap {vmap.tolist()}")
expected = 6 * x.detach() + 12 * x.detach() ** 2
right = torch.allclose(rows, expected) and torch.allclose(vmap, expected)
missing = all(torch.allclose(one, 12 * x.detach() ** 2) for one in wrong)
sys.exit(not (right and missing))
PROGRAM
