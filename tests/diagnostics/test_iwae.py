"""The importance-weighted estimates, on programs whose log evidence is known in closed form."""

import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoNormal
from torch.distributions import Normal

from pyrometa.diagnostics import elbo, iwae_log_marginal, iwae_nll
from pyrometa.models import VAE, ConvVAE

W, B, NOISE = torch.tensor([1.5, -0.7], dtype=torch.double), 0.3, 0.5


@pytest.fixture
def x():
    return torch.randn(6, 2, dtype=torch.double) * 1.5


def model(x):
    """z ~ Normal(0, 1), x ~ Normal(W z + B, NOISE), both pixels."""
    with pyro.plate("data", len(x)):
        z = pyro.sample("z", dist.Normal(torch.zeros(len(x), dtype=x.dtype), 1.0))
        pyro.sample("x", dist.Normal(W * z.unsqueeze(-1) + B, NOISE).to_event(1), obs=x)


def posterior(x):
    precision = 1 + (W**2).sum() / NOISE**2
    return ((x - B) @ W) / NOISE**2 / precision, precision.rsqrt()


def exact_guide(x):
    loc, scale = posterior(x)
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(loc, scale))


def wide_guide(x):
    loc, scale = posterior(x)
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(loc + 0.1, 1.5 * scale))


def log_evidence(x):
    covariance = torch.outer(W, W) + NOISE**2 * torch.eye(2, dtype=x.dtype)
    mean = torch.full((2,), B, dtype=x.dtype)
    return torch.distributions.MultivariateNormal(mean, covariance).log_prob(x)


@pytest.mark.parametrize(("num_samples", "chunk_size"), [(1, 10), (7, 3), (5, 1), (4, 4)])
def test_the_exact_posterior_has_no_variance(x, num_samples, chunk_size):
    counts = {"num_samples": num_samples, "chunk_size": chunk_size}
    torch.testing.assert_close(iwae_log_marginal(model, exact_guide, x, **counts), log_evidence(x))
    mean = log_evidence(x).mean().item()
    assert iwae_nll(model, exact_guide, x, **counts) == pytest.approx(-mean, rel=1e-12)
    assert elbo(model, exact_guide, x, **counts) == pytest.approx(mean, rel=1e-12)


def test_a_wrong_guide_agrees_within_its_standard_error(x):
    loc, scale = posterior(x)
    s = 20_000
    z = Normal(loc + 0.1, 1.5 * scale).sample((s,))
    weights = (Normal(loc, scale).log_prob(z) - Normal(loc + 0.1, 1.5 * scale).log_prob(z)).exp()
    error = weights.std(0) / s**0.5  # of the mean weight, which is 1: the weights are relative to p(x)
    estimate = iwae_log_marginal(model, wide_guide, x, num_samples=s, chunk_size=5000)
    assert ((estimate - log_evidence(x)).abs() < 5 * error).all()
    assert error.max() < 0.01


def test_the_elbo_of_a_wrong_guide_is_below_by_the_kl(x):
    loc, scale = posterior(x)
    kl = torch.distributions.kl_divergence(Normal(loc + 0.1, 1.5 * scale), Normal(loc, scale)).mean()
    s = 20_000
    value = elbo(model, wide_guide, x, num_samples=s, chunk_size=5000)
    assert value == pytest.approx((log_evidence(x).mean() - kl).item(), abs=5 * 1.3 / (s * len(x)) ** 0.5)
    assert kl > 0.2


def test_the_bound_tightens_with_more_samples(x):
    one, few, many = (iwae_nll(model, wide_guide, x.repeat(500, 1), num_samples=s) for s in (1, 3, 30))
    assert one > few > many
    assert many > -log_evidence(x).mean().item() - 0.01


def test_chunks_draw_as_many_samples_as_asked(x):
    shapes = []

    def recording_guide(x):
        loc, scale = posterior(x)
        with pyro.plate("data", len(x)):
            shapes.append(tuple(pyro.sample("z", dist.Normal(loc, scale)).shape))

    iwae_nll(model, recording_guide, x, num_samples=9, chunk_size=4)
    assert shapes == [(4, 6), (4, 6), (6,)]


