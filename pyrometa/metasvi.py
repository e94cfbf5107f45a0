"""Meta-learned SVI: the facade over program, rule, engine and meta-gradient."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from pyro.infer.elbo import ELBO
from torch import Tensor

from pyrometa.atomic.exclusive import exclusive
from pyrometa.atomic.untouched import left_alone
from pyrometa.engine import Engine, Problem
from pyrometa.errors import NotInitializedError
from pyrometa.explain.reasons import naming_lines
from pyrometa.inner import SGD, InnerRule, Order, step_count, step_counts
from pyrometa.noise.ahead import draw_noise
from pyrometa.outer import MetaGradient, Optim, OuterOptimizer, Unrolled, check_finite, loss_and_grads
from pyrometa.outer.optimizer import check_optim
from pyrometa.program.adapted import AdaptedGuide
from pyrometa.program.guards import second_order
from pyrometa.program.guards.arguments import check_call, check_list
from pyrometa.program.guards.backward import check_backward
from pyrometa.program.guards.local_rows import check_rows
from pyrometa.program.guards.reach import check_reach
from pyrometa.program.pickled import own
from pyrometa.program.program import Objective, Program, Reduction
from pyrometa.program.selection import Selection, select
from pyrometa.tasks.arguments import (
    Argument,
    GivenTasks,
    Ranks,
    check_pairs,
    check_ranks,
    one_task,
    ranks,
    read_tasks,
    side_by_side,
)
from pyrometa.types import Data, Params, TaskBatch


class MetaSVI:
    r"""SVI whose starting point is learned from many tasks.

    .. math::
        \min_{\phi_0, \theta} \; \frac{1}{B} \sum_{t=1}^{B} \text{score}(\phi_K^{(t)}, \theta; Q_t),
        \qquad \phi_{k+1}^{(t)} = \text{inner}(\phi_k^{(t)}, \nabla \text{loss}(\phi_k^{(t)}, \theta; S_t))

    with :math:`\phi` what adapts, :math:`\theta` what does not, and :math:`S_t, Q_t` the support and query sets
    of task :math:`t`.

    In every method a tuple is the model's positional arguments, and a tensor, dictionary, dataclass or named tuple is
    the single one; arguments may be nests of these and of lists. Each tensor in them has a leading task dimension, and
    what is not a tensor is the same for all tasks. A list is always tasks, of any sizes, each as the model takes it: a
    DataLoader's batch ``[x, y]`` is ``tuple(batch)`` here. ``kwargs`` are keyword arguments of the model and the guide,
    shared by all tasks and not batched.

    Args:
        model: any Pyro model.
        guide: any Pyro guide, or one in learn2learn's ``MAML``, ``MetaSGD``, ``GBML`` or ``LearnableOptimizer``, whose
            rule is then the inner rule, its rates and transforms learned in place.
        optim: a ``pyro.optim.PyroOptim``, of which only the constructor and the arguments are read, or a function
            of torch parameter groups to a torch optimiser.
        loss: any Pyro ELBO with a differentiable loss, or a function of ``(model, guide, *args, **kwargs)`` to a
            scalar tensor. Default ``TraceMeanField_ELBO()``, or ``Trace_ELBO()`` where the guide transforms a latent
            (an autoguide and a constrained one): Pyro's ``TraceMeanField_ELBO`` forgets the Jacobian there.
        inner: the inner rule. Default ``SGD(lr=1e-2)``.
        steps: number of inner steps K.
        meta_gradient: how the outer loop learns. Default ``Unrolled()``, second-order MAML.
        adapt: what adapts: ``"guide"``, ``"model"``, ``"both"``, a name, pattern or list of them such as
            ``"guide.head.*"``, or a predicate on names. What does not adapt learns in the outer loop all the same,
            unless it has ``requires_grad=False``.
        reduction: ``"sum"`` as SVI, or ``"mean"`` to divide each task's loss by the rows of its first tensor.
        score: another query objective than the loss, in the loss's form, to be minimised.
        engine: how tasks are run.

    Raises:
        TypeError: an argument of the wrong kind; the message says what to give.
        ValueError: a value out of range, or ``inner`` together with a learn2learn wrapper.

    References:
        Finn, Abbeel, Levine (2017), Model-agnostic meta-learning, https://arxiv.org/abs/1703.03400;
        Ravi, Beatson (2019), Amortized Bayesian meta-learning, https://openreview.net/forum?id=rkgpy3C5tX.

    Example:
        >>> import pyro, pyro.distributions as dist, torch, pyrometa as pm
        >>> def model(x):
        ...     loc = pyro.sample("loc", dist.Normal(0.0, 10.0))
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("x", dist.Normal(loc, 1.0), obs=x)
        >>> def guide(x):
        ...     scale = pyro.param("scale", torch.tensor(1.0), constraint=dist.constraints.positive)
        ...     pyro.sample("loc", dist.Normal(pyro.param("mean", torch.tensor(0.0)), scale))
        >>> meta = pm.MetaSVI(model, guide, pyro.optim.Adam({"lr": 0.1}), inner=pm.SGD(0.01, learn="layer"), steps=3)
        >>> support, query = 5 + torch.randn(8, 10), 5 + torch.randn(8, 10)  # 8 tasks of 10 data
        >>> before = meta.evaluate_loss(support, query)
        >>> losses = [meta.step(support, query) for _ in range(40)]
        >>> meta.evaluate_loss(support, query) < before
        True
        >>> guide_0 = meta.adapt(support[0])  # an ordinary guide
    """

    def __init__(
        self,
        model: Callable[..., Any],
        guide: Callable[..., Any],
        optim: Optim,
        loss: ELBO | Objective | None = None,
        inner: InnerRule | None = None,
        steps: int = 5,
        meta_gradient: MetaGradient | None = None,
        adapt: Selection = "guide",
        reduction: Reduction = "sum",
        score: ELBO | Objective | None = None,
        engine: Engine | None = None,
    ) -> None:
        from pyrometa.interop.learn2learn import unwrapped

        self._unwrapped = unwrapped(guide, inner, meta_gradient)
        guide, inner, meta_gradient = self._unwrapped.guide, self._unwrapped.inner, self._unwrapped.meta_gradient
        check_optim(optim)
        self.model, self.guide = model, guide
        self.inner: InnerRule = SGD() if inner is None else inner
        self.meta_gradient: MetaGradient = Unrolled() if meta_gradient is None else meta_gradient
        self.engine = Engine() if engine is None else engine
        self.steps = step_count("steps", steps)
        self._optim, self._adapt = optim, adapt
        self._program = Program(model, guide, loss, score, reduction)
        self._leaves: Params = {}
        self._adapted: tuple[str, ...] = ()
        self._learned: Params = {}
        self._optimizer: OuterOptimizer | None = None
        self._ranks: Ranks = ()

    def __getstate__(self) -> dict[str, Any]:
        """The program first; what the optimiser was made from, which may be a lambda, only until it is made."""
        made = {} if self._optimizer is None else {"_optim": None}
        return {"_program": self._program, **vars(self), **made}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update(state)
        own([*self._learned.values(), *(self._optimizer.tensors() if self._optimizer else ())])

    @exclusive
    def init(self, support: Argument, *, kwargs: Mapping[str, Any] | None = None) -> None:
        """Find the parameters on first data, and prove that fast weights reach the program.

        It runs guide and model once on the first task, as plain SVI's first step would, and draws nothing from
        the global generator. Every other method calls it if need be.

        Args:
            support: a meta-batch of support sets.
            kwargs: keyword arguments that all tasks share.

        Raises:
            ReachError: the program reads an adapted parameter from where fast weights do not reach.
            UnsupportedProgramError: a part of the program that can't be differentiated rightly.
            ValueError: bad data, a guide that misses a site, an ``adapt`` that matches nothing.
        """
        self._initialize(self._read("support", support, kwargs)[0])

    def _initialize(self, data: Data) -> None:
        """Start on first data; after that, only guard a mode of the program that was not seen yet."""
        program = self._program
        if self._optimizer is None:
            with naming_lines(program):
                self._start(data)
        elif program.take_up_mode():
            return
        else:
            with naming_lines(program), left_alone(program):
                program.look_again(data)
                self._guard(data, self._problem(self.steps).adapted)
        program.set_guarded()

    def _start(self, data: Data) -> None:
        program = self._program
        check_call(self.model, data)
        program.initialize(data)
        adapted = select(self._adapt, program.leaves)
        if self.steps and not adapted:
            raise ValueError(
                f"adapt={self._adapt!r} leaves nothing to adapt: the program's parameters are "
                f"{', '.join(program.leaves) or '(none)'}; choose some of them, or steps=0"
            )
        self._guard(data, adapted)
        self._leaves = {name: leaf.tensor for name, leaf in program.leaves.items() if leaf.trainable}
        self._adapted, self._ranks = adapted, ranks(data)
        start = {name: self._leaves[name] for name in adapted}
        learned = self.inner.learned(start, self.steps) if self.steps else {}
        if self.steps:
            self.meta_gradient.check(self.inner, learned, self.steps)
        self._learned = {f"inner.{name}": _leaf(value) for name, value in learned.items()}
        self._optimizer = OuterOptimizer(self._optim, self._leaves, self._learned, self.inner.outer_lr)

    def _guard(self, data: Data, adapted: Sequence[str]) -> None:
        check_backward(self._program, data, adapted)
        check_reach(self._program, data, adapted)
        self._unwrapped.check_used(self._program, data, adapted)

    @exclusive
    def step(
        self, support: Argument, query: Argument | None = None, *, kwargs: Mapping[str, Any] | None = None
    ) -> float:
        """One step of the outer loop on a meta-batch.

        Args:
            support: what each task adapts to.
            query: what each adapted task is scored on; None scores the support set with fresh noise.
            kwargs: keyword arguments that all tasks share.

        Returns:
            The mean query loss of the tasks, before the step, as a float.

        Raises:
            NonFiniteError: a loss or gradient is not finite; nothing was updated.
            ValueError, TypeError: bad data; nothing was done.
        """
        loss, grads = self._loss_and_grads(support, query, kwargs)
        self._initialized().step(grads)
        return loss.item()

    @exclusive
    def loss_and_grads(
        self, support: Argument, query: Argument | None = None, *, kwargs: Mapping[str, Any] | None = None
    ) -> tuple[Tensor, Params]:
        """Mean query loss of a meta-batch and its meta-gradient; nothing is changed.

        Arguments and errors are those of :meth:`step`.

        Returns:
            The loss, shape ``()``, and for each name of :meth:`named_parameters` a gradient of its shape.
        """
        return self._loss_and_grads(support, query, kwargs)

    @torch.enable_grad()
    def _loss_and_grads(
        self, support: Argument, query: Argument | None, kwargs: Mapping[str, Any] | None
    ) -> tuple[Tensor, Params]:
        tasks = self._tasks(support, query, kwargs, self.steps)
        problem = self._problem(self.steps)
        if self.steps:
            self.meta_gradient.check(self.inner, problem.learned, self.steps)
        with naming_lines(self._program):
            if self.steps and self.meta_gradient.order is Order.SECOND:
                second_order.check(self._program, problem.adapted, tasks[0].support[0])
            losses, grads = loss_and_grads(self.meta_gradient, self.engine, problem, tasks)
        check_finite(losses, grads, self.steps)
        return losses.mean(), grads

    def evaluate_loss(
        self, support: Argument, query: Argument | None = None, *, kwargs: Mapping[str, Any] | None = None
    ) -> float:
        """Mean query loss after adaptation, without learning; arguments and errors as for :meth:`step`."""
        return self.evaluate(support, query, (self.steps,), kwargs=kwargs).mean().item()

    @exclusive
    @torch.enable_grad()
    def evaluate(
        self,
        support: Argument,
        query: Argument | None = None,
        steps: Sequence[int] | None = None,
        *,
        kwargs: Mapping[str, Any] | None = None,
    ) -> Tensor:
        """Query loss of each task after several numbers of inner steps, on one noise for all of them.

        The noise of all steps is drawn at once: to compare two starts on the same noise, seed before each call and ask
        both for the same largest number of steps.

        Args:
            support: what each task adapts to.
            query: what it is scored on; None scores the support set with fresh noise.
            steps: after how many steps to score. Default ``0, 1, ..., K``.
            kwargs: keyword arguments that all tasks share.

        Returns:
            Losses of shape ``(len(steps), tasks)``.

        Raises:
            NonFiniteError: an inner step is not finite.
            ValueError, TypeError: bad data; nothing was done.
        """
        at = range(self.steps + 1) if steps is None else step_counts(steps)
        tasks = self._tasks(support, query, kwargs, max(at))
        with naming_lines(self._program):
            return self.engine.scores(self._problem(max(at)), tasks, at)

    def adapt(self, support: Any, steps: int | None = None, *, kwargs: Mapping[str, Any] | None = None) -> AdaptedGuide:
        """Fit one task.

        Args:
            support: the task as the model takes it: its single argument, or the tuple of its positional arguments.
            steps: number of inner steps; None for K.
            kwargs: keyword arguments.

        Returns:
            An ordinary guide on the task's adapted parameters, with ``guide.model`` to go with it.
        """
        return self._adapt_tasks(GivenTasks(1, None, [one_task("support", support, kwargs)]), steps)[0]

    def adapt_many(
        self, supports: Argument, steps: int | None = None, *, kwargs: Mapping[str, Any] | None = None
    ) -> list[AdaptedGuide]:
        """Fit many tasks: :meth:`adapt` for each task of a meta-batch."""
        return self._adapt_tasks(self._read("supports", supports, kwargs), steps)

    @exclusive
    @torch.enable_grad()
    def _adapt_tasks(self, supports: GivenTasks, steps: int | None) -> list[AdaptedGuide]:
        steps = self.steps if steps is None else step_count("steps", steps)
        self._check_support(supports[0])
        tasks = self._with_noise(supports, supports, steps)
        with naming_lines(self._program):
            fast = self.engine.adapted(self._problem(steps), tasks)
        return [AdaptedGuide(self._program, values, data) for values, data in zip(fast, supports, strict=True)]

    @exclusive
    def plan(
        self, support: Argument, query: Argument | None = None, *, kwargs: Mapping[str, Any] | None = None
    ) -> dict[str, str]:
        """How the engine holds each adapted parameter on data of this shape, and why: one line a parameter."""
        tasks = self._tasks(support, query, kwargs, self.steps)
        return self.engine.plan(self._problem(self.steps), tasks)

    @exclusive
    def named_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """All that the outer loop learns: the user's own leaves, unconstrained, and the rule's.

        A leaf that is frozen or set free later (``requires_grad``) goes and comes.

        Raises:
            NotInitializedError: before first data; call :meth:`init`.
        """
        self._initialized()
        return ((name, leaf) for name, leaf in self._all_leaves().items() if leaf.requires_grad)

    def _all_leaves(self) -> Params:
        return {**self._leaves, **self._learned}

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """The torch optimiser of the outer loop, to build a learning-rate scheduler on."""
        return self._initialized().optimizer

    @exclusive
    def state_dict(self) -> dict[str, Any]:
        """All that the outer loop has learned, and its optimiser's state, by parameter name."""
        optimizer = self._initialized().state_dict()
        parameters = {name: leaf.detach().clone() for name, leaf in self._all_leaves().items()}
        return {"parameters": parameters, "optimizer": optimizer}

    @exclusive
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state from :meth:`state_dict`; the leaves keep their identity.

        Raises:
            NotInitializedError: before first data; call :meth:`init`.
            ValueError: names or shapes differ; nothing was changed.
        """
        self._initialized()
        leaves = self._all_leaves()
        missing = [part for part in ("parameters", "optimizer") if part not in state]
        if missing:
            raise ValueError(f"the state lacks {' and '.join(missing)}: give what meta.state_dict() returned")
        given = state["parameters"]
        if leaves.keys() != given.keys():
            raise ValueError(f"the state is of other parameters: {', '.join(sorted(leaves.keys() ^ given.keys()))}")
        for name, leaf in leaves.items():
            if leaf.shape != given[name].shape:
                raise ValueError(f"{name} has shape {tuple(leaf.shape)}, the state's {tuple(given[name].shape)}")
        with self._initialized().undone_on_error(), torch.no_grad():
            self._initialized().load_state_dict(state["optimizer"])
            for name, leaf in leaves.items():
                leaf.copy_(given[name])

    def _initialized(self) -> OuterOptimizer:
        if self._optimizer is None:
            raise NotInitializedError(
                "the parameters are not known before first data: call meta.init(support) with a meta-batch first"
            )
        return self._optimizer

    def _problem(self, steps: int) -> Problem:
        leaves = {name: leaf for name, leaf in self._leaves.items() if leaf.requires_grad}
        adapted = tuple(name for name in self._adapted if name in leaves)
        learned = {name.removeprefix("inner."): value for name, value in self._learned.items()}
        return Problem(self._program, self.inner, adapted, leaves, learned, steps)

    def _tasks(
        self, support: Argument, query: Argument | None, kwargs: Mapping[str, Any] | None, steps: int
    ) -> list[TaskBatch]:
        supports = self._read("support", support, kwargs)
        queries = supports if query is None else self._read("query", query, kwargs)
        check_pairs(supports, queries)
        self._check_support(supports[0])
        with naming_lines(self._program):
            check_rows(self._program.local_sites, supports, queries)
        return self._with_noise(supports, queries, steps)

    def _read(self, name: str, given: Argument, kwargs: Mapping[str, Any] | None) -> GivenTasks:
        if self._optimizer is None:
            check_list(self.model, name, given)
        return read_tasks(name, given, kwargs)

    def _check_support(self, support: Data) -> None:
        if torch.is_inference_mode_enabled():
            raise ValueError("adaptation takes gradients, at meta-test as well: leave torch.inference_mode()")
        self._initialize(support)
        check_ranks("support", support, self._ranks, "the first meta-batch")

    def _with_noise(self, supports: GivenTasks, queries: GivenTasks, steps: int) -> list[TaskBatch]:
        """The tasks with the noise of all their evaluations, drawn here and now and nowhere else."""
        tape = self._program.tape
        groups = list(side_by_side(supports, queries))
        positions = [index for index, _, _ in groups]
        times = steps if self.meta_gradient.one_noise else 1
        support_noise = draw_noise([tape(support[0]) for _, support, _ in groups], positions, steps // max(times, 1))
        query_noise = draw_noise([tape(query[0], support[0]) for _, support, query in groups], positions, 1)
        return [
            TaskBatch(*group, ahead * times, last)
            for group, ahead, (last,) in zip(groups, support_noise, query_noise, strict=True)
        ]


def _leaf(value: Tensor) -> Tensor:
    """What a rule learns, in place where it is the user's own."""
    return value if value.requires_grad else value.detach().requires_grad_()
