"""The ELBO and the importance-weighted estimate of the log marginal likelihood, in nats a datum.

Both read the importance weights of one set of draws from the guide::

    log w[s, i] = log p(x_i, z_si) - log q(z_si | x_i),   z_si ~ q(z | x_i)

They take any Pyro program with local latents only: every sample site of model and guide, latent or
observed, lies in one and the same ``pyro.plate`` of size N at ``dim=-1``, without subsampling, and a row of
the plate depends on its own latents alone. Other programs are refused by the name of the site.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.poutine.indep_messenger import CondIndepStackFrame
from torch import Tensor

from pyrometa.diagnostics.counts import check_count
from pyrometa.diagnostics.store import store_left_as_it_is

__all__ = ["elbo", "iwae_log_marginal", "iwae_nll"]

_PARTICLES = "_pyrometa_particles"


def iwae_nll(
    model: Callable,
    guide: Callable,
    *args: Any,
    num_samples: int = 100,
    chunk_size: int = 10,
    kwargs: Mapping[str, Any] | None = None,
) -> float:
    """The importance-weighted estimate of the negative log marginal likelihood, in nats a datum.

    ::

        iwae_nll = -mean_i log( mean_s w[s, i] )

    In expectation it is an upper bound, which falls to ``-mean_i log p(x_i)`` as ``num_samples`` grows;
    at ``num_samples=1`` it is the negative ELBO.
    Burda, Grosse and Salakhutdinov, *Importance Weighted Autoencoders*, 2016, https://arxiv.org/abs/1509.00519.

    Args:
        model: A Pyro model with one data plate (see the module's text).
        guide: Its guide.
        *args: The positional arguments of both.
        num_samples: The number of draws a datum.
        chunk_size: How many draws run at once, which bounds the memory; above 1 they run in an outer plate at
            ``dim=-2``, which the program must broadcast over. 1 asks nothing of the program.
        kwargs: The keyword arguments of both.

    Returns:
        Nats a datum, the mean over the N data.

    Raises:
        ValueError: ``num_samples`` or ``chunk_size`` is less than one, or a site lies outside the data plate,
            is subsampled or scaled, or is latent in only one of model and guide.

    Example:
        >>> import torch
        >>> from pyrometa.models import VAE
        >>> vae, x = VAE(hidden=32, latent=4), torch.rand(10, 784).round()
        >>> nll = iwae_nll(vae.model, vae.guide, x, num_samples=50)
        >>> nll < -elbo(vae.model, vae.guide, x, num_samples=50)
        True
    """
    log_marginal = iwae_log_marginal(model, guide, *args, num_samples=num_samples, chunk_size=chunk_size, kwargs=kwargs)
    return -log_marginal.mean().item()


def iwae_log_marginal(
    model: Callable,
    guide: Callable,
    *args: Any,
    num_samples: int = 100,
    chunk_size: int = 10,
    kwargs: Mapping[str, Any] | None = None,
) -> Tensor:
    """The importance-weighted estimate of each datum's log marginal likelihood: ``log(mean_s w[s, i])``.

    Arguments and errors are those of :func:`iwae_nll`, which is minus the mean of this.

    Returns:
        ``(N,)``, in nats.

    Example:
        >>> import torch
        >>> from pyrometa.models import VAE
        >>> vae, x = VAE(hidden=32, latent=4), torch.rand(10, 784).round()
        >>> iwae_log_marginal(vae.model, vae.guide, x, num_samples=50).shape
        torch.Size([10])
    """
    total = torch.tensor(-math.inf)
    for log_weights in log_weights_of(model, guide, args, dict(kwargs or {}), num_samples, chunk_size):
        total = torch.logaddexp(total, log_weights.logsumexp(0))
    return total - math.log(num_samples)


def elbo(
    model: Callable,
    guide: Callable,
    *args: Any,
    num_samples: int = 1,
    chunk_size: int = 10,
    kwargs: Mapping[str, Any] | None = None,
) -> float:
    """The evidence lower bound, in nats a datum: ``mean_i mean_s log w[s, i]``.

    Arguments and errors are those of :func:`iwae_nll`. No term is integrated analytically.

    Returns:
        Nats a datum, the mean over the N data.

    Example:
        >>> import torch
        >>> from pyrometa.models import VAE
        >>> vae, x = VAE(hidden=32, latent=4), torch.rand(10, 784).round()
        >>> elbo(vae.model, vae.guide, x) < 0
        True
    """
    total = 0.0
    for log_weights in log_weights_of(model, guide, args, dict(kwargs or {}), num_samples, chunk_size):
        total += log_weights.mean(1).sum().item()
    return total / num_samples


@torch.no_grad()
def log_weights_of(
    model: Callable, guide: Callable, args: tuple, kwargs: dict, num_samples: int, chunk_size: int
) -> Iterator[Tensor]:
    """Yields ``log w`` in chunks of shape ``(at most chunk_size, N)``; the param store is left as it was."""
    for name, count in (("num_samples", num_samples), ("chunk_size", chunk_size)):
        check_count(name, count, 1)
    for start in range(0, num_samples, chunk_size):
        particles = min(chunk_size, num_samples - start)
        with store_left_as_it_is():
            model_trace, guide_trace = _traces(model, guide, args, kwargs, particles)
        yield _log_joint(model_trace, guide_trace, particles)


def _traces(
    model: Callable, guide: Callable, args: tuple, kwargs: dict, particles: int
) -> tuple[poutine.Trace, poutine.Trace]:
    if particles > 1:
        plate = pyro.plate(_PARTICLES, particles, dim=-2)
        model, guide = plate(model), plate(guide)
    guide_trace = poutine.trace(guide).get_trace(*args, **kwargs)
    model_trace = poutine.trace(poutine.replay(model, trace=guide_trace)).get_trace(*args, **kwargs)
    model_trace, guide_trace = map(poutine.util.prune_subsample_sites, (model_trace, guide_trace))
    _check_latents(model_trace, guide_trace)
    return model_trace, guide_trace


def _check_latents(model_trace: poutine.Trace, guide_trace: poutine.Trace) -> None:
    """Refuses a latent site that only one of model and guide draws: its weight would be wrong."""
    in_model, in_guide = model_trace.stochastic_nodes, guide_trace.stochastic_nodes
    for name in in_model:
        if name not in in_guide:
            raise ValueError(f"the guide does not draw the model's latent site {name!r}; add it to the guide")
    for name in in_guide:
        if name not in in_model and not _flagged(guide_trace.nodes[name], "is_auxiliary"):
            raise ValueError(
                f"the model has no latent site {name!r}, which the guide draws; "
                "rename it, or mark it infer={'is_auxiliary': True}"
            )


def _log_joint(model_trace: poutine.Trace, guide_trace: poutine.Trace, particles: int) -> Tensor:
    """``log p - log q`` of shape ``(particles, N)``, summed over every site but not over the data plate."""
    data_plate = None
    total: Tensor | float = 0.0
    for trace, sign in ((model_trace, 1.0), (guide_trace, -1.0)):
        trace.compute_log_prob()
        for name, site in trace.nodes.items():
            if site["type"] != "sample" or _flagged(site, "_deterministic"):
                continue
            frame = _data_frame(name, site)
            data_plate = data_plate or (frame.name, frame.size)
            if data_plate != (frame.name, frame.size):
                raise ValueError(
                    f"site {name!r} is in plate {frame.name!r} of size {frame.size}, other sites are in "
                    f"plate {data_plate[0]!r} of size {data_plate[1]}; put every site in one data plate"
                )
            log_prob = site["log_prob"]
            if log_prob.shape[-1] != frame.size or log_prob.numel() != particles * frame.size:
                raise ValueError(
                    f"site {name!r} has log probabilities of shape {tuple(log_prob.shape)}, not one a draw "
                    f"and datum ({particles}, {frame.size}); declare its other dimensions with .to_event()"
                )
            total = total + sign * log_prob.reshape(particles, frame.size)
    if not isinstance(total, Tensor):
        raise ValueError("model and guide have no sample site; give the model data to observe")
    return total


def _flagged(site: Mapping[str, Any], key: str) -> bool:
    return bool((site["infer"] or {}).get(key))


def _data_frame(name: str, site: Mapping[str, Any]) -> CondIndepStackFrame:
    """The one plate a site is in, particles aside."""
    frames = [frame for frame in site["cond_indep_stack"] if frame.name != _PARTICLES]
    if len(frames) != 1 or frames[0].dim != -1:
        plates = ", ".join(f"{frame.name!r} at dim {frame.dim}" for frame in frames) or "none"
        raise ValueError(
            f"site {name!r} must be in exactly one plate, the data's, at dim=-1; its plates: {plates}. "
            "Global latents and nested plates have no importance weight a datum"
        )
    if not torch.as_tensor(site["scale"] == 1).all():
        raise ValueError(
            f"site {name!r} is scaled (by a subsampling plate or poutine.scale), so its weights are not "
            "those of a likelihood; pass the rows themselves and remove the scale"
        )
    return frames[0]
