"""The VAEs as networks, as Pyro programs, and under plain SVI."""

import pyro
import pytest
import torch
from pyro import poutine
from pyro.infer import SVI, Predictive, Trace_ELBO, TraceMeanField_ELBO

from pyrometa.models import VAE, ConvVAE

LIKELIHOODS = ["bernoulli", "continuous_bernoulli", "gaussian"]
BUILD = {
    "dense": lambda **kwargs: VAE(hidden=16, latent=3, **kwargs),
    "conv": lambda **kwargs: ConvVAE(channels=(4, 6), latent=3, **kwargs),
}
SHAPE = {"dense": (784,), "conv": (1, 28, 28)}
BOTH = pytest.mark.parametrize("kind", ["dense", "conv"])


def blobs(n, kind):
    """Grey images of one bright square each, at a random place."""
    x = torch.full((n, 28, 28), 0.05)
    for image, (row, column) in zip(x, torch.randint(0, 20, (n, 2)).tolist(), strict=True):
        image[row : row + 8, column : column + 8] = 0.9
    return x.reshape(n, *SHAPE[kind])


@BOTH
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_shapes_of_everything_in_and_out(kind, likelihood):
    vae, x = BUILD[kind](likelihood=likelihood), blobs(5, kind)
    loc, scale = vae.encode(x)
    assert loc.shape == scale.shape == (5, 3)
    assert (scale > 0).all()
    assert vae.reconstruct(x).shape == x.shape
    assert vae.sample(4).shape == (4, *SHAPE[kind])
    trace = poutine.trace(vae.model).get_trace(x)
    trace.compute_log_prob()
    assert trace.nodes["z"]["log_prob"].shape == trace.nodes["x"]["log_prob"].shape == (5,)


def test_the_decoder_means_are_those_of_the_likelihood():
    z = torch.randn(6, 3)
    for likelihood in LIKELIHOODS:
        decoded = VAE(hidden=16, latent=3, likelihood=likelihood).decoder(z)
        draws = decoded.sample((4000,))
        error = (draws.mean(0) - decoded.mean) / draws.std(0).clamp(min=0.01) * 4000**0.5
        assert error.abs().max() < 6, likelihood
        assert error.std() < 1.1, likelihood


def test_log_densities_by_hand():
    x, z = torch.rand(2, 784), torch.randn(2, 3)
    for likelihood in LIKELIHOODS:
        vae = VAE(hidden=16, latent=3, likelihood=likelihood)
        output = vae.decoder.output(torch.relu(vae.decoder.hidden(z)))
        if likelihood == "gaussian":
            vae.decoder.likelihood.log_scale.data.fill_(-0.7)
            sigma = torch.tensor(-0.7).exp()
            expected = -0.5 * ((x - output) / sigma) ** 2 - sigma.log() - 0.5 * torch.tensor(2 * torch.pi).log()
        else:
            p = output.double().sigmoid()
            expected = x * p.log() + (1 - x) * (1 - p).log()
            if likelihood == "continuous_bernoulli":
                expected = expected + (2 * torch.atanh(1 - 2 * p) / (1 - 2 * p)).log()
        torch.testing.assert_close(vae.decoder(z).log_prob(x).double(), expected.double().sum(-1), rtol=1e-5, atol=1e-2)


def test_the_encoder_and_decoder_are_the_classic_networks():
    vae, x = VAE(hidden=16, latent=3, activation=torch.tanh), torch.rand(4, 784)
    h = torch.tanh(x @ vae.encoder.hidden.weight.T + vae.encoder.hidden.bias)
    loc, scale = vae.encode(x)
    torch.testing.assert_close(loc, vae.encoder.loc(h))
    torch.testing.assert_close(scale.log(), vae.encoder.log_scale(h))
    logits = vae.decoder.output(torch.tanh(vae.decoder.hidden(loc)))
    torch.testing.assert_close(vae.reconstruct(x), logits.sigmoid())


