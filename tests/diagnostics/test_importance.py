"""What importance weights say of a guide, on models whose posterior is known."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoDelta, AutoDiagonalNormal, AutoMultivariateNormal, AutoNormal

import pyrometa as pm
from pyrometa.diagnostics import psis
from pyrometa.diagnostics.weighted_draws import weighted_draws

GUIDES = {"exact": (1.0, 0.0), "too narrow": (0.5, 0.0), "too wide": (2.0, 0.0), "shifted": (1.0, 1.0)}


def normal_means(x):
    with pyro.plate("means", x.shape[1]):
        mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(mean, 1.0), obs=x)


def posterior(width=1.0, shift=0.0):
    """The exact posterior, that many times as wide and that many of its standard deviations off."""

    def guide(x):
        deviation = (len(x) + 1) ** -0.5
        with pyro.plate("means", x.shape[1]):
            pyro.sample("mean", dist.Normal(x.sum(0) / (len(x) + 1) + shift * deviation, width * deviation))

    return guide


def log_evidence(x):
    covariance = torch.eye(len(x)) + 1.0
    return dist.MultivariateNormal(torch.zeros(len(x)), covariance).log_prob(x.T).sum().item()


@pytest.mark.parametrize("word", GUIDES)
def test_the_four_are_told_apart(word):
    """In each of 20 trials: a rate of error below 0.14 with 95% confidence; 0 in 1,000 were seen."""
    torch.manual_seed(0)
    for _ in range(20):
        x = torch.randn(4, 1)
        assert psis(posterior(*GUIDES[word]), x, model=normal_means).verdict.startswith(f"{word}:")


def test_k_hat():
    torch.manual_seed(0)
    x = torch.randn(4, 1)
    narrow, wide = (psis(posterior(width), x, model=normal_means) for width in (0.5, 2.0))
    assert 0.45 < narrow.k_hat < 0.95  # 0.71 with a standard deviation of 0.09
    assert wide.k_hat < 0
    assert wide.width["mean"].item() == pytest.approx(2.0, abs=0.15)
    assert psis(posterior(1.0, 1.0), x, model=normal_means).shift["mean"].item() == pytest.approx(1.0, abs=0.2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_exact_posterior_of_20_latents(dtype):
    torch.manual_seed(0)
    x = 30 * torch.randn(50, 20, dtype=dtype)
    found = psis(posterior(), x, model=normal_means)
    assert (found.k_hat, found.verdict) == (-math.inf, "exact: all weights are equal")
    assert found.ess == pytest.approx(4000)
    assert found.log_evidence == pytest.approx(log_evidence(x), rel=1e-5)


def test_errors_of_20_latents_add_up():
    x = torch.zeros(4, 20)
    torch.manual_seed(0)
    assert psis(posterior(0.5), x, model=normal_means).k_hat > 0.7
    assert psis(posterior(2.0), x, model=normal_means).k_hat > 0.7


def test_resampled_draws_are_the_posteriors():
    torch.manual_seed(0)
    x = torch.randn(4, 2)
    found = psis(posterior(1.5, 0.5), x, model=normal_means, draws=20_000)
    drawn = found.resample(5000)["mean"]
    assert drawn.shape == (5000, 2)
    error = math.sqrt(0.2 * (1 / 5000 + 1 / found.ess))
    assert torch.allclose(drawn.mean(0), x.sum(0) / 5, atol=4 * error)
    assert torch.allclose(drawn.std(0), torch.tensor(0.2**0.5), atol=4 * error)
    with pytest.raises(ValueError, match="n must be at least 1"):
        found.resample(0)


def test_one_seed_one_result_and_no_trace_in_the_store():
    x = torch.randn(5, 2)
    guide = AutoNormal(normal_means)
    guide(x)
    before = {name: value.clone() for name, value in pyro.get_param_store().items()}
    found = []
    for _ in range(2):
        torch.manual_seed(3)
        found.append((psis(guide, x).log_weights, torch.rand(1)))
    assert all(map(torch.equal, *found))
    assert before.keys() == dict(pyro.get_param_store().items()).keys()


def test_an_adapted_guide():
    torch.manual_seed(0)
    meta = pm.MetaSVI(
        normal_means,
        AutoNormal(normal_means),
        pyro.optim.Adam({"lr": 0.1}),
        loss=pm.StickingTheLanding_ELBO(),
        inner=pm.NaturalGradient(0.5),
        steps=20,
    )
    x = torch.randn(4, 2)
    assert psis(meta.adapt(x), x).verdict.startswith(("exact", "close"))
    assert psis(meta.adapt(x, steps=0), x).verdict.startswith(("too", "shifted", "far"))


def regression(x, y):
    """With a vector site, a site whose support is a half line, and matrices that no outer plate broadcasts over."""
    weight = pyro.sample("weight", dist.Normal(torch.zeros(2, 3), 1.0).to_event(2))
    noise = pyro.sample("noise", dist.LogNormal(0.0, 1.0))
    with pyro.plate("data", len(x)):
        pyro.sample("y", dist.Normal(x @ weight.T, noise).to_event(1), obs=y)


@pytest.mark.parametrize("kind", [AutoNormal, AutoDiagonalNormal, AutoMultivariateNormal])
def test_weights_are_those_of_traces(kind):
    torch.manual_seed(0)
    x, y = torch.randn(7, 3), torch.randn(7, 2)
    guide = kind(regression)
    guide(x, y)
    drawn = weighted_draws(regression, guide, (x, y), {}, 600)
    assert drawn.values["weight"].shape == (600, 2, 3)
    for i in (0, 599):
        values = {name: value[i] for name, value in drawn.values.items()}
        log_p = poutine.trace(poutine.condition(regression, values)).get_trace(x, y).log_prob_sum()
        log_q = (
            sum(
                dist.Normal(getattr(guide.locs, name), getattr(guide.scales, name))
                .log_prob(values[name] if name == "weight" else values[name].log())
                .sum()
                for name in values
            )
            if kind is AutoNormal
            else log_density(guide, values)
        )
        expected = (log_p - log_q + values["noise"].log()).item()
        assert drawn.log_weights[i].item() == pytest.approx(expected, abs=1e-4)


def log_density(guide, values):
    latent = torch.cat([values["weight"].flatten(), values["noise"].log().reshape(1)])
    return guide.get_posterior().log_prob(latent)


def mixture(x):
    weight = pyro.sample("weight", dist.Beta(2.0, 2.0))
    with pyro.plate("data", len(x)):
        part = pyro.sample("part", dist.Bernoulli(weight), infer={"enumerate": "parallel"})
        pyro.sample("x", dist.Normal(3 * part, 1.0), obs=x)


def test_enumerated_sites_are_summed_out():
    def guide(x):
        pyro.sample("weight", dist.Beta(3.0, 2.0))

    torch.manual_seed(0)
    x = torch.tensor([0.1, 2.9, 3.2])
    drawn = weighted_draws(mixture, guide, (x,), {}, 100)
    weight = drawn.values["weight"].unsqueeze(-1).double()
    likelihood = (
        weight * dist.Normal(3.0, 1.0).log_prob(x).exp() + (1 - weight) * dist.Normal(0.0, 1.0).log_prob(x).exp()
    )
    expected = (
        likelihood.log().sum(1) + (dist.Beta(2.0, 2.0).log_prob(weight) - dist.Beta(3.0, 2.0).log_prob(weight))[:, 0]
    )
    assert torch.allclose(drawn.log_weights, expected, atol=1e-4)


def test_discrete_sites_that_the_guide_draws():
    """The guide is the exact posterior; its integers have no mean to speak of."""

    def model(x):
        kind = pyro.sample("kind", dist.Categorical(torch.tensor([0.2, 0.3, 0.5])))
        pyro.sample("x", dist.Normal(torch.tensor([-1.0, 0.0, 1.0])[kind], 1.0), obs=x)

    def guide(x, at=1.0):
        logits = torch.tensor([0.2, 0.3, 0.5]).log() + dist.Normal(torch.tensor([-1.0, 0.0, 1.0]), 1.0).log_prob(x)
        pyro.sample("kind", dist.Categorical(logits=at * logits))

    x = torch.tensor(0.4)
    torch.manual_seed(0)
    assert psis(guide, x, model=model).verdict.startswith("exact")
    other = psis(lambda x: guide(x, 0.3), x, model=model)
    assert not other.verdict.startswith("exact")
    assert other.shift == {}
    expected = dist.Categorical(logits=guide_logits(x)).probs
    shares = torch.bincount(other.resample(20_000)["kind"], minlength=3) / 20_000
    assert torch.allclose(shares, expected, atol=0.03)


def guide_logits(x):
    return torch.tensor([0.2, 0.3, 0.5]).log() + dist.Normal(torch.tensor([-1.0, 0.0, 1.0]), 1.0).log_prob(x)


def subsampled(x):
    mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
    with pyro.plate("data", len(x), subsample_size=2) as rows:
        pyro.sample("x", dist.Normal(mean, 1.0), obs=x[rows])


def test_what_has_no_weight_is_refused():
    x = torch.randn(4, 1)
    point = AutoDelta(normal_means)
    point(x)
    with pytest.raises(ValueError, match="'mean' the same value in each draw"):
        psis(point, x)
    with pytest.raises(
        TypeError, match=r"guide must be callable, got MetaSVI: give psis\(meta.adapt\(task\), \.\.\.\)"
    ):
        psis(pm.MetaSVI(normal_means, AutoNormal(normal_means), pyro.optim.Adam({"lr": 0.1})), x)
    with pytest.raises(TypeError, match="function has no model"):
        psis(posterior(), x)
    with pytest.raises(ValueError, match="draws must be at least 25, got 3"):
        psis(posterior(), x, draws=3, model=normal_means)
    with pytest.raises(ValueError, match="no site for 'mean'"):
        psis(lambda x: None, x, model=normal_means)
    with pytest.raises(ValueError, match="site 'x' is scaled"):
        psis(AutoNormal(subsampled), x[:, 0])
    with pytest.raises(ValueError, match="no finite number in 100 of 100 draws"):
        psis(lambda _: posterior()(x), x * math.nan, model=normal_means, draws=100)


def test_draws_of_a_coin_that_are_all_the_same_are_told_so():
    def model(x):
        coin = pyro.sample("coin", dist.Bernoulli(0.5))
        pyro.sample("x", dist.Normal(coin, 1.0), obs=x)

    found = psis(
        lambda x: pyro.sample("coin", dist.Bernoulli(logits=torch.tensor(-30.0))), torch.tensor(2.0), model=model
    )
    assert found.verdict.endswith("all draws the same: of other values they say nothing")


def test_a_coin_that_is_stuck_beside_what_moves_is_named():
    def model(x):
        pyro.sample("coin", dist.Bernoulli(0.5))
        pyro.sample("x", dist.Normal(pyro.sample("mean", dist.Normal(0.0, 1.0)), 1.0), obs=x)

    def guide(x):
        pyro.sample("coin", dist.Bernoulli(1.0))
        pyro.sample("mean", dist.Normal(x / 2, 0.5**0.5))

    assert "all draws the same in 'coin'" in psis(guide, torch.tensor(1.0), model=model).verdict


def test_a_guide_that_draws_nothing_is_not_told_of_draws():
    def model(x):
        coin = pyro.sample("coin", dist.Bernoulli(0.5), infer={"enumerate": "parallel"})
        pyro.sample("x", dist.Normal(coin, 1.0), obs=x)

    assert "draws the same" not in psis(lambda x: None, torch.tensor(1.0), model=model).verdict
