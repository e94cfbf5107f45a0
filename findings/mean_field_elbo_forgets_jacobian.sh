#!/usr/bin/env bash
# torch 2.14.1, pyro-ppl 1.9.2. TraceMeanField_ELBO forgets the Jacobian of an autoguide's constrained latent.
# Seen: with the guide at the exact posterior (here the prior, LogNormal(-3, 0.5), no data) it says about -3.0 where 0 is right and
# Trace_ELBO says 0. Exits non-zero if it says 0.
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
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from pyro.infer.autoguide import AutoNormal

assert (m.version("torch").split("+")[0], m.version("pyro-ppl")) == ("2.14.1", "1.9.2"), "other versions"


def model():
    pyro.sample("scale", dist.LogNormal(-3.0, 0.5))


guide = AutoNormal(model, init_loc_fn=lambda site: torch.tensor(-3.0).exp(), init_scale=0.5)
guide()
torch.manual_seed(0)
values = {elbo.__name__: elbo(num_particles=2000).loss(model, guide) for elbo in (Trace_ELBO, TraceMeanField_ELBO)}
print(values)
sys.exit(not (abs(values["Trace_ELBO"]) < 1e-3 and abs(values["TraceMeanField_ELBO"]) > 2.5))
PROGRAM
