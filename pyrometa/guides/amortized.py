"""A guide whose posteriors are computed from the data by an encoder network."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pyro.nn import PyroModule
from torch import Tensor, nn

from pyrometa.guides.families import Family, posterior_of
from pyrometa.guides.groups import Group, grouped
from pyrometa.guides.sites import read_sites


class AmortizedGuide(PyroModule):
    r"""Amortised variational posterior: an encoder, one linear head, and a family.

    .. math:: q(z \mid x) = \text{family}(z; \text{head}(\text{encoder}(x)))

    The model is run once, on first data, to read off the sites' shapes, supports and plates; the heads are made
    then (so call the guide once before ``load_state_dict``). Sizes of plates are read from the features at each
    call, so support and query sets may differ in size; only the full size of a plate that is subsampled stays that
    of first data. A site with a constrained support gets its posterior on the reals and the transform that Pyro's
    autoguides use. The encoder may also read latent sites that are sampled before: those in ``given``, whose values
    are keyword arguments of the guide, as a :class:`ComposedGuide` gives them.

    ``"mean_field"`` gives each site independent normals. ``"full_covariance"`` gives one normal, and ``"flow"`` one
    neural spline flow (zuko's NSF), over all sites that are in the same plates, for each cell of the plates.

    Args:
        model: a Pyro model.
        encoder: function or module of the model's arguments to features: a tensor ``(*plates, features)`` for sites
            in plates, ``(features,)`` for sites outside of them, or such tensors by site name.
        sites: names of the sites it covers; None for all latent sites that are not enumerated.
        given: names of latent sites that it does not cover, whose values the encoder takes as keyword arguments.
        family: ``"mean_field"``, ``"full_covariance"``, ``"flow"``, or a function of ``(dim, features)`` to a
            :class:`Posterior` over vectors of ``dim`` reals.

    Raises:
        TypeError: a model or encoder that can't be called.
        ValueError: an unknown family; on first data, sites that the model lacks, discrete ones, features of a
            shape that doesn't go with the model's plates.
        ImportError: ``"flow"`` without zuko, on first data.

    References:
        Kingma, Welling (2014), Auto-encoding variational Bayes, https://arxiv.org/abs/1312.6114;
        Durkan et al. (2019), Neural spline flows, https://arxiv.org/abs/1906.04032.

    Example:
        >>> import pyro, pyro.distributions as dist, torch
        >>> def model(x):
        ...     with pyro.plate("data", len(x)):
        ...         rate = pyro.sample("rate", dist.Gamma(2.0, 1.0))
        ...         pyro.sample("x", dist.Poisson(rate[:, None]).to_event(1), obs=x)
        >>> encoder = torch.nn.Sequential(torch.nn.Linear(3, 8), torch.nn.Tanh())
        >>> guide = AmortizedGuide(model, encoder)
        >>> svi = pyro.infer.SVI(model, guide, pyro.optim.Adam({"lr": 0.01}), pyro.infer.Trace_ELBO())
        >>> loss = svi.step(torch.ones(5, 3))
        >>> guide(torch.ones(2, 3))["rate"].shape  # any number of rows
        torch.Size([2])
    """

    def __init__(
        self,
        model: Callable[..., Any],
        encoder: Callable[..., Tensor | Mapping[str, Tensor]],
        *,
        sites: Sequence[str] | None = None,
        given: Sequence[str] = (),
        family: Family = "mean_field",
    ) -> None:
        super().__init__()
        for name, part in (("model", model), ("encoder", encoder)):
            if not callable(part):
                raise TypeError(f"{name} must be callable, got {type(part).__name__}")
        for name, names in (("sites", sites), ("given", given)):
            if isinstance(names, str):
                raise TypeError(f"{name} must be a list of names, got the string {names!r}: write [{names!r}]")
        self._model = (model,)  # not a submodule: the model's parameters are not the guide's
        self.encoder = encoder
        self._sites = sites
        self.given = tuple(given)
        self._posterior_of = posterior_of(family)
        self._joint = family != "mean_field"
        self._groups: list[Group] = []
        self.heads = nn.ModuleDict()
        self.posteriors = nn.ModuleDict()

    @property
    def model(self) -> Callable[..., Any]:
        """The model that it is a guide for."""
        return self._model[0]

    def forward(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """Sample each site; the arguments are the model's, the result values by site."""
        return self.sample(self.propose(*args, **kwargs))

    def propose(self, *args: Any, **kwargs: Any) -> dict[str, Tensor]:
        """The variational parameters that the encoder gives for some data.

        Args:
            args: the model's positional arguments.
            kwargs: its keyword arguments, and the values of the sites in ``given``.

        Returns:
            Unconstrained tensors ``(*plates, size)`` by ``<site>.<parameter>``, such as ``z.loc`` and ``z.scale``.

        Raises:
            ValueError: features of a shape that doesn't go with the model's plates, no value for a site in ``given``.
        """
        missing = [name for name in self.given if name not in kwargs]
        if missing:
            raise ValueError(
                f"the encoder reads site {missing[0]!r} (given=), of which there is no value: put this guide in a "
                f"ComposedGuide after one that samples {missing[0]!r}, or pass {missing[0]}=value"
            )
        features = self.encoder(*args, **kwargs)
        if not self._groups:
            self._setup(features, args, kwargs)
        heads, posteriors, proposal = self.heads, self.posteriors, {}
        for group in self._groups:
            given = _features_of(group, features)
            group.batch_shape(given)
            posterior: Any = posteriors[_key(group)]
            sizes = posterior.sizes
            parts = heads[_key(group)](given).split(list(sizes.values()), dim=-1)
            proposal.update({f"{group.name}.{name}": part for name, part in zip(sizes, parts, strict=True)})
        return proposal

    def sample(self, proposal: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Sample each site from the posteriors with some variational parameters.

        Args:
            proposal: what :meth:`propose` returned, or a refinement of it, of the same shapes.

        Returns:
            Values by site.
        """
        posteriors, values = self.posteriors, {}
        for group in self._groups:
            posterior: Any = posteriors[_key(group)]
            params = {name: proposal[f"{group.name}.{name}"] for name in posterior.sizes}
            values.update(group.sample(posterior, params))
        return values

    def _setup(self, features: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        own = {name: value for name, value in kwargs.items() if name not in self.given}
        sites = [site for site in read_sites(self.model, self._sites, args, own) if site.name not in self.given]
        groups = grouped(sites, joint=self._joint)
        for group in groups:
            given = _features_of(group, features)
            group.check_plates(group.batch_shape(given))
            width = given.shape[-1]
            posterior = self._posterior_of(group.dim, width)
            self.posteriors[_key(group)] = posterior.to(given)
            self.heads[_key(group)] = nn.Linear(width, sum(posterior.sizes.values())).to(given)
        self._groups = groups


def _features_of(group: Group, features: Any) -> Tensor:
    given = features
    if isinstance(features, Mapping):
        names = [site.name for site in group.sites if site.name in features]
        if not names:
            raise ValueError(f"the encoder gives features for {', '.join(features)}, and none for {group.name!r}")
        given = features[names[0]]
    if not isinstance(given, Tensor):
        raise TypeError(f"the encoder must return a tensor of features, or tensors by site, got {type(given).__name__}")
    return given


def _key(group: Group) -> str:
    return group.name.replace(".", "/")
