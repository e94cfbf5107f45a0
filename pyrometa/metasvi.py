"""Meta-learned SVI: the facade over program, rule, engine and meta-gradient."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from pyro.infer.elbo import ELBO
from torch import Tensor

from pyrometa.atomic.exclusive import exclusive
from pyrometa.engine import Engine, EngineReport, Problem, Runners
from pyrometa.explain.reasons import naming_lines
from pyrometa.inner import SGD, Rule, step_count, step_counts
from pyrometa.learner import Beginning, Learner, check_meta_gradient
from pyrometa.learner.adapting import Adapting
from pyrometa.learner.arguments import Argument, Kwargs, read_pairs
from pyrometa.learner.beginning import check_instances
from pyrometa.learner.repeating import Repeating
from pyrometa.learner.saved import Saved
from pyrometa.noise.options import Noise
from pyrometa.outer import Loss, MetaGradient, Optim, Unrolled, checked_loss, loss_and_grads, scores
from pyrometa.processes import ALONE, Processes
from pyrometa.program import Given, Objective, Program, Reduction, Selection, checked_noise
from pyrometa.types import Params, TaskBatch


class MetaSVI(Adapting, Repeating, Saved):
    r"""SVI whose starting point is learned from many tasks.

    .. math::
        \min_{\phi_0, \theta} \; \frac{1}{B} \sum_{t=1}^{B} \text{score}(\phi_K^{(t)}, \theta; Q_t),
        \qquad \phi_{k+1}^{(t)} = \text{inner}(\phi_k^{(t)}, \nabla \text{loss}(\phi_k^{(t)}, \theta; S_t))

    with :math:`\phi` what adapts, :math:`\theta` what does not, and :math:`S_t, Q_t` a task's support and query sets.

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
        noise: the points at which an ELBO takes its particles' noise. Default ``Noise()``, random ones.

    Attributes:
        processes: those that share each meta-batch. ``pm.Trainer`` sets it; in a loop of your own set
            ``pm.Processes.of_group()``, and give all of them the same parameters, data and seed. Whether they have the
            same data and generators is looked at by each step and evaluation.

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
        inner: Rule | None = None,
        steps: int = 5,
        meta_gradient: MetaGradient | None = None,
        adapt: Selection = "guide",
        reduction: Reduction = "sum",
        score: ELBO | Objective | None = None,
        engine: Engine | None = None,
        noise: Noise | None = None,
    ) -> None:
        from pyrometa.interop.learn2learn import unwrapped

        objectives, how = {"loss": loss, "score": score}, {"inner": inner, "meta_gradient": meta_gradient}
        check_instances(model=model, guide=guide, **objectives, **how, engine=engine, noise=noise)
        own = unwrapped(guide, inner, meta_gradient)
        self.steps = step_count("steps", steps)
        # the program comes before model and guide: as these are pickled, autoguides lose their model
        given = Given(model, own.guide, loss, score, reduction)
        self._state: Beginning | Learner = Beginning(given, own.check_used, adapt, optim)
        self.model, self.guide = model, own.guide
        self.inner: Rule = SGD() if own.inner is None else own.inner
        self.meta_gradient: MetaGradient = Unrolled() if own.meta_gradient is None else own.meta_gradient
        self.engine = Engine() if engine is None else engine
        self.noise = checked_noise(noise, loss, score)
        self.processes, self._runners = ALONE, Runners()

    @property
    def _program(self) -> Given | Program:
        return self._state.program

    @exclusive
    def init(self, support: Argument, *, kwargs: Kwargs = None) -> None:
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
        data = self._state.read("support", support, kwargs)[0]
        self._state = self._state.started(data, self.inner, self.steps, self.meta_gradient)

    @exclusive
    def step(self, support: Argument, query: Argument | None = None, *, kwargs: Kwargs = None) -> float:
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
            ProcessError: of several processes, others have other data or generators than this one, or have failed.
        """
        loss, grads = self._loss_and_grads(support, query, kwargs)
        self._state.known().optimizer.step(grads)
        return loss.item()

    @exclusive
    def update(self, grads: Params) -> None:
        """One step of the outer loop by a meta-gradient of :meth:`loss_and_grads`, say after it was clipped."""
        self._state.known().optimizer.step(grads)

    @exclusive
    def loss_and_grads(
        self, support: Argument, query: Argument | None = None, *, kwargs: Kwargs = None
    ) -> tuple[Tensor, Params]:
        """Mean query loss of a meta-batch and its meta-gradient; nothing is changed.

        Arguments and errors are those of :meth:`step`.

        Returns:
            The loss, shape ``()``, and for each name of :meth:`named_parameters` a gradient of its shape.
        """
        loss, grads = self._loss_and_grads(support, query, kwargs)
        return loss.tensor, grads

    @torch.enable_grad()
    def _loss_and_grads(self, support: Argument, query: Argument | None, kwargs: Kwargs) -> tuple[Loss, Params]:
        return self._again(support, query, kwargs) or self._afresh(support, query, kwargs)

    def _afresh(self, support: Argument, query: Argument | None, kwargs: Kwargs) -> tuple[Loss, Params]:
        problem, tasks = self._problem(support, query, kwargs, self.steps, self.processes)
        check_meta_gradient(self.meta_gradient, problem, tasks[0].support.first)
        with naming_lines(problem.program):
            losses, grads = loss_and_grads(self.meta_gradient, self._runner, problem, tasks, self.processes)
        loss = checked_loss(losses, grads, problem)
        self._note(problem, tasks, support, query, kwargs)
        return loss, grads

    def evaluate_loss(self, support: Argument, query: Argument | None = None, *, kwargs: Kwargs = None) -> float:
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
        kwargs: Kwargs = None,
    ) -> Tensor:
        """Query loss of each task after several numbers of inner steps, on one noise for all of them.

        To compare two starts on one noise, seed before each call and ask both for the same largest number of steps.

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
        problem, tasks = self._problem(support, query, kwargs, max(at), self.processes)
        with naming_lines(problem.program):
            return scores(self._runner, problem, tasks, at, self.processes)

    @exclusive
    def plan(self, support: Argument, query: Argument | None = None, *, kwargs: Kwargs = None) -> dict[str, str]:
        """How the engine holds each adapted parameter on data of this shape, and why: one line a parameter."""
        return self._runner.plan(*self._problem(support, query, kwargs, self.steps))

    @exclusive
    def recordings(self) -> list[str]:
        """What was recorded so far: the number of operations, and the seconds it took, one line a recording."""
        return self._runners.recordings()

    @exclusive
    def engine_report(self) -> EngineReport:
        """What runs how: as it is, recorded or compiled, how often, since when, and what that has gained.

        Returns:
            One entry for each function and shape of tasks, with text of a few lines.
        """
        return self._runners.report()

    @exclusive
    def named_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """All that the outer loop learns: the user's own leaves that are not frozen, unconstrained, and the rule's.

        Raises:
            NotInitializedError: before first data; call :meth:`init`.
        """
        parameters = self._state.known().parameters()
        return ((name, leaf) for name, leaf in parameters.items() if leaf.requires_grad)

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """The torch optimiser of the outer loop, to build a learning-rate scheduler on."""
        return self._state.known().optimizer.optimizer

    def _problem(
        self, support: Argument, query: Argument | None, kwargs: Kwargs, steps: int, processes: Processes = ALONE
    ) -> tuple[Problem, list[TaskBatch]]:
        """What the arguments ask for, of all these processes: the adaptation, and the meta-batch with its noise."""
        with processes.all_or_none():
            pairs = read_pairs(self._state.read, support, query, kwargs)
            learner = self._ready(pairs[0][0])
            learner.check_rows(*pairs)
        processes.check_batch((support, query, kwargs))
        return learner.problem(self.inner, steps), learner.tasks(*pairs, steps, self.meta_gradient, self.noise)
