"""Ctrl-C and SIGTERM: the step is finished, all is saved, and what is resumed ends with the same bits."""

import json
import signal
import subprocess
import sys
import threading

import pytest
import trained as program
from trained import bits, lines, make_meta, make_trainer, sampler, trained, wait_for

import pyrometa as pm

SIGNALS = [signal.SIGINT, signal.SIGTERM]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A run that nothing stops: its last checkpoint and its log."""
    out = tmp_path_factory.mktemp("whole")
    return bits(trained(out).last), lines(out)


def at(step, *numbers):
    """A callback that has signals come at a step."""

    def callback(moment):
        for number in numbers if moment.step == step else ():
            signal.raise_signal(number)

    return callback


@pytest.mark.parametrize(("step", "number"), [(1, signal.SIGINT), (3, signal.SIGTERM), (6, signal.SIGINT)])
def test_the_step_is_finished_and_the_run_goes_on_from_there(tmp_path, capsys, whole, step, number):
    before = [signal.getsignal(each) for each in SIGNALS]
    with pytest.raises(pm.train.Interrupted) as error:
        trained(tmp_path, checkpoint_every=4, callbacks=[at(step, number)])
    assert (error.value.code, error.value.signal) == (128 + number, number)
    assert [signal.getsignal(each) for each in SIGNALS] == before
    (line,) = capsys.readouterr().err.splitlines()
    path = tmp_path / "checkpoints" / f"step-{step:08d}.safetensors"
    assert line == (
        f"stopped by {number.name} after step {step}, saved as {path}: go on from there by fit(..., resume='last')"
    )
    assert [record["step"] for record in lines(tmp_path)] == list(range(1, step + 1))
    resumed = trained(tmp_path, resume="last", checkpoint_every=4)
    assert resumed.steps == 6
    assert lines(tmp_path) == whole[1]
    assert bits(resumed.last)[1] == whole[0][1]


def test_before_the_first_step_it_goes_on_from_the_beginning(tmp_path, whole):
    class Early(type(sampler())):
        """A sampler that is interrupted as it draws first."""

        def sample(self, size):
            signal.raise_signal(signal.SIGINT)
            return super().sample(size)

    drawn = sampler()
    drawn.__class__ = Early
    with pytest.raises(pm.train.Interrupted):
        make_trainer(tmp_path).fit(make_meta(), drawn, sampler(9))
    drawn.__class__ = Early.__base__
    result = make_trainer(tmp_path).fit(make_meta(), drawn, sampler(9), resume="last")
    assert bits(result.last)[1] == whole[0][1]


def test_the_second_one_ends_it_at_once(tmp_path):
    with pytest.raises(pm.train.Interrupted) as error:
        trained(tmp_path, checkpoint_every=2, callbacks=[at(3, signal.SIGINT, signal.SIGINT)])
    assert error.value.code == 130
    assert [path.name for path in (tmp_path / "checkpoints").glob("*.safetensors")] == ["step-00000002.safetensors"]


def test_another_thread_than_the_main_one_leaves_signals_alone():
    seen = []

    def note(moment):
        seen.append(signal.getsignal(signal.SIGINT))

    before = signal.getsignal(signal.SIGINT)
    thread = threading.Thread(target=lambda: trained(checkpoint_every=None, callbacks=[note]))
    thread.start()
    thread.join()
    assert seen == [before] * 6


def test_without_a_folder_it_says_that_nothing_was_saved(capsys):
    with pytest.raises(pm.train.Interrupted):
        trained(callbacks=[at(2, signal.SIGTERM)], checkpoint_every=None)
    assert capsys.readouterr().err == (
        "stopped by SIGTERM after step 2: nothing was saved, for want of Trainer(out=...)\n"
    )


def started(out, **options):
    """A process that trains."""
    command = [sys.executable, "-W", "ignore", program.__file__, json.dumps([{"out": str(out), **options}])]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.parametrize("number", [pytest.param(signal.SIGINT, marks=pytest.mark.slow), signal.SIGTERM])
def test_a_process_that_is_stopped_has_the_exit_code_and_another_goes_on(tmp_path, whole, number):
    process = started(tmp_path / "out", ready=str(tmp_path / "ready"), slow=0.3)
    wait_for(tmp_path / "ready", process)
    process.send_signal(number)
    err = process.communicate(timeout=60)[1]
    assert process.returncode == 128 + number
    (line,) = err.splitlines()
    assert "resume='last'" in line
    assert bits(trained(tmp_path / "out", resume="last").last) == whole[0]
    assert lines(tmp_path / "out") == whole[1]


@pytest.mark.slow
def test_what_is_killed_goes_on_from_its_last_checkpoint(tmp_path, whole):
    for kill in range(3):
        process = started(tmp_path / "out", resume="last" if kill else None, killed=[0, kill + 2])
        process.communicate(timeout=120)
        assert process.returncode == -signal.SIGKILL
    assert bits(trained(tmp_path / "out", resume="last").last) == whole[0]
    assert lines(tmp_path / "out") == whole[1]
