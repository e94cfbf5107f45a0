"""What an inner rule is: three pure functions; and what is known of one that is gradient descent."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal, Protocol, TypeAlias, runtime_checkable

from torch import Tensor

from pyrometa.inner.blocks import Blocks
from pyrometa.inner.surface import RowLosses
from pyrometa.types import Geometry, Params, ReadGaussians


class LearnedRule(Protocol):
    """What every rule tells the outer loop.

    Attributes:
        outer_lr: outer step size of what the rule learns; None for the optimiser's own.
    """

    @property
    def outer_lr(self) -> float | None:
        """Outer step size of the rule's learned parameters."""

    def learned(self, params: Mapping[str, Tensor], steps: int) -> Params:
        """Fresh parameters that the outer loop learns for this rule, by name; empty where none."""


class InnerRule(LearnedRule, Protocol):
    """How fast weights move along gradients: an update rule as pure functions of its state."""

    def init(self, params: Mapping[str, Tensor]) -> Any:
        """The state before the first step."""

    def update(
        self,
        params: Mapping[str, Tensor],
        grads: Mapping[str, Tensor],
        state: Any,
        learned: Mapping[str, Tensor],
        step: int,
    ) -> tuple[Params, Any]:
        """One step: the new fast weights and the new state, differentiable in all tensors given."""


@runtime_checkable
class GeometricRule(Protocol):
    """A rule that has to know which parameters are means and scales of the guide's Gaussians."""

    def bound(self, geometry: Geometry) -> InnerRule:
        """The rule for a guide of this geometry, which is asked for once on first data.

        Raises:
            ValueError: it does not suit the rule.
        """


@runtime_checkable
class ReadingRule(InnerRule, Protocol):
    """A rule that may have to be told what the guide shows on a task's data.

    Attributes:
        reads: of which Gaussians; None where it need not be told.
    """

    @property
    def reads(self) -> ReadGaussians | None:
        """Of which Gaussians it has to be told."""

    def reading(self, shown: Callable[[Params], Params]) -> InnerRule:
        """The rule for steps on some data.

        Args:
            shown: of fast weights to the Gaussians' numbers on these data, by name.
        """


@runtime_checkable
class GradientDescent(InnerRule, Protocol):
    r"""A rule that is gradient descent, and tells its rates.

    .. math:: \phi_{k+1} = \phi_k - \alpha \, \nabla_{\phi_k} \text{loss}(\phi_k)

    It has no state, and its :meth:`update` is this and no more; or it is a :class:`MomentumDescent`. So an engine may
    take the step in its place, on fast weights in whatever form it holds them; a rule that does anything else with a
    gradient must not have these members.

    Attributes:
        one_rate_for: what has a single rate: all parameters together, each parameter tensor, or each of its elements.
    """

    @property
    def one_rate_for(self) -> Literal["all", "tensor", "element"]:
        """What has a single rate."""

    def rate(self, name: str, learned: Mapping[str, Tensor], step: int) -> float | Tensor:
        """The rate of a parameter at an inner step: of shape ``()``, or the parameter's where each element has one."""


@runtime_checkable
class MomentumDescent(GradientDescent, Protocol):
    r"""Gradient descent along a velocity, which is linear in the gradients.

    .. math::
        v_{k+1} = \mu v_k + \nabla_{\phi_k} \text{loss}(\phi_k), \qquad \phi_{k+1} = \phi_k - \alpha \, v_{k+1},
        \qquad v_0 = 0

    and with ``nesterov`` along :math:`\nabla_{\phi_k} \text{loss}(\phi_k) + \mu v_{k+1}` instead.

    Attributes:
        momentum: the velocity's decay :math:`\mu`.
        nesterov: whether it looks ahead.
    """

    @property
    def momentum(self) -> float:
        """The velocity's decay."""

    @property
    def nesterov(self) -> bool:
        """Whether it looks ahead."""


@runtime_checkable
class LossRule(LearnedRule, Protocol):
    """How fast weights move by more than a gradient: a rule that asks the support losses, without a state."""

    def moved(self, here: RowLosses, learned: Mapping[str, Tensor], step: int) -> Tensor:
        """One step of all tasks at once, differentiable in all tensors given.

        Args:
            here: the tasks' losses around their fast weights.
            learned: what the rule learns, by its own names.
            step: which inner step, from 0.

        Returns:
            The new fast weights, shape ``(tasks, size)``; not finite for a task whose loss or derivatives are not.
        """


@runtime_checkable
class BlockRule(LossRule, Protocol):
    """A rule that saves work where each element of a plate has numbers of its own."""

    def in_blocks(self, blocks: Blocks) -> LossRule:
        """The rule for a program of which these are known, which are asked for once on first data."""


Rule: TypeAlias = InnerRule | LossRule
