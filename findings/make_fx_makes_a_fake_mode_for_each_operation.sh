#!/usr/bin/env bash
# torch 2.14.1 (2.15.0 too). make_fx in its default tracing mode runs on real tensors, yet describes each result by a fake
# tensor, and makes a new FakeTensorMode for each of them, with a stack trace in it. So most of the time of a trace goes
# there: of one of 5,700 operations 14 of 24 seconds under a profiler.
# Seen: tracing 200 additions makes 201 modes, one for the input and one for each result; under tracing_mode="fake" it is one.
# Exits non-zero if that changes.
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
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

assert torch.__version__.split("+")[0] == "2.14.1", "another version"

made = 0
plain = FakeTensorMode.__init__


def counting(self, *args, **kwargs):
    global made
    made += 1
    plain(self, *args, **kwargs)


FakeTensorMode.__init__ = counting


def additions(x):
    for _ in range(200):
        x = x + 1
    return x


def modes(tracing_mode):
    global made
    made = 0
    graph = make_fx(additions, tracing_mode=tracing_mode)(torch.ones(3)).graph
    assert sum(node.op == "call_function" for node in graph.nodes) == 200
    return made


real, fake = modes("real"), modes("fake")
print(f"modes made for 200 operations: {real} on real tensors, {fake} on fake ones")
sys.exit(not (real > 200 and fake <= 2))
PROGRAM
