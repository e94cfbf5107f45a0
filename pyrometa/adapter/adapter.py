"""Posteriors of the groups of a table, a row a group."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Collection, Iterator, Sequence
from operator import itemgetter
from typing import Any

import numpy as np
import torch
from torch import Tensor

from pyrometa import nest
from pyrometa.adapter.cut import CutTable, cut
from pyrometa.adapter.summaries import check_outputs, columns_of
from pyrometa.errors import NonFiniteError, NotInitializedError, first_line
from pyrometa.metasvi import MetaSVI
from pyrometa.tasks.columns import Columns, ColumnSpec
from pyrometa.tasks.from_table import arrow_table
from pyrometa.tasks.meta_batch import ModelTensors
from pyrometa.tasks.optional import import_package

_NOT_KNOWN = (
    "the result lacks the columns of the sites, which are not known before a good group: call meta.init(data) first"
)


class Adapter:
    r"""Adapts every group of a table side by side: a function of one table to a table with a row a group.

    .. math:: z_{g, i} = \text{draw}_i\left(q(z; \phi_K(x_g))\right), \quad i = 1, \dots, \text{draws}

    A group's row depends on its own rows and the seed alone, not on the groups beside it nor on their order, up to
    rounding: each task meets the same noise, and its draws are on the same Sobol points. So a table may be adapted in
    parts, by as many processes as there are; but a part must hold all rows of its groups.

    The result has the group column, ``rows``, the columns of each latent site (``slope_mean``, ``slope_sd``,
    ``slope_q5``, ...; ``slope[0]_mean`` where it has a shape) and ``error``: of a group that can't be adapted it says
    why, and all else is null. It stops no other group. Without a good group the columns are the same, if the MetaSVI
    has seen data before and no site has a row's shape; otherwise there are none of sites.

    An adapter can be pickled if its MetaSVI can, that is if model and guide can be imported. It is what Ray Data's
    ``map_batches``, Dask's ``map_partitions`` and Spark's ``mapInPandas`` take.

    Args:
        meta: the :class:`~pyrometa.MetaSVI` to adapt by, the ``meta`` of a :class:`~pyrometa.Amortize`, or the path of
            a run, which :func:`pyrometa.load` loads when it is needed: each process does so itself, and only the path
            is pickled.
        group: the column that names each row's group.
        columns: the model's positional arguments: a list of names is a tensor ``(rows, names)``, one name ``(rows,)``;
            a tuple holds several arguments, as in ``(["x0", "x1"], "y")``.
        outputs: what is said of each site: some of ``"mean"``, ``"sd"`` and ``"quantiles"``.
        quantiles: the levels of the quantiles.
        sites: names of latent sites; None for all of the guide's.
        draws: draws of each posterior that these are computed from.
        steps: inner steps; None for the MetaSVI's own number.
        batch_size: how many groups are adapted at once, at most.
        seed: seeds the noise of adaptation and draws. The global generator is left as it is.

    Raises:
        FileNotFoundError: there is no such path.
        TypeError: ``meta`` is neither, or ``columns`` neither a name, a list of names nor a tuple of these.
        ValueError: unknown outputs, a number out of range, a group column that has the name of a result, a guide that
            draws its mode alone.

    Example:
        >>> import pyro, pyro.distributions as dist, pyarrow as pa, torch, pyrometa as pm
        >>> from pyro.infer.autoguide import AutoNormal
        >>> def model(x, y):
        ...     slope = pyro.sample("slope", dist.Normal(0.0, 1.0))
        ...     with pyro.plate("rows", y.shape[-1]):
        ...         pyro.sample("y", dist.Normal(slope * x, 0.5), obs=y)
        >>> meta = pm.MetaSVI(model, AutoNormal(model), pyro.optim.Adam({"lr": 0.01}), inner=pm.Newton())
        >>> adapter = pm.Adapter(meta, group="user", columns=("x", "y"), outputs=("mean", "sd"))
        >>> table = pa.table({"user": list("aabbb"), "x": [1.0, 2.0, 1.0, 2.0, 3.0], "y": [2.0, 4.1, 0.0, 0.1, 0.2]})
        >>> adapter(table).column_names
        ['user', 'rows', 'slope_mean', 'slope_sd', 'error']
    """

    def __init__(
        self,
        meta: MetaSVI | str | os.PathLike[str],
        group: str,
        columns: ColumnSpec,
        outputs: Sequence[str] = ("mean", "sd", "quantiles"),
        *,
        quantiles: Sequence[float] = (0.05, 0.5, 0.95),
        sites: Sequence[str] | None = None,
        draws: int = 128,
        steps: int | None = None,
        batch_size: int = 8192,
        seed: int = 0,
    ) -> None:
        if not isinstance(meta, str | os.PathLike) and not hasattr(meta, "sample_many"):
            raise TypeError(f"meta must be a MetaSVI or the path of a run, got {type(meta).__name__}")
        if group in ("rows", "error"):
            raise ValueError(f"the result has a column {group!r} besides the group's: rename the group column")
        check_outputs(outputs, quantiles)
        for name, count in (("draws", draws), ("batch_size", batch_size)):
            if isinstance(count, bool) or not isinstance(count, int) or count < 1:
                raise ValueError(f"{name} must be a whole number from 1 up, got {count!r}")
        if draws == 1 and "sd" in outputs:
            raise ValueError("one draw has no sd: give draws=2 or more, or outputs=('mean',)")
        self._path = _there(meta) if isinstance(meta, str | os.PathLike) else None
        self._meta = None if isinstance(meta, str | os.PathLike) else _with_spread(meta, outputs)
        self.group, self.columns = group, columns
        self.outputs, self.quantiles, self.sites = tuple(outputs), tuple(quantiles), sites
        self.draws, self.steps, self.batch_size, self.seed = draws, steps, batch_size, seed
        self._columns = Columns.of(columns)

    @property
    def meta(self) -> MetaSVI:
        """What it adapts by."""
        if self._meta is None:
            from pyrometa.recipes.runs import load

            self._meta = _with_spread(load(str(self._path)), self.outputs)
        return self._meta

    def __getstate__(self) -> dict[str, Any]:
        """What is pickled: of a run its path alone."""
        return {**self.__dict__, "_meta": self._meta if self._path is None else None}

    def __call__(self, table: Any) -> Any:
        """Adapt every group of a table.

        Args:
            table: an Arrow table, a pandas or polars ``DataFrame``, or what else has ``__arrow_c_stream__``.

        Returns:
            A table of the same kind, a row a group in the order of their first rows.

        Raises:
            ColumnError: a column is missing or of no use.
            TypeError: no table.
            ValueError: a site whose shape differs from group to group.
        """
        return _as_given(self.adapted(self.cut(arrow_table(table))), table)

    def cut(self, table: Any, *, strict: bool = True) -> CutTable:
        """The groups of an Arrow table; arguments and errors as of :func:`pyrometa.adapter.cut.cut`."""
        return cut(table, self.group, self._columns, strict=strict)

    def adapted(self, groups: CutTable) -> Any:
        """The result for some groups, as an Arrow table."""
        pa = import_package("pyarrow", "an Adapter", "pyrometa[tables]")
        found: dict[str, Tensor] = {}
        errors = dict(groups.errors)
        for positions, data in groups.by_size(self.batch_size):
            for some, columns in self._posteriors(positions, data, errors):
                self.check_names(columns, found)
                for name, values in columns.items():
                    found.setdefault(name, values.new_full((len(groups),), torch.nan))[some] = values
        if not found:
            known = self._known_columns()
            found = {name: values.new_full((len(groups),), torch.nan) for name, values in (known or {}).items()}
            errors = errors if known is not None else {i: f"{reason}; {_NOT_KNOWN}" for i, reason in errors.items()}
        failed = np.isin(np.arange(len(groups)), list(errors))
        columns = {name: pa.array(values.numpy(), mask=failed) for name, values in found.items()}
        said = pa.array([errors.get(i) for i in range(len(groups))], pa.string())
        return pa.table({self.group: groups.names, "rows": groups.sizes, **columns, "error": said})

    def check_names(self, columns: Collection[str], found: Collection[str]) -> None:
        """Refuse columns of sites that can't stand beside others, found before.

        Raises:
            ValueError: naming the site, or the group column.
        """
        if self.group in columns:
            raise ValueError(f"the result has a column {self.group!r} besides the group's: rename the group column")
        if different := sorted({*columns} ^ {*found}) if found else []:
            site = different[0].partition("[")[0]
            raise ValueError(f"site {site!r} has another shape for groups of another size: leave it out by sites=")

    @property
    def names(self) -> list[str]:
        """The columns that the model takes."""
        return self._columns.names

    def settings(self) -> dict[str, Any]:
        """All that a group's row depends on besides its data, as JSON can hold it; once the parameters are known."""
        meta, steps = self.meta, self.meta.steps if self.steps is None else self.steps
        asked = [self.columns, self.outputs, self.quantiles, self.sites, self.draws, steps, self.seed]
        rule = re.sub(r" at 0x[0-9a-f]+", "", repr((meta.inner, meta.noise)))
        state = meta.state_dict()
        held = hashlib.sha256()
        for name, leaf in (*state["parameters"].items(), *state["constants"].items()):
            held.update(repr((name, leaf.dtype, leaf.shape)).encode() + leaf.cpu().numpy().tobytes())
        return {"group": self.group, "asked": repr(asked), "rule": rule, "parameters": held.hexdigest()}

    def _posteriors(
        self, positions: list[int], data: ModelTensors, errors: dict[int, str]
    ) -> Iterator[tuple[list[int], dict[str, Tensor]]]:
        """The columns of groups of one size; those that fail are noted, whose data no batch takes found by halves."""
        diverged: dict[int, str] = {}
        try:
            columns = self._columns_of(data, diverged)
        except (NonFiniteError, ValueError) as error:
            reason = first_line(error) if isinstance(error, NonFiniteError) else outside_support(error)
            if reason is None:
                raise
            if len(positions) == 1:
                errors[positions[0]] = reason
                return
            half = len(positions) // 2
            for part in (slice(half), slice(half, None)):
                yield from self._posteriors(positions[part], nest.mapped(itemgetter(part), data), errors)
            return
        finite = torch.stack([values.isfinite() for values in columns.values()]).all(0)
        bad = dict.fromkeys((~finite).nonzero().flatten().tolist(), "the posterior is not finite") | diverged
        errors.update((positions[i], reason) for i, reason in bad.items())
        yield positions, columns

    def _known_columns(self) -> dict[str, Tensor] | None:
        """The columns of any group; none where they follow its rows, and None before first data."""
        try:
            known = self.meta.latent_sites() or {}
        except NotInitializedError:
            return None
        sites = known if self.sites is None else {name: known[name] for name in self.sites if name in known}
        return self._summaries({name: torch.zeros(1, self.draws, *s, dtype=t) for name, (s, t) in sites.items()})

    def _columns_of(self, data: ModelTensors, diverged: dict[int, str]) -> dict[str, Tensor]:
        sites = self.meta.sample_many(data, self.draws, self.steps, sites=self.sites, seed=self.seed, diverged=diverged)
        return self._summaries({name: draws.cpu() for name, draws in sites.items()})

    def _summaries(self, sites: dict[str, Tensor]) -> dict[str, Tensor]:
        parts = [columns_of(name, draws, self.outputs, self.quantiles) for name, draws in sites.items()]
        return {name: values for part in parts for name, values in part.items()}


