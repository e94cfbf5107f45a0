#!/usr/bin/env bash
# torch 2.14.1 (2.15.0 too). A CPU generator takes 32 bits of a seed: manual_seed documents seeds of 64 bits, initial_seed()
# and seed() tell one of 64, yet seeds that are equal modulo 2**32 give the same numbers. So seeds that are made from hashes
# or from (run, task) pairs as run * 2**32 + task repeat each other silently.
# Seen: 1,000 numbers of seeds 7 and 7 + 2**32, of 7 and 7 + 5 * 2**40, and by torch.manual_seed are equal bit for bit;
# of 7 and 8 they differ.
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

assert torch.__version__.split("+")[0] == "2.14.1", "another version"


def numbers(seed):
    generator = torch.Generator().manual_seed(seed)
    assert generator.initial_seed() == seed, "the seed that is told"
    return torch.rand(1000, generator=generator)


def by_global(seed):
    torch.manual_seed(seed)
    return torch.randn(1000)


same = [(7, 7 + 2**32), (7, 7 + 5 * 2**40)]
equal = [torch.equal(draw(a), draw(b)) for draw in (numbers, by_global) for a, b in same]
differ = not torch.equal(numbers(7), numbers(8))
print(f"equal modulo 2**32: {equal}; 7 and 8 differ: {differ}")
sys.exit(not (all(equal) and differ))
PROGRAM
