#!/usr/bin/env bash
# torch 2.14.1. GeneralizedPareto has a gradient of exactly 0 in its concentration where that is 0, so that a tail that begins as the
# exponential one is never learned.
# Seen: log_prob(1.3) has derivative 0.0 at concentration 0, where differences of values say -0.48 and where it is -0.48 at 1e-7; 200 steps
# of Adam on 5,000 draws of concentration 0.3 leave it at 0.0, and from 1e-3 they end at 0.316. Exits non-zero if it leaves 0.
set -eu
if [ -z "${PYTHON:-}" ]; then
  held=$(mktemp -d)
  trap 'rm -rf "$held"' EXIT
  python3 -m venv "$held/venv"
  PYTHON="$held/venv/bin/python"
  "$PYTHON" -m pip install --quiet torch==2.14.1
fi
"$PYTHON" -W ignore - <<'PROGRAM'
import importlib.metadata as m
import sys

import torch
from torch.distributions import GeneralizedPareto

assert m.version("torch").split("+")[0] == "2.14.1", "another version"

torch.set_default_dtype(torch.double)
torch.manual_seed(0)


def density(concentration):
    return GeneralizedPareto(torch.tensor(0.1), torch.tensor(1.0), concentration).log_prob(torch.tensor(1.3))


def derivative(at):
    concentration = torch.tensor(at, requires_grad=True)
    return torch.autograd.grad(density(concentration), concentration)[0].item()


differences = ((density(torch.tensor(1e-4)) - density(torch.tensor(-1e-4))) / 2e-4).item()
print(f"derivative at 0: {derivative(0.0)}, at 1e-7: {derivative(1e-7):.5f}, by differences {differences:.5f}")

draws = GeneralizedPareto(torch.tensor(0.0), torch.tensor(1.0), torch.tensor(0.3)).sample((5000,))


def fitted(start):
    concentration = torch.tensor(start, requires_grad=True)
    adam = torch.optim.Adam([concentration], lr=0.02)
    for _ in range(200):
        adam.zero_grad()
        loss = -GeneralizedPareto(torch.tensor(0.0), torch.tensor(1.0), concentration).log_prob(draws).mean()
        loss.backward()
        adam.step()
    return concentration.item()


from_zero, beside = fitted(0.0), fitted(1e-3)
print(f"fitted from 0: {from_zero}, from 0.001: {beside:.3f}, true 0.3")
seen = derivative(0.0) == 0.0 and from_zero == 0.0 and abs(differences + 0.48) < 1e-3 and abs(beside - 0.3) < 0.05
sys.exit(not seen)
PROGRAM