def test_the_decoder_mirrors_several_hidden_layers():
    vae, x = VAE(hidden=(16, 8), latent=3, activation=torch.tanh), torch.rand(4, 784)
    first, _, second = vae.encoder.hidden
    loc, scale = vae.encode(x)
    h = second(first(x).tanh()).tanh()
    torch.testing.assert_close(loc, vae.encoder.loc(h))
    torch.testing.assert_close(scale.log(), vae.encoder.log_scale(h))
    first, _, second = vae.decoder.hidden
    assert [first.out_features, second.out_features] == [8, 16]
    h = second(first(loc).tanh()).tanh()
    torch.testing.assert_close(vae.reconstruct(x), vae.decoder.output(h).sigmoid())


def test_one_width_in_a_list_is_that_width():
    assert VAE(hidden=[16]).state_dict().keys() == VAE(hidden=16).state_dict().keys()


@BOTH
@pytest.mark.parametrize("local", [False, True])
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_plain_svi_trains_both_networks(kind, local, likelihood):
    with pyro.settings.context(module_local_params=local):
        vae, x = BUILD[kind](likelihood=likelihood), blobs(64, kind)
        before = {name: value.detach().clone() for name, value in vae.named_parameters()}
        svi = SVI(vae.model, vae.guide, pyro.optim.Adam({"lr": 5e-3}), TraceMeanField_ELBO())
        first = svi.evaluate_loss(x)
        for _ in range(15):
            svi.step(x)
        assert svi.evaluate_loss(x) < first - 64 * 10
    assert [name for name, value in vae.named_parameters() if torch.equal(value, before[name])] == []


@BOTH
def test_the_param_store_tells_the_encoder_from_the_decoder(kind):
    vae, x = BUILD[kind](likelihood="gaussian"), blobs(3, kind)
    names = {}
    for side, program in (("guide", vae.guide), ("model", vae.model)):
        nodes = poutine.trace(program).get_trace(x).nodes
        names[side] = {name for name, site in nodes.items() if site["type"] == "param"}
    assert names["guide"] == {f"encoder$$${name}" for name, _ in vae.encoder.named_parameters()}
    assert names["model"] == {f"decoder$$${name}" for name, _ in vae.decoder.named_parameters()}
    assert "decoder$$$likelihood.log_scale" in names["model"]
    store = pyro.get_param_store()
    assert set(store.keys()) == names["guide"] | names["model"]
    assert all(store["encoder$$$" + name] is value for name, value in vae.encoder.named_parameters())


@BOTH
def test_no_buffers_to_update_in_training(kind):
    assert list(BUILD[kind]().buffers()) == []


@BOTH
def test_vectorised_particles_and_predictive(kind):
    vae, x = BUILD[kind](), blobs(5, kind)
    many = Trace_ELBO(num_particles=400, vectorize_particles=True, max_plate_nesting=1)
    loop = Trace_ELBO(num_particles=400, max_plate_nesting=1)
    vectorized, looped = (elbo.loss(vae.model, vae.guide, x) for elbo in (many, loop))
    assert vectorized == pytest.approx(looped, rel=1e-3)
    draws = Predictive(poutine.uncondition(vae.model), guide=vae.guide, num_samples=7)(x)
    assert draws["x"].shape == (7, *x.shape)


class OwnValues(poutine.messenger.Messenger):
    """Answers every parameter with the value given, so that none enters the store."""

    def _pyro_param(self, msg):
        msg["value"], msg["done"] = msg["args"][1], True


class Joint(torch.nn.Module):
    """log p(x, z) and log q(z | x) at given latents, as a module of its parameters."""

    def __init__(self, vae):
        super().__init__()
        self.vae = vae

    def forward(self, x, z):
        total = 0.0
        for program in (self.vae.model, self.vae.guide):
            with OwnValues():
                total = total + poutine.trace(poutine.condition(program, {"z": z})).get_trace(x).log_prob_sum()
        return total


