"""The ELBO whose gradient has no variance where the guide is the posterior."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from pyro import poutine
from pyro.infer import Trace_ELBO
from pyro.poutine import Trace
from pyro.poutine.util import prune_subsample_sites, site_is_subsample
from torch import Tensor

from pyrometa.elbos.densities import log_density
from pyrometa.elbos.particles import average, for_particles, pair, runs, samples
from pyrometa.errors import UnsupportedProgramError
from pyrometa.rewrites.gates import held


class StickingTheLanding_ELBO(Trace_ELBO):
    r"""``Trace_ELBO`` with the gradient along the draws alone, which has no variance at the posterior.

    .. math::
        \nabla_\phi \text{loss} = \frac{1}{P} \sum_{p=1}^P \frac{d z_p}{d \phi} \,
            \nabla_z \big[ \log q(z; \bar \phi) - \log p(x, z) \big]_{z = z_p(\phi)}, \qquad \bar \phi = \phi

    with :math:`z_p` a reparameterised draw. What it leaves out, :math:`\nabla_{\bar \phi} \log q(z; \bar \phi)`, is 0
    in expectation; where :math:`q` is the posterior, what it keeps is 0 for each draw. The value is that of
    ``Trace_ELBO``. Far from the posterior the variance may be larger than ``Trace_ELBO``'s.

    The inner steps of a ``MetaSVI`` move by this gradient, and second-order meta-gradients differentiate it in full,
    through :math:`\bar \phi` too. It is the derivative of no function: rules that ask for the loss's Hessian, as
    ``Newton`` does, refuse it.

    The guide is run a second time for each evaluation, at the values that it drew. All its draws are reparameterised,
    and it draws nothing besides its sites, such as dropout.

    Arguments are those of ``pyro.infer.Trace_ELBO``.

    Raises:
        UnsupportedProgramError: where it is evaluated, on a guide with a draw that is not reparameterised, naming the
            site; or that draws besides its sites.

    References:
        Roeder, Wu, Duvenaud (2017), Sticking the landing: simple, lower-variance gradient estimators for variational
        inference, https://arxiv.org/abs/1703.09194.

    Example:
        >>> import pyro, pyro.distributions as dist, torch, pyrometa as pm
        >>> def model(x):
        ...     loc = pyro.sample("loc", dist.Normal(0.0, 1.0))
        ...     pyro.sample("x", dist.Normal(loc, 1.0), obs=x)
        >>> def guide(x):  # the posterior of x = 2
        ...     mean, scale = pyro.param("mean", torch.tensor(1.0)), pyro.param("scale", torch.tensor(0.5**0.5))
        ...     pyro.sample("loc", dist.Normal(mean, scale))
        >>> loss = pm.StickingTheLanding_ELBO().differentiable_loss(model, guide, torch.tensor(2.0))
        >>> torch.autograd.grad(loss, pyro.param("mean"))[0].abs() < 1e-6  # whatever the draw
        tensor(True)
    """

    def differentiable_loss(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> Tensor:
        """The loss of one evaluation, a scalar with the gradient above."""
        return average(self, (_particle(*found, _same) for found in _evaluated(self, model, guide, args, kwargs)))

    def loss_and_grads(self, model: Any, guide: Any, *args: Any, **kwargs: Any) -> float:
        """The loss as a number; its gradients are added to the parameters', as ``SVI`` asks for."""
        loss = self.differentiable_loss(model, guide, *args, **kwargs)
        if loss.requires_grad:
            loss.backward()
        return loss.item()


def loss(
    elbo: StickingTheLanding_ELBO,
    model: Callable[..., Any],
    guide: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
) -> Tensor:
    """The same, without a look at the values."""
    return average(elbo, (_particle(*found) for found in _evaluated(elbo, model, guide, args, kwargs)))


def _evaluated(
    elbo: StickingTheLanding_ELBO,
    model: Callable[..., Any],
    guide: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
) -> Iterator[tuple[Trace, Trace, Trace]]:
    """Traces of the model, of the guide, and of the guide at the same draws, which no gradient passes at first."""
    model, guide = for_particles(elbo, model, guide, args, kwargs)
    for _ in range(runs(elbo)):
        model_trace, guide_trace = pair(model, guide, args, kwargs)
        again = poutine.replay(guide, trace=_at_held_draws(guide_trace))
        at_draws = poutine.trace(again).get_trace(*args, **kwargs)
        yield (
            prune_subsample_sites(model_trace),
            prune_subsample_sites(guide_trace),
            prune_subsample_sites(at_draws),
        )


def _at_held_draws(guide: Trace) -> Trace:
    """A guide's trace with the values of its draws behind a gate.

    Raises:
        UnsupportedProgramError: for a draw that is not reparameterised.
    """
    trace = guide.copy()
    for site in samples(guide):
        if site["is_observed"] or site_is_subsample(site):
            continue
        if not site["fn"].has_rsample:
            raise UnsupportedProgramError(
                f"StickingTheLanding_ELBO follows the draws' way from the parameters, and guide site {site['name']!r} "
                "has a draw that is not reparameterised: use Trace_ELBO"
            )
        trace.nodes[site["name"]] = {**site, "value": held(site["value"])}
    return trace


def _particle(
    model: Trace, guide: Trace, at_draws: Trace, check: Callable[[Tensor, Tensor], None] | None = None
) -> Tensor:
    log_q, score = (torch.as_tensor(log_density(samples(trace))) for trace in (guide, at_draws))
    if check is not None:
        check(log_q, score)
    return log_q - log_density(samples(model)) - (score - score.detach())


def _same(first: Tensor, second: Tensor) -> None:
    """Refuse a guide whose density on its draws is another the second time.

    Raises:
        UnsupportedProgramError: with both densities.
    """
    if not torch.equal(first, second):
        raise UnsupportedProgramError(
            "StickingTheLanding_ELBO runs the guide twice on the same draws, and the log density of this one was "
            f"{first.item():g}, then {second.item():g}: it draws besides its sites, as dropout does; use Trace_ELBO"
        )
