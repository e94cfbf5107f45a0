"""Whatever distribution a guide draws from: vectorised over tasks, one by one with a reason, or refused by name."""

import re
import warnings

import meta_cases
import pyro
import pyro.distributions as dist
import pytest
import torch
from meta_cases import meta_svi
from programs import Case
from pyro.infer import Trace_ELBO, TraceEnum_ELBO

import pyrometa as pm

LOOP, TOGETHER = pm.Engine(vectorize=False), pm.Engine(vectorize=True)
FIRST, SECOND = pm.Unrolled(first_order=True), pm.Unrolled()


def number(value):
    return torch.tensor(value, dtype=torch.float64)


def several(a, n=2):
    return a * torch.arange(1.0, n + 1.0, dtype=torch.float64) / n


def diagonal(a):
    return torch.eye(2, dtype=torch.float64) * a.exp()


def grid(a):
    return several(a)[:, None] + 0.1 * several(a)


REPARAMETERIZED = {
    "Normal": lambda a: dist.Normal(a, 1.3),
    "LogNormal": lambda a: dist.LogNormal(a, 0.5),
    "HalfNormal": lambda a: dist.HalfNormal(a.exp()),
    "FoldedDistribution": lambda a: dist.FoldedDistribution(dist.Normal(a, 1.0)),
    "Uniform": lambda a: dist.Uniform(-a.exp(), a.exp()),
    "Laplace": lambda a: dist.Laplace(a, a.exp()),
    "SoftLaplace": lambda a: dist.SoftLaplace(a, a.exp()),
    "AsymmetricLaplace": lambda a: dist.AsymmetricLaplace(a, a.exp(), a.exp()),
    "SoftAsymmetricLaplace": lambda a: dist.SoftAsymmetricLaplace(a, a.exp(), a.exp(), a.exp()),
    "Exponential": lambda a: dist.Exponential(a.exp()),
    "Gumbel": lambda a: dist.Gumbel(a, a.exp()),
    "Weibull": lambda a: dist.Weibull(a.exp(), 2.0 + a),
    "Pareto": lambda a: dist.Pareto(torch.ones_like(a), 3.0 + a),
    "Kumaraswamy": lambda a: dist.Kumaraswamy(a.exp(), 2.0 + a),
    "Cauchy": lambda a: dist.Cauchy(a, a.exp()),
    "HalfCauchy": lambda a: dist.HalfCauchy(a.exp()),
    "Logistic": lambda a: dist.Logistic(a, a.exp()),
    "SkewLogistic": lambda a: dist.SkewLogistic(a, a.exp(), a.exp()),
    "MultivariateNormal": lambda a: dist.MultivariateNormal(several(a), diagonal(a)),
    "LowRankMultivariateNormal": lambda a: dist.LowRankMultivariateNormal(
        several(a), several(a)[:, None], several(a.exp())
    ),
    "LogisticNormal": lambda a: dist.LogisticNormal(several(a), several(a.exp())),
    "TransformedDistribution": lambda a: dist.TransformedDistribution(
        dist.Normal(several(a), 1.0).to_event(1), [dist.transforms.SoftplusTransform()]
    ),
    "ContinuousBernoulli": lambda a: dist.ContinuousBernoulli(logits=a),
    "RelaxedBernoulli": lambda a: dist.RelaxedBernoulli(torch.ones_like(a), logits=a),
    "RelaxedOneHotCategorical": lambda a: dist.RelaxedOneHotCategorical(torch.ones_like(a), logits=several(a)),
    "OneHotCategoricalStraightThrough": lambda a: dist.OneHotCategoricalStraightThrough(logits=several(a, 3)),
}
CHOICES = {
    "Bernoulli": lambda a: dist.Bernoulli(logits=a),
    "Categorical": lambda a: dist.Categorical(logits=several(a, 3)),
    "OneHotCategorical": lambda a: dist.OneHotCategorical(logits=several(a, 3)),
    "Geometric": lambda a: dist.Geometric(logits=a),
    "MixtureSameFamily": lambda a: dist.MixtureSameFamily(
        dist.Categorical(logits=several(a)), dist.Normal(several(a), 1.0)
    ),
}
STREAMED = {
    "Poisson": lambda a: dist.Poisson(a.exp()),
    "ZeroInflatedPoisson": lambda a: dist.ZeroInflatedPoisson(a.exp(), gate=a.sigmoid()),
    "Binomial": lambda a: dist.Binomial(5, logits=a),
    "Binomial of batched counts": lambda a: dist.Binomial(several(number(4.0)), logits=several(a)).to_event(1),
    "NegativeBinomial": lambda a: dist.NegativeBinomial(a.exp(), logits=a),
    "GammaPoisson": lambda a: dist.GammaPoisson(a.exp(), a.exp()),
    "Gamma": lambda a: dist.Gamma(a.exp(), a.exp()),
    "Gamma in its rate": lambda a: dist.Gamma(torch.ones_like(a), a.exp()),
    "InverseGamma": lambda a: dist.InverseGamma(2.0 + a.exp(), a.exp()),
    "Chi2": lambda a: dist.Chi2(a.exp()),
    "FisherSnedecor": lambda a: dist.FisherSnedecor(4.0 + a, 5.0 + a),
    "StudentT": lambda a: dist.StudentT(number(5.0), a, a.exp()),
    "StudentT in its degrees of freedom": lambda a: dist.StudentT(4.0 + a, a, a.exp()),
    "MultivariateStudentT": lambda a: dist.MultivariateStudentT(number(5.0), several(a), diagonal(a)),
}
AWKWARD = {
    "Beta": lambda a: dist.Beta(a.exp(), 1.0 + a.exp()),
    "AffineBeta": lambda a: dist.AffineBeta(a.exp(), a.exp(), number(-4.0), number(9.0)),
    "Dirichlet": lambda a: dist.Dirichlet(several(a.exp())),
    "LKJCholesky": lambda a: dist.LKJCholesky(2, a.exp()),
    "BetaBinomial": lambda a: dist.BetaBinomial(a.exp(), a.exp(), 5),
    "DirichletMultinomial": lambda a: dist.DirichletMultinomial(several(a.exp()), 5),
    "Multinomial": lambda a: dist.Multinomial(4, logits=several(a, 3)),
    "VonMises": lambda a: dist.VonMises(a, a.exp()),
    "ProjectedNormal": lambda a: dist.ProjectedNormal(several(a)),
    "Stable": lambda a: dist.Stable(number(1.5), number(0.1), a.exp(), a),
    "OMTMultivariateNormal": lambda a: dist.OMTMultivariateNormal(several(a), diagonal(a)),
    "MixtureOfDiagNormals": lambda a: dist.MixtureOfDiagNormals(grid(a), grid(a).exp(), several(a)),
    "RelaxedBernoulliStraightThrough": lambda a: dist.RelaxedBernoulliStraightThrough(torch.ones_like(a), logits=a),
}
ONCE = {
    **{name: STREAMED[name] for name in ("Gamma", "InverseGamma", "Chi2", "FisherSnedecor")},
    "StudentT": STREAMED["StudentT in its degrees of freedom"],
    **{name: AWKWARD[name] for name in ("Beta", "AffineBeta", "Dirichlet")},
}
TWICE = ("Gamma in its rate", "StudentT", "MultivariateStudentT")


