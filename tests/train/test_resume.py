"""A run that is resumed from any of its checkpoints ends with the bits of one that was not interrupted."""

import shutil

import pytest
from trained import SOURCES, STEPS, bits, lines, trained


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


def test_a_recorded_run_ends_with_the_same_bits(tmp_path):
    check_resumed(tmp_path, (3,), engine="recorded", validate_every=6)


@pytest.mark.slow
def test_a_recorded_run_resumed_after_any_step_ends_with_the_same_bits(tmp_path):
    check_resumed(tmp_path, range(1, STEPS + 1), engine="recorded")
