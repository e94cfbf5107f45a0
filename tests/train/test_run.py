"""What happens to a run: it ends early, skips, tells callbacks and whoever watches, and leaves all as it was."""

import json
import random

import numpy as np
import pytest
import torch
from torch.optim.lr_scheduler import ExponentialLR
from trained import STEPS, bad, lines, make_meta, make_trainer, sampler, trained

import pyrometa as pm
from pyrometa.train.state import State


def losses_of(result):
    return [record["loss"] for record in result.history]


def validations_of(result):
    return {record["step"]: record["validation"] for record in result.history if "validation" in record}


def test_it_ends_when_patience_does(tmp_path):
    options = {"max_steps": 20, "validate_every": 1, "patience": 3, "callbacks": [Worse()], "schedule": None}
    result = trained(tmp_path, **options)
    values = validations_of(result)
    best = min(values, key=values.get)
    assert (result.ended, result.steps) == ("patience", best + 3)
    assert (result.best_step, result.best_loss) == (best, values[best])
    names = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    kept = sorted({best, best + 2, best + 3})
    assert names == ["best.json", *(f"step-{step:08d}.safetensors" for step in kept)]
    assert json.loads((tmp_path / "checkpoints" / "best.json").read_text())["step"] == best
    assert result.best.name == f"step-{best:08d}.safetensors"
    again = trained(tmp_path, resume="last", **options)
    assert (again.ended, again.steps, again.history) == ("patience", best + 3, result.history)
    shorter = trained(tmp_path, resume="best", **{**options, "max_steps": best + 1, "callbacks": ()})
    assert (shorter.steps, lines(tmp_path)[:-1]) == (best + 1, lines(tmp_path)[:best])
    assert [record["step"] for record in lines(tmp_path)] == list(range(1, best + 2))


class Worse(pm.train.Callback):
    """After step 2 what is learned gets worse; it may fail."""

    def __init__(self, fails_at=None):
        self.fails_at = fails_at

    def on_step(self, moment):
        if moment.step > 2:
            with torch.no_grad():
                dict(moment.meta.named_parameters())["guide.mean"].add_(5.0)
        if moment.step == self.fails_at:
            raise ArithmeticError("as asked")


def checkpoints_in(out):
    return [int(path.stem.removeprefix("step-")) for path in sorted((out / "checkpoints").glob("*.safetensors"))]


def test_a_run_that_goes_back_to_the_best_and_is_lost_goes_on_from_there(tmp_path):
    """And not from the steps that were left behind."""
    options = {"validate_every": 1, "schedule": None}
    best = trained(tmp_path, callbacks=[Worse()], **options).best_step
    assert checkpoints_in(tmp_path) == [best, 5, 6]
    with pytest.raises(ArithmeticError):
        trained(tmp_path, resume="best", callbacks=[Worse(fails_at=best + 2)], **{**options, "checkpoint_every": 10})
    assert checkpoints_in(tmp_path)[-1] in (best + 1, best + 2)
    again = trained(tmp_path, resume="last", callbacks=[Worse()], **options)
    assert [record["step"] for record in again.history] == list(range(1, 7))


def test_a_run_that_goes_back_to_before_the_best_forgets_it(tmp_path):
    options = {"validate_every": 1, "schedule": None}
    result = trained(tmp_path, **options)
    assert (result.best_step, checkpoints_in(tmp_path)) == (6, [5, 6])
    path = tmp_path / "checkpoints" / "step-00000005.safetensors"
    worse = trained(tmp_path, resume=path, callbacks=[Worse()], **{**options, "max_steps": 8, "validate_every": 8})
    assert worse.best_step == 5
    noted = json.loads((tmp_path / "checkpoints" / "best.json").read_text())
    assert (noted["step"], noted["validation"]) == (worse.best_step, worse.best_loss)
    assert (tmp_path / "checkpoints" / noted["checkpoint"]).is_file()


