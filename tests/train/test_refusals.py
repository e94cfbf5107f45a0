"""What can't be done is refused before any work, by name and with the cure."""

import re

import pytest
from trained import make_meta, make_trainer, sampler, trained

import pyrometa as pm
from pyrometa import saving
from pyrometa.errors import CheckpointError
from pyrometa.tasks import SinusoidTasks

OPTIONS = [
    ({"max_steps": 0}, ValueError, "max_steps must be at least 1, got 0"),
    ({"max_steps": 1.5}, TypeError, "max_steps must be an integer, got 1.5"),
    ({"meta_batch": True}, TypeError, "meta_batch must be an integer"),
    ({"validate_every": 0}, ValueError, "validate_every must be at least 1"),
    ({"checkpoint_every": 10}, ValueError, "checkpoint_every needs a folder for the checkpoints: give out="),
    ({"patience": -1}, ValueError, "patience must be at least 1"),
    ({"clip_norm": 0.0}, ValueError, "clip_norm must be positive and finite, got 0.0; None for no clipping"),
    ({"clip_norm": "10"}, TypeError, "clip_norm must be a number"),
    ({"clip_norm": float("nan")}, ValueError, "clip_norm must be positive"),
    (
        {"schedule": 0.1},
        TypeError,
        "schedule must be a function of the torch optimiser to a torch scheduler, got float",
    ),
    ({"logger": ("json",)}, ValueError, "logger 'json' is unknown: give some of 'jsonl', 'tensorboard'"),
    ({"logger": "tensorboard"}, ValueError, "logger 'tensorboard' writes into a folder: give out="),
    ({"callbacks": 3}, TypeError, "callbacks must be a tuple or list, got int"),
    ({"callbacks": [3]}, TypeError, "a callback must be a function of the moment, or have some of on_step"),
    ({"progress": 1}, TypeError, "progress must be True or False"),
    ({"seed": "0"}, TypeError, "seed must be an integer, got '0'"),
    ({"seed": -1}, ValueError, "seed must be at least 0"),
    ({"seed": 2**32}, ValueError, re.escape("seed must be below 2**32")),
    ({"on_nonfinite": "warn"}, ValueError, "on_nonfinite must be 'raise' or 'skip', got 'warn'"),
    ({"max_skipped": -1}, ValueError, "max_skipped must be at least 0"),
]


@pytest.mark.parametrize(("options", "kind", "message"), OPTIONS)
def test_an_option(options, kind, message):
    with pytest.raises(kind, match=message):
        pm.Trainer(**{"max_steps": 3, **options})


@pytest.mark.parametrize("package", ["matplotlib", "tensorboard"])
def test_a_package_that_is_not_there(monkeypatch, tmp_path, package):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == package else name)
    with pytest.raises(ImportError, match=rf"needs {package}: pip install 'pyrometa\[train\]'"):
        pm.Trainer(max_steps=3, out=tmp_path, logger=("jsonl", "tensorboard"))


FITS = [
    ({"train": sampler, "meta_batch": None}, ValueError, "train, a TaskSampler, is asked for so many tasks: give meta"),
    ({"train": lambda: 3}, TypeError, "train must give meta-batches: a sampler of pyrometa.tasks, .* got int"),
    ({"train": SinusoidTasks}, TypeError, r"train is a SinusoidTasks, of which TaskSampler\(SinusoidTasks\(\.\.\.\)"),
    ({"train": lambda: (1, 2, 3)}, TypeError, "a meta-batch is a tuple of 3: give .support, query."),
    ({"train": list}, ValueError, "the iterable of meta-batches ended after 0, and gives none when iterated again"),
    ({"train": lambda: iter([sampler().sample(3)])}, ValueError, "ended after 1, and gives none"),
    ({"meta": lambda: 3}, TypeError, "meta must be a MetaSVI, got int"),
    ({"validation": lambda: None, "patience": 2}, ValueError, "patience=2 needs something"),
    ({"validation": lambda: iter([])}, ValueError, "validation can be iterated only once: give a list"),
    ({"validation": list}, ValueError, "validation has no meta-batch"),
    ({"resume": 3}, TypeError, "resume must be None, 'last', 'best' or a path, got 3"),
    ({"resume": "last"}, ValueError, r"resume='last' looks for checkpoints in out, .* give Trainer\(out=...\)"),
    ({"resume": "lats"}, CheckpointError, "there is no checkpoint lats: give resume='last', 'best' or the path of one"),
    ({"schedule": lambda optimizer: 0.1}, TypeError, "schedule must return a torch scheduler, got float"),
]


@pytest.mark.parametrize(("given", "kind", "message"), FITS)
def test_a_fit(given, kind, message):
    arguments = {"meta": make_meta, "train": sampler, "validation": lambda: sampler(9), "resume": None, **given}
    meta, train, validation = (arguments.pop(name)() for name in ("meta", "train", "validation"))
    resume = arguments.pop("resume")
    with pytest.raises(kind, match=message):
        make_trainer(checkpoint_every=None, **arguments).fit(meta, train, validation, resume)


def test_a_folder_without_a_checkpoint(tmp_path):
    for resume, message in (("last", "has no checkpoint to resume from: start with resume=None"), ("best", "no best")):
        with pytest.raises(CheckpointError, match=message):
            trained(tmp_path, resume=resume)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_with_another_run(tmp_path):
    trained(tmp_path)
    with pytest.raises(ValueError, match=r"holds a run: go on with it by fit\(..., resume='last'\), or give"):
        trained(tmp_path)


def test_checkpoints_that_do_not_suit(tmp_path, capsys):
    run = trained(tmp_path / "run")
    with pytest.raises(CheckpointError, match="the checkpoint was written with schedule: resume it alike"):
        trained(tmp_path / "a", resume=run.last, schedule=None)
    meta = make_meta()
    meta.init(sampler().sample(2).support)
    saving.write(tmp_path / "meta.safetensors", meta.state_dict(), kind="meta")
    with pytest.raises(CheckpointError, match=r"holds parameters and no run: meta\.load"):
        trained(tmp_path / "a", resume=tmp_path / "meta.safetensors")
    run.last.write_bytes(run.last.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match="is truncated"):
        trained(tmp_path / "a", resume=run.last)
    assert trained(tmp_path / "run", resume="last").steps == 6
    assert "is truncated: it has" in capsys.readouterr().err
