"""The parameters of a program in Pyro's param store."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import pyro

from pyrometa.program.leaves import Leaf


def restore_store(leaves: Iterable[Leaf]) -> None:
    """Give the store back the module parameters that ``pyro.clear_param_store()`` took from it.

    A PyroModule writes what it holds to a store that lacks it, which must not be a fast weight.
    """
    store = pyro.get_param_store()
    if pyro.settings.get("module_local_params"):
        return
    for leaf in leaves:
        for site in leaf.sites if leaf.slots else ():
            if site not in store:
                _store(site, leaf)


def stored(leaves: Iterable[Leaf]) -> dict[str, str]:
    """Names of the leaves that the store holds, by its own names for them."""
    held = pyro.get_param_store()._params
    return {site: leaf.name for leaf in leaves for site in leaf.sites if held.get(site) is leaf.tensor}


def store_under(names: Mapping[str, str], leaves: Mapping[str, Leaf]) -> None:
    """Put leaves into the store by such names, where it has none of them."""
    store = pyro.get_param_store()
    for site, name in names.items():
        if site not in store:
            _store(site, leaves[name])


def _store(site: str, leaf: Leaf) -> None:
    pyro.get_param_store().set_state({"params": {site: leaf.tensor}, "constraints": {site: leaf.constraint}})
