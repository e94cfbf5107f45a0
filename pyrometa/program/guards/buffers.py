"""Buffers that a program's modules update as they run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from pyro.distributions.torch_transform import TransformModule
from pyro.poutine import Trace
from torch import Tensor, nn

from pyrometa.elbos.wrapped_distributions import layers
from pyrometa.errors import UnsupportedProgramError
from pyrometa.internals import InverseTransform, NormBase


class Buffers:
    """The buffers of some modules as they were, each copied when it was first seen."""

    def __init__(self) -> None:
        self._held: dict[tuple[int, str], tuple[nn.Module, str, Tensor, Tensor]] = {}

    def see(self, modules: Iterable[nn.Module]) -> None:
        """Note the buffers of these modules and of their parts, where they are not known yet."""
        for part in (part for module in modules for part in module.modules()):
            for key, buffer in part._buffers.items():
                if buffer is not None and (id(part), key) not in self._held:
                    self._held[id(part), key] = (part, key, buffer, buffer.clone())

    def check_constant(self, run: Callable[[], object]) -> None:
        """Refuse modules that update buffers in another run.

        What changes once, when it is first used, stays as plain SVI's first step would leave it.

        Raises:
            UnsupportedProgramError: naming the module and its cure.
        """
        again = Buffers()
        again.see(module for module, _, _, _ in self._held.values())
        run()
        moved = again._changed()
        if moved:
            module, key = moved[0]
            raise UnsupportedProgramError(
                f"{type(module).__name__} updates its buffer {key!r} as it runs, so a task's numbers would depend on "
                f"the tasks before it: {_cure(module)}"
            )

    @contextmanager
    def restored_on_error(self) -> Iterator[None]:
        """Put back what was noted if what runs within fails."""
        try:
            yield
        except BaseException:
            self._restore()
            raise

    def _restore(self) -> None:
        for module, key, buffer, old in self._held.values():
            if not _same(module._buffers[key], old):
                buffer.data = old
                module._buffers[key] = buffer

    def _changed(self) -> list[tuple[nn.Module, str]]:
        return [(module, key) for module, key, _, old in self._held.values() if not _same(module._buffers[key], old)]


def transform_modules(trace: Trace) -> Iterator[nn.Module]:
    """The modules among the transforms of a trace's distributions."""
    for site in trace.nodes.values():
        for fn in layers(site["fn"]) if site["type"] == "sample" else ():
            for transform in getattr(fn, "transforms", ()):
                yield from _modules_of(transform)


def _modules_of(transform: Any) -> Iterator[nn.Module]:
    if isinstance(transform, nn.Module):
        yield transform
        return
    inverse_of = [transform._inv] if isinstance(transform, InverseTransform) else []
    for part in (*getattr(transform, "parts", ()), *inverse_of):
        yield from _modules_of(part)


def _cure(module: nn.Module) -> str:
    if isinstance(module, NormBase):
        return "use GroupNorm or LayerNorm, or call .eval() on it"
    if isinstance(module, TransformModule):
        return "call .eval() on it, or use another transform"
    return "call .eval() on it, or keep what changes outside of the model and the guide"


def _same(new: Tensor | None, old: Tensor) -> bool:
    return new is not None and new.shape == old.shape and bool(((new == old) | ((new != new) & (old != old))).all())