def test_another_runs_checkpoint_is_not_taken_for_the_best(tmp_path):
    options = {"validate_every": 1, "schedule": None}
    first = trained(tmp_path / "a", callbacks=[Worse()], **options)
    trained(tmp_path / "b", **{**options, "max_steps": first.best_step, "seed": 5})
    going_on = {**options, "max_steps": 8, "validate_every": 8}
    result = trained(tmp_path / "b", resume=first.last, **going_on)
    assert result.best_step == first.best_step
    assert result.best is None
    assert not (tmp_path / "b" / "checkpoints" / "best.json").exists()


def test_a_best_checkpoint_that_is_gone_is_told(tmp_path):
    trained(tmp_path, validate_every=1).best.unlink()
    with pytest.raises(pm.CheckpointError, match=r"is gone: resume='last'"):
        trained(tmp_path, resume="best", validate_every=1)


def test_a_checkpoint_is_one_of_its_meta_svi(tmp_path):
    meta, fresh = make_meta(), make_meta()
    result = make_trainer(tmp_path).fit(meta, sampler(), sampler(9))
    fresh.load(result.last)
    fresh.init(sampler().sample(2).support)
    for (name, leaf), (_, other) in zip(meta.named_parameters(), fresh.named_parameters(), strict=True):
        assert torch.equal(leaf, other), name


def test_skipped_steps_are_counted_and_no_more_than_allowed(tmp_path):
    options = {"source": "bad", "on_nonfinite": "skip", "schedule": lambda optimizer: ExponentialLR(optimizer, 0.9)}
    result = trained(tmp_path / "a", **options)
    assert (result.skipped, result.steps) == (1, STEPS)
    assert [record["loss"] is None for record in result.history] == [False, False, True, False, False, False]
    assert [record["skipped"] for record in lines(tmp_path / "a")] == [0, 0, 1, 1, 1, 1]
    with pytest.raises(pm.NonFiniteError, match="0 meta-steps were skipped before, no more than max_skipped=0"):
        trained(tmp_path / "b", max_skipped=0, **options)


def test_what_is_not_finite_is_raised_after_the_state_before_was_saved(tmp_path):
    batches = [sampler().sample(3), sampler(1).sample(3), bad(2), sampler(2).sample(3)]
    for resume in (None, "last"):
        with pytest.raises(pm.NonFiniteError, match="task 2") as error:
            make_trainer(tmp_path, checkpoint_every=6, validate_every=6).fit(make_meta(), batches, sampler(9), resume)
        assert error.value.task == 2
        (path,) = (tmp_path / "checkpoints").glob("*.safetensors")
        assert path.name == "step-00000002.safetensors"


def test_an_improvement_is_waited_for_anew():
    state = State()
    for loss, waited, best in ((3.0, 0, 3.0), (4.0, 1, 3.0), (2.0, 0, 2.0), (None, 1, 2.0), (2.0, 2, 2.0)):
        state.validated(loss)
        assert (state.waited, state.best_loss) == (waited, best)


def test_a_validation_loss_that_is_not_finite_is_raised_or_no_improvement(tmp_path):
    support, query = sampler(9).sample(2)
    support[0][1] *= 1e30
    with pytest.raises(pm.NonFiniteError):
        make_trainer(tmp_path / "a").fit(make_meta(), sampler(), (support, query))
    result = make_trainer(tmp_path / "b", on_nonfinite="skip").fit(make_meta(), sampler(), (support, query))
    assert (validations_of(result), result.best_step) == ({2: None, 4: None, 6: None}, None)


class Everything(pm.train.Callback):
    """Notes what it is told, and counts."""

    def __init__(self):
        self.told, self.count = [], 0

    def on_step(self, moment):
        self.count += 1
        self.told.append(("step", moment.step, moment.loss is not None))

    def on_validation(self, moment):
        self.told.append(("validation", moment.step, moment.validation is not None))

    def on_checkpoint(self, moment):
        self.told.append(("checkpoint", moment.step, moment.checkpoint.exists()))

    def on_end(self, moment):
        self.told.append(("end", moment.step, True))

    def state_dict(self):
        return {"count": self.count}

    def load_state_dict(self, state):
        self.count = state["count"]


