"""Every autoguide of Pyro with global latents meta-learns."""

from dataclasses import dataclass
from functools import partial

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.distributions import transforms
from pyro.infer import Predictive, Trace_ELBO, TraceEnum_ELBO, TraceMeanField_ELBO, autoguide
from pyro.poutine import block

import pyrometa as pm

F64 = torch.float64


def normal(x):
    """Mean and scale of a normal."""
    loc = pyro.sample("loc", dist.Normal(x.new_zeros(2), 2.0).to_event(1))
    scale = pyro.sample("scale", dist.LogNormal(x.new_zeros(()), 0.5))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(loc, scale).to_event(1), obs=x)


def switched(x):
    """A normal whose scale is one of three."""
    loc = pyro.sample("loc", dist.Normal(x.new_zeros(2), 2.0).to_event(1))
    which = pyro.sample("which", dist.Categorical(x.new_ones(3)))
    scale = x.new_tensor([0.5, 1.0, 2.0])[which]
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(loc, scale[..., None]).to_event(1), obs=x)


def parts():
    guide = autoguide.AutoGuideList(normal)
    guide.append(autoguide.AutoNormal(block(normal, expose=["loc"])))
    guide.append(autoguide.AutoDelta(block(normal, expose=["scale"])))
    return guide


def discrete():
    guide = autoguide.AutoGuideList(switched)
    guide.append(autoguide.AutoNormal(block(switched, expose=["loc"])))
    guide.append(autoguide.AutoDiscreteParallel(block(switched, expose=["which"])))
    return guide


def structured(**conditionals):
    return autoguide.AutoStructured(normal, conditionals=conditionals, dependencies={"scale": {"loc": "linear"}})


def flow(make):
    return autoguide.AutoNormalizingFlow(normal, make)


@dataclass(frozen=True)
class Row:
    """An autoguide, and how it is run."""

    make: object
    model: object = normal
    elbo: object = Trace_ELBO
    vectorize: bool = True


ROWS = {
    "AutoDelta": Row(lambda: autoguide.AutoDelta(normal)),
    "AutoNormal": Row(lambda: autoguide.AutoNormal(normal), elbo=TraceMeanField_ELBO),
    "AutoDiagonalNormal": Row(lambda: autoguide.AutoDiagonalNormal(normal)),
    "AutoMultivariateNormal": Row(lambda: autoguide.AutoMultivariateNormal(normal), elbo=TraceMeanField_ELBO),
    "AutoLowRankMultivariateNormal": Row(lambda: autoguide.AutoLowRankMultivariateNormal(normal, rank=1)),
    # past its clip Pyro passes a gradient through that is none, so the clip is set out of reach here
    "AutoIAFNormal": Row(lambda: autoguide.AutoIAFNormal(normal, hidden_dim=[4], log_scale_min_clip=-50.0)),
    "AutoNormalizingFlow": Row(lambda: flow(partial(transforms.iterated, 2, transforms.planar))),
    # torch's splines choose their bins by boolean masks, which vmap can't batch
    "AutoNormalizingFlow, spline": Row(lambda: flow(transforms.spline), vectorize=False),
    "AutoLaplaceApproximation": Row(lambda: autoguide.AutoLaplaceApproximation(normal)),
    "AutoDiscreteParallel": Row(discrete, switched, partial(TraceEnum_ELBO, max_plate_nesting=1)),
    "AutoGuideList": Row(parts),
    "AutoStructured": Row(lambda: structured(loc="mvn", scale="normal")),
    "AutoStructured, delta": Row(lambda: structured(loc="normal", scale="delta")),
    "AutoNormalMessenger": Row(lambda: autoguide.AutoNormalMessenger(normal)),
    "AutoHierarchicalNormalMessenger": Row(
        lambda: autoguide.AutoHierarchicalNormalMessenger(normal, hierarchical_sites=["scale"])
    ),
    # Pyro adds up its precision by scatter_add_, which vmap can't batch
    "AutoGaussian": Row(lambda: autoguide.AutoGaussian(normal), vectorize=False),
}


@pytest.fixture(params=ROWS)
def row(request):
    return ROWS[request.param]


@pytest.fixture(params=[False, True], ids=["store", "local"])
def guide(request, row):
    torch.set_default_dtype(F64)  # some autoguides make parameters of the default dtype
    with pyro.settings.context(module_local_params=request.param):
        yield row.make()
    torch.set_default_dtype(torch.float32)


@pytest.mark.thinned(2)
@pytest.mark.filterwarnings("ignore:TraceMeanField_ELBO forgets the Jacobian")  # its gradient is exact all the same
def test_meta_learns(row, guide, assert_meta_slope):
    support, query = 1 + torch.randn(3, 4, 2, dtype=F64), 1 + torch.randn(3, 5, 2, dtype=F64)
    engine = pm.Engine(vectorize=row.vectorize)
    options = {"loss": row.elbo(), "inner": pm.SGD(1e-3), "steps": 2, "engine": engine}
    meta = pm.MetaSVI(row.model, guide, pyro.optim.Adam({"lr": 1e-2}), **options)
    assert_meta_slope(meta, support, query)

    adapted = meta.adapt(support[0], steps=5)
    values = dict(meta.named_parameters())
    moved = dict(zip(adapted.adapted.names, adapted.adapted.parameters(), strict=True))
    assert moved.keys() == values.keys()
    assert any(not torch.equal(moved[name], values[name]) for name in values)
    trace = pyro.poutine.trace(adapted).get_trace(support[0])
    constrained = [site for site in trace.nodes.values() if site["type"] == "param" and "constraint" in site["kwargs"]]
    assert all(site["kwargs"]["constraint"].check(site["value"]).all() for site in constrained)

    drawn = Predictive(adapted.model, guide=adapted, num_samples=20)(query[0])
    if row.model is normal:
        assert drawn["scale"].min() > 0
    else:
        assert set(drawn["which"].unique().tolist()) <= {0, 1, 2}
    assert drawn["x"].shape == (20, 5, 2)


@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if not row.vectorize])
def test_what_vmap_cannot_batch_is_run_one_by_one_and_says_so(name):
    meta = pm.MetaSVI(normal, ROWS[name].make(), pyro.optim.Adam({"lr": 1e-2}), loss=Trace_ELBO(), inner=pm.SGD(1e-3))
    with pytest.warns(pm.LoopWarning, match="one by one"):
        meta.evaluate_loss(torch.randn(3, 4, 2))


def test_laplace_approximation_at_the_adapted_mode():
    x = 1 + torch.randn(3, 30, 2)
    guide = autoguide.AutoLaplaceApproximation(normal)
    meta = pm.MetaSVI(normal, guide, pyro.optim.Adam({"lr": 1e-2}), loss=Trace_ELBO(), inner=pm.SGD(0.01), steps=100)
    adapted = meta.adapt(x[0])
    posterior = adapted.laplace_approximation(x[0])
    median = posterior.median(x[0])
    torch.testing.assert_close(median["loc"], adapted(x[0])["loc"])
    deviation = posterior.get_posterior(x[0]).stddev[:2]
    expected = (median["scale"] ** -2 * 30 + 2.0**-2) ** -0.5
    torch.testing.assert_close(deviation, expected.expand(2), rtol=1e-2, atol=0)
