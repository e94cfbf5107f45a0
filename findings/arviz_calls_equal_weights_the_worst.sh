#!/usr/bin/env bash
# arviz 0.23.4, which is what Python 3.10 and 3.11 get. psislw gives k = inf, its worst verdict, to importance weights that are all equal,
# those of an exact posterior, and k = 0.006, a good one, if they differ by rounding.
# Seen: inf for 1,000 zeros as log weights; below 0.1 for the same with noise of 1e-14; the smoothed weights are right in both. Exits
# non-zero if the first is finite.
set -eu
if [ -z "${PYTHON:-}" ]; then
  held=$(mktemp -d)
  trap 'rm -rf "$held"' EXIT
  python3 -m venv "$held/venv"
  PYTHON="$held/venv/bin/python"
  "$PYTHON" -m pip install --quiet arviz==0.23.4
fi
"$PYTHON" -W ignore - <<'PROGRAM'
import importlib.metadata as m
import sys

import arviz
import numpy

assert m.version("arviz") == "0.23.4", "another version"

equal = numpy.zeros(1000)
rounded = 1e-14 * numpy.random.default_rng(0).normal(size=1000)
found = {name: arviz.psislw(weights.copy()) for name, weights in (("equal", equal), ("rounded", rounded))}
for name, (smoothed, k) in found.items():
    print(f"{name}: k {k}, smoothed weights between {numpy.exp(smoothed).min():.6f} and {numpy.exp(smoothed).max():.6f}")
right = all(numpy.allclose(numpy.exp(smoothed), 1e-3) for smoothed, _ in found.values())
sys.exit(not (right and numpy.isinf(found["equal"][1]) and found["rounded"][1] < 0.1))
PROGRAM
