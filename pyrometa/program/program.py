"""Any Pyro (model, guide, ELBO) as a pure loss of (parameters, data, noise)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any, Literal

import pyro
import torch
from pyro.infer import TraceMeanField_ELBO
from pyro.infer.elbo import ELBO
from torch import Tensor, nn

from pyrometa import elbos as estimators
from pyrometa import nest
from pyrometa.elbos.default import mean_field_elbo, warn_of_forgotten_jacobians
from pyrometa.noise.batched import BatchedNoise
from pyrometa.noise.draws import Kinds, Tape
from pyrometa.noise.replay import RecordNoise, ReplayNoise
from pyrometa.program import pickled
from pyrometa.program.first_run import first_run
from pyrometa.program.guards.buffers import Buffers
from pyrometa.program.guards.local_rows import local_sites
from pyrometa.program.guards.sites import check_sites
from pyrometa.program.guide_draws import GuideDraws
from pyrometa.program.handlers import AnswerParams, MaskRows, MaskSupport, swapped
from pyrometa.program.keyword_arguments import for_program
from pyrometa.program.leaves import Leaf, find_leaves
from pyrometa.program.modes import modes, zeros
from pyrometa.program.param_recorder import SideRun, root_module
from pyrometa.program.plates import plate_sizes
from pyrometa.recording.fingerprint import Fingerprint
from pyrometa.recording.kept import mend, mend_attributes
from pyrometa.types import Data, StepNoise

Objective = Callable[..., Tensor]
Reduction = Literal["sum", "mean"]

_TAPE_SEED = 0
"""Of the run that shows a program's draws: how often a rejection sampler draws does not depend on when it is run."""


