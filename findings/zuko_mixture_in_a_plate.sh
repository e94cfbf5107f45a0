#!/usr/bin/env bash
# torch 2.14.1, pyro-ppl 1.9.2, zuko 1.6.0. zuko's GMM can't be the density of data in a Pyro plate, through Pyro's own bridge.
# Seen: the plate expands a distribution by a list, zuko's Mixture adds a torch.Size to it: TypeError (can only concatenate
# list). A MAF in its place runs. Exits non-zero if the GMM runs or the MAF does not.
set -eu
if [ -z "${PYTHON:-}" ]; then
  held=$(mktemp -d)
  trap 'rm -rf "$held"' EXIT
  python3 -m venv "$held/venv"
  PYTHON="$held/venv/bin/python"
  "$PYTHON" -m pip install --quiet torch==2.14.1 pyro-ppl==1.9.2 zuko==1.6.0
fi
"$PYTHON" -W ignore - <<'PROGRAM'
import importlib.metadata as m
import sys

import pyro
import torch
import zuko
from pyro.contrib.zuko import ZukoToPyro

packages = ("torch", "pyro-ppl", "zuko")
assert [m.version(p).split("+")[0] for p in packages] == ["2.14.1", "1.9.2", "1.6.0"], "other versions"


def runs(flow):
    with pyro.plate("data", 5):
        try:
            pyro.sample("x", ZukoToPyro(flow()), obs=torch.zeros(5, 2))
        except TypeError as error:
            return f"TypeError: {error}"
    return "runs"


found = {"MAF": runs(zuko.flows.MAF(2)), "GMM": runs(zuko.flows.GMM(2, components=2))}
for name, what in found.items():
    print(f"{name} in a plate: {what}")
sys.exit(not (found["MAF"] == "runs" and found["GMM"].startswith("TypeError")))
PROGRAM
