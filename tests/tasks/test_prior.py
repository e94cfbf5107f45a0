import math

import pyro
import pyro.distributions as dist
import pyro.poutine as poutine
import pytest
import torch
from pyro.infer import config_enumerate

import pyrometa as pm
from pyrometa.tasks import PriorTasks, TaskSampler


def regression(x, y=None):
    slope = pyro.sample("slope", dist.Normal(0.0, 2.0))
    with pyro.plate("rows", len(x)):
        return pyro.sample("y", dist.Normal(slope * x, 1e-4), obs=y)


@config_enumerate
def mixture(data):
    means = pyro.sample("means", dist.Normal(0.0, 50.0).expand([3]).to_event(1))
    weights = pyro.sample("weights", dist.Dirichlet(torch.ones(3)))
    with pyro.plate("data", len(data)):
        k = pyro.sample("k", dist.Categorical(weights))
        pyro.sample("x", dist.Normal(means[k], 1e-3), obs=data)


def inputs(rows, generator):
    return 1 + torch.rand(rows, generator=generator)


def lines():
    return PriorTasks(regression, inputs, observed={"y": 1})


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def test_rows_of_a_task_share_its_latents_and_tasks_draw_them_anew():
    (x, y), (query_x, query_y) = TaskSampler(lines(), shots=4, queries=6, seed=0).sample(300)
    slopes = torch.cat([y / x, query_y / query_x], 1)
    assert (slopes - slopes[:, :1]).abs().max() < 1e-3
    assert abs(slopes[:, 0].std() - 2.0) < 4 * 2.0 / math.sqrt(2 * 300)
    assert len(x.unique()) == 300 * 4  # covariates are drawn anew as well


def test_a_model_that_insists_on_its_data_is_given_a_placeholder():
    tasks = PriorTasks(mixture, lambda rows, generator: torch.zeros(rows), observed={"x": 0})
    data = tasks.draw(20, 30, seeded())
    assert data.shape == (20, 30)
    for task in data:
        gaps = task.sort().values.diff() > 0.1
        assert gaps.sum() <= 2  # three components at most, each of its task's own
    assert (data.std(0) > 5).all()


def test_several_observed_sites_fill_their_own_arguments():
    def model(first, x, y=None, count=None):
        rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
        with pyro.plate("rows", len(x)):
            pyro.sample("first", dist.Normal(100 + x, 1e-4), obs=first)
            pyro.sample("y", dist.Normal(200 + x, 1e-4), obs=y)
            pyro.sample("count", dist.Poisson(rate).expand([len(x)]), obs=count)

    def arguments(rows, generator):
        return torch.zeros(rows), torch.rand(rows, generator=generator)

    observed = {"count": 3, "y": 2, "first": 0}
    first, x, y, count = PriorTasks(model, arguments, observed).draw(5, 8, seeded())
    torch.testing.assert_close(first, 100 + x, atol=1e-2, rtol=0)
    torch.testing.assert_close(y, 200 + x, atol=1e-2, rtol=0)
    assert torch.equal(count, count.round())
    assert count.shape == (5, 8)


def test_deterministic_and_factor_sites_do_no_harm():
    def model(x, y=None):
        slope = pyro.deterministic("slope", pyro.sample("s", dist.Normal(0.0, 1.0)) * 2)
        pyro.factor("penalty", -slope.square())
        with pyro.plate("rows", len(x)):
            pyro.sample("y", dist.Normal(slope * x, 0.1), obs=y)

    x, y = PriorTasks(model, inputs, observed={"y": 1}).draw(2, 3, seeded())
    assert x.shape == y.shape == (2, 3)


def test_the_generator_alone_decides():
    expected = lines().draw(4, 5, seeded())
    torch.manual_seed(7)
    before = torch.get_rng_state()
    again = lines().draw(4, 5, seeded())
    assert all(torch.equal(a, b) for a, b in zip(expected, again, strict=True))
    assert not torch.equal(expected[1], lines().draw(4, 5, seeded(1))[1])
    assert torch.equal(torch.get_rng_state(), before)


def test_nothing_is_seen_or_differentiated_from_outside():
    slope = torch.nn.Parameter(torch.tensor(2.0))

    def model(x, y=None):
        with pyro.plate("rows", len(x)):
            pyro.sample("y", dist.Normal(slope * x, 0.1), obs=y)

    with poutine.trace() as trace:
        _, y = PriorTasks(model, inputs, observed={"y": 1}).draw(2, 3, seeded())
    assert not y.requires_grad
    assert "y" not in trace.trace.nodes


def test_what_is_drawn_meta_learns():
    guide = pyro.infer.autoguide.AutoNormal(poutine.block(regression, hide=["y"]))
    meta = pm.MetaSVI(regression, guide, pyro.optim.Adam({"lr": 1e-2}), pyro.infer.Trace_ELBO(), inner=pm.SGD(1e-9))
    assert math.isfinite(meta.step(*TaskSampler(lines(), shots=4, queries=4, seed=0).sample(3)))


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"model": 3}, TypeError, "model must be callable, got int"),
        ({"arguments": torch.zeros(3)}, TypeError, "arguments must be callable, got Tensor"),
        ({"observed": ["y"]}, TypeError, r"argument positions, like \{'y': 1\}, got \['y'\]"),
        ({"observed": {"y": "1"}}, TypeError, "argument positions"),
        ({"observed": {}}, ValueError, "observed must name a site"),
        ({"observed": {"y": 1, "slope": 1}}, ValueError, "observed must name a site"),
        ({"observed": {"y": -1}}, ValueError, "observed must name a site"),
    ],
)
def test_bad_arguments(change, error, message):
    with pytest.raises(error, match=message):
        PriorTasks(**{"model": regression, "arguments": inputs, "observed": {"y": 1}, **change})


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"observed": {"z": 1}}, ValueError, "no sample site 'z': it has 'slope', .*'y'"),
        ({"observed": {"y": 2}}, ValueError, "site 'y' is to fill argument 2, but argument 1 is not given"),
        ({"observed": {"slope": 1}}, ValueError, r"argument 1 of a drawn task has shape \(\): it needs 5 rows"),
        ({"arguments": lambda rows, generator: torch.zeros(rows + 1)}, ValueError, r"argument 0 .* shape \(6,\)"),
        ({"arguments": lambda rows, generator: (torch.zeros(rows), None, 3)}, TypeError, "argument 2 .* got int"),
    ],
)
def test_a_draw_that_does_not_fit_is_named(change, error, message):
    def model(x, y=None, z=None):
        return regression(x, y)

    tasks = PriorTasks(**{"model": model, "arguments": inputs, "observed": {"y": 1}, **change})
    with pytest.raises(error, match=message):
        tasks.draw(2, 5, seeded())
