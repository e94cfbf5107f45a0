"""Steps of Gaussians that a guide computes from data, by the parameters that they are linear in."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from pyrometa.inner.covariance import eye_like
from pyrometa.types import Params


def moved_through(
    params: Mapping[str, Tensor],
    grads: Mapping[str, Tensor],
    shown: Callable[[Params], Params],
    step: Callable[[Params, Params], Params],
) -> Params:
    r"""Parameters moved so that what depends on them goes where its own step leads.

    With J the derivatives of the numbers :math:`\eta` by the parameters, the gradient by the numbers is the
    :math:`\nabla_\eta` of least norm for which :math:`J^\top \nabla_\eta` is that by the parameters, and these move as
    little as they can:

    .. math:: \phi_{k+1} = \phi_k + J^\top (J J^\top)^{-1} (\eta_{k+1} - \eta_k)

    With a natural step of :math:`\eta` that is the least of the natural gradients
    :math:`(J^\top F J)^+ \nabla_\phi` to first order in the rate, and the numbers arrive where they are to if they are
    linear in the parameters. A share ``eps ** 0.75`` of its largest diagonal entry is added to :math:`J J^\top`.

    Args:
        params: what moves.
        grads: the gradients by it.
        shown: the numbers, as a function of it.
        step: of numbers and gradients by them to the new numbers.
    """
    start = _flat(params)

    def numbers(flat: Tensor) -> tuple[Tensor, Params]:
        found = shown(_split(flat, params))
        return _flat(found), found

    slopes, here = torch.func.jacrev(numbers, has_aux=True)(start)
    gram = _damped(slopes @ slopes.mT)
    across = torch.linalg.solve(gram, slopes @ _flat(grads))
    there = step(here, _split(across, here))
    way = _flat({name: there[name] - value for name, value in here.items()})
    return _split(start + slopes.mT @ torch.linalg.solve(gram, way), params)


def _damped(gram: Tensor) -> Tensor:
    largest = gram.diagonal().max()
    share = torch.finfo(gram.dtype).eps ** 0.75 * torch.where(largest > 0, largest, 1.0)
    return gram + share * eye_like(gram)


def _flat(tensors: Mapping[str, Tensor]) -> Tensor:
    return torch.cat([tensor.flatten() for tensor in tensors.values()])


def _split(flat: Tensor, like: Mapping[str, Tensor]) -> Params:
    parts = flat.split([tensor.numel() for tensor in like.values()])
    return {
        name: part.view(tensor.shape).to(tensor.dtype) for part, (name, tensor) in zip(parts, like.items(), strict=True)
    }
