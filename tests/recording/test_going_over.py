"""The default engine goes over to recorded and then compiled steps, after numbers of runs and at no cost in bits."""

import copy
import json
import os
import pickle
import re
import subprocess
import sys
import time

import pyro
import pyro.distributions as dist
import pytest
import torch
from same_bits import same
from torch.testing import assert_close

import pyrometa as pm
from pyrometa.engine.report import report
from pyrometa.recording import background, compiler, going_over, recordings
from pyrometa.recording.background import CannotCompileError, Compilation
from pyrometa.recording.fingerprint import Fingerprint
from pyrometa.recording.recordings import Recordings

RUNS, REPLAYS = 3, 2  # as it is; then replays before compiling starts, and as many again
TAKEN = RUNS + 2 * REPLAYS  # the first compiled run


def model(y):
    mean = pyro.sample("mean", dist.Normal(0.0, 2.0))
    with pyro.plate("data", len(y)):
        pyro.sample("y", dist.Normal(mean, 1.0), obs=y)


def guide(y):
    pyro.sample("mean", dist.Normal(pyro.param("loc", torch.tensor(0.0)), 1.0))


class Here:
    """Graphs told and rebuilt, and not compiled: a stand-in for :class:`Compilation`."""

    def __init__(self, graphs):
        self._graphs = json.loads(json.dumps(graphs))

    def artifacts(self):
        return [self._artifact(**graph) for graph in self._graphs]

    def _artifact(self, inputs, nodes):
        graph = compiler._graph(torch, nodes)

        def run(*given):
            assert [list(value.stride()) for value in given] == [strides for _, strides, _ in inputs]
            return graph(*given)

        return run


class Other(Here):
    """Its results are other ones."""

    def artifacts(self):
        return [lambda *given, run=run: [1.01 * value for value in run(*given)] for run in super().artifacts()]


class Rounding(Here):
    """Its results are rounded otherwise."""

    def _artifact(self, inputs, nodes):
        run = super()._artifact(inputs, nodes)
        return lambda *given: [1.0001 * value for value in run(*given)]


class Refused(Here):
    def artifacts(self):
        raise CannotCompileError("there is no C++ compiler")


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    monkeypatch.setattr(recordings, "_PATIENCE", RUNS)
    monkeypatch.setattr(going_over, "_REPLAYS", REPLAYS)
    monkeypatch.setattr(going_over, "_REPLAYS_OF_ONE", 0)
    monkeypatch.setattr(going_over, "Compilation", Here)


class Toy:
    """A function of a tensor that may be recorded."""

    title, parameters = "a toy", {}

    def __init__(self, label="toy", weight=1.0):
        self.key = self.label = label
        self.weight = weight

    def state(self, known):
        return Fingerprint({"toy": self.weight}, [])

    def tensors(self):
        return [torch.linspace(0.0, 1.0, 8).view(2, 4)]

    def run(self):
        return self.on(self.tensors())

    def on(self, tensors):
        return [(tensors[0].sin().sum(1, keepdim=True) * self.weight).expand(2, 3), tensors[0][:, 1:]]

    def in_parts(self, parts, *, compiled):
        return None

    def told(self, error):
        return str(error)


def ways(owner):
    """How often what was run ran as it is, recorded and compiled."""
    [ran] = owner.ran
    return ran.runs


def toys(count, toy=None, known=None, **options):
    """The report on so many runs of a function."""
    toy, kept = toy or Toy(), known or Recordings(**{"eager": False, "compiled": "auto", **options})
    for _ in range(count):
        made = kept.recording(toy)
        found = toy.run() if made is None else kept.replayed(made, toy)
        kept.ran(toy, made, 1e-3)
        assert_close(found, toy.run())
    return report(kept.accounts.values())


def test_it_goes_over_after_so_many_runs():
    for count, runs in ((RUNS, (3, 0, 0)), (TAKEN - 1, (3, 3, 0)), (TAKEN + 1, (3, 3, 2))):
        assert ways(toys(count)) == runs


@pytest.mark.parametrize("half", [RUNS - 1, RUNS, TAKEN - 1, TAKEN])
def test_counts_go_on_from_a_file(half):
    first = Recordings(eager=False, compiled="auto")
    toys(half, known=first)
    rest = Recordings(eager=False, compiled="auto")
    rest.counts.load_state_dict(first.counts.state_dict())
    whole = ways(toys(TAKEN + 2))
    before, after = ways(report(first.accounts.values())), ways(toys(TAKEN + 2 - half, known=rest))
    assert whole == tuple(map(sum, zip(before, after, strict=True)))


