"""The strict bench: every test and doctest starts clean, and one that leaks global state fails."""

import gc
import importlib
import random
import warnings
from collections import defaultdict

import numpy as np
import pyro
import pyro.poutine.runtime
import pytest
import torch

collect_ignore = ["tests/ecosystem"]  # programs of other packages, which `make test-ecosystem` runs

# Imported first: these add warnings filters when imported, which is no leak of the first test to need them, and
# their own deprecation warnings are not ours to fail on.
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    for name in ("sklearn.datasets", "torchvision", "learn2learn", "torchdata.stateful_dataloader"):
        importlib.import_module(name)

gc.freeze()  # half a million objects of these packages, which each full collection would go through

for device in (torch.cuda, torch.xpu):
    if not device.is_available():  # each seed of torch's has a traceback formatted, for when the device is used
        device.manual_seed_all = lambda seed: None


def pytest_unconfigure():
    """Let what was frozen be collected: else it is told of as leaked when Python ends."""
    gc.unfreeze()


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """A test marked ``thinned(n)`` runs for every n-th combination of its parameters, and for the rest under ``slow``.

    Combinations run whose positions on their axes, plus ``shift``, add up to a multiple of n, as in a Latin square: so
    each value is there, and of three axes each pair, as long as the other axes have n values.
    """
    seen = defaultdict(dict)
    for item in items:
        for mark in item.iter_markers("thinned"):
            position = mark.kwargs.get("shift", 0)
            for names in _axes(item):
                values = seen[item.parent, item.originalname, names]
                position += values.setdefault(tuple(id(item.callspec.params[name]) for name in names), len(values))
            if position % mark.args[0]:
                item.add_marker(pytest.mark.slow)


def _axes(item):
    """The parameters of a test, those together that one ``parametrize`` gives together."""
    given = [mark.args[0] for mark in item.iter_markers("parametrize")]
    direct = [tuple(names.split(",")) if isinstance(names, str) else tuple(names) for names in given]
    return [*direct, *((name,) for name in item.callspec.params if name not in sum(direct, ()))]


def _global_state():
    """What no test and no code of the package may change, by the name a failure gives it."""
    return {
        "Pyro settings": dict(pyro.settings.get()),
        "default dtype": torch.get_default_dtype(),
        "thread count": torch.get_num_threads(),
        "grad mode": torch.is_grad_enabled(),
        "warnings filters": list(warnings.filters),
        "Pyro handler stack": list(pyro.poutine.runtime._PYRO_STACK),
    }


def _restore(state):
    """Keep one leak from failing the tests that follow it."""
    pyro.settings.set(**state["Pyro settings"])
    torch.set_default_dtype(state["default dtype"])
    torch.set_num_threads(state["thread count"])
    torch.set_grad_enabled(state["grad mode"])
    warnings.filters[:] = state["warnings filters"]
    pyro.poutine.runtime._PYRO_STACK[:] = state["Pyro handler stack"]


@pytest.fixture(autouse=True)
def strict_bench():
    """Seed every generator and clear the param store before a test; fail the test if it leaks."""
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002 -- the legacy generator is the one that libraries share
    torch.manual_seed(0)
    pyro.clear_param_store()
    before = _global_state()
    yield
    after = _global_state()
    _restore(before)
    pyro.clear_param_store()
    leaks = [f"{name}: {before[name]} -> {after[name]}" for name in before if before[name] != after[name]]
    if leaks:
        pytest.fail("the test leaks global state: " + "; ".join(leaks), pytrace=False)


@pytest.fixture
def zero_noise(monkeypatch):
    """Every normal draw is its mean."""
    monkeypatch.setattr(torch.Tensor, "normal_", lambda self, *_, **__: self.zero_())
    monkeypatch.setattr(torch, "normal", lambda mean, std, *_, **__: mean * 1.0)
