"""Each benchmark runs with tiny sizes, and what is timed has been found to agree."""

import contextlib
import dataclasses
import functools
import importlib
import itertools
import json
import multiprocessing
import sys
import warnings

import pyro
import pytest
import torch
from PIL import Image

from benchmarks import adapt, gpu, measure, memory, meta_step, scaling
from benchmarks.peers import CONTESTANTS, NOISE, OURS, Unavailable
from benchmarks.peers.adapting import ADAPTING
from benchmarks.workloads import FixedNoise, workload

# Imported first, where it is installed: NumPyro adds a warnings filter when imported, which is no leak of a test.
with warnings.catch_warnings(), contextlib.suppress(ModuleNotFoundError):
    warnings.simplefilter("ignore")
    importlib.import_module("numpyro")


@pytest.fixture(autouse=True)
def unvalidated():
    """As `one_core` does for the benchmarks: AutoNormal's Deltas can't be validated under vmap."""
    with pyro.validation_enabled(False):
        yield


DEFAULT = "pyrometa, not recorded"
IN_TORCH = {OURS, DEFAULT, "learn2learn loop", "torch.func vmap", "by hand"}


def exact(kind):
    return dataclasses.replace(workload(kind, 3).quick(), dtype=torch.float64)


EXACT = exact("A")


def in_this_process(builders, rounds):
    """In place of a process for each contestant, which takes seconds to start."""
    contestants = {name: build() for name, build in builders.items()}
    timed = {name: measure.first_step(contestant) for name, contestant in contestants.items()}
    for name, contestant in contestants.items():
        timed[name].seconds = [measure.cpu_seconds(contestant.step) for _ in range(rounds)]
    return timed


def test_meta_step_times_what_agrees(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(meta_step, "interleaved_processes", in_this_process)
    path = tmp_path / "new" / "meta_step.json"
    result = meta_step.main(["--quick", "--workload", "A", "--batch", "2", "--rounds", "1", "--json", str(path)])
    written = json.loads(path.read_text())
    assert written["runs"] == json.loads(json.dumps(result["runs"]))
    assert torch.__version__.startswith(written["versions"]["torch"])
    (run,) = written["runs"]
    assert set(run["cpu_seconds"]) >= IN_TORCH
    assert set(run["cpu_seconds"]) | set(run["absent"]) == set(CONTESTANTS)
    assert all(len(times) == 1 and times[0] > 0 for times in run["cpu_seconds"].values())
    assert run["first_step"][OURS] > run["cpu_seconds"][OURS][0]
    assert list(run["recordings"]) == [OURS]
    assert max(run["relative_errors"].values()) < 1e-12
    table = capsys.readouterr().out
    assert all(name in table for name in CONTESTANTS)
    assert run["recordings"][OURS][0] in table


@pytest.mark.parametrize("kind", ["B", "C"])
def test_all_contestants_agree(kind):
    contestants, absent = meta_step.built(exact(kind))
    assert set(contestants) >= IN_TORCH - {"by hand"}
    assert absent["by hand"] == "written for another network"
    assert max(meta_step.agreement(contestants).values()) < 1e-12


def test_the_noise_of_the_comparison_counts():
    contestant = CONTESTANTS["torch.func vmap"](exact("B"))
    loss, grads = contestant.loss_and_grads()
    contestant._problem.parameters()["guide.scales.layer0.weight"].data += 1
    assert abs(contestant.loss_and_grads()[0] - loss) > 1
    assert all(grad.abs().max() > 1e-3 for grad in grads.values())


class Changed:
    """A contestant that answers with something else."""

    def __init__(self, change):
        self.contestant, self.change = CONTESTANTS["by hand"](EXACT), change

    def loss_and_grads(self):
        return self.change(*self.contestant.loss_and_grads())


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda loss, grads: (loss * (1 + 1e-7), grads), "peer: loss differs"),
        (lambda loss, grads: (float("nan"), grads), "peer: loss differs"),
        (
            lambda loss, grads: (loss, {**grads, "guide.encoder.loc.bias": grads["guide.encoder.loc.bias"] * 1.01}),
            "peer: guide.encoder.loc.bias differs",
        ),
        (lambda loss, grads: (loss, {"other": torch.zeros(())}), "peer: results of other names"),
    ],
    ids=["loss", "not a number", "gradient", "names"],
)
def test_a_peer_that_computes_something_else_is_refused(change, message):
    with pytest.raises(meta_step.Disagreement, match=message):
        meta_step.agreement({OURS: CONTESTANTS[DEFAULT](EXACT), "peer": Changed(change)})


def test_another_inner_rate_is_another_computation():
    other = dataclasses.replace(EXACT, inner_lr=1.1e-3)
    with pytest.raises(meta_step.Disagreement, match=r"torch\.func: .* differs"):
        meta_step.agreement({OURS: CONTESTANTS[DEFAULT](EXACT), "torch.func": CONTESTANTS["torch.func vmap"](other)})


STEPS = [*(("A", name) for name in sorted(IN_TORCH)), *(("B", name) for name in sorted(IN_TORCH - {OURS, "by hand"}))]


