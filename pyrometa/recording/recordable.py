"""What can be recorded, and what a recording can do."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, MutableMapping, Sequence
from typing import Any, Protocol

from torch import Tensor

from pyrometa.recording.fingerprint import Fingerprint

Graph = Callable[..., Sequence[Tensor]]
"""Recorded operations, from tensors to tensors."""


class Replayable(Protocol):
    """A recording of a function."""

    @property
    def bytes(self) -> int:
        """How much memory it holds, about; one that is made as it is replayed may come to hold more."""

    def of(self, function: Any) -> Any:
        """What a function makes of its tensors that is the recorded one but for these."""

    def mapped(self, form: Callable[[Graph], Graph]) -> Replayable:
        """The same recording with another form of each graph."""

    @property
    def size(self) -> int:
        """How many operations there are."""


class Recordable(Protocol):
    """A function of tensors, and of state that is not in them."""

    @property
    def key(self) -> Hashable:
        """What is fixed in a recording besides the state: where two keys agree, the tensors have the same shapes."""

    @property
    def label(self) -> str:
        """A digest of the key that is the same in every process, if not of every key another."""

    @property
    def title(self) -> str:
        """What the function does, in a few words."""

    @property
    def parameters(self) -> Mapping[str, Tensor]:
        """Tensors by name that change from run to run; the function may read them among its tensors only."""

    def state(self, known: Fingerprint | None) -> Fingerprint:
        """What the function depends on besides its tensors; ``known`` itself where that still holds."""

    def tensors(self) -> list[Tensor]:
        """The tensors to run on."""

    def run(self) -> Any:
        """The function of :meth:`tensors`, as it is."""

    def on(self, tensors: Sequence[Tensor]) -> Any:
        """The function of other tensors, in the form that is recorded."""

    def in_parts(self, parts: MutableMapping[Any, Any], *, compiled: bool) -> Replayable | None:
        """A recording that is made of parts, each as it is first replayed; None where one of the whole is as good.

        Args:
            parts: those made so far, by all that is fixed in them besides the state, which is the same for all of them.
            compiled: whether to compile the operations by inductor.
        """

    def told(self, error: Exception) -> str:
        """An error in words for whoever wrote the function."""