class ReadsItsValue(dist.Normal):
    """A distribution that no vmap can run."""

    def rsample(self, sample_shape=()):
        return super().rsample(sample_shape) + 0 * self.loc.item()


def case_of(make):
    def model(x):
        w = pyro.sample("w", make(number(0.5))).double()
        with pyro.plate("data", len(x)):
            pyro.sample("x", dist.Normal(0.1 * w.flatten() @ several(number(1.0), w.numel()), 1.0), obs=x)

    def guide(x):
        pyro.sample("w", make(pyro.param("a", number(0.4))))

    return Case(model, guide, *torch.randn(2, 3, 4, dtype=torch.float64))


def gradients(case, engine, meta_gradient, **options):
    pyro.clear_param_store()
    options = {"inner": pm.SGD(0.01), "loss": Trace_ELBO(), **options}
    meta = meta_svi(case, engine=engine, meta_gradient=meta_gradient, **options)
    torch.manual_seed(3)
    return meta.loss_and_grads(case.support, case.query)


def assert_same(case, engine, meta_gradient, **options):
    value, grads = gradients(case, engine, meta_gradient, **options)
    expected_value, expected = gradients(case, LOOP, meta_gradient, **options)
    torch.testing.assert_close(value, expected_value, rtol=1e-9, atol=1e-11)
    meta_cases.assert_equal(grads, expected, rtol=1e-9, atol=1e-11)
    assert grads["guide.a"] != 0