def _there(path: str | os.PathLike[str]) -> str:
    if not os.path.exists(path):
        raise FileNotFoundError(f"there is no run and no checkpoint {os.fspath(path)}")
    return os.path.abspath(path)


def _with_spread(meta: MetaSVI, outputs: Sequence[str]) -> MetaSVI:
    """The same, unless its guide draws a mode alone and more is asked for."""
    guide = getattr(meta, "guide", None)
    if hasattr(guide, "laplace_approximation") and {*outputs} != {"mean"}:
        raise ValueError(
            f"{type(guide).__name__} draws its mode alone, which has no sd: give outputs=('mean',) for modes, or take "
            "meta.adapt(task).laplace_approximation(*task)"
        )
    return meta


def outside_support(error: ValueError) -> str | None:
    """What a distribution says of data that it can't have made; None of another error."""
    return next((line for line in str(error).splitlines() if "to be within the support" in line), None)


def _as_given(result: Any, table: Any) -> Any:
    """An Arrow table as the kind of table that was given."""
    package = type(table).__module__.partition(".")[0]
    if package == "pandas":
        return result.to_pandas(integer_object_nulls=True)  # floats do not hold each integer of a group's name
    return (
        import_package("polars", "a polars DataFrame", "polars").from_arrow(result) if package == "polars" else result
    )
