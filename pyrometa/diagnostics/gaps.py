"""How much an encoder gives away: the inference gap, and its two parts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from pyro import poutine
from torch import Tensor

from pyrometa import generators
from pyrometa.diagnostics.iwae import iwae_log_marginal, log_weights_of
from pyrometa.diagnostics.store import store_left_as_it_is
from pyrometa.elbos.default import mean_field_elbo

__all__ = ["InferenceGaps", "inference_gaps"]


class InferenceGaps(NamedTuple):
    """Three bounds of each datum, and the gaps between them; all ``(N,)``, in nats.

    Attributes:
        log_marginal: the importance-weighted estimate of ``log p(x)``, from draws of the optimal posterior.
        optimal: ELBO of the datum's own variational parameters, optimised to convergence.
        amortised: ELBO of those that the guide proposes.
    """

    log_marginal: Tensor
    optimal: Tensor
    amortized: Tensor

    @property
    def inference(self) -> Tensor:
        """``log_marginal - amortised``: all that is lost, the sum of the two below."""
        return self.log_marginal - self.amortized

    @property
    def approximation(self) -> Tensor:
        """``log_marginal - optimal``: lost to the family of the posterior, whoever chooses within it."""
        return self.log_marginal - self.optimal

    @property
    def amortization(self) -> Tensor:
        """``optimal - amortised``: lost to proposing at once what can be optimised datum by datum."""
        return self.optimal - self.amortized


def inference_gaps(
    model: Callable[..., Any],
    guide: Any,
    *args: Any,
    steps: int = 1000,
    lr: float = 0.05,
    num_samples: int = 1000,
    chunk_size: int = 10,
    kwargs: Mapping[str, Any] | None = None,
) -> InferenceGaps:
    r"""Split what a guide loses into the part of its family and the part of its encoder.

    .. math::
        \log p(x) - \text{ELBO}(x; \lambda) =
        \underbrace{\log p(x) - \text{ELBO}(x; \lambda^*)}_{\text{approximation}} +
        \underbrace{\text{ELBO}(x; \lambda^*) - \text{ELBO}(x; \lambda)}_{\text{amortisation}}, \qquad
        \lambda^* = \arg\max_{\lambda'} \text{ELBO}(x; \lambda')

    with :math:`\lambda` what the guide proposes for a datum. :math:`\lambda^*` is sought from there by Adam, at a rate
    that falls linearly to 0: it is found where more ``steps`` do not change ``optimal``. Nothing of the model, the
    guide or the param store is changed. Programs are those of :func:`~pyrometa.diagnostics.iwae_nll`.

    Args:
        model: a Pyro model with one data plate, whose data are independent of one another given its parameters.
        guide: an ``AmortizedGuide`` or ``SemiAmortizedGuide``, or any guide with ``propose(*args, **kwargs)`` to
            unconstrained variational parameters, tensors by name with a row for each datum, and ``sample(proposal)``.
        args: the positional arguments of both.
        steps: Adam's steps.
        lr: its rate at the start.
        num_samples: draws a datum, for each of the three bounds.
        chunk_size: how many draws run at once.
        kwargs: the keyword arguments of both.

    Raises:
        TypeError: a guide without ``propose`` and ``sample``.
        ValueError: counts below 1, a rate that is not positive, or a program that has no weight a datum.

    References:
        Cremer, Li, Duvenaud (2018), Inference suboptimality in variational autoencoders,
        https://arxiv.org/abs/1801.03558.

    Example:
        >>> import torch
        >>> from pyrometa.guides import AmortizedGuide
        >>> from pyrometa.models import VAE
        >>> vae, x = VAE(hidden=32, latent=4), torch.rand(10, 784).round()
        >>> guide = AmortizedGuide(vae.model, torch.nn.Linear(784, 8))
        >>> gaps = inference_gaps(vae.model, guide, x, steps=100, num_samples=100)
        >>> gaps.amortization.shape, gaps.amortization.mean() > 0
        (torch.Size([10]), tensor(True))
    """
    if not (hasattr(guide, "propose") and hasattr(guide, "sample")):
        raise TypeError(f"guide must have propose(*args) and sample(proposal), as AmortizedGuide, got {guide!r}")
    if steps < 1 or not lr > 0:
        raise ValueError(f"steps must be at least 1 and lr positive, got steps={steps} and lr={lr}")
    given = dict(kwargs or {})
    with store_left_as_it_is():
        poutine.block(model)(*args, **given)  # its parameters must be in the store before a gradient is taken of it
        proposal = {name: value.detach() for name, value in guide.propose(*args, **given).items()}
        best = _optimized(model, guide, proposal, args, given, steps, lr)

    def of(params: Mapping[str, Tensor]) -> Callable[..., Any]:
        return lambda *_, **__: guide.sample(params)

    counts = {"num_samples": num_samples, "chunk_size": chunk_size}
    elbos = [
        torch.stack([w.sum(0) for w in log_weights_of(model, of(params), args, given, **counts)]).sum(0) / num_samples
        for params in (best, proposal)
    ]
    log_marginal = iwae_log_marginal(model, of(best), *args, **counts, kwargs=given)
    return InferenceGaps(log_marginal, optimal=elbos[0], amortized=elbos[1])


def _optimized(
    model: Callable[..., Any],
    guide: Any,
    proposal: Mapping[str, Tensor],
    args: tuple[Any, ...],
    kwargs: Mapping[str, Any],
    steps: int,
    lr: float,
) -> dict[str, Tensor]:
    """The proposal after Adam on the ELBO; each datum's own, as Adam goes by coordinate and the ELBO is a sum."""
    params = {name: value.detach().clone().requires_grad_() for name, value in proposal.items()}
    adam = torch.optim.Adam(params.values(), lr=lr)
    schedule = torch.optim.lr_scheduler.LinearLR(adam, start_factor=1.0, end_factor=1 / steps, total_iters=steps)
    with poutine.block(), generators.forked():
        elbo = mean_field_elbo(poutine.trace(guide.sample).get_trace(proposal))
    for _ in range(steps):
        loss = elbo.differentiable_loss(model, lambda *_, **__: guide.sample(params), *args, **kwargs)
        for value, grad in zip(params.values(), torch.autograd.grad(loss, list(params.values())), strict=True):
            value.grad = grad
        adam.step()
        schedule.step()
    return {name: value.detach() for name, value in params.items()}
