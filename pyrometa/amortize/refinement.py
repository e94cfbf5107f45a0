"""Inner steps from a task's proposal, which does not change on the way and so is computed once."""

from __future__ import annotations

import functools
import itertools
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from pyro.infer.elbo import ELBO
from pyro.nn import PyroModule
from pyro.optim.optim import PyroOptim
from torch import Tensor

from pyrometa import generators, nest
from pyrometa.engine import Engine
from pyrometa.guides import SetEncoderGuide
from pyrometa.guides.amortized import AmortizedGuide
from pyrometa.inner import SGD, Rule
from pyrometa.metasvi import MetaSVI
from pyrometa.noise.options import Noise
from pyrometa.outer import Unrolled
from pyrometa.program import AdaptedGuide

Row = tuple[Tensor, ...]
Tasks = Tensor | Row | list[Any]
"""Tasks of one size with a leading task dimension, or a list of tasks of any sizes, as MetaSVI takes them."""


@dataclass(frozen=True)
class Proposal:
    """What an encoder proposes for a task: the numbers that each head hands on, ``(2 size,)`` by the bias' name."""

    numbers: Mapping[str, Tensor]


class Refinement:
    """A :class:`~pyrometa.MetaSVI` of the inner steps that start from proposals, on the model's own tasks.

    Each task's proposal is computed once, all tasks side by side, and the MetaSVI underneath takes it as data. Methods
    and attributes are those of MetaSVI.

    Args:
        model: the model.
        guide: its guide, whose heads hand on what its encoder proposes.
        loss: the ELBO.
        inner: the inner rule.
        steps: how many inner steps.
        noise: the points of their draws.
    """

    def __init__(
        self, model: Callable[..., Any], guide: SetEncoderGuide, loss: ELBO, inner: Rule, steps: int, noise: Noise
    ) -> None:
        options: dict[str, Any] = {
            "adapt": "guide.amortized.heads.*.bias",
            "meta_gradient": Unrolled(first_order=True),  # the rounds have no gradient, and the encoder is fitted
            "engine": Engine(record="auto"),
        }
        optim = PyroOptim(torch.optim.Adam, _outer)
        proposing = _ProposingGuide(guide.amortized)
        self._proposing = MetaSVI(model, proposing, optim, _minus, inner=SGD(1.0), steps=1, **options)
        self._loads = False
        options |= {"inner": inner, "steps": steps, "noise": noise, "reduction": "mean"}
        self._refining = MetaSVI(_WithoutProposal(model), _MovedGuide(guide.amortized), optim, loss, **options)

    @property
    def steps(self) -> int:
        """How many inner steps."""
        return self._refining.steps

    @property
    def inner(self) -> Rule:
        """The inner rule."""
        return self._refining.inner

    @property
    def noise(self) -> Noise:
        """The points of its draws."""
        return self._refining.noise

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """The torch optimiser of the outer loop."""
        return self._refining.optimizer

    def init(self, support: Tasks) -> None:
        """As :meth:`MetaSVI.init <pyrometa.MetaSVI.init>`."""
        self._refining.init(self._given(support))

    def step(self, support: Tasks, query: Tasks | None = None) -> float:
        """As :meth:`MetaSVI.step <pyrometa.MetaSVI.step>`: what the inner rule learns is all that it moves."""
        return self._refining.step(*self._pair(support, query))

    def evaluate_loss(self, support: Tasks, query: Tasks | None = None) -> float:
        """As :meth:`MetaSVI.evaluate_loss <pyrometa.MetaSVI.evaluate_loss>`."""
        return self._refining.evaluate_loss(*self._pair(support, query))

    def evaluate(self, support: Tasks, query: Tasks | None = None, steps: Sequence[int] | None = None) -> Tensor:
        """As :meth:`MetaSVI.evaluate <pyrometa.MetaSVI.evaluate>`."""
        return self._refining.evaluate(*self._pair(support, query), steps)

    def adapt(self, support: Tensor | Row, steps: int | None = None) -> AdaptedGuide:
        """As :meth:`MetaSVI.adapt <pyrometa.MetaSVI.adapt>`."""
        return self._refining.adapt((*_tuple(support), *self._proposals([_tuple(support)])), steps)

    def adapt_many(self, supports: Tasks, steps: int | None = None) -> list[AdaptedGuide]:
        """As :meth:`MetaSVI.adapt_many <pyrometa.MetaSVI.adapt_many>`."""
        return self._refining.adapt_many(self._given(supports), steps)

    def sample_many(
        self,
        supports: Tasks,
        draws: int = 256,
        steps: int | None = None,
        *,
        sites: Sequence[str] | None = None,
        seed: int | None = None,
        diverged: dict[int, str] | None = None,
    ) -> dict[str, Tensor]:
        """As :meth:`MetaSVI.sample_many <pyrometa.MetaSVI.sample_many>`."""
        given = self._given(supports)
        return self._refining.sample_many(given, draws, steps, sites=sites, seed=seed, diverged=diverged)

    def latent_sites(self) -> Mapping[str, tuple[torch.Size, torch.dtype]] | None:
        """As :meth:`MetaSVI.latent_sites <pyrometa.MetaSVI.latent_sites>`."""
        return self._refining.latent_sites()

    def named_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """As :meth:`MetaSVI.named_parameters <pyrometa.MetaSVI.named_parameters>`."""
        return self._refining.named_parameters()

    def state_dict(self) -> dict[str, Any]:
        """As :meth:`MetaSVI.state_dict <pyrometa.MetaSVI.state_dict>`, the encoder's parameters included."""
        return self._refining.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """As :meth:`MetaSVI.load_state_dict <pyrometa.MetaSVI.load_state_dict>`."""
        self._refining.load_state_dict(state)

    def save(self, path: str | os.PathLike[str]) -> None:
        """As :meth:`MetaSVI.save <pyrometa.MetaSVI.save>`, the encoder's parameters included."""
        self._refining.save(path)

    def load(self, path: str | os.PathLike[str]) -> None:
        """As :meth:`MetaSVI.load <pyrometa.MetaSVI.load>`."""
        self._refining.load(path)
        self._loads = True

    def _pair(self, support: Tasks, query: Tasks | None) -> tuple[Any, Any]:
        """Support and query sets, with the support set's proposals behind both."""
        proposals = self._proposals(support)
        return _with(support, proposals), None if query is None else _with(query, proposals)

    def _given(self, support: Tasks) -> Any:
        return self._pair(support, None)[0]

    def _proposals(self, tasks: Tasks) -> list[Proposal]:
        """By one step of gradient descent at rate one, on minus the proposal's inner product with zeros that adapt."""
        if self._loads:  # before first data a checkpoint waits for them, and it holds the encoder that proposes
            self._loads = False
            self._refining.init(self._given(tasks))
        with generators.forked():  # the proposals are drawn from, and the draws have no part in the step
            guides = self._proposing.adapt_many(tasks)
        return [Proposal({name: x.detach() for name, x in guide.adapted.by_name().items()}) for guide in guides]


