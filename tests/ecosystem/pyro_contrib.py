"""The models of pyro.contrib besides gp: forecast, easyguide, mue, epidemiology, timeseries, oed and cevae."""

import pyro
import pyro.distributions as dist
import torch
from pyro.contrib import cevae, forecast, timeseries
from pyro.contrib.easyguide import EasyGuide
from pyro.contrib.epidemiology import models as epidemics
from pyro.contrib.mue import models as mue
from pyro.contrib.oed.glmm import known_covariance_linear_model
from pyro.infer.autoguide import AutoDiagonalNormal, AutoNormal, init_to_mean, init_to_sample
from pyro.infer.reparam import HaarReparam
from row import Program, Row
from torch.distributions import constraints


class LocalLevel(forecast.ForecastingModel):
    """The first model of the forecasting tutorial: drift in a time plate, no covariates."""

    def model(self, zero_data, covariates):
        scale = pyro.sample("drift_scale", dist.LogNormal(-2.0, 0.5))
        with self.time_plate:
            drift = pyro.sample("drift", dist.Normal(0.0, scale))
        prediction = drift.cumsum(-1).unsqueeze(-1) + zero_data
        self.predict(dist.Normal(0.0, pyro.sample("noise", dist.LogNormal(-1.0, 0.5))), prediction)


class Regression(forecast.ForecastingModel):
    """Its linear regression on covariates."""

    def model(self, zero_data, covariates):
        with pyro.plate("columns", covariates.size(-1), dim=-1):
            weight = pyro.sample("weight", dist.Normal(0.0, 1.0))
        prediction = (weight * covariates).sum(-1, keepdim=True) + zero_data
        self.predict(dist.Normal(0.0, 0.3), prediction)


def _forecast(make, columns, wrap=lambda model: model):
    def build():
        model = wrap(make())
        return Program(model, AutoNormal(model), (torch.randn(3, 8, 1), torch.randn(3, 8, columns)))

    return build


def _haar(model):
    return pyro.poutine.reparam(model, {"drift": HaarReparam(dim=-1, experimental_allow_batch=True)})


class Easy(EasyGuide):
    def guide(self, x):
        self.group(match="loc|scale").sample("group", self._auxiliary())

    def _auxiliary(self):
        loc = pyro.param("group_loc", torch.zeros(2))
        tril = pyro.param("group_tril", torch.eye(2) * 0.3, constraint=constraints.lower_cholesky)
        return dist.MultivariateNormal(loc, scale_tril=tril)


def easy_model(x):
    loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
    scale = pyro.sample("scale", dist.LogNormal(0.0, 0.5))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(loc, scale), obs=x)


def _easy():
    return Program(easy_model, Easy(easy_model), torch.randn(3, 5), torch.randn(3, 4))


def _sequences():
    return torch.nn.functional.one_hot(torch.randint(3, (3, 4, 5)), 3).double()


def _profile():
    program = mue.ProfileHMM(4, 3)
    return Program(program.model, program.guide, (_sequences(), torch.ones(3)))


def _factor():
    program = mue.FactorMuE(5, 3, 2, latent_seq_length=4, indel_factor_dependence=False)
    return Program(program.model, program.guide, (_sequences(), torch.ones(3), torch.ones(3)))


CASES = torch.tensor([[1.0, 2.0, 4.0, 5.0, 3.0], [0.0, 1.0, 3.0, 6.0, 4.0], [1.0, 1.0, 2.0, 4.0, 5.0]])


def _epidemic(name, **options):
    """The relaxed model that ``fit_svi`` fits, its counts taken from a task's data."""

    def build():
        epidemic = getattr(epidemics, name)(100, recovery_time=3.0, data=CASES[0], **options)
        epidemic.relaxed, epidemic.num_quant_bins = True, 1

        def model(cases):
            epidemic.data = cases
            epidemic._relaxed_model()

        guide = AutoNormal(model, init_loc_fn=init_to_sample)
        return Program(model, guide, (CASES.clone(),))

    return build


def _series(make):
    def build():
        series = make()

        def model(y):
            pyro.module("series", series)
            pyro.factor("likelihood", series.log_prob(y).sum())

        return Program(model, lambda y: None, (torch.randn(3, 6, 2),), adapt="model")

    return build


def _causal(outcome, loss):
    def build():
        program = cevae.CEVAE(3, outcome, latent_dim=2, hidden_dim=4, num_layers=2, num_samples=2)
        x, t = torch.randn(3, 6, 3), torch.rand(3, 6).lt(0.5).double()
        y = torch.rand(3, 6).lt(0.5).double() if outcome == "bernoulli" else torch.randn(3, 6)
        return Program(program.model, program.guide, (x, t, y), None, loss(), pathwise=False)

    return build


def _design():
    """The posterior that ``vi_eig`` fits, of the linear model with a known covariance."""
    prior = known_covariance_linear_model(torch.zeros(2), torch.ones(2), torch.tensor(0.5))

    def model(design, y):
        with pyro.condition(data={"y": y}):
            prior(design)

    guide = AutoDiagonalNormal(model, init_loc_fn=init_to_mean)
    return Program(model, guide, (torch.randn(3, 4, 2), torch.randn(3, 4)), (torch.randn(3, 5, 2), torch.randn(3, 5)))


ROWS = [
    Row("forecast: local level, no covariates", _forecast(LocalLevel, 0)),
    Row("forecast: local level, HaarReparam", _forecast(LocalLevel, 0, _haar)),
    Row("forecast: regression on covariates", _forecast(Regression, 2)),
    Row("easyguide: a group of two latents", _easy),
    Row("mue: ProfileHMM", _profile, "loop"),
    Row("mue: FactorMuE", _factor, "loop"),
    Row("epidemiology: SimpleSIRModel", _epidemic("SimpleSIRModel")),
    Row("timeseries: IndependentMaternGP", _series(lambda: timeseries.IndependentMaternGP(obs_dim=2))),
    Row(
        "timeseries: LinearlyCoupledMaternGP", _series(lambda: timeseries.LinearlyCoupledMaternGP(obs_dim=2, num_gps=2))
    ),
    Row("timeseries: DependentMaternGP", _series(lambda: timeseries.DependentMaternGP(obs_dim=2))),
    Row("oed: known_covariance_linear_model, as vi_eig fits it", _design),
    Row("cevae: CEVAE, Bernoulli outcome", _causal("bernoulli", cevae.TraceCausalEffect_ELBO), "first order, loop"),
    Row("cevae: CEVAE, normal outcome", _causal("normal", cevae.TraceCausalEffect_ELBO), "first order, loop"),
]
