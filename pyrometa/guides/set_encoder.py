"""A guide that reads a whole support set."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pyro.nn import PyroModule
from torch import Tensor, nn

from pyrometa.guides.amortized import AmortizedGuide
from pyrometa.guides.families import Family
from pyrometa.guides.pooling import Pooling, pool_of, row_mask


class SetEncoderGuide(PyroModule):
    r"""Posterior of a model's global latents, computed from the whole support set in any order and number.

    .. math:: q(w \mid S) = \text{family}(w; \text{head}(\text{pool}_{x \in S} \, \text{encoder}(x)))

    Called on data it conditions on that data. :meth:`condition` fixes the data that it conditions on:
    ``MetaSVI`` does so with each task's support set, and scores the query set with the guide that comes out. With
    ``steps=0`` that is VERSA, the Neural Statistician and a Neural Process; with K steps, adaptation starts there.
    Tasks of different sizes are padded to one shape, so a pooling of your own must keep to its mask.

    Args:
        model: a Pyro model.
        encoder: function or module of the model's arguments to rows of features ``(N, features)``, one for each
            datum, or to ``(rows, mask)`` with a boolean mask ``(N,)`` of those that count.
        pooling: ``"mean_and_count"``, which knows how many rows there are: the mean of n rows, log(n + 1) and
            1 / (n + 1), so that posteriors narrow as n grows. ``"mean"``, ``"sum"`` and ``"max"`` are what they say,
            and pool an empty set to zeros. Or a module of ``(rows, mask)`` such as :class:`AttentionPooling`.
        sites: names of the sites it covers, all outside of plates; None for all latent sites.
        family: as in :class:`AmortizedGuide`.

    Raises:
        TypeError: a model or encoder that can't be called.
        ValueError: an unknown family or pooling; on first data, what :class:`AmortizedGuide` refuses.

    References:
        Zaheer et al. (2017), Deep sets, https://arxiv.org/abs/1703.06114;
        Edwards, Storkey (2017), Towards a neural statistician, https://arxiv.org/abs/1606.02185;
        Garnelo et al. (2018), Neural processes, https://arxiv.org/abs/1807.01622;
        Gordon et al. (2019), Meta-learning probabilistic inference for prediction (VERSA),
        https://arxiv.org/abs/1805.09921.

    Example:
        >>> import pyro, pyro.distributions as dist, torch
        >>> def model(x):
        ...     mean = pyro.sample("mean", dist.Normal(torch.zeros(2), 1.0).to_event(1))
        ...     with pyro.plate("data", len(x)):
        ...         pyro.sample("x", dist.Normal(mean, 1.0).to_event(1), obs=x)
        >>> guide = SetEncoderGuide(model, torch.nn.Linear(2, 8))
        >>> guide(torch.randn(10, 2))["mean"].shape
        torch.Size([2])
        >>> given_five = guide.condition(torch.randn(5, 2))  # an ordinary guide
        >>> loss = pyro.infer.Trace_ELBO().differentiable_loss(model, given_five, torch.randn(7, 2))
    """

    def __init__(
        self,
        model: Callable[..., Any],
        encoder: Callable[..., Any],
        *,
        pooling: Pooling = "mean_and_count",
        sites: Sequence[str] | None = None,
        family: Family = "mean_field",
    ) -> None:
        super().__init__()
        if not callable(encoder):
            raise TypeError(f"encoder must be callable, got {type(encoder).__name__}")
        self.amortized = AmortizedGuide(model, _SetEncoder(encoder, pooling), sites=sites, family=family)

    def forward(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Sample the global latents given this data; the arguments are the model's, the result values by site."""
        return self.amortized(*args, **kwargs)

    def condition(self, *support: Any, **kwargs: Any) -> Callable[..., dict[str, Tensor]]:
        """The guide given a support set.

        Args:
            support: the model's positional arguments.
            kwargs: its keyword arguments.

        Returns:
            A guide of any data, whose posterior is that of the support set.
        """
        return functools.partial(self._given, support, kwargs)

    def _given(
        self, support: tuple[Any, ...], support_kwargs: Mapping[str, Any], *_: Any, **__: Any
    ) -> dict[str, Tensor]:
        return self(*support, **support_kwargs)


class _SetEncoder(nn.Module):
    """Rows of features, pooled."""

    def __init__(self, encoder: Callable[..., Any], pooling: Pooling) -> None:
        super().__init__()
        self.encoder, self.pool = encoder, pool_of(pooling)

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        rows = self.encoder(*args, **kwargs)
        rows, mask = rows if isinstance(rows, tuple) else (rows, None)
        if not isinstance(rows, Tensor) or rows.dim() < 2:
            got = tuple(rows.shape) if isinstance(rows, Tensor) else type(rows).__name__
            raise ValueError(f"the set encoder must return rows of features, (N, features), got {got}")
        counts = row_mask(rows)
        return self.pool(rows, counts if mask is None else mask & counts)
