"""A guide that refines what an encoder proposes by a few steps of SVI."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, Protocol, TypeAlias, runtime_checkable

import pyro
import torch
from pyro import poutine
from pyro.infer import TraceMeanField_ELBO
from pyro.infer.elbo import ELBO
from pyro.nn import PyroModule
from pyro.poutine.messenger import Messenger
from torch import Tensor, nn

from pyrometa import generators
from pyrometa.elbos import refusal, traced
from pyrometa.elbos.default import mean_field_elbo, warn_of_forgotten_jacobians
from pyrometa.guides.row_rule import RowRule
from pyrometa.guides.row_surface import RowsByLoss
from pyrometa.guides.sites import traced_alone
from pyrometa.inner import SGD, InnerRule, LossRule, Newton, Rule, step_count
from pyrometa.internals import PYRO_STACK
from pyrometa.noise.one_draw import OneDraw
from pyrometa.program.handlers import AnswerParams
from pyrometa.types import Params

_Loss: TypeAlias = Callable[[Params], Tensor]


@runtime_checkable
class Proposer(Protocol):
    """A guide in two halves: variational parameters for some data, and a draw from them."""

    def propose(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Unconstrained variational parameters by name, one row for each datum."""

    def sample(self, proposal: Mapping[str, Tensor]) -> Any:
        """Sample the guide's sites."""


