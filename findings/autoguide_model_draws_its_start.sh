#!/usr/bin/env bash
# torch 2.14.1, pyro-ppl 1.9.2. The model attribute of an autoguide is not the model that was given: it draws each latent site
# where the guide starts, so prior draws from guide.model are not of the prior.
# Seen: 1,000 draws of Normal(0, 1) by Predictive have a standard deviation of 1.02 from the model, of 0.00 from guide.model of
# AutoNormal, AutoStructured and AutoGaussian, and of 0.31 (medians of a few draws) from that of AutoDelta and
# AutoMultivariateNormal. Exits non-zero if any is above a half.
set -eu
if [ -z "${PYTHON:-}" ]; then
  held=$(mktemp -d)
  trap 'rm -rf "$held"' EXIT
  python3 -m venv "$held/venv"
  PYTHON="$held/venv/bin/python"
  "$PYTHON" -m pip install --quiet torch==2.14.1 pyro-ppl==1.9.2
fi
"$PYTHON" -W ignore - <<'PROGRAM'
import importlib.metadata as m
import sys

import pyro
import pyro.distributions as dist
import torch
from pyro.infer import Predictive
from pyro.infer.autoguide import AutoDelta, AutoGaussian, AutoMultivariateNormal, AutoNormal, AutoStructured

assert (m.version("torch").split("+")[0], m.version("pyro-ppl")) == ("2.14.1", "1.9.2"), "other versions"


def model(x):
    z = pyro.sample("z", dist.Normal(0.0, 1.0))
    pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def deviation(program):
    torch.manual_seed(0)
    return Predictive(program, num_samples=1000)(torch.tensor(1.0))["z"].std().item()


kinds = AutoNormal, AutoDelta, AutoMultivariateNormal, AutoStructured, AutoGaussian
found = {kind.__name__: deviation(kind(model).model) for kind in kinds}
print(f"standard deviation of prior draws from the model: {deviation(model):.2f}")
for name, value in found.items():
    print(f"from {name}(model).model: {value:.2f}")
sys.exit(any(value > 0.5 for value in found.values()))
PROGRAM
