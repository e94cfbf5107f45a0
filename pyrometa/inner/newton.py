"""Newton's method as an inner rule: damped steps with the support loss's own Hessian."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

import torch
from torch import Tensor

from pyrometa.inner.blocks import Blocks
from pyrometa.inner.curvature import Curvature, Either, InBlocks, Whole, Within
from pyrometa.inner.krylov import krylov
from pyrometa.inner.ranges import check_count, check_positive
from pyrometa.inner.steps import at_step
from pyrometa.inner.surface import RowLosses
from pyrometa.types import Params

Learn = Literal["damping", "step"]

_MORE = (0.0, 1e-3, 3e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0, 3.0, 10.0, 100.0)
"""What is added to the damping, for steps to choose from."""

_ROUNDING = 64
"""Units of the loss's last place that count as equal."""

_PRODUCTS = 32
"""Hessian-vector products of a step where the Hessian itself is too large."""


@dataclass(frozen=True)
class Newton:
    r"""Newton's method on the fast weights of a task, all of them together, which knows the loss's shape.

    .. math::
        \phi_{k+1} = \phi_k - V \left( |\Lambda| + (\delta + \delta_k) \max |\lambda| \, I \right)^{-1} V^\top
            \nabla_{\phi_k} \text{loss}(\phi_k), \qquad \nabla_{\phi_k}^2 \, \text{loss}(\phi_k) = V \Lambda V^\top

    Where the loss curves downwards the step goes down all the same, since the eigenvalues :math:`\lambda` count by
    their size. Steps with eleven :math:`\delta_k` from 0 to 100 are tried side by side, and the one that lowers the
    loss most is taken, of several that are equal up to rounding the least damped; where all raise it, the task stays
    where it is. With ``damping=0`` it converges quadratically, so that digits double at each step, on one draw of
    noise. So give it ``noise=pm.Noise("sobol", shared=True)`` and 32 particles or more; on noise of its own each step
    is Newton's on that. Along a direction without curvature the undamped step is as long as rounding lets it: give
    ``damping`` where the loss is linear in something.

    Under ``Unrolled()`` the meta-gradient is exact, through the Hessian and its eigenvectors, degenerate or not; the
    choice of :math:`\delta_k` counts as constant. Under ``first_order`` gradient and Hessian are constants. As a step
    takes second derivatives also at meta-test, a program where these are wrong is refused on first data.

    Where each element of a plate has numbers of its own, as every group has a level's mean and scale, the Hessian is a
    block an element with a border of the G numbers that all share. So D + G products are enough where an element has
    D, however many elements there are. Which numbers these are is read off the program on first data, names do not
    count, and one product more shows at every step, for each task, that there is nothing else: where there is, all
    steps from then on are dense, or beyond ``max_dim`` this task's step is.

    Args:
        damping: the damping :math:`\delta`, relative to the largest curvature; 0 for plain Newton steps.
        learn: None; ``"damping"`` learns it, one for all steps; ``"step"`` one for each step. Held as ``log_damping``,
            so that it stays positive; steps beyond the last that has one of its own use the last one's.
        outer_lr: outer step size of the learned damping; None takes the optimiser's own.
        max_dim: how many numbers of a task may adapt for its Hessian to be computed. Of a larger one, a step sees what
            32 Hessian-vector products show: by Lanczos' method, its part in the span where conjugate gradient
            looks too; or, in blocks of fewer, all of it, by Schur complement and each block's eigenvalues, and
            :math:`\max |\lambda|` is the largest of these. That counts as constant: there is no ``Unrolled()``
            through it but ``first_order``.

    Raises:
        ValueError: a damping that is negative or not finite, or 0 where it is learned, an unknown ``learn``, a
            ``max_dim`` below 1; on first data, an exact meta-gradient through steps of more numbers than ``max_dim``.
        TypeError: ``max_dim`` is not a whole number.

    References:
        Nocedal, Wright (2006), Numerical optimization, chapter 3, https://doi.org/10.1007/978-0-387-40065-5;
        Dauphin et al. (2014), Identifying and attacking the saddle point problem, https://arxiv.org/abs/1406.2572,
        for the sizes of eigenvalues;
        Giordano, Ingram, Broderick (2024), Black box variational inference with a deterministic objective,
        https://arxiv.org/abs/2304.05527, for one draw.

    Example:
        >>> import torch
        >>> Newton(damping=0.1, learn="step").learned({"guide.loc": torch.tensor([2.0])}, steps=2)
        {'log_damping': tensor([-2.3026, -2.3026])}
    """

    damping: float = 0.0
    learn: Learn | None = None
    outer_lr: float | None = None
    max_dim: int = 200
    _blocks: Blocks | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if self.learn is not None and self.learn not in get_args(Learn):
            raise ValueError(f"learn must be None, 'damping' or 'step', got {self.learn!r}")
        if self.learn is not None and self.damping == 0:
            raise ValueError(f"learn={self.learn!r} learns the logarithm of the damping: give damping above 0")
        if self.damping != 0:
            check_positive("damping", self.damping)
        if self.outer_lr is not None:
            check_positive("outer_lr", self.outer_lr)
        check_count("max_dim", self.max_dim)

    def learned(self, params: Mapping[str, Tensor], steps: int) -> Params:
        """Logarithms of the learned damping: shape ``()`` or ``(steps,)``; empty where it is fixed."""
        if self.learn is None:
            return {}
        shape = (steps,) if self.learn == "step" else ()
        return {"log_damping": next(iter(params.values())).new_full(shape, math.log(self.damping))}

    def check_exact(self, size: int) -> None:
        """Refuse to differentiate through the steps of tasks of which so many numbers adapt.

        Raises:
            ValueError: more than ``max_dim``.
        """
        if size > self.max_dim:
            raise ValueError(
                f"{size} numbers of a task adapt, of whose Hessian Newton(max_dim={self.max_dim}) sees a part, which "
                "has no exact meta-gradient: use meta_gradient=Unrolled(first_order=True), adapt fewer by adapt=, or a "
                "larger max_dim"
            )

    def in_blocks(self, blocks: Blocks) -> Newton:
        """This rule for a program of which it is known which numbers are each element's own."""
        return replace(self, _blocks=blocks)

    def moved(self, here: RowLosses, learned: Mapping[str, Tensor], step: int) -> Tensor:
        """One step of all tasks, shape ``(tasks, size)``."""
        here = here if here.slope.shape[1] <= self.max_dim else here.as_constant()
        curvature, slope = self._curvature(here), here.slope.detach()
        damping = self._damping(slope, learned, step)
        more = slope.new_tensor(_MORE)
        tried = curvature.divided(slope, damping.detach() + more[:, None, None])
        chosen, lower = _chosen(here.losses.detach(), here.losses_at(here.rows.detach() - tried))
        damped = (damping + more[chosen])[:, None]
        way = curvature.step(here.slope if here.exact else slope, damped, lower[:, None])
        return torch.where(_is_finite(here, curvature), here.rows - way, math.nan)

    def _curvature(self, here: RowLosses) -> Curvature:
        """The Hessians by way of blocks, where they have any, for the tasks that are no more than these."""
        if self._blocks is not None:
            found = self._blocks.curvature(here, self.max_dim)
            if found is not None:
                hidden = isinstance(found, InBlocks) and here.seen and found.total.isnan().any()
                return Either(found.total.isnan(), self._without_blocks(here), found) if hidden else found
        return self._without_blocks(here)

    def _without_blocks(self, here: RowLosses) -> Curvature:
        """The Hessians whole, or in some directions."""
        if here.slope.shape[1] <= self.max_dim:
            return Whole.of(here.hessian(), exact=here.exact)
        basis, hessian = krylov(here, _PRODUCTS)
        return Within(basis, Whole.of(hessian, exact=False))

    def _damping(self, like: Tensor, learned: Mapping[str, Tensor], step: int) -> Tensor:
        """The damping of a step, shape ``()``."""
        if not learned:
            return like.new_tensor(self.damping)
        log = learned["log_damping"]
        return torch.exp(at_step(log, step) if log.dim() else log)


def _chosen(before: Tensor, after: Tensor) -> tuple[Tensor, Tensor]:
    """Which candidate each task takes, and whether any lowers its loss; both of shape ``(tasks,)``.

    Args:
        before: the losses, shape ``(tasks,)``.
        after: those of the candidates, the least damped first, shape ``(candidates, tasks)``.
    """
    after = torch.where(torch.isfinite(after), after, math.inf)
    best = torch.minimum(after.amin(0), before)
    rounding = _ROUNDING * torch.finfo(before.dtype).eps * (1 + before.abs())
    enough = after <= best + rounding
    return enough.to(torch.uint8).argmax(0), enough.any(0)


def _is_finite(here: RowLosses, curvature: Curvature) -> Tensor:
    """Whether a task's loss and its derivatives are, shape ``(tasks, 1)``."""
    total = here.losses + here.slope.sum(1) + curvature.total
    return torch.isfinite(total.detach())[:, None]