def test_what_is_compiled_at_once_is_what_is_run(monkeypatch):
    monkeypatch.setattr(going_over, "Compilation", Rounding)
    toy, first, rest = Toy(), *(Recordings(eager=False, compiled="auto") for _ in range(2))
    toys(TAKEN - 1, known=first)
    rest.counts.load_state_dict(first.counts.state_dict())
    found = rest.replayed(rest.recording(toy), toy)
    assert not found[0].equal(toy.run()[0])
    assert_close(found, toy.run(), rtol=1e-3, atol=0)


def test_each_state_is_counted_by_itself():
    kept = Recordings(eager=False, compiled="auto")
    first, other = Toy(weight=1.0), Toy(weight=0.5)
    for _ in range(RUNS):
        toys(1, first, kept)
        assert ways(toys(1, other, kept))[1] == 0
    assert ways(toys(1, first, kept)) == (2 * RUNS, 1, 0)


def test_a_change_that_has_no_label_starts_anew():
    kept = Recordings(eager=False, compiled="auto")
    toys(RUNS, Toy(weight=torch.tensor(1.0)), kept)
    assert ways(toys(RUNS, Toy(weight=torch.tensor(2.0)), kept)) == (2 * RUNS, 0, 0)


@pytest.mark.parametrize(
    ("compilation", "why"), [(Other, "compiled it gives other numbers"), (Refused, "there is no C++ compiler")]
)
def test_what_can_not_be_compiled_stays_recorded(compilation, why, monkeypatch):
    monkeypatch.setattr(going_over, "Compilation", compilation)
    found = toys(TAKEN + 1)
    assert ways(found) == (RUNS, TAKEN + 1 - RUNS, 0)
    assert why in str(found)


def test_what_is_large_stays_recorded(monkeypatch):
    monkeypatch.setattr(going_over, "_MOST", 1)
    assert "operations are too many" in str(toys(TAKEN))


def test_other_strides_are_run_by_the_graph_itself():
    class Turned(Toy):
        def tensors(self):
            return [super().tensors()[0].mT.contiguous().mT]

    kept = Recordings(eager=False, compiled="auto")
    toys(TAKEN, known=kept)
    assert ways(toys(1, Turned(), kept)) == (3, 3, 2)


@pytest.mark.parametrize(
    ("options", "runs"),
    [
        ({"compiled": False}, (RUNS, TAKEN - RUNS, 0)),
        ({"eager": True, "compiled": False}, (0, TAKEN, 0)),
        ({"eager": True}, (0, 2 * REPLAYS - 1, TAKEN - 2 * REPLAYS + 1)),
    ],
)
def test_a_choice_means_the_same_whatever_the_other_is(options, runs):
    assert ways(toys(TAKEN, **options)) == runs


def test_the_report_says_what_runs_how():
    [ran] = toys(TAKEN).ran
    assert (ran.title, ran.stage, ran.why) == ("a toy", "compiled", "")
    text = str(toys(TAKEN)).splitlines()
    assert text[0] == "a toy: compiled"
    assert text[1] == "  runs: 3 as it is (1.0 ms each), 3 recorded (1.0 ms each), 1 compiled"
    assert "gained so far: -" in text[2]


def meta_svi(engine=None, steps=1):
    pyro.clear_param_store()
    torch.manual_seed(0)
    optim = pyro.optim.Adam({"lr": 0.01})
    return pm.MetaSVI(model, guide, optim, inner=pm.SGD(0.05), steps=steps, engine=engine)


def losses(meta, count):
    return [meta.step(1.0 + torch.randn(4, 5)) for _ in range(count)]


def test_results_do_not_change_when_steps_go_over_in_parts():
    meta = meta_svi(steps=6)
    found = losses(meta, TAKEN + 2)
    assert ways(meta.engine_report()) == (RUNS, 2 * REPLAYS - 1, 3)
    assert_close(found, losses(meta_svi(pm.Engine(record=False), 6), TAKEN + 2), rtol=1e-6, atol=0)


def test_a_run_goes_over_alike_whenever_it_is_repeated_or_resumed(tmp_path):
    whole = meta_svi()
    found, generators = [], {}
    for run in range(TAKEN + 2):
        if run in (RUNS - 1, TAKEN):
            whole.save(tmp_path / f"{run}.safetensors")
            generators[run] = torch.get_rng_state()
        found += losses(whole, 1)
    assert_close(found, losses(meta_svi(pm.Engine(record=False)), TAKEN + 2), rtol=1e-6, atol=0)
    for run, generator in generators.items():
        rest = meta_svi()
        rest.load(tmp_path / f"{run}.safetensors")
        torch.set_rng_state(generator)
        assert losses(rest, TAKEN + 2 - run) == found[run:]
        assert same(rest.checkpoint(), whole.checkpoint())


