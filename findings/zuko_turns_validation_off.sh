#!/usr/bin/env bash
# torch 2.14.1, zuko 1.6.0. `import zuko` turns off the argument validation of all torch distributions, for the whole process.
# Seen: Normal(0, -1) raises before the import and is accepted after it. Exits non-zero if it still raises.
set -eu
if [ -z "${PYTHON:-}" ]; then
  held=$(mktemp -d)
  trap 'rm -rf "$held"' EXIT
  python3 -m venv "$held/venv"
  PYTHON="$held/venv/bin/python"
  "$PYTHON" -m pip install --quiet torch==2.14.1 zuko==1.6.0
fi
"$PYTHON" -W ignore - <<'PROGRAM'
import importlib.metadata as m
import sys

import torch

assert (m.version("torch").split("+")[0], m.version("zuko")) == ("2.14.1", "1.6.0"), "other versions"


def is_refused():
    try:
        torch.distributions.Normal(torch.tensor(0.0), torch.tensor(-1.0))
    except ValueError:
        return True
    return False


before = is_refused()
import zuko  # noqa: E402, F401

after = is_refused()
print(f"a negative scale is refused: before the import {before}, after it {after}")
sys.exit(not (before and not after))
PROGRAM
