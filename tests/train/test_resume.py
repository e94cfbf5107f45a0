"""A run that is resumed from any of its checkpoints ends with the bits of one that was not interrupted."""

import shutil

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoIAFNormal
from trained import SOURCES, STEPS, bits, lines, trained

import pyrometa as pm


class Copies:
    """Keeps every checkpoint."""

    def __init__(self, folder):
        self.folder = folder
        folder.mkdir()

    def on_checkpoint(self, moment):
        shutil.copy(moment.checkpoint, self.folder)


def whole_run(folder, **options):
    """A run from its first step to its last: result, last checkpoint, log, and the checkpoint after each step."""
    copies = Copies(folder / "copies")
    result = trained(folder / "whole", callbacks=[copies], **options)
    paths = {int(path.stem.removeprefix("step-")): path for path in copies.folder.iterdir()}
    return result, bits(result.last), lines(folder / "whole"), paths


def check_resumed(folder, steps, **options):
    result, last, log, paths = whole_run(folder, **options)
    for step in steps:
        resumed = trained(
            folder / f"from-{step}", resume=paths[step], callbacks=[Copies(folder / f"c{step}")], **options
        )
        assert bits(resumed.last) == last, step
        assert lines(folder / f"from-{step}") == log
        assert (resumed.best_step, resumed.best_loss) == (result.best_step, result.best_loss)


@pytest.mark.parametrize("source", SOURCES)
def test_resumed_in_and_after_an_epoch_it_ends_with_the_same_bits(tmp_path, source):
    check_resumed(tmp_path, (2, 3), source=source)


def test_resumed_after_any_step_it_ends_with_the_same_bits(tmp_path):
    check_resumed(tmp_path, range(1, STEPS + 1), engine="loop")


def test_resumed_without_a_seed_it_ends_with_the_same_bits(tmp_path):
    check_resumed(tmp_path, (3,), source="function", engine="loop", seed=None)


@pytest.mark.slow
def test_a_recorded_run_ends_with_the_same_bits(tmp_path):
    check_resumed(tmp_path, (3,), engine="recorded", validate_every=6)


def test_what_a_guide_draws_at_first_and_does_not_learn_is_resumed_too(tmp_path):
    """The permutations of a flow, which are buffers."""

    def fit(out, resume=None):
        pyro.clear_param_store()
        torch.manual_seed(len(out))  # two programs that draw other permutations, if these were not saved
        guide = AutoIAFNormal(model, num_transforms=2)
        meta = pm.MetaSVI(model, guide, pyro.optim.Adam({"lr": 0.05}), steps=1, adapt="guide", engine=pm.Engine(False))
        train = torch.randn(2, 4, 1, generator=torch.Generator().manual_seed(1))
        trainer = pm.Trainer(max_steps=4, out=tmp_path / out, checkpoint_every=2, progress=False, seed=len(out))
        return trainer.fit(meta, train, resume=resume).last

    def model(x):
        z = pyro.sample("z", dist.Normal(torch.zeros(3), 1.0).to_event(1))
        with pyro.plate("rows", len(x)):
            pyro.sample("x", dist.Normal(z.sum(), 1.0), obs=x[:, 0])

    fit("whole")
    first, last = sorted((tmp_path / "whole" / "checkpoints").glob("step-*"))
    assert bits(fit("resumed", resume=first)) == bits(last)


@pytest.mark.slow
def test_a_recorded_run_resumed_after_any_step_ends_with_the_same_bits(tmp_path):
    check_resumed(tmp_path, range(1, STEPS + 1), engine="recorded")