@pytest.mark.parametrize(
    "meta_gradient",
    [pytest.param(FIRST, marks=pytest.mark.slow, id="first"), pytest.param(SECOND, id="second")],
)
@pytest.mark.parametrize("name", REPARAMETERIZED)
def test_draws_made_ahead(name, meta_gradient):
    assert_same(case_of(REPARAMETERIZED[name]), TOGETHER, meta_gradient)


@pytest.mark.parametrize("name", CHOICES)
def test_choices_made_ahead(name):
    case = case_of(CHOICES[name])
    assert_same(case, TOGETHER, FIRST)
    assert_same(case, TOGETHER, SECOND, loss=TraceEnum_ELBO(max_plate_nesting=1, strict_enumeration_warning=False))


@pytest.mark.parametrize("name", STREAMED)
def test_draws_from_streams(name):
    assert_same(case_of(STREAMED[name]), TOGETHER, FIRST)
    if name in TWICE:
        assert_same(case_of(STREAMED[name]), TOGETHER, SECOND)


@pytest.mark.parametrize("name", STREAMED)
def test_draws_from_streams_differ_by_task(name):
    case = case_of(STREAMED[name])
    same = torch.zeros(40, 1, dtype=torch.float64)
    meta = meta_svi(case, engine=TOGETHER, meta_gradient=FIRST, loss=Trace_ELBO(), adapt="guide")
    losses = meta.evaluate(same, same, steps=(0,))[0]
    assert losses.isfinite().all()
    assert len(losses.unique()) > 1


def test_a_draw_that_reads_a_value_runs_one_by_one_with_a_warning_that_names_the_site():
    case = case_of(lambda a: ReadsItsValue(a, a.exp()))
    with pytest.warns(pm.LoopWarning, match=r"one by one.*site 'w' \(ReadsItsValue\): \w") as caught:
        assert_same(case, pm.Engine(), FIRST)
    assert len(caught) == 1
    with pytest.raises(pm.UnsupportedProgramError, match=r"site 'w' \(ReadsItsValue\)"):
        gradients(case, TOGETHER, FIRST)


@pytest.mark.parametrize("name", AWKWARD)
def test_side_by_side_or_one_by_one_with_a_warning_that_names_the_site(name):
    case = case_of(AWKWARD[name])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert_same(case, pm.Engine(), FIRST)
    told = [str(warning.message) for warning in caught if warning.category is pm.LoopWarning]
    assert len(told) <= 1
    assert all(re.search(rf"one by one.*site 'w' \({name}\): \w", message, re.DOTALL) for message in told)


@pytest.mark.parametrize("name", ONCE)
def test_draws_without_a_second_derivative_are_refused(name):
    with pytest.raises(pm.UnsupportedProgramError, match=r"guide site 'w' draws a Gamma, Beta or Dirichlet"):
        gradients(case_of(ONCE[name]), pm.Engine(), SECOND)


@pytest.mark.parametrize("name", ["Poisson", *CHOICES])
def test_draws_without_a_gradient_are_refused_at_second_order(name):
    make = {**CHOICES, **STREAMED}[name]
    with pytest.raises(pm.UnsupportedProgramError, match=r"guide site 'w' is not reparameterised.*TraceEnum_ELBO"):
        gradients(case_of(make), pm.Engine(), SECOND)
