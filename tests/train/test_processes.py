"""Runs of several processes that torchrun starts: the numbers of one, and the same bits when resumed."""

import json
import os
import signal
import subprocess
import sys

import pytest
import trained as program
from trained import bits, lines, trained, wait_for

TORCHRUN = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]


def torchrun(*cases, flags=()):
    command = [*TORCHRUN, *flags, program.__file__, json.dumps(cases)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def results(process):
    """What each process gives, case by case."""
    try:
        out, err = process.communicate(timeout=200)
    finally:
        process.terminate()  # with those that it has started, if they wait for each other
    assert process.returncode == 0, err
    told = dict(json.loads(line) for line in out.splitlines())
    return list(zip(told[0], told[1], strict=True))


def ends(out):
    """What a run has come to: its last checkpoint and its log."""
    return bits(out / "checkpoints" / "step-00000006.safetensors"), lines(out)


def test_two_processes_give_what_one_gives_the_same_bits_when_resumed_and_fail_together(tmp_path):
    kept = str(tmp_path / "kept.safetensors")
    whole, resumed, bad, others, numbers = results(
        torchrun(
            {"out": str(tmp_path / "whole"), "kept": [3, kept]},
            {"out": str(tmp_path / "resumed"), "resume": kept},
            {"source": "bad"},
            {"source": "others"},
            {"source": "numbers"},
        )
    )
    trained(tmp_path / "alone")
    for one, other in zip(lines(tmp_path / "alone"), lines(tmp_path / "whole"), strict=True):
        assert other == {key: value if value is None else pytest.approx(value, rel=1e-4) for key, value in one.items()}
    assert ends(tmp_path / "resumed") == ends(tmp_path / "whole")
    assert whole[0] == whole[1] == resumed[0] == resumed[1]
    for own in bad:
        assert own["error"].startswith("NonFiniteError: task 2, ")
    for own in others:
        assert own["error"].startswith("ProcessError: processes have different meta-batches")
        assert own["error"].endswith("no DistributedSampler")
    for own in numbers:
        assert own["error"].startswith("ProcessError: processes have different random generators")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    out = tmp_path_factory.mktemp("undisturbed")
    results(torchrun({"out": str(out)}))
    return ends(out)


@pytest.mark.slow
@pytest.mark.parametrize(("rank", "late"), [(0, 1), (1, 0)])
def test_after_a_process_is_lost_the_run_ends_with_the_same_bits(tmp_path, undisturbed, rank, late):
    results(torchrun({"out": str(tmp_path), "killed": [rank, 4], "late": late}, flags=["--max-restarts=3"]))
    assert ends(tmp_path) == undisturbed


@pytest.mark.slow
def test_torchrun_is_stopped_and_another_goes_on(tmp_path, undisturbed):
    process = torchrun({"out": str(tmp_path / "out"), "ready": str(tmp_path / "ready"), "slow": 0.5})
    wait_for(tmp_path / "ready", process)
    process.send_signal(signal.SIGTERM)
    err = process.communicate(timeout=120)[1]
    assert err.count("stopped by SIGTERM after step") == 1
    assert process.returncode != 0
    results(torchrun({"out": str(tmp_path / "out"), "resume": "last"}))
    assert ends(tmp_path / "out") == undisturbed
