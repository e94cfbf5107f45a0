"""The command in processes of its own: interrupted, gone on with, and under torchrun."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import pyrometa as pm

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests" / "cases")])}
TRAIN = [sys.executable, "-m", "pyrometa", "train"]


def started(command, folder):
    return subprocess.Popen(
        command, cwd=folder, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def wait_for_checkpoint(folder, process):
    until = time.monotonic() + 120
    while not list(folder.glob("run/checkpoints/step-*")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < until
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow)]
)
def test_an_interrupt_ends_with_its_code_and_says_how_to_go_on(folder, number, code):
    settings = ["--set", "trainer.max_steps=100000", "--set", "trainer.checkpoint_every=1"]
    process = started([*TRAIN, *settings], folder)
    wait_for_checkpoint(folder, process)
    process.send_signal(number)
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (code, "")
    (line,) = err.splitlines()
    assert line.startswith(f"stopped by {number.name} after step ")
    assert line.endswith(": go on from there by pyrometa train run --resume last")


@pytest.mark.slow
def test_torchrun_trains_by_a_recipe_as_one_process_does(folder, said):
    assert said("train", "--set", "trainer.out=alone")[0] == 0
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "pyrometa"]
    process = started([*launch, "train"], folder)
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    assert out.count("step 4 (max_steps)") == 1
    name = "checkpoints/step-00000004.safetensors"
    alone, together = (pm.saving.read(folder / run / name, kind="meta")["parameters"] for run in ("alone", "run"))
    assert alone.keys() == together.keys()
    for leaf in alone:
        assert abs(alone[leaf] - together[leaf]).max() < 1e-5
