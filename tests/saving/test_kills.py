"""``kill -9`` in the midst of saving: the newest whole checkpoint always loads."""

import subprocess
import sys

import pytest

KILLS = '''
import itertools, os, random, signal, sys, time
from pathlib import Path

import torch

from pyrometa import saving

folder, count = Path(sys.argv[1]), int(sys.argv[2])
seed, last, halves = random.Random(0), -1, 0


def save(i):
    state = {"i": i, "tensors": [torch.full((200, 200), float(i)) for _ in range(50)]}
    saving.write(folder / f"{i % 3}.safetensors", state, kind="test")


def killed_while_saving(start, seconds):
    """Save in another process from a number on, and kill it; the last number that it said was written."""
    out, into = os.pipe()
    process = os.fork()
    if process == 0:
        for i in itertools.count(start):
            save(i)
            os.write(into, f"{i} ".encode())
    os.close(into)
    with open(out) as pipe:
        while not (said := os.read(out, 1)):
            pass  # it has begun
        time.sleep(seconds)
        os.kill(process, signal.SIGKILL)
        said = said.decode() + pipe.read()
    assert os.WTERMSIG(os.waitpid(process, 0)[1]) == signal.SIGKILL
    return int(said.split()[-1])


def leftovers():
    return [path for path in folder.iterdir() if path.suffix != ".safetensors"]


for _ in range(count):
    last = killed_while_saving(last + 1, seed.uniform(0.0, 0.2))
    halves += len(leftovers())
    assert len(leftovers()) <= 1, "the next write has removed what others left"
    found = saving.newest(folder, kind="test")
    assert found.refused == (), found.refused
    assert found.state["i"] in (last, last + 1), (last, found.state["i"])
    assert all(bool((part == found.state["i"]).all()) for part in found.state["tensors"])
    last = found.state["i"]
save(last + 1)
assert leftovers() == []
assert saving.newest(folder, kind="test").state["i"] == last + 1
print(halves)
'''


def halves_left(folder, kills):
    """How many of some kills left half a file behind, where each time the newest whole one was found."""
    command = [sys.executable, "-c", KILLS, str(folder), str(kills)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return int(done.stdout)


def test_a_few_kills(tmp_path):
    halves_left(tmp_path, 5)


@pytest.mark.slow
def test_a_hundred_kills(tmp_path):
    assert halves_left(tmp_path, 100) > 10
