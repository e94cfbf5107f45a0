"""Amortised inference for any Pyro model, by one call."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from pyro.infer import Trace_ELBO, TraceEnum_ELBO
from pyro.infer.elbo import ELBO
from pyro.optim.optim import PyroOptim
from torch import Tensor

from pyrometa.amortize.encoder import make_guide
from pyrometa.amortize.fitting import Progress, fit_stage
from pyrometa.amortize.made_up import Covariates, MadeUpTasks, Row
from pyrometa.amortize.reading import Reading, read
from pyrometa.amortize.refinement import Refinement
from pyrometa.engine import Engine
from pyrometa.inner import Newton, Rule
from pyrometa.metasvi import MetaSVI
from pyrometa.noise.options import Noise
from pyrometa.program import AdaptedGuide

BATCH, HELD_OUT, REFINING, RATE = 32, 64, 128, 3e-3


class Amortize:
    r"""A guide that reads a task's rows and proposes its posterior, for a model without a line of network code.

    .. math:: q(u \mid x) = \prod_i \text{Normal}(u_i; m_i(x), s_i(x)), \qquad z = \text{transform}(u)

    The model is run on an example, and what it says is used: its latents with their transforms, its plates, which
    argument each observed site fills. :meth:`fit` trains on tasks that its prior makes up, without end, and every other
    meta-step on ``tasks``, the user's own. An encoder in attention over the rows guesses m and s, and rounds of
    variational Newton steps on the model's own log density sharpen them
    (:class:`~pyrometa.guides.laplace_encoder.LaplaceEncoder`). :meth:`adapt` asks for m and s once, and moves them from
    there by inner steps on the ELBO. Discrete latents are enumerated, so the model must be written for that, as for
    ``TraceEnum_ELBO``.

    A model that runs on an ELBO's vectorised particles is fitted several times as fast as one that does not:
    write ``...`` before indices and ``x.shape[-1]`` rather than ``len(x)``.

    Args:
        model: a Pyro model of tensors with a row for each datum, whose continuous latents are outside of plates and
            whose parameters are fitted and frozen.
        example: one task: the model's single argument, or the tuple of its positional arguments.
        tasks: the user's own tasks, of any sizes, each like the example.
        rows: smallest and largest number of rows of a task to train on; None for those of ``tasks`` and the example.
        observed: which argument each observed site fills, ``{site: position}``; None to find it: it is the argument
            that the site observes.
        covariates: ``covariates(rows, generator)`` gives the model's arguments for a made-up task, those that are
            observed as placeholders. None takes the rows of a task of ``tasks``.
        inner: the inner rule of the steps that follow the proposal. Default ``Newton()``, which has nothing to learn.
        steps: how many inner steps.
        noise: the points of the inner steps' draws. Default ``Noise("sobol", shared=True)``, one draw for all steps.
        features: width of the networks.
        rounds: Newton rounds before a proposal.
        particles: draws of the posterior that a loss is a mean of; inner steps take 128 at least.

    Attributes:
        meta: the inner steps: a :class:`~pyrometa.amortize.Refinement`, with the methods of a ``MetaSVI``.
        guide: its guide, a :class:`~pyrometa.guides.SetEncoderGuide`.
        encoder: the guide's encoder.
        loss: the ELBO.
        observed: which argument each observed site fills.
        sizes: the numbers of rows that tasks are made up with.

    Raises:
        ValueError: naming the site or argument and the cure: nothing is observed, or nothing that is an argument; a
            latent inside a plate; a discrete one that can't be enumerated; a parameter that is learned; covariates
            of which nobody says where they come from.

    References:
        Gershman, Goodman (2014), Amortized inference in probabilistic reasoning; Lee et al. (2019), Set Transformer,
        https://arxiv.org/abs/1810.00825; Kim et al. (2018), Semi-amortized variational autoencoders,
        https://arxiv.org/abs/1802.02550.

    Example:
        >>> import pyro, pyro.distributions as dist, torch, pyrometa as pm
        >>> def model(x):
        ...     mean = pyro.sample("mean", dist.Normal(0.0, 2.0))
        ...     with pyro.plate("rows", x.shape[-1], dim=-1):
        ...         pyro.sample("x", dist.Normal(mean, 1.0), obs=x)
        >>> amortized = pm.Amortize(model, torch.zeros(4), rows=(2, 8), features=8, rounds=1, particles=2)
        >>> history = amortized.fit(4)  # some hundred steps to be of use
        >>> guide = amortized.adapt(torch.randn(5))  # an ordinary guide
        >>> guide(torch.randn(5))["mean"].shape
        torch.Size([])
    """

    def __init__(
        self,
        model: Callable[..., Any],
        example: Tensor | Row,
        *,
        tasks: Sequence[Tensor | Row] = (),
        rows: tuple[int, int] | None = None,
        observed: Mapping[str, int] | None = None,
        covariates: Covariates | None = None,
        inner: Rule | None = None,
        steps: int = 2,
        noise: Noise | None = None,
        features: int = 64,
        rounds: int = 6,
        particles: int = 8,
    ) -> None:
        given, own = _tuple(example), [_tuple(task) for task in tasks]
        _check_rows(given, rows)
        reading = read(model, given, observed)
        generator = torch.Generator().manual_seed(int(torch.randint(2**63 - 1, ())))
        self._made_up = MadeUpTasks(reading, given, own, rows or _rows([*own, given]), covariates, generator)
        self.guide, self.encoder, broadcasts = make_guide(reading, given, self._made_up.columns, features, rounds)
        self.loss = _elbo(reading, particles, broadcasts=broadcasts)
        self._model, self.observed, self.sizes = reading.model, reading.observed, self._made_up.sizes
        refining = _elbo(reading, max(particles, REFINING), broadcasts=broadcasts)
        inner, noise = inner or Newton(), noise or Noise("sobol", shared=True)
        self.meta = Refinement(self._model, self.guide, refining, inner, steps, noise)

    def fit(self, steps: int = 1200, *, callback: Callable[[Progress], None] | None = None) -> list[Progress]:
        """Train the guess, then what the inner rule learns, if it does.

        It is not done by the constructor, so that it can be watched, stopped and gone on with. Each part ends early
        once held-out tasks of the prior gain no more, after some steps at a falling rate.

        Args:
            steps: the most meta-steps for the guess; a tenth as many for the rule.
            callback: called with each :class:`~pyrometa.amortize.Progress`, such as ``print``.

        Returns:
            All progress that was reported.

        Raises:
            NonFiniteError: more than one meta-step in twenty is not finite.
        """
        seen: list[Progress] = []

        def report(progress: Progress) -> None:
            seen.append(progress)
            if callback is not None:
                callback(progress)

        def fit(meta: MetaSVI | Refinement, stage: str, budget: int) -> None:
            fit_stage(meta, stage, max(1, budget), lambda: self._made_up.batch(BATCH), held_out, report)

        held_out = [self._made_up.of_prior(HELD_OUT, size) for size in sorted({self.sizes[0], self.sizes[-1]})]
        self.encoder.refines = False
        try:
            fit(self._guessing(), "guess", steps)
        finally:
            self.encoder.refines = True
        self.meta.init(held_out[0])
        if any(name.startswith("inner.") for name, _ in self.meta.named_parameters()):
            fit(self.meta, "refinement", steps // 10)
        return seen

    def adapt(self, task: Tensor | Row, steps: int | None = None) -> AdaptedGuide:
        """Propose a task's posterior, and refine it.

        Args:
            task: like the example, with any number of rows.
            steps: inner steps; None for as many as were asked for, 0 for the proposal.

        Returns:
            An ordinary guide, with ``guide.model`` to go with it.
        """
        return self.meta.adapt(task, steps)

    def adapt_many(self, tasks: Sequence[Tensor | Row], steps: int | None = None) -> list[AdaptedGuide]:
        """:meth:`adapt` for many tasks side by side."""
        return self.meta.adapt_many(list(tasks), steps)

    def _guessing(self) -> MetaSVI:
        """It learns all but the guide's heads, which hand on what the encoder proposes."""

        def optim_args(name: str) -> dict[str, float]:
            return {"lr": 0.0 if ".heads." in name else RATE}

        optim = PyroOptim(torch.optim.Adam, optim_args, {"clip_norm": 10.0})
        engine = Engine(record="auto")
        return MetaSVI(self._model, self.guide, optim, self.loss, steps=0, reduction="mean", engine=engine)


def _tuple(task: Tensor | Row) -> Row:
    return task if isinstance(task, tuple) else (task,)


def _check_rows(example: Row, rows: tuple[int, int] | None) -> None:
    if not len(example[0]):
        raise ValueError("example holds no rows: give one task with data, as the model takes it")
    if rows is not None and not 1 <= rows[0] <= rows[1]:
        raise ValueError(f"rows must be a smallest and a largest number from 1 up, as in rows=(2, 128), got {rows!r}")


def _rows(tasks: Sequence[Row]) -> tuple[int, int]:
    counts = [len(task[0]) for task in tasks]
    return min(counts), max(counts)


def _elbo(reading: Reading, particles: int, *, broadcasts: bool) -> ELBO:
    kind = TraceEnum_ELBO if reading.enumerates else Trace_ELBO
    return kind(num_particles=particles, vectorize_particles=broadcasts, max_plate_nesting=reading.nesting)
