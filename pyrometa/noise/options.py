"""Which points of its noise a program is evaluated at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

PointKind = Literal["random", "antithetic", "sobol"]


@dataclass(frozen=True)
class Noise:
    r"""The points at which an ELBO takes its particles' noise, and whether all inner steps take the same.

    An ELBO with ``num_particles=P`` is a mean over points :math:`u_p` of the unit cube, of which each particle turns
    one into the normals and uniforms that its program draws:

    .. math:: \text{loss}(\phi) = \frac{1}{P} \sum_{p=1}^{P} f(\phi, z_p), \qquad z_p = \Phi^{-1}(u_p)

    =================  ================================================================================================
    ``"random"``       independent :math:`u_p`, as Pyro draws them
    ``"antithetic"``   :math:`u_{p + P/2} = 1 - u_p`, so that :math:`z_{p + P/2} = -z_p`: what is odd in the noise
                       cancels
    ``"sobol"``        a Sobol net, scrambled anew for each task and step: of :math:`2^m` points one lies in each of
                       :math:`2^m` slices of every dimension
    =================  ================================================================================================

    Each :math:`u_p` alone is uniform in all three, so that the mean over particles and its gradients are as unbiased
    as before. An objective that is no mean over particles, as ``RenyiELBO``, has another expectation.

    Points are taken by the loss, by the query objective, and at meta-test. What stays random: draws that all particles
    share (under ``vectorize_particles`` these are dropout masks of shared networks and the order of subsampled plates),
    draws made by rejection (Gamma, Poisson, ...), and all draws of a ``score`` that is a function.

    Args:
        points: which. ``"antithetic"`` needs an even number of particles, ``"sobol"`` at least two; a power of two
            is best.
        shared: whether all inner steps of a task see one draw, so that they descend one deterministic objective. The
            query objective has a draw of its own all the same.

    Raises:
        ValueError: for other points.

    References:
        Owen (1995), Randomly permuted (t,m,s)-nets and (t,s)-sequences, https://doi.org/10.1007/978-1-4612-2552-2_19;
        Matoušek (1998), On the L2-discrepancy for anchored boxes, https://doi.org/10.1006/jcom.1998.0489 (the
        scramble that is used); Buchholz, Wenzel, Mandt (2018), Quasi-Monte Carlo variational inference,
        https://arxiv.org/abs/1807.01604; Giordano, Ingram, Broderick (2024), Black box variational inference with a
        deterministic objective, https://arxiv.org/abs/2304.05527.

    Example:
        >>> import pyro, pyro.distributions as dist, torch, pyrometa as pm
        >>> from pyro.infer import Trace_ELBO
        >>> from pyro.infer.autoguide import AutoNormal
        >>> def model(x):
        ...     loc = pyro.sample("loc", dist.Normal(0.0, 10.0))
        ...     with pyro.plate("data", x.shape[0]):
        ...         pyro.sample("x", dist.Normal(loc, 1.0), obs=x)
        >>> elbo = Trace_ELBO(num_particles=8, vectorize_particles=True)
        >>> noise = pm.Noise(points="sobol", shared=True)
        >>> meta = pm.MetaSVI(model, AutoNormal(model), pyro.optim.Adam({"lr": 0.1}), elbo, noise=noise)
        >>> loss = meta.step(5 + torch.randn(4, 10))  # 4 tasks of 10 data
    """

    points: PointKind = "random"
    shared: bool = False

    def __post_init__(self) -> None:
        if self.points not in get_args(PointKind):
            raise ValueError(f"points must be one of {', '.join(get_args(PointKind))}, got {self.points!r}")
