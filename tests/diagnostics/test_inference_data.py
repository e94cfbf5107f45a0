"""What ArviZ gets, on the version that is installed."""

import math
import warnings

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoNormal

from pyrometa.diagnostics import to_arviz

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import arviz

DRAWS = 40


def model(x, y):
    weight = pyro.sample("weight", dist.Normal(torch.zeros(2), 1.0).to_event(1))
    with pyro.plate("schools", 3):
        effect = pyro.sample("effect", dist.Normal(0.0, 1.0))
        pyro.deterministic("twice", 2 * effect)
    with pyro.plate("data", len(x)):
        pyro.sample("y", dist.Normal(x @ weight + effect.sum(), 1.0), obs=y)


@pytest.fixture(scope="module")
def case():
    torch.manual_seed(0)
    x, y = torch.randn(7, 2), torch.randn(7)
    with pyro.get_param_store().scope():
        guide = AutoNormal(model)
        guide(x, y)
        return to_arviz(guide, x, y, draws=DRAWS), x, y


def array(found, group, name):
    return torch.as_tensor(found[group][name].values)


def test_dimensions_have_the_plates_names(case):
    found, *_ = case
    assert found["posterior"]["effect"].dims == ("chain", "draw", "schools")
    assert found["posterior"]["weight"].dims == ("chain", "draw", "weight_dim_0")
    assert found["log_likelihood"]["y"].dims == ("chain", "draw", "data")
    assert found["observed_data"]["y"].dims == ("data",)
    for group in ("posterior", "prior"):
        assert set(found[group].data_vars) == {"weight", "effect"}
    for group in ("posterior_predictive", "prior_predictive"):
        assert array(found, group, "y").shape == (1, DRAWS, 7)


def test_log_likelihood_and_joint_are_those_of_the_draws(case):
    found, x, y = case
    weight, effect = (array(found, "posterior", name)[0] for name in ("weight", "effect"))
    mean = weight @ x.T + effect.sum(-1, keepdim=True)
    likelihood = dist.Normal(mean, 1.0).log_prob(y)
    assert torch.allclose(array(found, "log_likelihood", "y")[0], likelihood, atol=1e-5)
    prior = dist.Normal(0.0, 1.0)
    joint = likelihood.sum(-1) + prior.log_prob(weight).sum(-1) + prior.log_prob(effect).sum(-1)
    assert torch.allclose(array(found, "sample_stats", "lp")[0], joint, atol=1e-4)
    assert torch.equal(array(found, "observed_data", "y"), y)


def test_the_prior_is_the_models_and_not_where_the_guide_starts(case):
    """``AutoNormal(model).model`` draws every latent site at its start."""
    found, *_ = case
    drawn = torch.cat([array(found, "prior", name)[0] for name in ("weight", "effect")], -1)
    assert drawn.std().item() == pytest.approx(1.0, abs=4 / math.sqrt(2 * drawn.numel()))
    residual = array(found, "posterior_predictive", "y").std()
    assert residual.item() > 0.8  # of noise of deviation 1


def test_it_is_written_and_read_as_netcdf(case, tmp_path):
    found, *_ = case
    with warnings.catch_warnings():  # xarray adds a filter of its own
        found.to_netcdf(str(tmp_path / "posterior.nc"), engine="h5netcdf")
        read = arviz.from_netcdf(str(tmp_path / "posterior.nc"))
    for group in ("posterior", "log_likelihood", "observed_data"):
        for name in found[group].data_vars:
            assert torch.equal(array(read, group, name), array(found, group, name))
    assert read.attrs["inference_library"] == "pyrometa"
    assert read.attrs["k_hat"] == found.attrs["k_hat"]


def test_arviz_understands_it(case):
    found, *_ = case
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        table = arviz.summary(found)
        loo = arviz.loo(found)
    assert set(table.index) == {"weight[0]", "weight[1]", "effect[0]", "effect[1]", "effect[2]"}
    assert math.isfinite(getattr(loo, "elpd", None) or loo.elpd_loo)


def test_enumerated_sites_are_in_the_predictions_alone():
    def mixture(x):
        share = pyro.sample("share", dist.Beta(2.0, 2.0))
        with pyro.plate("data", len(x)):
            part = pyro.sample("part", dist.Bernoulli(share), infer={"enumerate": "parallel"})
            pyro.sample("x", dist.Normal(3 * part, 1.0), obs=x)

    def guide(x):
        pyro.sample("share", dist.Beta(3.0, 2.0))

    found = to_arviz(guide, torch.tensor([0.1, 2.9]), draws=10, model=mixture)
    assert set(found["posterior"].data_vars) == {"share"}
    assert set(found["prior"].data_vars) == {"share", "part"}
    assert set(found["sample_stats"].data_vars) == {"log_weight"}
