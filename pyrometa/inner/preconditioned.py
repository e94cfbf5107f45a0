"""Gradient descent through learned transforms of the gradient."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import get_args

from torch import Tensor, nn

from pyrometa.inner.rates import Rates
from pyrometa.inner.transforms import Named, Transform, Transforms
from pyrometa.types import Params


@dataclass(frozen=True)
class Preconditioned:
    r"""Gradient descent along a learned transform of each parameter's gradient.

    .. math:: \phi_{k+1} = \phi_k - \alpha \, T_\psi\!\left(\nabla_{\phi_k} \text{loss}(\phi_k)\right)

    The transforms are learn2learn's, which the extra ``pyrometa[learn2learn]`` installs, or modules of your own. Both
    named ones start as the identity, so that the first step is SGD's:

    - ``"meta_curvature"``: a matrix on each dimension, :math:`T(G) = M_{in} G M_{out}` for a weight matrix, one more
      for the window of a convolution's kernel, an elementwise factor for a vector (``MetaCurvatureTransform``);
    - ``"kronecker"``: :math:`T(G) = A^T A \, G \, B^T B`, positive semi-definite (``KroneckerTransform`` of
      ``KroneckerLinear``). All filters of a convolution share one pair, over input channels and window.

    A scalar is transformed as a vector of one element; tensors of 3 or more than 4 dimensions are refused by both.
    What is learned has the names ``inner.transform.<parameter>.<name in the transform>``.

    Args:
        transform: ``"meta_curvature"``, ``"kronecker"``, or a function of a parameter to an ``nn.Module`` that maps
            a gradient of its shape to an update of its shape, or to None for the gradient as it is. Any factory of
            ``learn2learn.optim.transforms`` is such a function; those of ``ModuleTransform`` do not start as the
            identity unless the module does. It is asked with the leaves themselves, in their order.
        lr: the rate, or a mapping of name patterns to rates, as in :class:`~pyrometa.SGD`.
        outer_lr: outer step size of the transforms; None takes the optimiser's own.
        made: the modules that ``transform`` has made, which :meth:`learned` adds to. A rule made of this one by
            ``dataclasses.replace``, at another rate say, shares them.

    Raises:
        ValueError: a rate that is not positive and finite, an unknown name, or (on first data) a parameter that the
            transform can't do.
        TypeError: ``transform`` is not callable, or (on first data) returns something else than a module or None.
        ImportError: on first data, a named transform without learn2learn.

    References:
        Park, Oliva (2019), Meta-curvature, https://arxiv.org/abs/1902.03356;
        Arnold, Iqbal, Sha (2019), When MAML can adapt fast and how to assist when it cannot,
        https://arxiv.org/abs/1910.13603.

    Example:
        >>> import torch
        >>> rule = Preconditioned(lambda param: torch.nn.Linear(2, 2, bias=False), lr=0.5)
        >>> params, grads = {"guide.loc": torch.zeros(2)}, {"guide.loc": torch.ones(2)}
        >>> learned = rule.learned(params, steps=1)
        >>> list(learned)
        ['transform.guide.loc.weight']
        >>> learned["transform.guide.loc.weight"] = torch.diag(torch.tensor([1.0, 4.0]))
        >>> rule.update(params, grads, rule.init(params), learned, step=0)[0]
        {'guide.loc': tensor([-0.5000, -2.0000])}
    """

    transform: Named | Transform = "meta_curvature"
    lr: float | Mapping[str, float] = 1e-2
    outer_lr: float | None = None
    made: Transforms = field(default_factory=Transforms, repr=False, compare=False, kw_only=True)

    def __post_init__(self) -> None:
        if isinstance(self.transform, str):
            if self.transform not in get_args(Named):
                raise ValueError(
                    f"transform must be one of {', '.join(map(repr, get_args(Named)))} or a function, "
                    f"got {self.transform!r}"
                )
        elif isinstance(self.transform, nn.Module) or not callable(self.transform):
            raise TypeError(
                f"transform must be a function of a parameter to a module, got {type(self.transform).__name__}; "
                "one module for all parameters is transform=lambda param: module"
            )
        self._rates.check()

    @cached_property
    def _rates(self) -> Rates:
        return Rates(self.lr, outer_lr=self.outer_lr)

    def learned(self, params: Mapping[str, Tensor], steps: int) -> Params:
        """The transforms' parameters; nothing is drawn from the global generator."""
        self._rates.check_names(params)
        return self.made.make(self.transform, params)

    def init(self, params: Mapping[str, Tensor]) -> None:
        """There is no state."""

    def update(
        self,
        params: Mapping[str, Tensor],
        grads: Mapping[str, Tensor],
        state: None,
        learned: Mapping[str, Tensor],
        step: int,
    ) -> tuple[Params, None]:
        """One step against the transformed gradients."""
        along = {name: self.made.applied(self.transform, name, grad, learned) for name, grad in grads.items()}
        return self._rates.moved(params, along, learned, step), None
