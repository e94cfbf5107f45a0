"""The benchmarks of algorithms run at tiny sizes, and measure what they say."""

import json

import pyro
import pytest
import torch
from pyro.infer import Trace_ELBO
from pyro.infer.autoguide import AutoDelta, init_to_value

from benchmarks import algorithms, bayesian_sinusoid, learned_optimizer, sinusoid
from benchmarks.programs import HALF_LOG_PI, BayesianRegression, GroupRegression, Regression, expected_nll, no_latents
from benchmarks.recipes import ALGORITHMS, Setting
from benchmarks.tensors import PeakMemory
from benchmarks.training import interval, one_thread, query_losses, shown
from pyrometa.tasks import SinusoidTasks, TaskSampler


def written(path, result):
    found = json.loads(path.read_text())
    assert {key: found[key] for key in result} == json.loads(json.dumps(result))
    return found


def test_sinusoid_gives_a_row_an_algorithm(tmp_path, capsys):
    path = tmp_path / "new" / "sinusoid.json"
    result = sinusoid.main(["--quick", "--algorithms", "MAML", "ANIL", "--json", str(path)])
    rows = written(path, result)["rows"]
    assert list(rows) == ["MAML", "ANIL"]
    assert list(rows["MAML"]["mse"]) == ["0", "1", "5", "10"]
    assert rows["MAML"]["mse"]["1"]["mean"] < rows["MAML"]["mse"]["0"]["mean"]
    table = capsys.readouterr().out
    assert "1.13 ± 0.18" in table
    assert all(name in table for name in rows)


def test_algorithms_gives_a_table_a_family(tmp_path, capsys):
    path = tmp_path / "algorithms.json"
    result = algorithms.main(
        ["--quick", "--families", "groups", "--algorithms", "MAML", "Reptile", "--json", str(path)]
    )
    rows = written(path, result)["families"]["groups"]["rows"]
    assert list(rows) == ["MAML", "Reptile"]
    assert all(row["mebibytes"] > 0 and row["milliseconds"] > 0 for row in rows.values())
    assert "groups: nats a row on 3 unseen tasks" in capsys.readouterr().out


def test_bayesian_sinusoid_gives_likelihood_and_coverage(tmp_path, capsys):
    path = tmp_path / "bayesian.json"
    rows = written(path, bayesian_sinusoid.main(["--quick", "--json", str(path)]))["rows"]
    assert list(rows)[-1] == "AutoNormal, Adam from scratch, 3 steps"
    assert all(0 <= figures["coverage_0.9"]["mean"] <= 1 for figures in rows.values())
    assert "in the 90% interval" in capsys.readouterr().out


def test_learned_optimiser_is_compared_task_by_task(tmp_path, capsys):
    path = tmp_path / "learned.json"
    found = written(path, learned_optimizer.main(["--quick", "--json", str(path)]))
    assert list(found["programs"]) == list(learned_optimizer.SCORED)
    for counts in found["programs"].values():
        for one in counts.values():
            assert one["gain"]["mean"] == pytest.approx(one["adam"]["mean"] - one["learned"]["mean"], abs=1e-2)
    assert "tuned Adam" in capsys.readouterr().out


def test_the_model_of_sinusoids_has_the_mean_squared_error():
    setting = Setting(
        Regression(8), no_latents, Trace_ELBO(), "model", "model.net.4.*", 0.01, options={"reduction": "mean"}
    )
    tasks = TaskSampler(SinusoidTasks(), shots=5, queries=7, seed=0).sample(4)
    x, y = tasks.query
    net = setting.model.net
    losses = query_losses(ALGORITHMS["MAML"](setting, 1), tasks, (0,), chunk=3)[0] - HALF_LOG_PI
    torch.testing.assert_close(losses, (net(x) - y).square().mean((1, 2)))


def test_the_bayesian_network_is_the_network_at_its_prior_location():
    torch.manual_seed(0)
    net = BayesianRegression(8)
    torch.manual_seed(0)
    plain, x = Regression(8).net, torch.randn(5, 1)
    torch.testing.assert_close(net.mean(net.prior_loc, x), plain(x))
    torch.testing.assert_close(net.mean(net.prior_loc.expand(3, -1), x), plain(x).expand(3, 5, 1))


def test_figures_of_a_task_are_those_of_its_predictive():
    """With a point as the posterior the predictive is a Normal."""
    net = BayesianRegression(8, noise=bayesian_sinusoid.NOISE)
    guide = AutoDelta(net, init_loc_fn=init_to_value(values={"weights": net.prior_loc.detach()}))
    x = torch.linspace(-1, 1, 4000)[:, None]
    guide(x)
    truth = torch.distributions.Normal(net.mean(net.prior_loc, x), bayesian_sinusoid.NOISE)
    y = truth.sample()
    figures = bayesian_sinusoid.one(net, guide, x, y, draws=400)
    assert figures["log_likelihood"] == pytest.approx(truth.log_prob(y).mean().item(), abs=1e-4)
    assert figures["coverage_0.9"] == pytest.approx(0.9, abs=0.02)
    assert figures["coverage_0.5"] == pytest.approx(0.5, abs=0.04)


def test_the_expected_likelihood_has_no_divergence_in_it():
    model, x, y = GroupRegression(2, 0.5), torch.randn(6, 2), torch.randn(6)
    guide = AutoDelta(model)
    weights = guide(x, y)["weights"]
    expected = -torch.distributions.Normal(x @ weights, 0.5).log_prob(y).sum()
    torch.testing.assert_close(expected_nll(model, guide, x, y), expected)


def test_peak_memory_counts_what_lives_at_once():
    rest = torch.zeros(1000)
    with PeakMemory() as memory:
        rest.view(10, 100).t()
        assert memory.peak == 0
        for _ in range(3):
            made = rest + 1.0
        both = made * 2.0
        del made, both
        rest[:10].clone()
    assert memory.peak == 2 * 4000  # never three of them at once
    assert memory.live == 0


def test_a_divergence_is_told_where_it_begins():
    setting = Setting(Regression(8), no_latents, Trace_ELBO(), "model", "model.net.4.*", 1e30)
    tasks = TaskSampler(SinusoidTasks(), shots=5, queries=5, seed=0).sample(2)
    losses = query_losses(ALGORITHMS["MAML"](setting, 1), tasks, (0, 5))
    assert losses[0].isfinite().all()
    assert losses[1].isnan().all()
    assert shown(interval(losses[1])) == "diverges"


def test_one_thread_puts_global_state_back():
    state, threads = torch.get_rng_state(), torch.get_num_threads()
    pyro.param("mine", torch.ones(()))
    with one_thread():
        torch.manual_seed(3)
        pyro.clear_param_store()
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads
    assert list(pyro.get_param_store().keys()) == ["mine"]


def test_the_interval_of_known_values():
    found = interval(torch.tensor([1.0, 3.0, 1.0, 3.0]))
    assert found["mean"] == 2.0
    assert found["half_width"] == pytest.approx(1.96 * (4 / 3) ** 0.5 / 2)
