#!/usr/bin/env bash
# torch 2.14.1, pyro-ppl 1.9.2. Copying or pickling an autoguide takes the model out of the original, not only of the copy.
# Seen: after copy.deepcopy(guide) of an AutoNormal that was never run, the first call of that guide itself is a TypeError
# ('NoneType' object is not subscriptable). Pickling it does the same. Exits non-zero if the original still runs.
set -eu
if [ -z "${PYTHON:-}" ]; then
  held=$(mktemp -d)
  trap 'rm -rf "$held"' EXIT
  python3 -m venv "$held/venv"
  PYTHON="$held/venv/bin/python"
  "$PYTHON" -m pip install --quiet torch==2.14.1 pyro-ppl==1.9.2
fi
"$PYTHON" -W ignore - <<'PROGRAM'
import copy
import importlib.metadata as m
import pickle
import sys

import pyro
import pyro.distributions as dist
import torch
from pyro.infer.autoguide import AutoNormal

assert (m.version("torch").split("+")[0], m.version("pyro-ppl")) == ("2.14.1", "1.9.2"), "other versions"


def model(x):
    z = pyro.sample("z", dist.Normal(0.0, 1.0))
    pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def runs_after(copied):
    pyro.clear_param_store()
    guide = AutoNormal(model)
    copied(guide)
    try:
        guide(torch.tensor(1.0))
    except TypeError as error:
        return f"TypeError: {error}"
    return "still runs"


found = {name: runs_after(copied) for name, copied in {"deepcopy": copy.deepcopy, "pickle": pickle.dumps}.items()}
for name, what in found.items():
    print(f"the original after {name}: {what}")
sys.exit("still runs" in found.values())
PROGRAM