def test_callbacks_are_told_saved_and_may_end_the_run(tmp_path):
    everything = Everything()
    result = trained(tmp_path, callbacks=[everything, lambda moment: moment.step == 3], checkpoint_every=2)
    assert (result.ended, result.steps) == ("callback", 3)
    assert everything.told == [
        *[("step", 1, True), ("step", 2, True), ("validation", 2, True), ("checkpoint", 2, True), ("step", 3, True)],
        ("end", 3, True),
    ]
    again = Everything()
    result = trained(tmp_path, callbacks=[again, lambda moment: None], resume="last")
    assert (again.count, result.steps) == (6, 6)


def generators():
    return torch.get_rng_state().tolist(), np.random.get_state()[1].tolist(), random.getstate()  # noqa: NPY002


def test_the_generators_are_left_where_they_were_and_the_seed_is_all_that_counts():
    before = generators()
    first = trained(source="function", checkpoint_every=None)
    assert generators() == before
    torch.manual_seed(99)
    np.random.seed(99)  # noqa: NPY002
    random.seed(99)
    assert losses_of(trained(source="function", checkpoint_every=None)) == losses_of(first)
    assert losses_of(trained(source="function", checkpoint_every=None, seed=5)) != losses_of(first)


def test_lines_are_few_and_tell_how_far_it_is(capsys):
    trained(max_steps=60, progress=True, checkpoint_every=None, validate_every=30)
    written = capsys.readouterr().err.splitlines()
    assert len(written) == 20
    assert written[9].startswith("step 30/60, loss ")
    assert all(part in written[9] for part in (", validation ", " tasks/s, ", " left"))
    validation = written[9].split(", ")[2]
    assert f", {validation} at 30, " in written[10]
    assert "validation" not in written[8]
    trained(checkpoint_every=None, progress=False)
    assert capsys.readouterr() == ("", "")


def test_a_terminal_has_a_bar(capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    trained(checkpoint_every=None, progress=True)
    shown = capsys.readouterr().err
    assert "meta-training: 100%" in shown
    assert "loss" in shown.splitlines()[-1]


def test_long_runs_have_about_a_thousand_records(tmp_path):
    options = {"max_steps": 2500, "validate_every": 2500, "checkpoint_every": 5, "schedule": None}
    trained(tmp_path, callbacks=[lambda moment: moment.step == 5], **options)
    result = trained(tmp_path, resume="last", callbacks=[lambda moment: moment.step == 7], **options)
    every = losses_of(trained(checkpoint_every=None, schedule=None, max_steps=7, validate_every=7))
    expected = [sum(every[:3]) / 3, sum(every[3:6]) / 3]
    assert [(record["step"], record["loss"]) for record in result.history] == list(zip((3, 6), expected, strict=True))


def test_tensorboard_has_the_numbers_and_hides_what_came_after_a_checkpoint(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def scalars(name):
        events = EventAccumulator(str(tmp_path)).Reload()
        return {event.step: event.value for event in events.Scalars(name)}

    result = trained(tmp_path, logger=("jsonl", "tensorboard"))
    assert scalars("loss") == pytest.approx({record["step"]: record["loss"] for record in result.history})
    assert scalars("validation") == pytest.approx(validations_of(result))
    assert scalars("adaptation/0")[2] == pytest.approx(result.history[1]["adaptation"][0])
    trained(tmp_path, logger="tensorboard", resume="last", max_steps=8)
    assert list(scalars("loss")) == list(range(1, 9))


def test_the_curves_are_drawn(tmp_path):
    result = trained(tmp_path)
    assert (tmp_path / "curves.png").read_bytes()[:4] == b"\x89PNG"
    losses, adaptation = result.plot().axes
    assert [line.get_label() for line in losses.lines] == ["training", "validation"]
    assert losses.lines[0].get_ydata().tolist() == losses_of(result)
    assert adaptation.lines[1].get_ydata()[-1] == result.best_loss
    without = make_trainer(validate_every=None, checkpoint_every=None).fit(make_meta(), sampler())
    assert len(without.plot().axes) == 1
