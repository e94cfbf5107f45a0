"""Neural processes on Gaussian processes: the exact posterior, what the networks see, and that the run runs."""

import json
import math

import pyro
import pytest
import torch
from PIL import Image
from pyro import poutine
from torch.distributions import MultivariateNormal, Normal

from experiments.results import neural_process_report as report
from experiments.results import neural_processes
from experiments.results.gp_draws import KERNELS, NOISE, draw, exact_log_densities, posterior
from experiments.results.neural_process_networks import AttentiveProcess, MeanProcess
from pyrometa.scores import PredictiveLoss


def drawn(kernel="RBF", tasks=2, rows=5, targets=4):
    return draw(KERNELS[kernel], torch.Generator().manual_seed(0), tasks, rows, targets)


@pytest.mark.parametrize("kernel", KERNELS)
def test_the_exact_posterior_is_the_ratio_of_the_joint_densities(kernel):
    draws = drawn(kernel)
    y = torch.cat([draws.context[1], draws.target[1]], 1).double()
    zero = torch.zeros(9, dtype=torch.float64)
    joint = MultivariateNormal(zero, draws.covariance).log_prob(y)
    context = MultivariateNormal(zero[:5], draws.covariance[:, :5, :5]).log_prob(y[:, :5])
    alone, together = exact_log_densities(draws)
    torch.testing.assert_close(together, (joint - context) / 4)
    mean, covariance = posterior(draws)
    by_hand = Normal(mean, covariance.diagonal(dim1=1, dim2=2).sqrt()).log_prob(y[:, 5:]).mean(1)
    torch.testing.assert_close(alone, by_hand)


def test_kernels_are_those_of_the_protocol():
    length, period = torch.tensor(0.5), torch.tensor(0.25)
    at = {name: kernel(torch.tensor(0.25), length, period).item() for name, kernel in KERNELS.items()}
    assert at["RBF"] == pytest.approx(math.exp(-1 / 8))
    assert at["Matern 5/2"] == pytest.approx((1 + 5**0.5 / 2 + 5 / 12) * math.exp(-(5**0.5) / 2))
    assert at["periodic"] == pytest.approx(1.0)


def test_draws_have_the_scales_of_the_protocol():
    draws = drawn(tasks=2000)
    variance = draws.covariance[:, 0, 0]
    assert variance.min() > 0.01
    assert variance.max() <= 1 + NOISE**2
    standard = draws.context[1][:, 0].double() / variance.sqrt()
    assert standard.var().item() == pytest.approx(1.0, abs=5 * (2 / 2000) ** 0.5)
    assert draws.context[0].abs().max() <= 2


def outputs(process, x, context):
    """The normals of the targets as the guide has read the context."""
    given = (x, torch.zeros_like(x), *context)
    trace = poutine.trace(process.guide.condition(*context, *context)).get_trace(*given)
    return poutine.trace(poutine.replay(process.model, trace)).get_trace(*given).nodes["y"]["fn"]


@pytest.mark.parametrize("make", [MeanProcess, AttentiveProcess])
def test_the_context_is_read_in_any_order_and_targets_one_by_one(make):
    process, draws = make(), drawn()
    x, y = draws.context[0][0], draws.context[1][0]
    at = draws.target[0][0]
    found = outputs(process, at, (x, y))
    order = torch.tensor([3, 1, 0, 4, 2])
    torch.testing.assert_close(outputs(process, at, (x[order], y[order])).loc, found.loc)
    torch.testing.assert_close(outputs(process, at[1:2], (x, y)).loc, found.loc[1:2])
    assert (outputs(process, at, (x, y.flip(0))).loc - found.loc).abs().max() > 1e-6


def test_attention_does_not_see_a_context_point_at_its_own_input():
    process = AttentiveProcess()
    x, y = drawn().context[0][0], drawn().context[1][0]
    z = torch.randn(process.latent)
    changed = y.index_fill(0, torch.tensor([2]), 3.0)
    before, after = (process.network(z, x, x, rows) for rows in (y, changed))
    torch.testing.assert_close(after[2], before[2])
    assert (after - before)[[0, 1, 3, 4]].abs().amin(0).max() > 0


def test_the_score_is_the_log_density_of_the_targets():
    process, draws = AttentiveProcess(), drawn()
    context, target = (tuple(rows[0] for rows in part) for part in (draws.context, draws.target))
    guide = process.guide.condition(*context, *context)
    score = PredictiveLoss(1)(process.model, guide, *target, *context)
    torch.testing.assert_close(score, -outputs(process, target[0], context).log_prob(target[1]).sum())


def test_intervals_are_within_sizes_and_between_seeds():
    sizes = torch.tensor([0.0, 10.0])[:, None] + torch.tensor([-1.0, 1.0, -1.0, 1.0])
    found = report.over([sizes, sizes + 1.0])
    assert found["mean"] == 5.5
    assert found["seeds"] == [5.0, 6.0]
    assert found["half width over tasks"] == pytest.approx(1.96 * (4 / 3 / 8) ** 0.5)
    assert found["half width over seeds"] == pytest.approx(12.706 * 0.5)
    assert report.over([sizes])["half width over seeds"] is None


def test_a_copy_is_trained_on_without_steps_by_as_many_gradient_evaluations(monkeypatch):
    seen = []

    def fit(meta, batches, steps):
        meta.init(next(batches).support)
        seen.append((meta.steps, steps, meta.model.__self__))
        return 0.0

    monkeypatch.setattr(neural_processes, "fit", fit)
    monkeypatch.setattr(neural_processes, "losses_of", lambda meta, test, at: [{} for _ in at])
    args, process = neural_processes.parse(["--mean-steps", "7", "--refining-steps", "2"]), MeanProcess()
    rows = [row for row, _, _ in neural_processes.rows_of("mean pooling", process, 0, args, {})]
    assert rows[:2] == ["mean pooling", "mean pooling, trained on"]
    assert [(steps, meta_steps) for steps, meta_steps, _ in seen] == [(0, 7), (0, 12), (5, 2)]
    assert [of is process for *_, of in seen] == [True, False, True]
    assert not {*map(id, seen[1][2].parameters())} & {*map(id, process.parameters())}


def test_quick(tmp_path, monkeypatch):
    monkeypatch.setattr(neural_processes, "ROWS", {"attention": AttentiveProcess})
    path = tmp_path / "np.json"
    result = neural_processes.main(["--quick", "--seeds", "0", "--json", str(path)])
    pyro.clear_param_store()
    assert json.loads(path.read_text()) == json.loads(json.dumps(result))
    rows, gains = result["log density a target"], result["gain"]
    ends = ("", ", trained on", ", refined, no steps", ", refined, 5 steps")
    assert list(rows) == [f"attention{end}" for end in ends]
    after = rows["attention, refined, 5 steps"]["RBF"]["mean"]
    for before in ("attention, trained on", "attention, refined, no steps"):
        gain = gains[f"attention, refined, 5 steps, over {before}"]["RBF"]["mean"]
        assert gain == pytest.approx(after - rows[before]["RBF"]["mean"], abs=1e-5)
    with Image.open(path.with_suffix(".png")) as image:
        assert min(image.size) > 400