class SemiAmortizedGuide(PyroModule):
    r"""The encoder proposes each datum's variational parameters, K steps of SVI refine them.

    .. math::
        \lambda_0 = \text{encoder}(x), \qquad
        \lambda_{k+1} = \text{rule}(\lambda_k, -\nabla_{\lambda_k} \text{ELBO}(x; \lambda_k)), \qquad
        z \sim q(z; \lambda_K)

    Every step draws fresh noise. Training differentiates through the refinement, second order included, in plain
    ``SVI`` as under ``MetaSVI``: the encoder learns to propose what is refined well, and the model's parameters see
    their part in it. The loss is a sum over data and each datum is moved by itself, so a datum's posterior does not
    depend on the data beside it.

    ``rule=Newton()`` moves each datum by its own Hessian, all data at once. It looks at the loss several times, so all
    its steps see one draw, which is another at each call. Give it particles, as in
    ``loss=TraceMeanField_ELBO(num_particles=16, vectorize_particles=True)``, and train under an ELBO that does not
    vectorise its own. Its steps can be differentiated through once: inner steps of a ``MetaSVI`` through them are of
    first order.

    What the rule learns (rates, or a network for iterative amortised inference) are this guide's own parameters,
    ``learned``, shared by all data, and take the optimiser's step size. Logarithms of rates want a larger one than
    weights: ``pyro.optim.Adam(lambda name: {"lr": 0.02 if "learned" in name else 1e-3})``.

    Args:
        guide: an :class:`AmortizedGuide`, or anything with its ``propose`` and ``sample``; it covers all latent
            sites of the model.
        steps: number of steps K.
        rule: the inner rule. Default ``SGD(lr=1e-2)``. ``Newton()`` asks for data that do not depend on each other, all
            sites in the same plates, and a Pyro ELBO of some 32 particles or more: of one, it fits that draw.
        model: the Pyro model; None for ``guide.model``.
        loss: a Pyro ELBO that is refined by, or a function of ``(model, guide, *args, **kwargs)`` to a scalar
            tensor. Default ``TraceMeanField_ELBO()``, or ``Trace_ELBO()`` where the guide transforms its draws.

    Raises:
        TypeError: a guide without ``propose`` and ``sample``, no model, a loss that can't be evaluated under
            ``torch.func.grad``.
        ValueError: a negative number of steps; on first data, latent sites of the model that the guide lacks; under
            ``Newton``, data that depend on each other, sites in different plates, a loss that is no sum over data, a
            datum of more than ``max_dim`` numbers.

    References:
        Kim et al. (2018), Semi-amortized variational autoencoders, https://arxiv.org/abs/1802.02550;
        Marino, Yue, Mandt (2018), Iterative amortized inference, https://arxiv.org/abs/1807.09356.

    Example:
        >>> import pyro, pyro.distributions as dist, torch
        >>> from pyrometa.guides import AmortizedGuide
        >>> def model(x):
        ...     with pyro.plate("data", len(x)):
        ...         z = pyro.sample("z", dist.Normal(torch.zeros(len(x), 2), 1.0).to_event(1))
        ...         pyro.sample("x", dist.Normal(z, 0.5).to_event(1), obs=x)
        >>> guide = SemiAmortizedGuide(AmortizedGuide(model, torch.nn.Linear(2, 4)), steps=5, rule=SGD(0.05))
        >>> svi = pyro.infer.SVI(model, guide, pyro.optim.Adam({"lr": 1e-3}), pyro.infer.TraceMeanField_ELBO())
        >>> loss = svi.step(torch.randn(6, 2))
    """

    def __init__(
        self,
        guide: Proposer,
        steps: int,
        rule: Rule | None = None,
        *,
        model: Callable[..., Any] | None = None,
        loss: ELBO | Callable[..., Tensor] | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(guide, Proposer):
            raise TypeError(
                f"guide must be an AmortizedGuide, or have its propose(*args) and sample(proposal), "
                f"got {type(guide).__name__}"
            )
        model = getattr(guide, "model", None) if model is None else model
        if not callable(model):
            raise TypeError("the refinement needs the model: give model=")
        self.guide = guide
        self.steps = step_count("steps", steps)
        self.rule: Rule = SGD() if rule is None else rule
        self._model = (model,)  # not a submodule: the model's parameters are not the guide's
        self._loss = loss
        self._objective = _objective(TraceMeanField_ELBO() if loss is None else loss)
        self.learned = nn.ParameterDict()
        self._stored: tuple[str, ...] = ()
        self._ready = False

    @property
    def model(self) -> Callable[..., Any]:
        """The model that it refines for."""
        return self._model[0]

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Refine, then sample each site; the arguments are the model's, the result values by site."""
        return self.guide.sample(self.propose(*args, **kwargs))

    def sample(self, proposal: Mapping[str, Tensor]) -> Any:
        """Sample each site from variational parameters such as :meth:`propose` returns."""
        return self.guide.sample(proposal)

    def propose(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """The refined variational parameters, of the shapes of the encoder's; the arguments are the model's.

        Raises:
            ValueError: latent sites of the model that the guide lacks.
        """
        guide = self.guide
        proposal = guide.propose(*args, **kwargs)
        if not self._ready:
            self._setup(proposal, args, kwargs)
        self._restore_store(args, kwargs)
        learned = {_name(key): value for key, value in self.learned.items()} if self.steps else {}
        loss = partial(self._loss_at, args=args, kwargs=kwargs)
        if isinstance(self.rule, LossRule):
            return self._by_losses(self.rule, proposal, learned, loss)
        return self._by_gradients(self.rule, proposal, learned, loss)

    def _by_gradients(self, inner: InnerRule, proposal: Params, learned: Params, loss: _Loss) -> Params:
        rule = RowRule(inner, proposal)
        state = rule.init(proposal)
        for step in range(self.steps):
            with _Hidden():
                grads = torch.func.grad(loss)(proposal)
            proposal, state = rule.update(proposal, grads, state, learned, step)
        return proposal

    def _by_losses(self, rule: LossRule, proposal: Params, learned: Params, loss: _Loss) -> Params:
        with _Hidden():
            moves = RowsByLoss(rule, proposal, _on_one_draw(loss, proposal))
            for step in range(self.steps):
                proposal = moves.moved(proposal, learned, step)
        return proposal

    def _loss_at(self, params: Params, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Tensor:
        """The loss at some variational parameters."""
        return self._objective(self.model, lambda *_, **__: self.guide.sample(params), *args, **kwargs)

    def _setup(self, proposal: dict[str, Tensor], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Check the sites, and make what the rule learns: for one datum, shared by all."""
        with poutine.block(), torch.no_grad():
            covered = poutine.trace(self.guide.sample).get_trace(proposal)
        model = traced_alone(self.model, args, kwargs)
        missing = [name for name in model.stochastic_nodes if name not in covered.nodes]
        if missing:
            raise ValueError(
                f"the guide has no site for {', '.join(map(repr, missing))} of the model, without which it can't be "
                "refined: cover all latent sites"
            )
        if self._loss is None:
            self._objective = _objective(mean_field_elbo(covered))
        warn_of_forgotten_jacobians(self._loss, covered)
        if isinstance(self.rule, LossRule):
            self._check_rows(self.rule, proposal, partial(self._loss_at, args=args, kwargs=kwargs))
        if self.steps:
            datum = {name: value.detach()[(0,) * (value.dim() - 1)] for name, value in proposal.items()}
            for name, value in self.rule.learned(datum, self.steps).items():
                self.learned[_key(name)] = nn.Parameter(value.detach().clone())
        self._stored = tuple(name for name in model.param_nodes if name in pyro.get_param_store())
        self._ready = True

    def _check_rows(self, rule: LossRule, proposal: Params, loss: _Loss) -> None:
        """Refuse data that can't be moved each by its own loss."""
        size = sum(value.shape[-1] for value in proposal.values())
        if isinstance(rule, Newton) and size > rule.max_dim:
            raise ValueError(
                f"{size} numbers of a datum are refined, of whose Hessian Newton(max_dim={rule.max_dim}) sees a part, "
                "which training can't differentiate through: give a larger max_dim, or rule=Momentum(lr)"
            )
        with generators.forked(), _Hidden():
            with torch.no_grad():
                loss(proposal)  # an ELBO that guesses max_plate_nesting draws more at its first run, and only then
            RowsByLoss(rule, proposal, _on_one_draw(loss, proposal)).check(proposal)

    def _restore_store(self, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        """Let the model put its parameters in a store that lacks them: within ``torch.func.grad`` it can't."""
        store = pyro.get_param_store()
        if any(name not in store for name in self._stored):
            with generators.forked():
                traced_alone(self.model, args, kwargs)


def _on_one_draw(loss: _Loss, proposal: Params) -> _Loss:
    """The loss on one noise, which is drawn now."""
    noise = OneDraw()

    def fixed(params: Params) -> Tensor:
        with noise.again():
            return loss(params)

    with torch.no_grad():
        fixed(proposal)
    return fixed


class _Hidden(Messenger):
    """Hides what runs within it from the handlers outside, but for fast weights, which answer its parameters."""

    def _process_message(self, msg: Any) -> None:
        if msg["type"] == "param":
            for handler in PYRO_STACK[: PYRO_STACK.index(self)]:
                if isinstance(handler, AnswerParams):
                    handler._process_message(msg)
        msg["stop"] = True


def _objective(loss: ELBO | Callable[..., Tensor]) -> Callable[..., Tensor]:
    if isinstance(loss, ELBO):
        reason = refusal(loss)
        if reason:
            raise TypeError(f"loss: {reason}")
        return traced(loss)
    if not callable(loss):
        raise TypeError(f"loss must be a Pyro ELBO or a function, got {type(loss).__name__}")
    return loss


def _key(name: str) -> str:
    return name.replace(".", "/")


def _name(key: str) -> str:
    return key.replace("/", ".")
