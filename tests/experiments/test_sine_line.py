"""The Bayesian methods: each method is what its paper says, and the comparison runs."""

import json

import pyro
import pytest
import torch
from PIL import Image
from torch.distributions import Normal

import pyrometa as pm
from experiments import bayesian, sine_line
from pyrometa.tasks import SineLineTasks, TaskSampler

NAMES = ["MAML", "ABML", "BMAML", "PLATIPUS", "VERSA", "Neural Process"]


@pytest.fixture
def tasks():
    return TaskSampler(SineLineTasks(), shots=5, queries=6, seed=0).sample(3)


def made(name, tasks, steps=2):
    method = bayesian.METHODS[name](75, pm.Engine())
    losses = [method.meta.step(*method.arguments(*tasks)) for _ in range(steps)]
    assert all(torch.tensor(losses).isfinite())
    return method


@pytest.mark.parametrize("name", NAMES)
def test_it_trains_and_draws_functions(tasks, name):
    method = made(name, tasks, steps=3)
    draws = method.draws(tasks.support, tasks.query[0])
    assert draws.shape[0] == 3
    assert draws.shape[2] == 6
    assert draws.isfinite().all()
    assert 0.4 < method.noise() != 0.5
    spread = draws.std(1) if draws.shape[1] > 1 else torch.zeros(1)
    assert (spread > 0).all() == (name != "MAML")


@pytest.mark.parametrize("name", ["VERSA", "Neural Process"])
def test_the_encoders_read_the_support_set_in_any_order(tasks, name):
    method = made(name, tasks)
    assert method.meta.steps == 0
    order = torch.tensor([3, 1, 0, 4, 2])
    found = []
    for support in (tasks.support, tuple(rows[:, order] for rows in tasks.support), tasks.query):
        torch.manual_seed(3)
        found.append(method.draws(support, tasks.query[0]))
    torch.testing.assert_close(found[0], found[1], rtol=1e-4, atol=1e-5)
    assert (found[0] - found[2]).abs().max() > 1e-3


def test_abml_scores_all_rows_and_learns_the_prior(tasks):
    method = bayesian.abml(75, pm.Engine())
    _, (x, _) = method.arguments(*tasks)
    assert x.shape == (3, 11, 1)
    _, grads = method.meta.loss_and_grads(*method.arguments(*tasks))
    priors = [name for name in grads if name.startswith("model.layers")]
    assert len(priors) == 6
    assert all(grads[name].abs().sum() > 0 for name in priors)
    assert all(
        name.startswith("guide.") for name in method.meta.adapt(tuple(r[0] for r in tasks.support)).adapted.names
    )


def test_bmaml_particles_repel_each_other(tasks):
    method = made("BMAML", tasks)
    one = tuple(rows[0] for rows in tasks.support)
    adapted = method.meta.adapt(one).adapted.by_name()
    assert {value.shape[0] for value in adapted.values()} == {5}
    assert type(method.meta.inner).__name__ == "SVGD"


def test_platipus_moves_from_its_draw_by_gradient_steps(tasks):
    """One step by hand: shift = -rate * gradient of the misfit at the start that the noise gives."""
    method = bayesian.platipus(75, pm.Engine(), steps=1)
    given, _ = method.arguments(*tasks)
    one = tuple(rows[0] for rows in given)
    adapted = method.meta.adapt(one)
    program = method.meta.model.__self__
    x, y, draw = one[0], one[1], one[-1]

    def misfit(weights):
        return -Normal(program.network(weights, x), program.noise.detach()).log_prob(y[:, 0]).sum()

    loc = program.loc.detach()
    near = loc - program.posterior_rate.detach() * torch.func.grad(lambda w: misfit_of_query(program, one, w))(loc)
    start = near + program.posterior_scale.detach() * draw
    (shift,) = adapted.adapted.parameters()
    torch.testing.assert_close(shift.detach(), -1e-3 * torch.func.grad(misfit)(start), rtol=1e-4, atol=1e-5)


def misfit_of_query(program, one, weights):
    x, y = one[4], one[5]
    return -Normal(program.network(weights, x), program.noise.detach()).log_prob(y[:, 0]).sum()


def test_platipus_learns_where_to_start_and_not_the_shift(tasks):
    method = bayesian.platipus(75, pm.Engine())
    program = method.meta.model.__self__
    before = {name: value.detach().clone() for name, value in program.named_parameters()}
    for _ in range(2):
        method.meta.step(*method.arguments(*tasks))
    moved = {name for name, value in program.named_parameters() if not torch.equal(value, before[name])}
    assert moved == before.keys() - {"shift"}


def test_the_comparison_runs(tmp_path):
    returned = sine_line.main(["--quick", "--methods", "MAML", "Neural Process", "--out", str(tmp_path)])
    assert json.loads((tmp_path / "result.json").read_text()) == returned
    assert list(returned) == ["exact posterior", "MAML", "Neural Process"]
    for runs in returned.values():
        assert set(runs[0]["coverage"]) == {"0.5", "0.8", "0.95"}
    with Image.open(tmp_path / "sine_line.png") as image:
        assert len(set(image.convert("L").get_flattened_data())) > 20
    pyro.clear_param_store()
    again = sine_line.main(["--quick", "--methods", "MAML", "--seeds", "1", "--out", str(tmp_path)])
    assert [run["seed"] for run in again["MAML"]] == [0, 1]
    assert again["Neural Process"] == returned["Neural Process"]


def test_the_exact_posterior_is_calibrated():
    """On 150 tasks; the shares within the bands err by the tasks' own number."""
    test = TaskSampler(SineLineTasks(), shots=5, queries=20, seed=5).sample(150)
    row = sine_line.measured(sine_line.exact(test.support, test.query[0], 50_000), test.query[1])
    for level, share in row["coverage"].items():
        assert abs(share - float(level)) < 5 * (float(level) * (1 - float(level)) / 150) ** 0.5 / 2
    assert row["nll"] < 0.8
    wide = sine_line.measured((torch.zeros(150, 1, 20), torch.ones(150, 1), 20.0), test.query[1])
    assert wide["coverage"]["0.5"] > 0.8
    assert wide["calibration_error"] > 0.2
