"""Families of posteriors over a vector of reals, from the numbers that an encoder's head gives."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from typing import Any, ClassVar, Literal, TypeAlias

import pyro
import pyro.distributions as dist
import torch
import torch.nn.functional as F
from pyro.contrib.zuko import ZukoToPyro
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor, nn
from torch.distributions import constraints


class Posterior(nn.Module, ABC):
    """A family's distributions over vectors of ``dim`` reals.

    Attributes:
        sizes: how many unconstrained numbers each of its variational parameters takes, by name.
    """

    sizes: Mapping[str, int]

    @abstractmethod
    def forward(self, params: Mapping[str, Tensor]) -> TorchDistributionMixin:
        """The distribution of event shape ``(dim,)`` for parameters of shapes ``(*batch, size)``."""


Family: TypeAlias = Literal["mean_field", "full_covariance", "flow"] | Callable[[int, int], Posterior]
"""A family by name, or a function of ``(dim, features)`` to a :class:`Posterior`."""


_ONE = 0.5413248546129181
"""The number of which softplus makes one."""


def positive(value: Tensor) -> Tensor:
    """A scale for an unconstrained number, one at zero."""
    return F.softplus(value + _ONE)


def unconstrained(scale: Tensor) -> Tensor:
    """The number of which :func:`positive` makes this scale."""
    return scale + torch.log(-torch.expm1(-scale)) - _ONE


class MeanField(Posterior):
    r"""Independent normals, :math:`q(z) = \prod_i \text{Normal}(z_i; \text{loc}_i, \text{scale}_i)`."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.sizes = {"loc": dim, "scale": dim}

    def forward(self, params: Mapping[str, Tensor]) -> TorchDistributionMixin:
        """The normal of ``loc`` and, unconstrained, ``scale``, both ``(*batch, dim)``."""
        return dist.Normal(params["loc"], positive(params["scale"])).to_event(1)


class FullCovariance(Posterior):
    r"""One normal, :math:`q(z) = \text{Normal}(z; \text{loc}, L L^T)`, with :math:`L` lower triangular."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.dim = dim
        self.sizes = {"loc": dim, "tril": dim * (dim + 1) // 2}

    def forward(self, params: Mapping[str, Tensor]) -> TorchDistributionMixin:
        """The normal of ``loc``, ``(*batch, dim)``, and of the rows of ``L``, ``(*batch, dim (dim + 1) / 2)``."""
        row, column = torch.tril_indices(self.dim, self.dim, device=params["tril"].device)
        index = torch.zeros(self.dim, self.dim, dtype=torch.long, device=row.device)
        index[row, column] = torch.arange(len(row), device=row.device)
        entries = params["tril"][..., index]
        scale = torch.diag_embed(positive(entries.diagonal(dim1=-2, dim2=-1)))
        return dist.MultivariateNormal(params["loc"], scale_tril=entries.tril(-1) + scale)


class Flow(Posterior):
    r"""A conditional normalising flow of zuko, :math:`q(z) = \text{flow}(z; \text{context})`.

    Args:
        flow: a zuko flow, called with the context.
        context: how many numbers it takes as context.

    Example:
        >>> family = lambda dim, features: Flow(zuko.flows.MAF(dim, features, transforms=2), features)
        >>> # guide = AmortizedGuide(model, encoder, family=family)
    """

    def __init__(self, flow: nn.Module, context: int) -> None:
        super().__init__()
        self.flow = flow
        self.sizes = {"context": context}

    def forward(self, params: Mapping[str, Tensor]) -> TorchDistributionMixin:
        """The flow on ``context``, ``(*batch, context)``."""
        return _OnTheReals(self.flow(params["context"]))


class _OnTheReals(ZukoToPyro):
    """A flow as a Pyro distribution, with a support and ``rsample``, which ``Predictive`` asks for."""

    support = constraints.real_vector
    arg_constraints: ClassVar[dict[str, constraints.Constraint]] = {}

    def rsample(self, sample_shape: Any = ()) -> Tensor:
        """A draw of shape ``(*sample_shape, *batch, dim)``."""
        return self(torch.Size(sample_shape))

    def expand(self, batch_shape: Any, _instance: Any = None) -> _OnTheReals:
        """The same flow with other plates."""
        return _OnTheReals(self.dist.expand(torch.Size(batch_shape)))


def _torch_validation_as_it_is() -> AbstractContextManager[None]:
    """Within it, importing zuko does not switch off the validation of torch's distributions for everyone."""
    name = "validate_distributions_torch"
    return pyro.settings.context(**{name: pyro.settings.get(name)})


def _flow(dim: int, features: int) -> Flow:
    try:
        with _torch_validation_as_it_is():
            from zuko.flows import NSF
    except ImportError as error:
        raise ImportError("family='flow' needs zuko: pip install 'pyrometa[flows]'") from error
    return Flow(NSF(dim, features), features)


def _mean_field(dim: int, features: int) -> MeanField:
    return MeanField(dim)


def _full_covariance(dim: int, features: int) -> FullCovariance:
    return FullCovariance(dim)


_FAMILIES: dict[str, Callable[[int, int], Posterior]] = {
    "mean_field": _mean_field,
    "full_covariance": _full_covariance,
    "flow": _flow,
}


def posterior_of(family: Family) -> Callable[[int, int], Posterior]:
    """A function that makes posteriors of a family, as ``Family`` has it.

    Raises:
        ValueError: an unknown name.
    """
    if callable(family):
        return family
    if family not in _FAMILIES:
        raise ValueError(f"family must be one of {', '.join(map(repr, _FAMILIES))} or a function, got {family!r}")
    return _FAMILIES[family]
