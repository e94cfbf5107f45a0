"""What of a MetaSVI goes into a file, and comes back."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from pyrometa.atomic.exclusive import exclusive
from pyrometa.engine import Runners
from pyrometa.learner.beginning import Beginning
from pyrometa.learner.learner import Checkpoint, Learner
from pyrometa.saving import META, read, write


class Saved:
    """What has a state that is written and read."""

    _state: Beginning | Learner
    _runners: Runners

    @exclusive
    def state_dict(self) -> dict[str, Any]:
        """All that the outer loop has learned, its optimiser's state, and what the program has besides, by name."""
        return self._state.known().state_dict()

    @exclusive
    def checkpoint(self) -> dict[str, Any]:
        """What :meth:`save` writes: the state, and how often what was run, which decides when it is run another way.

        :meth:`load_state_dict` takes it as well.
        """
        return {**self._state.known().state_dict(), "runs": self._runners.state_dict()}

    @exclusive
    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Take over a state from :meth:`state_dict` or :meth:`checkpoint`; the leaves keep their identity.

        Raises:
            NotInitializedError: before first data; call :meth:`init`.
            ValueError: names, shapes, dtypes, constraints or the optimiser's class differ; nothing was changed.
        """
        self._state.known().load_state_dict(state)
        self._go_on_from(state)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write all that :meth:`load` needs to go on from here with the same bits, but for random generators' states.

        It is one safetensors file, there as a whole or, wherever the process is killed, as it was before. Nothing
        in it is pickled.

        Args:
            path: the file; one that is there is replaced.

        Raises:
            NotInitializedError: before first data; call :meth:`init`.
            TypeError: the optimiser's state holds what no checkpoint does; the message says where.
            OSError: what the system says.

        Example:
            >>> import tempfile, pyro, pyro.distributions as dist, torch, pyrometa as pm
            >>> def model(x):
            ...     loc = pyro.sample("loc", dist.Normal(0.0, 10.0))
            ...     with pyro.plate("data", len(x)):
            ...         pyro.sample("x", dist.Normal(loc, 1.0), obs=x)
            >>> def guide(x):
            ...     pyro.sample("loc", dist.Normal(pyro.param("mean", torch.tensor(0.0)), 0.3))
            >>> meta = pm.MetaSVI(model, guide, pyro.optim.Adam({"lr": 0.1}))
            >>> loss = meta.step(5 + torch.randn(8, 10))
            >>> with tempfile.TemporaryDirectory() as folder:
            ...     meta.save(f"{folder}/meta.safetensors")
            ...     pyro.clear_param_store()
            ...     fresh = pm.MetaSVI(model, guide, pyro.optim.Adam({"lr": 0.1}))
            ...     fresh.load(f"{folder}/meta.safetensors")
            >>> fresh.init(5 + torch.randn(8, 10))
            >>> dict(fresh.named_parameters())["guide.mean"] == dict(meta.named_parameters())["guide.mean"]
            tensor(True)
        """
        write(path, self.checkpoint(), kind=META)

    def load(self, path: str | os.PathLike[str]) -> None:
        """Take over what :meth:`save` wrote; the leaves keep their identity.

        Before first data the file is read and checked now, and taken over as soon as first data show the parameters.

        Args:
            path: the file.

        Raises:
            CheckpointError: the file is not whole, or no checkpoint of a MetaSVI; the message says why, and which one
                beside it is whole. Or it is of another program: which names are missing or unknown, which shapes,
                dtypes or constraints differ, or of which optimiser it is, before first data by the method that gives
                these. Nothing was changed.
            OSError: what the system says, such as that there is no such file.

        Example:
            See :meth:`save`.
        """
        self._take_over(Checkpoint(os.fspath(path), read(path, kind=META)))

    @exclusive
    def _take_over(self, checkpoint: Checkpoint) -> None:
        self._state = self._state.after(checkpoint)
        self._go_on_from(checkpoint.state)

    def _go_on_from(self, state: Mapping[str, Any]) -> None:
        if "runs" in state:  # not in a file of an earlier version
            self._runners.load_state_dict(state["runs"])
