#!/usr/bin/env bash
# torch 2.14.1. Kumaraswamy.mode is NaN wherever the density has a mode inside (0, 1).
# Seen: for Kumaraswamy(2, 3) the mode is NaN, where ((2 - 1) / (2 * 3 - 1)) ** (1 / 2) = 0.4472 is right and the density is largest on a
# grid at 0.447. Mean and variance agree with draws. Exits non-zero if the mode is finite.
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
from torch.distributions import Kumaraswamy

assert m.version("torch").split("+")[0] == "2.14.1", "another version"

found = {}
for a, b in ((2.0, 3.0), (1.5, 1.5), (5.0, 2.0)):
    kumaraswamy = Kumaraswamy(torch.tensor(a, dtype=torch.double), torch.tensor(b, dtype=torch.double))
    grid = torch.arange(1, 1000, dtype=torch.double) / 1000
    found[a, b] = kumaraswamy.mode.item(), grid[kumaraswamy.log_prob(grid).argmax()].item(), ((a - 1) / (a * b - 1)) ** (1 / a)
for (a, b), (mode, on_grid, right) in found.items():
    print(f"Kumaraswamy({a}, {b}): mode {mode}, largest density at {on_grid:.3f}, by the formula {right:.4f}")
seen = all(mode != mode and abs(on_grid - right) < 1e-3 for mode, on_grid, right in found.values())
sys.exit(not seen)
PROGRAM