def test_a_trainer_goes_on_counting(tmp_path):
    for limit, resume in ((1, None), (2, "last")):
        trainer = pm.Trainer(max_steps=limit, out=tmp_path, progress=False, logger=(), seed=1)
        meta = meta_svi()
        trainer.fit(meta, lambda step: 1.0 + torch.randn(4, 5), resume=resume)
    assert list(meta.checkpoint()["runs"][repr(pm.Engine())]["counts"].values()) == [2]


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda meta: pickle.loads(pickle.dumps(meta))])
def test_a_copy_goes_on_counting(copied):
    meta = meta_svi()
    losses(meta, 2)
    assert copied(meta).checkpoint()["runs"] == meta.checkpoint()["runs"]


def test_a_state_without_counts_is_taken_over():
    meta = meta_svi()
    losses(meta, 2)
    meta.load_state_dict(meta.state_dict())
    assert list(meta.checkpoint()["runs"][repr(pm.Engine())]["counts"].values()) == [2]


def test_what_is_not_to_be_recorded_is_not():
    meta = meta_svi(pm.Engine(record=False))
    losses(meta, RUNS + 1)
    assert meta.recordings() == []
    assert str(meta.engine_report()) == "nothing was run that could be recorded"


def in_python(y):
    """A model that vmap can't run."""
    model(y * (1.0 if y.sum().item() > 0 else 2.0))


@pytest.mark.filterwarnings("ignore:tasks are run one by one")
@pytest.mark.parametrize(
    ("model", "engine", "tasks", "why"),
    [
        (model, pm.Engine(vectorize=False), 4, r"Engine\(vectorize=False\) runs tasks one by one"),
        (model, pm.Engine(), 1, "a single task is as quick by itself"),
        (in_python, pm.Engine(), 4, r"tasks can't be run side by side: .*\.item\(\)"),
    ],
    ids=["asked for", "single", "refused"],
)
def test_a_loop_is_told_of(model, engine, tasks, why):
    meta = pm.MetaSVI(model, guide, pyro.optim.Adam({"lr": 0.01}), engine=engine)
    for _ in range(2):
        meta.evaluate(1.0 + torch.randn(tasks, 5), steps=(1,))
    [ran] = meta.engine_report().ran
    assert (ran.stage, ran.runs) == ("as it is", (2, 0, 0))
    assert re.match(why, ran.why)
    assert f"not quicker: {ran.why}" in str(meta.engine_report())


def test_compiling_needs_a_recording():
    with pytest.raises(ValueError, match="drop record=False"):
        pm.Engine(record=False, compile=True)


@pytest.fixture
def stuck(tmp_path, monkeypatch):
    """A compiler that does not end by itself."""
    (tmp_path / "stuck.py").write_text("import time\ntime.sleep(60)\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(background, "STANDALONE_COMPILE", ("stuck", "main"))


def test_the_compiler_ends_with_what_has_started_it(stuck):
    job = Compilation([{}])
    process, folder = job._process, job._folder
    assert process.poll() is None
    assert folder.exists()
    del job
    assert process.returncode
    assert not folder.exists()


@pytest.mark.skipif(not hasattr(os, "killpg"), reason="tells of its parent's end by its parent's number")
def test_the_compiler_ends_with_its_parent(stuck):
    told = {"parent": -1, "path": sys.path, "graphs": [{}], "module": "stuck", "function": "main"}
    job = Compilation([{}])
    (job._folder / "graphs.json").write_text(json.dumps(told))
    command = [sys.executable, "-I", str(background._SCRIPT), str(job._folder)]
    started = time.monotonic()
    subprocess.run(command, start_new_session=True, check=False)
    assert time.monotonic() - started < 30


def test_a_refusal_of_the_compiler_is_told(monkeypatch):
    monkeypatch.setattr(background, "STANDALONE_COMPILE", ("no_such_module", "main"))
    with pytest.raises(CannotCompileError, match="No module named 'no_such_module'"):
        Compilation([{}]).artifacts()


@pytest.mark.slow
@pytest.mark.parametrize("steps", [1, pytest.param(6, id="in parts")])
def test_inductor(steps, monkeypatch, capfd):
    monkeypatch.setattr(going_over, "Compilation", Compilation)
    meta = meta_svi(steps=steps)
    found = losses(meta, TAKEN + 3)
    assert ways(meta.engine_report()) == (RUNS, 2 * REPLAYS - 1, 4)
    assert losses(meta_svi(steps=steps), TAKEN + 3) == found
    assert_close(found, losses(meta_svi(pm.Engine(record=False), steps), TAKEN + 3), rtol=1e-6, atol=0)
    assert capfd.readouterr() == ("", "")