class _ProposingGuide(PyroModule):
    """A guide that returns the inner product of what its heads hand on with their biases."""

    def __init__(self, amortized: AmortizedGuide) -> None:
        super().__init__()
        self.amortized = amortized

    def forward(self, *args: Tensor) -> Tensor:
        amortized = self.amortized
        with torch.no_grad():
            proposal = amortized.propose(*args)
        amortized.sample(proposal)
        products = [
            head.bias @ torch.cat([proposal[f"{site}.loc"], proposal[f"{site}.scale"]])
            for site, head in _heads(amortized)
        ]
        return torch.stack(products).sum()

    def condition(self, *support: Tensor) -> Callable[..., Tensor]:
        return lambda *_: self(*support)


class _MovedGuide(PyroModule):
    """A guide of the proposal that comes last among its arguments, moved by the heads' biases."""

    def __init__(self, amortized: AmortizedGuide) -> None:
        super().__init__()
        self.amortized = amortized

    def forward(self, *args: Any) -> dict[str, Tensor]:
        return self._given(args[-1])

    def condition(self, *support: Any) -> Callable[..., dict[str, Tensor]]:
        return functools.partial(self._given, support[-1])

    def _given(self, proposal: Proposal, *_: Any, **__: Any) -> dict[str, Tensor]:
        amortized, moved = self.amortized, {}
        for (site, head), numbers in zip(_heads(amortized), proposal.numbers.values(), strict=True):
            moved[f"{site}.loc"], moved[f"{site}.scale"] = (numbers + head.bias).chunk(2)
        return amortized.sample(moved)


class _WithoutProposal:
    """A model among whose arguments there may be a proposal, which it does not see."""

    def __init__(self, model: Callable[..., Any]) -> None:
        self.__wrapped__ = model

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.__wrapped__(*(arg for arg in args if not isinstance(arg, Proposal)), **kwargs)


def _outer(name: str) -> dict[str, float]:
    """The guide was fitted before; logarithms of rates want larger steps than weights do."""
    return {"lr": 0.02 if name.startswith("inner.") else 0.0}


def _minus(model: Callable[..., Any], guide: Callable[..., Tensor], *args: Tensor) -> Tensor:
    return -guide(*args)


def _heads(amortized: AmortizedGuide) -> list[tuple[str, Any]]:
    """The heads by the names of their sites."""
    return [(key.replace("/", "."), head) for key, head in amortized.heads.items()]


def _with(tasks: Tasks, proposals: Sequence[Proposal]) -> Any:
    """Tasks with a proposal each, last; what does not belong together is refused by MetaSVI."""
    if isinstance(tasks, list):
        return [(*_tuple(task), proposal) for task, proposal in zip(tasks, itertools.cycle(proposals), strict=False)]
    return (*_tuple(tasks), nest.joined(torch.stack, proposals))


def _tuple(task: Tensor | Row) -> Row:
    return task if isinstance(task, tuple) else (task,)
