#!/usr/bin/env bash
# torch 2.14.1. torch.nn.utils.parametrizations.weight_norm: the second derivative is wrong, silently (a fused kernel's backward).
# Seen: autograd and central differences of the gradient differ by more than a tenth; the same norm written by hand agrees.
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
from torch import nn

assert torch.__version__.split("+")[0] == "2.14.1", "another version"
torch.set_default_dtype(torch.float64)
torch.manual_seed(0)
layer = nn.utils.parametrizations.weight_norm(nn.Linear(3, 2))
x, direction = torch.randn(4, 3), torch.randn(2, 3)
weight = layer.parametrizations.weight
g, start = weight.original0.detach(), weight.original1.detach().clone()


def fused(v):
    return torch.func.functional_call(layer, {"parametrizations.weight.original1": v}, x)


def by_hand(v):
    return nn.functional.linear(x, g * v / v.norm(dim=1, keepdim=True), layer.bias)


def off(network):
    def gradient(v):
        v = v.detach().requires_grad_()
        return v, torch.autograd.grad(network(v).pow(2).sum(), v, create_graph=True)[0]

    v, grad = gradient(start)
    twice = torch.autograd.grad((grad * direction).sum(), v)[0]
    ahead, behind = (gradient(start + sign * 1e-5 * direction)[1].detach() for sign in (1, -1))
    difference = (ahead - behind) / 2e-5
    return ((twice - difference).norm() / difference.norm()).item()


print(f"weight_norm is off by {off(fused):.3f}, by hand by {off(by_hand):.1e}")
sys.exit(off(fused) < 0.1 or off(by_hand) > 1e-6)
PROGRAM
