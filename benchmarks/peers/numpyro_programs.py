"""The workloads' models and guides in NumPyro, with the ELBO that Pyro's mean-field one is on them."""

from collections.abc import Callable, Mapping
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpyro
import numpyro.distributions as dist
from jax import lax
from numpyro.infer import Trace_ELBO, TraceMeanField_ELBO
from numpyro.infer.elbo import ELBO

from benchmarks.workloads import Workload

Params = Mapping[str, jax.Array]
Program = Callable[..., None]


def programs(workload: Workload, params: Params) -> tuple[Program, Program, ELBO]:
    """Model, guide and ELBO on some parameters."""
    if workload.kind == "B":
        return *_regression(params, workload.width), Trace_ELBO()
    encode, decode = (_conv_encoder, _conv_decoder) if workload.kind == "C" else (_dense_encoder, _dense_decoder)

    def model(x: jax.Array) -> None:
        with numpyro.plate("data", x.shape[0]):
            z = numpyro.sample("z", dist.Normal(0, 1).expand([workload.latent]).to_event(1))
            logits = decode(params, z)
            numpyro.sample("x", dist.Bernoulli(logits=logits).to_event(x.ndim - 1), obs=x)

    def guide(x: jax.Array) -> None:
        with numpyro.plate("data", x.shape[0]):
            h = encode(params, x)
            loc, log_scale = (_linear(params, f"guide.encoder.{head}", h) for head in ("loc", "log_scale"))
            numpyro.sample("z", dist.Normal(loc, jnp.exp(log_scale)).to_event(1))

    return model, guide, TraceMeanField_ELBO()


def _regression(params: Params, width: int) -> tuple[Program, Program]:
    sizes = (1, width, width, 1)
    shapes = {}
    for i, (inputs, outputs) in enumerate(pairwise(sizes)):
        shapes |= {f"layer{i}.weight": (outputs, inputs), f"layer{i}.bias": (outputs,)}

    def model(x: jax.Array, y: jax.Array) -> None:
        weights = {
            name: numpyro.sample(name, dist.Normal(0, 1).expand(shape).to_event(len(shape)))
            for name, shape in shapes.items()
        }
        h = jax.nn.relu(_linear(weights, "layer1", jax.nn.relu(_linear(weights, "layer0", x))))
        with numpyro.plate("data", x.shape[0]):
            numpyro.sample("y", dist.Normal(_linear(weights, "layer2", h)[:, 0], 0.1), obs=y)

    def guide(x: jax.Array, y: jax.Array) -> None:
        for name, shape in shapes.items():
            loc, scale = params[f"guide.locs.{name}"], jax.nn.softplus(params[f"guide.scales.{name}"])
            numpyro.sample(name, dist.Normal(loc, scale).to_event(len(shape)))

    return model, guide


def _dense_encoder(params: Params, x: jax.Array) -> jax.Array:
    return jax.nn.relu(_linear(params, "guide.encoder.hidden", x))


def _dense_decoder(params: Params, z: jax.Array) -> jax.Array:
    return _linear(params, "model.decoder.output", jax.nn.relu(_linear(params, "model.decoder.hidden", z)))


def _conv_encoder(params: Params, x: jax.Array) -> jax.Array:
    h = jax.nn.relu(_conv(params, "guide.encoder.conv1", x))
    h = jax.nn.relu(_conv(params, "guide.encoder.conv2", h))
    return h.reshape(x.shape[0], -1)


def _conv_decoder(params: Params, z: jax.Array) -> jax.Array:
    h = jax.nn.relu(_linear(params, "model.decoder.hidden", z)).reshape(z.shape[0], -1, 7, 7)
    return _conv_transpose(
        params, "model.decoder.conv2", jax.nn.relu(_conv_transpose(params, "model.decoder.conv1", h))
    )


def _linear(params: Params, name: str, x: jax.Array) -> jax.Array:
    return x @ params[f"{name}.weight"].T + params[f"{name}.bias"]


def _conv(params: Params, name: str, x: jax.Array) -> jax.Array:
    """Kernel 4, stride 2, padding 1."""
    weight, layout = params[f"{name}.weight"], ("NCHW", "OIHW", "NCHW")
    y = lax.conv_general_dilated(x, weight, (2, 2), ((1, 1), (1, 1)), dimension_numbers=layout)
    return y + params[f"{name}.bias"][:, None, None]


def _conv_transpose(params: Params, name: str, x: jax.Array) -> jax.Array:
    """Kernel 4, stride 2, padding 1: the inputs two apart, 4 - 1 - 1 zeros around, the kernel reversed."""
    weight, layout = params[f"{name}.weight"][:, :, ::-1, ::-1], ("NCHW", "IOHW", "NCHW")
    y = lax.conv_general_dilated(x, weight, (1, 1), ((2, 2), (2, 2)), lhs_dilation=(2, 2), dimension_numbers=layout)
    return y + params[f"{name}.bias"][:, None, None]
