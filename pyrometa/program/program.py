"""Any Pyro (model, guide, ELBO) as a pure loss of (parameters, data, noise)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, fields
from typing import Any

import pyro
import torch
from pyro import poutine
from pyro.infer.elbo import ELBO
from torch import Tensor, nn

from pyrometa import elbos, nest
from pyrometa.noise.batched_noise import BatchedNoise
from pyrometa.noise.draws import Tape
from pyrometa.noise.options import PointKind
from pyrometa.noise.points import Points
from pyrometa.noise.replay import ReplayNoise
from pyrometa.noise.tapes import Tapes
from pyrometa.program.findings import Findings
from pyrometa.program.given import Given, every_module
from pyrometa.program.guards.guarded import Guarded
from pyrometa.program.guide_draws import GuideDraws
from pyrometa.program.handlers import AnswerParams, MaskRows, swapped
from pyrometa.program.leaves import Leaf
from pyrometa.program.modes import Seen, modes, zeros
from pyrometa.program.objectives import Objective, batchable, function_of
from pyrometa.program.particle_draws import points_of
from pyrometa.program.pickled import Autoguides, check_modules, own, without_weak_references
from pyrometa.program.plates import RowPlates, plate_sizes
from pyrometa.program.store import restore_store, store_under, stored
from pyrometa.program.traces import is_auxiliary, latents
from pyrometa.recording.fingerprint import Fingerprint
from pyrometa.recording.kept_tensors import KeptTensors
from pyrometa.types import Data, StepNoise


@dataclass(frozen=True, eq=False)
class Program:
    r"""A Pyro model and guide under an ELBO, as a function of their parameters.

    .. math:: \text{loss}(\phi, x, \epsilon) = -\text{ELBO}(x; \phi, \epsilon)

    Nothing here changes what the param store holds, but that what ``pyro.clear_param_store()`` took from it comes back.

    Attributes:
        given: model, guide and loss as the user gave them.
        found: what they showed on first data.
        guarded: the modes that the guards have let pass.
    """

    given: Given
    found: Findings
    guarded: Guarded
    _tapes: Tapes = field(init=False, default_factory=Tapes)
    _larger_tapes: Tapes = field(init=False, default_factory=Tapes)
    _row_plates: RowPlates = field(init=False, default_factory=RowPlates)
    _kept: KeptTensors = field(init=False, default_factory=KeptTensors)
    _seen: Seen = field(init=False, default_factory=Seen)

    @property
    def model(self) -> Callable[..., Any]:
        """The model."""
        return self.given.model

    @property
    def guide(self) -> Callable[..., Any]:
        """The guide."""
        return self.given.guide

    @property
    def elbo(self) -> ELBO | Objective:
        """The loss that it is run under."""
        return self.found.elbo

    @property
    def leaves(self) -> Mapping[str, Leaf]:
        """Its parameters by name."""
        return self.found.leaves

    @property
    def guide_draws(self) -> GuideDraws:
        """The guide's draws that second-order gradients can't pass, in the present mode."""
        return self.guarded.look.guide_draws

    @property
    def site_lines(self) -> Mapping[str, str]:
        """Where it samples each site in the present mode, as far as it is known."""
        return self.guarded.look.site_lines

    @property
    def reads_support(self) -> bool:
        """Whether the guide has a ``condition`` on the whole support set."""
        return self.given.reads_support

    def conditioned(self, support: Data) -> Callable[..., Any]:
        """The guide given a task's support set: what its ``condition`` makes of it, or the guide itself."""
        return self.given.conditioned(support)

    def modules(self) -> list[nn.Module]:
        """Every module of the program, once; those that a function registers with Pyro too."""
        return every_module((self.guide, self.model), self.found.registered)

    def modes(self) -> nest.Hashed:
        """Switches that change what the program does: those of its modules, and the handlers around it."""
        return modes(self.modules())

    def begin(self) -> nest.Hashed:
        """:meth:`modes` as an operation begins; :meth:`modes_now` need not look again until the program has run."""
        return self._seen.look(self.modules())

    def modes_now(self) -> nest.Hashed:
        """:meth:`modes` in an operation."""
        return self._seen.mode or self.modes()

    def zeros(self) -> Any:
        """Which numbers and tensors that its modules hold are zero, so that what they multiply is not seen."""
        return zeros(self.modules())

    def loss(self, params: Mapping[str, Tensor], data: Data, noise: StepNoise | None = None) -> Tensor:
        """The ELBO loss of one task.

        Args:
            params: unconstrained values by name; a leaf that is not named keeps the user's tensor.
            data: what the model and the guide take.
            noise: one tensor a draw of :meth:`tape`; None draws from the global generator.

        Returns:
            A scalar tensor, differentiable in ``params``.
        """
        return self._evaluate(function_of(self.elbo), params, data, self._replay(noise))

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
        return self._evaluate(function_of(self.found.score), params, data, self._replay(noise), support=support)

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
        objective = batchable(self.found.score if support else self.elbo)
        with pyro.validation_enabled(False):
            return self._evaluate(objective, params, data, mode.expecting(self._tapes.kinds), constrained, support)

    def latents_of_guide(self, params: Mapping[str, Tensor], data: Data) -> dict[str, Any]:
        """The latent sites of a run of the guide on some data; it draws from the global generator."""
        with self.using(params):
            taken = self.given.for_program(data)
            return latents(poutine.trace(self.conditioned(data)).get_trace(*taken.args, **taken.kwargs))

    @torch.no_grad()
    def sampled(self, params: Mapping[str, Tensor], data: Data, mode: AbstractContextManager[Any]) -> dict[str, Tensor]:
        """What the guide draws of its latent sites, under a mode that answers its draws."""
        with pyro.validation_enabled(False), mode:
            sites = self.latents_of_guide(params, data).items()
        return {name: site["value"] for name, site in sites if not is_auxiliary(site)}

    def refuses_batches(self) -> str | None:
        """Why :meth:`batched` can't be used on this program, or None."""
        return elbos.refusal(self.elbo) or elbos.refusal(self.found.score)

    def tape(self, data: Data, support: Data | None = None) -> Tape:
        """The draws of one evaluation on data of this shape, recorded on first sight of it and of the mode.

        They are those of :meth:`score` if there is a ``support``, else of :meth:`loss`.
        """
        return self._taped(self._tapes, self.found.score if support else self.elbo, data, support)

    def points(self, kind: PointKind, data: Data, support: Data | None = None) -> Points:
        """How the draws of :meth:`tape` hang together, where particles take theirs from points of this kind.

        Raises:
            ValueError: the points do not suit the program or the objective.
        """
        name, objective = ("score", self.found.score) if support else ("loss", self.elbo)

        def tape(elbo: ELBO) -> Tape:
            tapes = self._tapes if elbo is objective else self._larger_tapes
            return self._taped(tapes, elbo, data, support)

        return points_of(kind, objective, name, tape)

    def _taped(self, tapes: Tapes, objective: ELBO | Objective, data: Data, support: Data | None) -> Tape:
        function, modules = function_of(objective), self._seen.modules or self.modules()
        support = support if self.reads_support or objective is not self.elbo else None  # a score may be the loss
        return tapes.recorded(
            (_shapes(data), support and _shapes(support), tuple([module.training for module in modules])),
            lambda recorder: self._evaluate(function, {}, data, recorder, support=support),
        )

    def row_plates(self, data: Data, larger: Data) -> frozenset[str]:
        """Names of the plates whose size is the number of rows, read off the first two tasks of different sizes."""

        def sizes(task: Data) -> tuple[int | Tensor, dict[str, int]]:
            with self.using({}):
                plates = plate_sizes(self.elbo, self.model, self.conditioned(task), self.given.for_program(task))
            return _rows(task), plates

        return self._row_plates.read(self.modes(), lambda: (sizes(data), sizes(larger)))

    def fingerprint(self, known: Fingerprint | None = None, given: Mapping[str, Any] | None = None) -> Fingerprint:
        """All that :meth:`loss` and :meth:`score` depend on besides the tensors of their arguments, to compare.

        Args:
            known: an earlier one, which is returned if nothing has changed: that is found out faster.
            given: objects among their arguments, by name, of which a part may change.

        Raises:
            UnsupportedProgramError: the program reads something that can't be compared, such as a clock or a file.
        """
        frozen = {f"frozen.{name}": leaf.tensor for name, leaf in self.leaves.items() if not leaf.trainable}
        sides = {"model": self.model, "guide": self.guide, "loss": self.elbo, "score": self.found.score}
        parts = {**sides, **frozen, **(given or {})}
        trained = [leaf.tensor for leaf in self.leaves.values() if leaf.trainable]
        if known is not None and known.holds(parts, trained):
            return known
        return Fingerprint(parts, trained)

    def mend_kept(self, *, thorough: bool = False) -> None:
        """Replace each tensor of many tasks that the program keeps by the last task's, as the loop would leave it.

        Args:
            thorough: look everywhere, not only at modules' attributes; once it kept something, that is always done.
        """
        self._kept.mend((self.model, self.guide, self.elbo, self.found.score), self.modules(), thorough=thorough)

    @contextmanager
    def using(self, params: Mapping[str, Tensor], constrained: Mapping[str, Tensor] | None = None) -> Iterator[None]:
        """Within it, the model and the guide run on ``params`` and the param store hears of none of it."""
        leaves = self.leaves.values()
        self._seen.forget()
        restore_store(leaves)
        with swapped(leaves, params), AnswerParams(leaves, params, constrained):
            yield

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
            data = self.given.for_program(data, objective)
        with self.using(params, constrained), mode, counted:
            value = objective(self.model, self.conditioned(support or data), *data.args, **data.kwargs)
        return value / _rows(data) if self.given.reduction == "mean" else value

    def _replay(self, noise: StepNoise | None) -> AbstractContextManager[Any]:
        return nullcontext() if noise is None else ReplayNoise(noise).expecting(self._tapes.kinds)

    def __getstate__(self) -> dict[str, Any]:
        """What is known of the program, and which parameters the param store holds by what names.

        Raises:
            PicklingError: a function of the program has a module with parameters from elsewhere.
        """
        leaves, autoguides = self.leaves.values(), Autoguides(self.modules())
        check_modules((self.model, self.guide), self.given.modules(), leaves, autoguides)
        without_weak_references(leaf.tensor for leaf in leaves)
        return {**vars(self), "stored": stored(leaves), "autoguides": autoguides}

    def __setstate__(self, state: dict[str, Any]) -> None:
        vars(self).update({part.name: state[part.name] for part in fields(self)})
        own(leaf.tensor for leaf in self.leaves.values())
        store_under(state["stored"], self.leaves)


def _rows(data: Data) -> int | Tensor:
    if data.rows:
        return data.rows.count
    return next((len(x) for x in nest.tensors(data.args) if x.dim() > 0), 1)


def _shapes(data: Data) -> Any:
    values = [*data.args, *(data.kwargs[k] for k in sorted(data.kwargs))]
    return nest.layout(values, lambda x: (tuple(x.shape), x.dtype, x.device), type), tuple(sorted(data.kwargs))
