"""Plain SVI of many tasks side by side goes as it does task by task, and the inner loop is scored as it is."""

import pyro
import pytest
import torch
from pyro.infer import SVI
from pyro.infer.autoguide import AutoNormal
from ragged_lines import ELBO, line, lines

import pyrometa as pm
from benchmarks import gains, plain_svi


def test_the_mean_loss_of_ragged_tasks_is_that_of_each_task_by_itself():
    tasks = lines(2, 7, 4)
    problem = plain_svi.Problem(line, AutoNormal, ELBO, tasks, 12_000)
    (loss,) = plain_svi.svi(problem, None, pyro.optim.Adam({"lr": 0.1}), [0])
    guide = AutoNormal(line)
    expected = sum(ELBO.loss(line, guide, *task) / len(task[0]) for task in tasks) / 3
    assert loss == pytest.approx(expected, abs=0.01)


def test_the_inner_loops_losses_are_those_of_svi_at_the_same_parameters():
    tasks = lines(2, 7, 2, 4)
    problem = plain_svi.Problem(line, AutoNormal, ELBO, tasks, 16_000)
    meta = pm.MetaSVI(line, AutoNormal(line), pyro.optim.Adam({"lr": 0.1}), ELBO, pm.SGD(1e-9), 1, reduction="mean")
    (expected,) = plain_svi.svi(problem, None, pyro.optim.Adam({"lr": 0.1}), [0])
    assert gains.adapted(meta, problem).losses == pytest.approx([expected] * 2, abs=0.02)


def test_svi_side_by_side_goes_as_svi_one_by_one():
    tasks = lines(3, 3, 5)
    problem = plain_svi.Problem(line, AutoNormal, ELBO, tasks, 12_000)
    (loss,) = plain_svi.svi(problem, None, pyro.optim.Adam({"lr": 0.05}), [10])
    expected = 0.0
    for task in tasks:
        pyro.clear_param_store()
        guide = AutoNormal(line)
        svi = SVI(line, guide, pyro.optim.Adam({"lr": 0.05}), ELBO)
        for _ in range(10):
            svi.step(*task)
        expected += ELBO.loss(line, guide, *task) / len(task[0]) / 3
    assert loss == pytest.approx(expected, abs=0.02)


def test_a_start_is_taken_over_and_the_param_store_left_alone():
    problem = plain_svi.Problem(line, AutoNormal, ELBO, lines(3, 5), 1000)
    guide = AutoNormal(line)
    guide(*problem.tasks[0])
    optim = pyro.optim.Adam({"lr": 0.1})
    before = dict(pyro.get_param_store().named_parameters())
    start = plain_svi.values(guide)
    (same,) = plain_svi.svi(problem, start, optim, [0])
    (other,) = plain_svi.svi(problem, {**start, "locs.slope_unconstrained": torch.tensor(3.0)}, optim, [0])
    assert other > same + 1
    assert dict(pyro.get_param_store().named_parameters()) == before
