#!/usr/bin/env bash
# torch 2.14.1. torch.func.functional_call of a module that checkpoints (use_reentrant=False): the backward pass runs the network
# again with the module's own weights instead of those given. Seen: the gradient is that of neither; nothing raises.
# Exits non-zero if the gradient is right.
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
from torch.utils.checkpoint import checkpoint

assert torch.__version__.split("+")[0] == "2.14.1", "another version"
torch.set_default_dtype(torch.float64)
torch.manual_seed(0)


class Net(nn.Module):
    def __init__(self, checkpointed):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 1))
        self.checkpointed = checkpointed

    def forward(self, x):
        return checkpoint(self.layers, x, use_reentrant=False) if self.checkpointed else self.layers(x)


own = Net(False).state_dict()
given = {name: value + torch.randn_like(value) for name, value in own.items()}
x = torch.randn(5, 3)


def gradient(checkpointed):
    net = Net(checkpointed)
    net.load_state_dict(own)
    weights = {name: value.clone().requires_grad_() for name, value in given.items()}
    loss = torch.func.functional_call(net, weights, (x,)).pow(2).sum()
    grads = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
    return torch.cat([torch.zeros_like(v).flatten() if g is None else g.flatten() for v, g in zip(weights.values(), grads)])


right, got = gradient(False), gradient(True)
off = ((got - right).norm() / right.norm()).item()
print(f"the gradient through the checkpoint is off by {off:.3f} of its size")
sys.exit(off < 0.1)
PROGRAM
