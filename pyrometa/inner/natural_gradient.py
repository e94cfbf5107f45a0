"""Natural-gradient steps of a guide's Gaussians, as an inner rule."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import Any

from torch import Tensor

from pyrometa.inner.gaussian_moves import Rated, gaussians_moved
from pyrometa.inner.rates import Learn, Rates
from pyrometa.inner.read_moves import moved_through
from pyrometa.inner.rule import InnerRule
from pyrometa.types import Geometry, Params, ReadGaussians

_OTHERS = "others."


@dataclass(frozen=True)
class NaturalGradient:
    r"""Natural-gradient steps of Gaussian guides: the mean by the covariance, the precision by the curvature.

    For a guide :math:`q = \text{Normal}(m, S)` with :math:`S = L L^\top`, the loss being the negative ELBO,

    .. math::
        A = \operatorname{sym}(L^\top \nabla_L \text{loss}), \qquad
        S_{k+1} = L \, (I + \rho A)^{-1} L^\top, \qquad
        m_{k+1} = m_k - \rho \, S_{k+1} \nabla_m \text{loss}

    where sym makes a symmetric matrix of a lower triangle. On average over the noise, with H the Hessian of the
    negative log joint density, :math:`A = L^\top \mathbb{E}[H] L - I`, so that the precision goes the way
    :math:`\rho` to :math:`\mathbb{E}[H]`: one step of rate 1 is exact where the posterior is Gaussian. With a
    diagonal S it is :math:`a = \sigma \, \partial \text{loss} / \partial \sigma` for each coordinate. An eigenvalue of
    :math:`I + \rho A` below 0.8 counts as one between 0.4 and 0.8, so that S stays positive definite.

    Far from the posterior the noise of A is large, as it has the mean's gradient times the mean of the draws in it:
    take ``noise=pm.Noise("sobol")``, where that is little, or a lower rate. Mean and variance may run away all the same
    where the posterior is far from Gaussian.

    Which parameters are means and scales is read off the guide on first data: sites of kind ``Normal`` and
    ``MultivariateNormal``, by themselves or beneath transforms, whose mean and scale (or ``scale_tril``) are
    parameters, also by their logarithm, that of the variance or softplus. So are those of ``AutoNormal``,
    ``AutoDiagonalNormal`` and ``AutoMultivariateNormal``, of a guide by hand with ``pyro.param``, of a ``GuideList``
    and of a ``ComposedGuide`` of these. What multiplies them by data is seen on slightly other data, unless all of the
    data are whole numbers that make it 1 on the first task. A rate near 1 suits every size of task with
    ``reduction="sum"``, the default: a loss that is divided by the number of rows would make the rate depend on it,
    and is refused.

    Outside of plates, means and unconstrained scales may also be *linear* in what adapts, with coefficients that the
    guide computes from the task's data: the heads of a ``SetEncoderGuide`` or an ``AmortizedGuide``, their biases or
    the whole last layer. The step is taken by the numbers that the head gives, as above, and the parameters move by
    what is least for these to be there,

    .. math:: \phi_{k+1} = \phi_k + J^\top (J J^\top)^{-1} (\eta_{k+1} - \eta_k), \qquad J = \nabla_\phi \, \eta

    which to first order is by the Fisher matrix of :math:`\phi`, pulled back through the guide. So rate 1 is exact
    there too. That they are linear is seen once, near the first task's numbers. Such rates have the names
    ``<site>.loc`` and ``<site>.scale`` or ``<site>.tril``. Of several layers that adapt the last is moved so, and the
    others are for ``others``.

    An ``AutoLowRankMultivariateNormal`` moves along the natural gradient of its scale s and factor W, from a Fisher
    matrix in closed form; eigenvalues below a thousandth of the mean count for little, as turns of W change nothing
    and their gradient is noise. The step goes where the same step of S with a full covariance would, as near as a low
    rank comes in a few rounds of expectation maximisation. That is not exact in one step.

    Args:
        lr: the rate :math:`\rho`, or a mapping of name patterns to rates, as in :class:`~pyrometa.SGD`. The mean has
            one, and so has the precision, under the name of the scale; of a full covariance in two parameters, each has
            that of its own part of A; of one of low rank, W has one too.
        learn: which rates are learned, as in :class:`~pyrometa.SGD`.
        others: the rule of the adapted parameters that are no Gaussian's; names of what it learns begin by ``others.``.
        outer_lr: outer step size of all that is learned; None takes the optimiser's own.

    Raises:
        ValueError: a rate that is not positive and finite, an unknown ``learn``, or (on first data) parameters that are
            no Gaussian's without ``others``, or ``reduction="mean"``.

    References:
        Khan, Lin (2017), Conjugate-computation variational inference, https://arxiv.org/abs/1703.04265;
        Lin, Schmidt, Khan (2020), Handling the positive-definite constraint in the Bayesian learning rule,
        https://arxiv.org/abs/2002.10060.

    Example:
        >>> import pyro, pyro.distributions as dist, torch, pyrometa as pm
        >>> from pyro.infer import TraceMeanField_ELBO
        >>> from pyro.infer.autoguide import AutoNormal
        >>> def model(x):
        ...     loc = pyro.sample("loc", dist.Normal(0.0, 10.0))
        ...     with pyro.plate("data", x.shape[-1]):
        ...         pyro.sample("x", dist.Normal(loc, 1.0), obs=x)
        >>> elbo = TraceMeanField_ELBO(num_particles=32, vectorize_particles=True, max_plate_nesting=1)
        >>> options = {"inner": pm.NaturalGradient(lr=1.0), "noise": pm.Noise("sobol"), "steps": 3}
        >>> meta = pm.MetaSVI(model, AutoNormal(model), pyro.optim.Adam({"lr": 0.1}), elbo, **options)
        >>> x = 5 + torch.randn(2, 100)  # 2 tasks of 100 data
        >>> abs(meta.adapt(x[0]).median()["loc"] - x[0].mean()).item() < 0.1
        True
    """

    lr: float | Mapping[str, float] = 0.5
    learn: Learn | None = None
    others: InnerRule | None = None
    outer_lr: float | None = None
    _geometry: Geometry | None = field(default=None, repr=False)
    _shown: Callable[[Params], Params] | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        self._rates.check()
        if self.others is not None and self.others.outer_lr is not None:
            raise ValueError(
                "others has an outer_lr of its own: give outer_lr to NaturalGradient, for all that is learned"
            )

    @cached_property
    def _rates(self) -> Rates:
        return Rates(self.lr, self.learn, self.outer_lr)

    def bound(self, geometry: Geometry) -> NaturalGradient:
        """The same rule for a guide of this geometry.

        Raises:
            ValueError: naming a parameter that is no Gaussian's, with the reason and the cure.
        """
        if geometry.per_row:
            raise ValueError(
                "NaturalGradient needs the whole loss, of which rates near 1 suit every size of task, and "
                "reduction='mean' divides it by the number of rows: use reduction='sum'"
            )
        if geometry.others and self.others is None:
            name, reason = next(iter(geometry.others.items()))
            raise ValueError(
                f"NaturalGradient moves means and scales of Gaussians, and {name!r} is neither: {reason}; give "
                "others=pm.SGD(lr) for what is no Gaussian's, leave it out by adapt=, or use inner=pm.Newton()"
            )
        return replace(self, _geometry=geometry)

    @property
    def reads(self) -> ReadGaussians | None:
        """The Gaussians of which it has to be told what the guide shows on a task's data; None before a guide."""
        return None if self._geometry is None else self._geometry.read

    @property
    def _known(self) -> Geometry:
        if self._geometry is None:
            raise ValueError("NaturalGradient has seen no guide yet: give it to MetaSVI as inner=")
        return self._geometry

    def learned(self, params: Mapping[str, Tensor], steps: int) -> Params:
        """Logarithms of the rates, of shape ``()``, ``(steps,)`` or the parameter's; and what ``others`` learns."""
        own, rest = self._rated(params), self._rest(params)
        found = self._rates.learned(own, steps) if own else {}
        if self.others is None or not rest:
            return found
        return {**found, **{_OTHERS + name: value for name, value in self.others.learned(rest, steps).items()}}

    def init(self, params: Mapping[str, Tensor]) -> Any:
        """The state of ``others``; none before a guide is known, as where no steps are taken."""
        rest = {} if self._geometry is None else self._rest(params)
        return None if self.others is None or not rest else self.others.init(rest)

    def update(
        self,
        params: Mapping[str, Tensor],
        grads: Mapping[str, Tensor],
        state: Any,
        learned: Mapping[str, Tensor],
        step: int,
    ) -> tuple[Params, Any]:
        """One natural step of the Gaussians, and one step of ``others``."""
        rest = self._rest(params)
        rates = {name: self._rates.rate(name, learned, step) for name in self._rated(params)}
        moved = gaussians_moved(self._known, params, grads, rates)
        if self.reads is not None:
            moved.update(self._moved_through(self.reads, params, grads, rates))
        if self.others is not None and rest:
            theirs = {name.removeprefix(_OTHERS): value for name, value in learned.items() if name.startswith(_OTHERS)}
            other, state = self.others.update(rest, {name: grads[name] for name in rest}, state, theirs, step)
            moved.update(other)
        return {name: moved[name] for name in params}, state

    def reading(self, shown: Callable[[Params], Params]) -> NaturalGradient:
        """This rule, told what the guide shows of the Gaussians in :attr:`reads` on a task's data."""
        return replace(self, _shown=shown)

    def _moved_through(
        self, read: ReadGaussians, params: Mapping[str, Tensor], grads: Mapping[str, Tensor], rates: Rated
    ) -> Params:
        """The parameters that move Gaussians which the guide computes."""
        if self._shown is None:
            raise ValueError("NaturalGradient has seen no data yet: give it to MetaSVI as inner=")
        moving = {name: params[name] for name in read.params}
        step = partial(gaussians_moved, read.geometry, rates=rates)
        return moved_through(moving, {name: grads[name] for name in moving}, self._shown, step)

    def _rated(self, params: Mapping[str, Tensor]) -> Params:
        """What has rates: the parameters that are means and scales, and the means and scales that the guide reads."""
        other = {*self._known.others, *(self.reads.params if self.reads else ())}
        own = {name: value for name, value in params.items() if name not in other}
        return {**own, **self.reads.like} if self.reads else own

    def _rest(self, params: Mapping[str, Tensor]) -> Params:
        """The parameters that no Gaussian is moved by."""
        return {name: params[name] for name in params if name in self._known.others}
