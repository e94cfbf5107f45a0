"""pm.Amortize against a posterior in closed form, and what it refuses."""

import copy
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO
from pyro.ops.indexing import Vindex

import pyrometa as pm
from pyrometa.amortize.reading import read


def normal_mean(x):
    mean = pyro.sample("mean", dist.Normal(1.0, 2.0))
    with pyro.plate("rows", x.shape[-1], dim=-1):
        pyro.sample("x", dist.Normal(mean, 1.5), obs=x)


def positive_scale(y, x):
    slope = pyro.sample("slope", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    noise = pyro.sample("noise", dist.LogNormal(0.0, 0.5))
    with pyro.plate("rows", len(y)):
        pyro.sample("y", dist.Normal(x @ slope, noise), obs=y)


def mixture(x):
    means = pyro.sample("means", dist.Normal(torch.tensor([-2.0, 2.0]), 1.0).to_event(1))
    with pyro.plate("rows", x.shape[-1], dim=-1):
        cluster = pyro.sample("cluster", dist.Categorical(torch.tensor([0.5, 0.5])))
        pyro.sample("x", dist.Normal(Vindex(means)[..., cluster], 1.0), obs=x)


def exact(x):
    precision = 1 / 4 + len(x) / 1.5**2
    return (1 / 4 + x.sum() / 1.5**2) / precision, precision**-0.5


def proposal(amortized, *task):
    found = amortized.guide.amortized.propose(*task)
    return {name: value.detach() for name, value in found.items()}


def normal_of(found, site):
    return found[f"{site}.loc"], torch.nn.functional.softplus(found[f"{site}.scale"] + 0.5413248546129181)


@pytest.fixture(scope="module")
def built():
    torch.manual_seed(0)
    return pm.Amortize(normal_mean, torch.zeros(6), rows=(2, 12), features=8, rounds=3, particles=2)


@pytest.fixture
def small(built):
    return copy.deepcopy(built)


def test_before_any_training_rounds_are_exact_on_a_conjugate_posterior(small):
    small.guide.double()
    for rows in (2, 5, 40):
        x = 3 + 1.5 * torch.randn(rows, dtype=torch.float64)
        mean, scale = normal_of(proposal(small, x), "mean")
        want_mean, want_scale = exact(x)
        torch.testing.assert_close(mean, want_mean[None], rtol=1e-6, atol=1e-6)
        assert scale.item() == pytest.approx(want_scale, rel=1e-6)


def evidence(x):
    """Minus its logarithm, a row."""
    covariance = 1.5**2 * torch.eye(len(x)) + 2.0**2
    return -dist.MultivariateNormal(torch.ones(len(x)), covariance).log_prob(x).item() / len(x)


def test_newton_steps_lower_a_poor_guess_and_keep_an_exact_proposal(small):
    x = 3 + 1.5 * torch.randn(6)
    small.encoder.refines = False
    guessed = small.meta.evaluate(x[None]).flatten().tolist()
    assert guessed[0] > guessed[1] > guessed[2] - 1e-4
    small.encoder.refines = True
    assert small.meta.evaluate(x[None]).flatten().tolist() == pytest.approx([evidence(x)] * 3, abs=2e-3)


@pytest.mark.parametrize("outer_lr", [None, 0.1])
def test_a_rule_that_learns_is_trained_at_first_order(outer_lr):
    rule = pm.SGD(0.1, learn="rate", outer_lr=outer_lr)
    amortized = pm.Amortize(normal_mean, torch.zeros(4), features=4, rounds=1, particles=2, inner=rule, steps=1)
    seen = amortized.fit(1)
    assert [progress.stage for progress in seen] == ["guess", "refinement"]
    (rate,) = (leaf for name, leaf in amortized.meta.named_parameters() if name.startswith("inner."))
    assert rate.item() != pytest.approx(math.log(0.1), abs=1e-3)


def test_an_adapted_guide_is_scored_by_an_elbo_of_any_nesting(small):
    x = torch.randn(5)
    guide = small.adapt(x, steps=0)
    for nesting in (1, 2):
        elbo = Trace_ELBO(num_particles=4, vectorize_particles=True, max_plate_nesting=nesting)
        assert elbo.loss(guide.model, guide, x) / 5 == pytest.approx(evidence(x), abs=1e-3)


@pytest.mark.slow
def test_a_fitted_proposal_is_close_to_the_conjugate_posterior(small):
    seen = small.fit(40)
    assert {progress.stage for progress in seen} == {"guess"}
    for rows in (2, 5, 12):
        x = 2 + 1.5 * torch.randn(rows)
        mean, scale = normal_of(proposal(small, x), "mean")
        want_mean, want_scale = exact(x)
        assert abs(mean.item() - want_mean) < 0.2 * want_scale
        assert scale.item() == pytest.approx(want_scale, rel=0.2)
    guide = small.adapt(x)
    assert guide(x)["mean"].shape == ()


def test_the_order_of_rows_does_not_matter():
    example = torch.randn(6), torch.randn(6, 2)
    amortized = pm.Amortize(positive_scale, example, tasks=[example], features=8, rounds=2)
    amortized.guide.double()
    y, x = torch.randn(7, dtype=torch.float64), torch.randn(7, 2, dtype=torch.float64)
    order = torch.randperm(7)
    for refines in (False, True):
        amortized.encoder.refines = refines
        one, other = proposal(amortized, y, x), proposal(amortized, y[order], x[order])
        assert set(one) == {"slope.loc", "slope.scale", "noise.loc", "noise.scale"}
        for name in one:
            torch.testing.assert_close(one[name], other[name], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("refines", [False, True])
def test_padded_tasks_are_proposed_for_as_by_themselves(small, refines):
    small.encoder.refines = refines
    tasks = [torch.randn(3), torch.randn(4)]
    meta = pm.MetaSVI(normal_mean, small.guide, pyro.optim.Adam({"lr": 0.0}), small.loss, steps=0)
    torch.manual_seed(1)
    side_by_side = meta.evaluate(tasks)
    loop = pm.MetaSVI(
        normal_mean, small.guide, pyro.optim.Adam({"lr": 0.0}), small.loss, steps=0, engine=pm.Engine(vectorize=False)
    )
    torch.manual_seed(1)
    torch.testing.assert_close(side_by_side, loop.evaluate(tasks), rtol=1e-4, atol=1e-4)


def test_discrete_latents_are_summed_out():
    x = torch.cat([-2 + torch.randn(20), 2 + torch.randn(20)])
    amortized = pm.Amortize(mixture, x, features=8)
    mean, scale = normal_of(proposal(amortized, x), "means")
    assert (mean - torch.tensor([-2.0, 2.0])).abs().max() < 1
    assert (scale < 0.6).all()
    assert amortized.observed == {"x": 0}


def test_the_same_seed_gives_the_same_guide():
    def run():
        torch.manual_seed(3)
        amortized = pm.Amortize(normal_mean, torch.zeros(4), features=4, rounds=1, particles=2)
        amortized.fit(2)
        return amortized.guide.state_dict()

    one, other = run(), run()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_arguments_are_found_by_what_is_observed():
    y, x = torch.randn(5), torch.randn(5, 2)
    assert read(positive_scale, (y, x), None).observed == {"y": 0}


def transformed(y):
    mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
    with pyro.plate("rows", len(y)):
        pyro.sample("log_y", dist.Normal(mean, 1.0), obs=y.log())


def unobserved(x):
    pyro.sample("mean", dist.Normal(0.0, 1.0))


def local(x):
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def counted(x):
    mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
    count = pyro.sample("count", dist.Poisson(3.0))
    with pyro.plate("rows", len(x)):
        pyro.sample("x", dist.Normal(mean + count, 1.0), obs=x)


def with_parameter(x):
    mean = pyro.sample("mean", dist.Normal(pyro.param("centre", torch.tensor(0.0)), 1.0))
    with pyro.plate("rows", len(x)):
        pyro.sample("x", dist.Normal(mean, 1.0), obs=x)


@pytest.mark.parametrize(
    ("model", "example", "message"),
    [
        (transformed, torch.ones(4), r"'log_y' observes is none of the arguments.*observed="),
        (unobserved, torch.ones(4), "observes nothing on the example.*obs=y"),
        (local, torch.ones(4), "'z' is inside plate 'rows'.*AmortizedGuide"),
        (counted, torch.ones(4), r"'count' is discrete \(Poisson\) and can't be enumerated: bound it"),
        (with_parameter, torch.ones(4), "learns parameter 'centre'.*freeze"),
        (positive_scale, (torch.ones(4), torch.ones(4, 2)), "argument 1 is observed at no site.*tasks=.*covariates="),
        (normal_mean, (torch.ones(4), torch.ones(3)), "argument 1 of the example must be a tensor with a row"),
    ],
)
def test_refusals_name_the_site_and_the_cure(model, example, message):
    with pytest.raises(ValueError, match=message):
        pm.Amortize(model, example)


@pytest.mark.parametrize(
    ("example", "rows", "message"),
    [
        (torch.ones(4), (0, 3), r"smallest and a largest number from 1 up.*got \(0, 3\)"),
        (torch.ones(4), (9, 3), r"smallest and a largest number from 1 up.*got \(9, 3\)"),
        (torch.ones(0), None, "example holds no rows"),
    ],
)
def test_numbers_of_rows_that_no_task_has(example, rows, message):
    with pytest.raises(ValueError, match=message):
        pm.Amortize(normal_mean, example, rows=rows)


def test_covariates_by_a_function():
    def covariates(rows, generator):
        return torch.zeros(rows), torch.randn(rows, 2, generator=generator)

    amortized = pm.Amortize(positive_scale, (torch.ones(4), torch.ones(4, 2)), covariates=covariates, rows=(2, 9))
    assert (amortized.sizes[0], amortized.sizes[-1]) == (2, 9)