@pytest.mark.parametrize(("kind", "name"), STEPS)
def test_a_step_moves_the_leaves_as_adam_does(kind, name):
    contestant = CONTESTANTS[name](exact(kind))
    before, _ = contestant.loss_and_grads()
    for _ in range(10):
        contestant.step()
    after, _ = contestant.loss_and_grads()
    assert after < before - 1


def test_a_missing_package_is_a_reason(monkeypatch):
    monkeypatch.setitem(sys.modules, "learn2learn.algorithms", None)
    monkeypatch.delitem(sys.modules, "benchmarks.peers.learn2learn_loop", raising=False)
    with pytest.raises(Unavailable, match="not installed"):
        CONTESTANTS["learn2learn loop"](EXACT)


def test_memory_is_measured_in_a_process_of_its_own(tmp_path, capsys):
    path = tmp_path / "memory.json"
    memory.main(["--quick", "--contestants", "by hand", "--json", str(path)])
    mib = json.loads(path.read_text())["mib"]["by hand"]
    assert mib["peak"] >= mib["rest"] > 50
    assert mib["first_step"] >= 0
    assert "by hand" in capsys.readouterr().out


@pytest.mark.slow
def test_scaling_draws_its_curves(tmp_path, capsys):
    path, figure = tmp_path / "scaling.json", tmp_path / "scaling.png"
    scaling.main(["--quick", "--rounds", "1", "--axes", "tasks", "--json", str(path), "--figure", str(figure)])
    curves = json.loads(path.read_text())["curves"]
    assert list(curves) == ["tasks"]
    assert set(curves["tasks"]["4"]["median"]) == {"recorded", "not recorded", "low-rank", "dense"}
    assert "guide.encoder.hidden.weight" in curves["tasks"]["4"]["low_rank"]
    assert len(curves["tasks"]["4"]["recordings"]) == 1
    assert "exponent" in capsys.readouterr().out
    with Image.open(figure) as image:
        assert len(set(image.convert("L").resize((90, 66)).get_flattened_data())) > 5


@pytest.mark.slow
def test_adapt_measures_what_agrees(monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(adapt, "in_own_process", lambda function, *args: function(*args))
    path = tmp_path / "adapt.json"
    sizes = ["--tasks", "2", "4", "--chunk", "2", "--longest-loop", "2", "--rounds", "1"]
    adapt.main(["--quick", "--workload", "A", *sizes, "--json", str(path)])
    (run,) = json.loads(path.read_text())["runs"]
    assert max(run["relative_errors"].values()) < 1e-12
    found = {(point["tasks"], point["contestant"]): point for point in run["points"]}
    assert set(found) == {*((2, name) for name in ADAPTING), (4, OURS), (4, DEFAULT)}
    assert all(point["median"] > 0 for point in found.values())
    assert found[2, OURS]["recordings"]
    assert "ms a task" in capsys.readouterr().out


@pytest.mark.parametrize("name", sorted(set(ADAPTING) - {OURS}))
def test_adapted_parameters_are_the_tasks_own(name):
    contestant = ADAPTING[name](exact("B"), 2)
    with FixedNoise(NOISE):
        one, other = (contestant.parameters(guide) for guide in contestant.adapt(2))
    assert one.keys() == other.keys() == exact("B").build().parameters().keys()
    assert not torch.equal(one["guide.locs.layer1.weight"], other["guide.locs.layer1.weight"])


def test_another_adaptation_is_refused(monkeypatch):
    def shorter(work, chunk):
        return ADAPTING["plain SVI"](dataclasses.replace(work, steps=1), chunk)

    monkeypatch.setitem(ADAPTING, OURS, shorter)
    with pytest.raises(meta_step.Disagreement, match="differs from pyrometa's"):
        adapt.agreement(EXACT)


def test_each_contestant_is_timed_in_a_process_of_its_own():
    build = functools.partial(CONTESTANTS["by hand"], EXACT)
    timed = measure.interleaved_processes({"by hand": build}, 2)
    assert len(timed["by hand"].seconds) == 2
    assert min(timed["by hand"].first, *timed["by hand"].seconds) > 0
    assert multiprocessing.active_children() == []


def test_rounds_are_interleaved_and_ratios_taken_within_them(monkeypatch):
    monkeypatch.setattr(measure, "_LEAST", 1e-3)  # of what is this short, several in a row
    order = []
    seconds = measure.interleaved({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 2)
    turns = [name for name, _ in itertools.groupby(order)]
    assert turns == ["a", "b"] * 3
    assert len(order) > 20
    assert {name: len(times) for name, times in seconds.items()} == {"a": 2, "b": 2}
    assert measure.ratio([2.0, 6.0, 30.0], [1.0, 2.0, 10.0]) == 3.0


def test_what_is_measured_on_a_gpu_is_checked_first_and_what_is_left_out_is_said(tmp_path, capsys):
    for what in ("meta-step", "adapt"):
        point = gpu.Point(what, workload("B", 3).quick())
        told = gpu.measured("pyrometa, not recorded", point, rounds=1)
        assert told["relative_error"] < 1e-9 < told["median"] < told["first"]
    path = tmp_path / "gpu.json"
    gpu.main(["--quick", "--device", "cpu", "--limit", "-1", "--json", str(path)])
    written = json.loads(path.read_text())
    assert written["points"] == []
    assert len(written["left_out"]) == 16
    assert "left out: NumPyro, jit(vmap): adapt, B" in capsys.readouterr().out
