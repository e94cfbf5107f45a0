#!/usr/bin/env bash
# arviz 0.23.4, which is what Python 3.10 and 3.11 get. from_dict takes the nested form of arviz 1.x without a word and loses the data.
# Seen: from_dict({"posterior": {...}, "observed_data": {...}}) gives a posterior of one chain and one draw whose variables are objects,
# named posterior and observed_data; no mu, and no group observed_data. Exits non-zero if it raises or if mu is found.
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

draws = numpy.random.default_rng(0).normal(size=(4, 100))
data = arviz.from_dict({"posterior": {"mu": draws}, "observed_data": {"y": numpy.arange(5.0)}})
print("groups:", data.groups(), "variables:", list(data.posterior), "sizes:", dict(data.posterior.sizes))
print("type of the values:", data.posterior["posterior"].dtype)
seen = data.groups() == ["posterior"] and list(data.posterior) == ["posterior", "observed_data"]
sys.exit(not (seen and data.posterior["posterior"].dtype == object and data.posterior.sizes["draw"] == 1))
PROGRAM