class Program:
    r"""A Pyro model and guide under an ELBO, as a function of their parameters.

    .. math:: \text{loss}(\phi, x, \epsilon) = -\text{ELBO}(x; \phi, \epsilon)

    The parameters are found by :meth:`initialise` on first data, which does to the param store what
    plain SVI's first step does; after that nothing here touches it.

    Args:
        model: a Pyro model.
        guide: a Pyro guide.
        loss: a Pyro ELBO, or a function of ``(model, guide, *args, **kwargs)`` to a scalar tensor; None for
            ``TraceMeanField_ELBO()``, or ``Trace_ELBO()`` where that would forget a Jacobian.
        score: what :meth:`score` computes in the loss's place, in the same form; None for the loss.
        reduction: ``"sum"`` as Pyro, or ``"mean"`` to divide by the rows of the data.

    Raises:
        TypeError: for a loss without a differentiable value, or a model or guide that can't be called.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        guide: Callable[..., Any],
        loss: ELBO | Objective | None = None,
        score: ELBO | Objective | None = None,
        reduction: Reduction = "sum",
    ) -> None:
        for name, program in (("model", model), ("guide", guide)):
            if not callable(program):
                raise TypeError(f"{name} must be callable, got {type(program).__name__}")
        if reduction not in ("sum", "mean"):
            raise ValueError(f"reduction must be 'sum' or 'mean', got {reduction!r}")
        self.model, self.guide = model, guide
        self._given = loss, score
        self.use(TraceMeanField_ELBO() if loss is None else loss)
        self._mean = reduction == "mean"
        self._tapes: dict[Any, Tape] = {}
        self._kinds = Kinds()
        self._row_plates: dict[Any, frozenset[str]] = {}
        self._keeps = False
        self.leaves: dict[str, Leaf] = {}
        self.guide_draws = GuideDraws()
        self.mode: Any = None
        self._guarded: dict[Any, GuideDraws] = {}
        self.local_sites: tuple[str, ...] = ()
        self.site_lines: dict[str, str] = {}
        self.proved: set[Any] = set()
        self._registered: list[nn.Module] = []

    def use(self, loss: ELBO | Objective) -> None:
        """Take this loss, and it as the score where none was given."""
        score = self._given[1]
        self.elbo, self._given_score = loss, loss if score is None else score
        self._loss, self._score = _objective(loss, "loss"), _objective(self._given_score, "score")

    def __getstate__(self) -> dict[str, Any]:
        return pickled.state_of(self)

    def __setstate__(self, state: dict[str, Any]) -> None:
        pickled.restore(self, state)

    def initialize(self, data: Data) -> None:
        """Find the parameters by running guide and model once, as plain SVI's first step would.

        Warns:
            UserWarning: a loss or score that forgets a Jacobian of the guide.

        Raises:
            UnsupportedProgramError: a part of the program that can't be differentiated rightly.
            ValueError: the guide lacks a site of the model, or has one too many.
        """
        with self._looked_at(data) as (guide, model):
            if self._given[0] is None:
                self.use(mean_field_elbo(guide.trace))
            for objective in filter(None, self._given):
                warn_of_forgotten_jacobians(objective, guide.trace)
            self.leaves = find_leaves(guide, model)
            self.local_sites = local_sites(guide, model.trace)
            self._registered = [*guide.recorder.modules.values(), *model.recorder.modules.values()]

    def look_again(self, data: Data) -> None:
        """Guard in another mode what :meth:`initialise` guards on first data, where its parameters are known.

        Raises:
            UnsupportedProgramError, ValueError: as :meth:`initialise`.
        """
        with self._looked_at(data):
            pass

    @contextmanager
    def _looked_at(self, data: Data) -> Iterator[tuple[SideRun, SideRun]]:
        """Run guide and model once and guard what they show; within it the parameters must have become known."""
        given, buffers = self._for_program(data), Buffers()
        buffers.see(self.modules())
        with torch.random.fork_rng(), torch.enable_grad(), buffers.restored_on_error():
            with self.using({}) if self.leaves else nullcontext():
                guide, model = first_run(self.elbo, self.model, self.guide, self.conditioned(data), given, buffers)
            self.site_lines = {**model.recorder.lines, **guide.recorder.lines}
            check_sites(guide.trace, model.trace, self.site_lines)
            self.guide_draws = GuideDraws.of(guide.trace)
            yield guide, model
            buffers.check_constant(lambda: (self.loss({}, data), self.score({}, data)))

    def take_up_mode(self) -> bool:
        """Know the mode that the program is in now, and whether it is one that was guarded."""
        self.mode = self.modes()
        self.guide_draws = self._guarded.get(self.mode, self.guide_draws)
        return self.mode in self._guarded

    def set_guarded(self) -> None:
        """Note that the guards have let the program pass in the mode that it is in now."""
        self.mode = self.modes()
        self._guarded[self.mode] = self.guide_draws

    def _for_program(self, data: Data, objective: Objective | None = None) -> Data:
        """The data without keyword arguments that are the loss's or the score's alone, but for an objective's own."""
        return for_program(data, (self.elbo, self._given_score), self.model, objective)

    def modules(self, *, registered: bool = True) -> list[nn.Module]:
        """Every module of the program, once; those that a function registers with Pyro from first data on."""
        roots = (root_module(self.guide), root_module(self.model), *(self._registered if registered else ()))
        return list({id(m): m for root in roots if root is not None for m in root.modules()}.values())

    def loss(self, params: Mapping[str, Tensor], data: Data, noise: StepNoise | None = None) -> Tensor:
        """The ELBO loss of one task.

        Args:
            params: unconstrained values by name; a leaf that is not named keeps the user's tensor.
            data: what the model and the guide take.
            noise: one tensor a draw of :meth:`tape`; None draws from the global generator.

        Returns:
            A scalar tensor, differentiable in ``params``.
        """
        return self._evaluate(self._loss, params, data, self._replay(noise))

    def score(
        self,
        params: Mapping[str, Tensor],
        data: Data,
        noise: StepNoise | None = None,
        support: Data | None = None,
    ) -> Tensor:
        """The query objective of one task; arguments and result as for :meth:`loss`.

        ``support`` is what a guide with a ``condition`` is conditioned on; None for the data themselves.
        """
        return self._evaluate(self._score, params, data, self._replay(noise), support=support)

    def tape(self, data: Data, support: Data | None = None) -> Tape:
        """The draws of one evaluation on data of this shape, recorded on first sight of it and of the mode.

        They are those of :meth:`score` if there is a ``support``, else of :meth:`loss`.
        """
        shapes = (_shapes(data), support and _shapes(support))
        key = (*shapes, tuple(module.training for module in self.modules()))
        if key not in self._tapes:
            objective = self._score if support else self._loss
            recorder = RecordNoise()
            with torch.random.fork_rng(), torch.enable_grad():
                torch.manual_seed(_TAPE_SEED)
                self._evaluate(objective, {}, data, recorder, support=support)
            self._tapes[key] = recorder.tape
            self._kinds.add(recorder.tape)
        return self._tapes[key]

    def conditioned(self, support: Data) -> Callable[..., Any]:
        """The guide given a task's support set: what its ``condition`` makes of it, or the guide itself."""
        if not self.reads_support:
            return self.guide
        support = self._for_program(support)

        def guide(*args: Any, **kwargs: Any) -> Any:
            with MaskSupport(support.rows) if support.rows else nullcontext():
                return self.guide.condition(*support.args, **support.kwargs)(*args, **kwargs)  # type: ignore[attr-defined]

        guide.__wrapped__ = self.guide  # type: ignore[attr-defined]
        return guide

    @property
    def reads_support(self) -> bool:
        """Whether the guide has a ``condition`` on the whole support set."""
        return callable(getattr(self.guide, "condition", None))

    def row_plates(self, data: Data, larger: Data) -> frozenset[str]:
        """Names of the plates whose size is the number of rows, read off the first two tasks of different sizes."""
        modes = self.modes()
        if modes not in self._row_plates:
            with self.using({}):
                sizes = [
                    plate_sizes(self.elbo, self.model, self.conditioned(task), self._for_program(task))
                    for task in (data, larger)
                ]
            rows = _rows(data), _rows(larger)
            same = (name for name in sizes[0] if (sizes[0][name], sizes[1].get(name)) == rows)
            self._row_plates[modes] = frozenset(same)
        return self._row_plates[modes]

    def modes(self) -> Any:
        """Switches that change what the program does: those of its modules, and the handlers around it."""
        return modes(self.modules())

    def zeros(self) -> Any:
        """Which numbers and tensors that its modules hold are zero, so that what they multiply is not seen."""
        return zeros(self.modules())

    def batched(
        self,
        params: Mapping[str, Tensor],
        data: Data,
        mode: BatchedNoise,
        constrained: Mapping[str, Tensor] | None = None,
        support: Data | None = None,
    ) -> Tensor:
        """:meth:`score`, or without ``support`` :meth:`loss`, in a form that ``vmap`` can batch, under ``mode``.

        ``constrained`` holds what the program sees for some of ``params``, where that is known already.
        """
        given = self._given_score if support else self.elbo
        objective = estimators.traced(given) if isinstance(given, ELBO) else given
        with pyro.validation_enabled(False):
            return self._evaluate(objective, params, data, mode.expecting(self._kinds), constrained, support)

    def fingerprint(self, known: Fingerprint | None = None, given: Mapping[str, Any] | None = None) -> Fingerprint:
        """All that :meth:`loss` and :meth:`score` depend on besides the tensors of their arguments, to compare.

        Args:
            known: an earlier one, which is returned if nothing has changed: that is found out faster.
            given: objects among their arguments, by name, of which a part may change.

        Raises:
            UnsupportedProgramError: the program reads something that can't be compared, such as a clock or a file.
        """
        frozen = {f"frozen.{name}": leaf.tensor for name, leaf in self.leaves.items() if not leaf.trainable}
        parts = {
            "model": self.model,
            "guide": self.guide,
            "loss": self.elbo,
            "score": self._given_score,
            **frozen,
            **(given or {}),
        }
        trained = [leaf.tensor for leaf in self.leaves.values() if leaf.trainable]
        if known is not None and known.holds(parts, trained):
            return known
        return Fingerprint(parts, trained)

    def mend_kept(self, *, thorough: bool = False) -> None:
        """Leave in what the program kept of tasks side by side the last task's tensors, as the loop does.

        Args:
            thorough: look everywhere, not only at modules' attributes; once it kept something, that is always done.
        """
        if thorough or self._keeps:
            self._keeps = mend((self.model, self.guide, self.elbo, self._given_score)) or self._keeps
        else:
            mend_attributes(self.modules())

    def refuses_batches(self) -> str | None:
        """Why :meth:`batched` can't be used on this program, or None."""
        return estimators.refusal(self.elbo) or estimators.refusal(self._given_score)

    def _evaluate(
        self,
        objective: Objective,
        params: Mapping[str, Tensor],
        data: Data,
        mode: AbstractContextManager[Any],
        constrained: Mapping[str, Tensor] | None = None,
        support: Data | None = None,
    ) -> Tensor:
        counted = MaskRows(data.rows) if data.rows else nullcontext()
        if data.kwargs:
            data = self._for_program(data, objective)
        with self.using(params, constrained), mode, counted:
            value = objective(self.model, self.conditioned(support or data), *data.args, **data.kwargs)
        return value / _rows(data) if self._mean else value

    def _replay(self, noise: StepNoise | None) -> AbstractContextManager[Any]:
        return nullcontext() if noise is None else ReplayNoise(noise).expecting(self._kinds)

    @contextmanager
    def using(self, params: Mapping[str, Tensor], constrained: Mapping[str, Tensor] | None = None) -> Iterator[None]:
        """Within it, the model and the guide run on ``params`` and the param store hears of none of it."""
        self._restore_store()
        leaves = self.leaves.values()
        with swapped(leaves, params), AnswerParams(leaves, params, constrained):
            yield

    def _restore_store(self) -> None:
        """Give the store back the module parameters that ``pyro.clear_param_store()`` took from it.

        A PyroModule writes what it holds to a store that lacks it, which must not be a fast weight.
        """
        store = pyro.get_param_store()
        if pyro.settings.get("module_local_params"):
            return
        for leaf in self.leaves.values():
            for site in leaf.sites if leaf.slots else ():
                if site not in store:
                    store.set_state({"params": {site: leaf.tensor}, "constraints": {site: leaf.constraint}})


def _objective(loss: ELBO | Objective, name: str) -> Objective:
    if isinstance(loss, ELBO):
        if hasattr(loss, "differentiable_loss"):
            return loss.differentiable_loss
        if estimators.refusal(loss) is None:
            return estimators.loss_of(loss)
        raise TypeError(
            f"{name}: {type(loss).__name__} has no differentiable_loss, which meta-gradients need; "
            "use Trace_ELBO, TraceMeanField_ELBO, TraceEnum_ELBO or RenyiELBO"
        )
    if callable(loss):
        return loss
    raise TypeError(f"{name} must be a Pyro ELBO or a function, got {type(loss).__name__}")


def _rows(data: Data) -> int | Tensor:
    if data.rows:
        return data.rows.count
    return next((len(x) for x in nest.tensors(data.args) if x.dim() > 0), 1)


def _shapes(data: Data) -> Any:
    values = [*data.args, *(data.kwargs[k] for k in sorted(data.kwargs))]
    return nest.layout(values, lambda x: (tuple(x.shape), x.dtype, x.device), type), tuple(sorted(data.kwargs))
