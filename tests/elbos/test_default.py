"""Where Pyro's TraceMeanField_ELBO forgets a Jacobian, the default is another ELBO, and who asks for it is told."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from pyro.infer.autoguide import AutoDelta, AutoDiagonalNormal, AutoNormal, init_to_value
from pyro.poutine import trace

import pyrometa as pm
from pyrometa.diagnostics import inference_gaps
from pyrometa.elbos.default import forgotten_jacobians
from pyrometa.guides import AmortizedGuide, SemiAmortizedGuide

LOC, SCALE = -3.0, 0.5
F64 = torch.float64


def scale(x):
    """No data to speak of: the posterior of the latent is its prior."""
    z = pyro.sample("z", dist.LogNormal(x.new_tensor(LOC), SCALE))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(z.detach() * 0, 1.0), obs=x)


def real(x):
    z = pyro.sample("z", dist.Normal(x.new_tensor(LOC), SCALE))
    with pyro.plate("data", len(x)):
        pyro.sample("x", dist.Normal(z, 1.0), obs=x)


def exact(kind):
    """A guide whose start is the posterior of ``scale``."""
    start = torch.tensor(LOC, dtype=F64).exp()
    return kind(scale, init_loc_fn=init_to_value(values={"z": start}), init_scale=SCALE)


def meta_svi(guide, model=scale, **options):
    return pm.MetaSVI(model, guide, pyro.optim.Adam({"lr": 0.01}), inner=pm.SGD(0.1), steps=3, **options)


def tasks(*shape):
    return torch.randn(*shape, dtype=F64)


def evidence(x):
    return dist.Normal(0.0, 1.0).log_prob(x).sum(-1)


@pytest.mark.parametrize("kind", [AutoNormal, AutoDiagonalNormal])
def test_at_the_posterior_every_draw_gives_the_evidence(kind):
    meta, x = meta_svi(exact(kind)), tasks(2, 4)
    losses = meta.evaluate(x, x, steps=[0])
    torch.testing.assert_close(losses, -evidence(x)[None], rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("which", ["loss", "score"])
def test_who_asks_for_the_other_is_told(which):
    x = tasks(2, 4)
    options = {"loss": Trace_ELBO(), which: TraceMeanField_ELBO()}
    meta = meta_svi(exact(AutoNormal), **options)
    with pytest.warns(UserWarning, match=r"forgets the Jacobian of guide site 'z'.*use Trace_ELBO"):
        meta.init(x)
    assert (meta.evaluate(x, x, steps=[0]) + evidence(x)).mean().item() < -1  # E[log z] = -3: as Pyro returns it


@pytest.mark.parametrize("kind", [AutoNormal, AutoDiagonalNormal, AutoDelta])
def test_no_jacobian_no_warning(kind):
    """A real latent, or a point."""
    model = scale if kind is AutoDelta else real
    x = tasks(2, 4)
    meta_svi(kind(model), model, loss=TraceMeanField_ELBO()).step(x, x)
    assert forgotten_jacobians(trace(kind(model)).get_trace(x[0])) == []


def local_scales(x):
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.LogNormal(x.new_tensor(LOC), SCALE))
        pyro.sample("x", dist.Normal(z.detach() * 0, 1.0), obs=x)


def at_the_posterior():
    """A family that draws an auxiliary vector, for every row the posterior of ``local_scales``."""
    encoder = AmortizedGuide(local_scales, lambda x: 0 * x[:, None], family="full_covariance")
    encoder(tasks(3))
    raw = math.log(math.expm1(SCALE)) - math.log(math.expm1(1.0))
    with torch.no_grad():
        encoder.heads["z"].bias.copy_(torch.tensor([LOC, raw], dtype=F64))
    return encoder


@pytest.mark.usefixtures("zero_noise")
def test_a_refinement_is_by_the_right_elbo():
    """At the posterior's mean the right ELBO has no slope; the other goes down with the log Jacobian, by 1."""
    x, encoder = tasks(3), at_the_posterior()
    refined = SemiAmortizedGuide(encoder, steps=1, rule=pm.SGD(0.1)).propose(x)
    torch.testing.assert_close(refined["z.loc"], torch.full((3, 1), LOC, dtype=F64))
    asked = SemiAmortizedGuide(encoder, steps=1, rule=pm.SGD(0.1), loss=TraceMeanField_ELBO())
    with pytest.warns(UserWarning, match="forgets the Jacobian of guide site 'z'"):
        refined = asked.propose(x)
    torch.testing.assert_close(refined["z.loc"], torch.full((3, 1), LOC - 0.1, dtype=F64))


def test_gaps_are_by_the_right_elbo():
    """Nothing is better than the posterior: no gap, and no refinement away from it."""
    x = tasks(3)
    gaps = inference_gaps(local_scales, at_the_posterior(), x, steps=50, num_samples=20)
    torch.testing.assert_close(gaps.amortized, dist.Normal(0.0, 1.0).log_prob(x), rtol=1e-9, atol=1e-9)
    assert gaps.amortization.abs().max() < 0.05