@BOTH
@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_vmap_over_tasks_equals_a_loop(kind, likelihood):
    joint = Joint(BUILD[kind](likelihood=likelihood).double())
    x = torch.stack([blobs(4, kind), blobs(4, kind)]).double()
    z = torch.randn(2, 4, 3, dtype=torch.double)
    params = {name: torch.stack([value.detach(), value.detach() + 0.01]) for name, value in joint.named_parameters()}

    def loss(params, x, z):
        return torch.func.functional_call(joint, params, (x, z))

    with pyro.validation_enabled(False):
        grads, values = torch.func.vmap(torch.func.grad_and_value(loss))(params, x, z)
    for task in range(2):
        one = {name: value[task].requires_grad_() for name, value in params.items()}
        value = loss(one, x[task], z[task])
        torch.testing.assert_close(values[task], value)
        expected = torch.autograd.grad(value, list(one.values()))
        torch.testing.assert_close([grads[name][task] for name in one], list(expected))


@pytest.mark.parametrize(
    ("vae", "shape", "cure"),
    [
        (BUILD["dense"], (5, 28, 28), r"\(N, 784\) .* got \(5, 28, 28\); use x.reshape\(-1, 784\)"),
        (BUILD["dense"], (784,), r"got \(784,\)"),
        (BUILD["dense"], (0, 784), r"N >= 1, got \(0, 784\)"),
        (BUILD["dense"], (), r"got \(\)"),
        (BUILD["conv"], (5, 784), r"\(N, 1, 28, 28\) .* got \(5, 784\); use x.reshape\(-1, 1, 28, 28\)"),
        (BUILD["conv"], (5, 28, 28), r"got \(5, 28, 28\)"),
        (BUILD["conv"], (1, 28, 28), r"got \(1, 28, 28\)"),
    ],
)
def test_wrong_shapes_are_refused(vae, shape, cure):
    vae = vae()
    for method in (vae.model, vae.guide, vae.encode, vae.reconstruct):
        with pytest.raises(ValueError, match=cure):
            method(torch.zeros(shape))
    assert not list(pyro.get_param_store())


def test_wrong_types_are_refused():
    vae = BUILD["dense"]()
    with pytest.raises(TypeError, match=r"floating-point images, got torch.uint8; use x.float\(\) / 255"):
        vae.model(torch.zeros(5, 784, dtype=torch.uint8))
    with pytest.raises(TypeError, match=r"torch\.Tensor of images, got list"):
        vae.encode([[0.0] * 784])


@BOTH
@pytest.mark.parametrize("likelihood", ["bernoulli", "continuous_bernoulli"])
@pytest.mark.parametrize("bad", [-0.1, 1.5, float("nan")])
def test_pixels_outside_the_unit_interval_are_refused_when_scored(kind, likelihood, bad):
    vae, x = BUILD[kind](likelihood=likelihood), blobs(3, kind)
    svi = SVI(vae.model, vae.guide, pyro.optim.Adam({}), Trace_ELBO())
    svi.evaluate_loss(x)
    x.view(-1)[100] = bad
    with pytest.raises(ValueError):  # noqa: PT011 a NaN stops at the guide, the others at the site 'x'
        svi.evaluate_loss(x)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: VAE(likelihood="poisson"), "'bernoulli', 'continuous_bernoulli', 'gaussian', got 'poisson'"),
        (lambda: VAE(hidden=0), "hidden must be at least 1, got 0"),
        (lambda: VAE(hidden=(16, 0)), "hidden must be at least 1, got 0"),
        (lambda: VAE(hidden=()), "hidden must be at least 1, got 0"),
        (lambda: VAE(data_size=-1), "data_size must be at least 1"),
        (lambda: ConvVAE(latent=0), "latent must be at least 1"),
        (lambda: ConvVAE(channels=(4, 0)), "channels must be at least 1, got 0"),
        (lambda: VAE(hidden=2, latent=2).sample(0), "got n=0"),
    ],
)
def test_bad_arguments_are_refused(build, message):
    with pytest.raises(ValueError, match=message):
        build()
