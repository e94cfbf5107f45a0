"""Each benchmark runs with tiny sizes, and what is timed has been found to agree."""

import contextlib
import functools
import importlib
import json
import multiprocessing
import sys
import warnings

import pytest
import torch
from PIL import Image

from benchmarks import measure, memory, meta_step, scaling
from benchmarks.peers import CONTESTANTS, OURS, Unavailable
from benchmarks.workloads import Workload

# Imported first, where it is installed: NumPyro adds a warnings filter when imported, which is no leak of a test.
with warnings.catch_warnings(), contextlib.suppress(ModuleNotFoundError):
    warnings.simplefilter("ignore")
    importlib.import_module("numpyro")

IN_TORCH = {OURS, "pyrometa, low_rank=False", "learn2learn loop", "torch.func vmap", "by hand"}
EXACT = Workload(dtype=torch.float64).quick()


@pytest.fixture
def in_this_process(monkeypatch):
    """Spares each contestant's process, which takes seconds to start."""

    def timed(builders, rounds):
        return measure.interleaved({name: build() for name, build in builders.items()}, rounds)

    monkeypatch.setattr(meta_step, "interleaved_processes", timed)


@pytest.mark.parametrize("kind", ["A", "C"])
@pytest.mark.usefixtures("in_this_process")
def test_meta_step_times_what_agrees(kind, tmp_path, capsys):
    path = tmp_path / "new" / "meta_step.json"
    result = meta_step.main(["--quick", "--workload", kind, "--batch", "2", "--rounds", "1", "--json", str(path)])
    written = json.loads(path.read_text())
    assert written["runs"] == json.loads(json.dumps(result["runs"]))
    assert torch.__version__.startswith(written["versions"]["torch"])
    (run,) = written["runs"]
    present = IN_TORCH - ({"by hand"} if kind == "C" else set())
    assert present <= set(run["cpu_seconds"])
    assert set(run["cpu_seconds"]) | set(run["absent"]) == set(CONTESTANTS)
    assert all(len(times) == 1 and times[0] > 0 for times in run["cpu_seconds"].values())
    assert max(run["relative_errors"].values()) < 1e-12
    table = capsys.readouterr().out
    assert all(name in table for name in CONTESTANTS)


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
        (lambda loss, grads: (loss, {"other": torch.zeros(())}), "peer: gradients of other parameters"),
    ],
    ids=["loss", "not a number", "gradient", "names"],
)
def test_a_peer_that_computes_something_else_is_refused(change, message):
    with pytest.raises(meta_step.Disagreement, match=message):
        meta_step.agreement({OURS: CONTESTANTS[OURS](EXACT), "peer": Changed(change)})


def test_another_inner_rate_is_another_computation():
    other = Workload(dtype=torch.float64, inner_lr=1.1e-3).quick()
    with pytest.raises(meta_step.Disagreement, match=r"torch\.func: .* differs"):
        meta_step.agreement({OURS: CONTESTANTS[OURS](EXACT), "torch.func": CONTESTANTS["torch.func vmap"](other)})


@pytest.mark.parametrize("name", sorted(IN_TORCH))
def test_a_step_moves_the_leaves_as_adam_does(name):
    contestant = CONTESTANTS[name](EXACT)
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
    assert "by hand" in capsys.readouterr().out


def test_scaling_draws_its_curves(tmp_path, capsys):
    path, figure = tmp_path / "scaling.json", tmp_path / "scaling.png"
    scaling.main(["--quick", "--rounds", "1", "--axes", "tasks", "--json", str(path), "--figure", str(figure)])
    curves = json.loads(path.read_text())["curves"]
    assert list(curves) == ["tasks"]
    assert set(curves["tasks"]["4"]["median"]) == {"auto", "low-rank", "dense"}
    assert "guide.encoder.hidden.weight" in curves["tasks"]["4"]["auto"]
    assert "exponent" in capsys.readouterr().out
    with Image.open(figure) as image:
        assert len(set(image.convert("L").resize((90, 66)).get_flattened_data())) > 5


def test_each_contestant_is_timed_in_a_process_of_its_own():
    build = functools.partial(meta_step.step_of, "by hand", EXACT)
    seconds = measure.interleaved_processes({"by hand": build}, 2)
    assert len(seconds["by hand"]) == 2
    assert min(seconds["by hand"]) > 0
    assert multiprocessing.active_children() == []


def test_rounds_are_interleaved_and_ratios_taken_within_them():
    order = []
    seconds = measure.interleaved({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 2)
    assert order == ["a", "b"] * 3
    assert {name: len(times) for name, times in seconds.items()} == {"a": 2, "b": 2}
    assert measure.ratio([2.0, 6.0, 30.0], [1.0, 2.0, 10.0]) == 3.0