@pytest.mark.parametrize("local", [False, True])
def test_the_vaes_and_the_param_store_is_left_alone(local):
    with pyro.settings.context(module_local_params=local):
        for vae, shape in ((VAE(hidden=8, latent=2), (784,)), (ConvVAE((2, 3), latent=2), (1, 28, 28))):
            images = torch.rand(4, *shape).round()
            torch.manual_seed(1)
            one = elbo(vae.model, vae.guide, images, num_samples=3, chunk_size=3)
            assert -iwae_nll(vae.model, vae.guide, images, num_samples=50) > one
            loss = pyro.infer.Trace_ELBO(num_particles=3, vectorize_particles=True, max_plate_nesting=1)
            assert not pyro.get_param_store().keys()
            torch.manual_seed(1)
            with pyro.get_param_store().scope():
                assert one == pytest.approx(-loss.loss(vae.model, vae.guide, images) / 4, rel=1e-5)


def test_a_known_parameter_keeps_its_value_and_its_tensor(x):
    leaf = pyro.param("scale", torch.tensor(2.0, dtype=torch.double), constraint=dist.constraints.positive)

    def guide(x):
        loc, scale = posterior(x)
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(loc, scale * pyro.param("scale")))
            pyro.param("new", torch.zeros(()))

    before = pyro.get_param_store()._params["scale"]
    assert elbo(model, guide, x) < log_evidence(x).mean()
    assert set(pyro.get_param_store().keys()) == {"scale"}
    assert pyro.get_param_store()._params["scale"] is before
    assert pyro.param("scale") == leaf


def test_a_local_autoguide_keyword_arguments_and_deterministic_sites(x):
    def scaled(x, *, noise):
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.LogNormal(torch.zeros(len(x), dtype=x.dtype), 1.0))
            pyro.deterministic("twice", 2 * z)
            pyro.sample("x", dist.Normal(z, noise), obs=x[:, 0])

    guide = AutoNormal(scaled, init_scale=0.5)
    estimate = iwae_nll(scaled, guide, x, num_samples=20_000, chunk_size=5000, kwargs={"noise": 2.0})
    u = torch.linspace(-8, 8, 20_001, dtype=x.dtype)
    joint = Normal(0.0, 1.0).log_prob(u) + Normal(u.exp(), 2.0).log_prob(x[:, :1])
    assert estimate == pytest.approx(-torch.trapezoid(joint.exp(), u).log().mean().item(), abs=0.05)


def no_plate(x):
    pyro.sample("mu", dist.Normal(0.0, 1.0))


def other_plate(x):
    with pyro.plate("data", len(x)):
        pyro.sample("z", dist.Normal(0.0, 1.0))
    with pyro.plate("rows", 3):
        pyro.sample("extra", dist.Normal(0.0, 1.0))


def subsampled(x):
    with pyro.plate("data", len(x), subsample_size=2):
        pyro.sample("z", dist.Normal(0.0, 1.0))


def nested(x):
    with pyro.plate("pixels", 2, dim=-2), pyro.plate("data", len(x), dim=-1):
        pyro.sample("z", dist.Normal(0.0, 1.0))


def empty(x):
    """Draws nothing."""


@pytest.mark.parametrize(
    ("model", "guide", "message"),
    [
        (no_plate, no_plate, "site 'mu' must be in exactly one plate, the data's, at dim=-1; its plates: none"),
        (nested, nested, "site 'z' must be in exactly one plate, .* 'pixels' at dim -2"),
        (other_plate, other_plate, "site 'extra' is in plate 'rows' of size 3, other sites .* 'data' of size 6"),
        (subsampled, subsampled, "site 'z' is scaled"),
        (poutine.scale(model, scale=0.5), exact_guide, "site 'z' is scaled"),
        (model, empty, "guide does not draw the model's latent site 'z'"),
        (other_plate, exact_guide, "guide does not draw the model's latent site 'extra'"),
        (poutine.condition(model, {"z": torch.zeros(6)}), exact_guide, "model has no latent site 'z'"),
        (empty, empty, "model and guide have no sample site"),
    ],
)
def test_other_programs_are_refused_by_the_name_of_the_site(x, model, guide, message):
    with pytest.raises(ValueError, match=message):
        iwae_nll(model, guide, x, num_samples=2, chunk_size=1)


@pytest.mark.parametrize("name", ["num_samples", "chunk_size"])
def test_counts_below_one_are_refused(x, name):
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        iwae_nll(model, exact_guide, x, **{name: 0})


def test_one_seed_gives_one_number_and_no_graph(x):
    values = []
    for _ in range(2):
        torch.manual_seed(3)
        values.append(iwae_log_marginal(model, wide_guide, x.requires_grad_(), num_samples=5))
    assert torch.equal(*values)
    assert not values[0].requires_grad
    assert math.isfinite(values[0].sum())
