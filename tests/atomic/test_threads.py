"""From several threads at once as one after the other."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pyro
import pytest
import torch
from meta_cases import assert_equal, values
from portable_programs import DIM, normal_model, values_of
from pyro.infer.autoguide import AutoDelta
from pyro.nn import PyroModule
from torch import nn

import pyrometa as pm

THREADS = 4
EXACT = {"rtol": 0, "atol": 0}


class PointGuide(PyroModule):
    """Its parameters are an nn.Module's, which a run on fast weights swaps."""

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(DIM, 2).double()

    def forward(self, x):
        z, s = self.net(x.mean(0)).unbind()
        pyro.sample("z", pyro.distributions.Delta(z))
        pyro.sample("s", pyro.distributions.Delta(s.exp()))


def tasks():
    return 3 + torch.randn(16, 6, DIM, dtype=torch.float64)


@pytest.fixture(params=[lambda: AutoDelta(normal_model), PointGuide], ids=["auto", "module"])
def meta(request, module_local_params):
    return pm.MetaSVI(normal_model, request.param(), pyro.optim.Adam({"lr": 0.05}), inner=pm.SGD(1e-5), steps=2)


def in_threads(work, given):
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(work, given))


def test_adaptation(meta):
    x = tasks()
    meta.step(x)
    one_by_one = [values_of(meta.adapt(task)) for task in x]
    for found, expected in zip(in_threads(lambda task: values_of(meta.adapt(task)), x), one_by_one, strict=True):
        assert_equal(found, expected, **EXACT)


def test_the_first_of_them_finds_the_parameters(meta):
    x = tasks()
    found = in_threads(lambda task: values_of(meta.adapt(task)), x)
    for values_found, task in zip(found, x, strict=True):
        assert_equal(values_found, values_of(meta.adapt(task)), **EXACT)


def test_adapted_guides_run_beside_training(meta):
    """A step in one thread; others run guides, which keep what they adapted to."""
    x = tasks()
    meta.step(x)
    guides = meta.adapt_many(x)
    expected = [guide(task) for guide, task in zip(guides, x, strict=True)]
    training = threading.Thread(target=lambda: [meta.step(x) for _ in range(5)])
    training.start()
    found = in_threads(lambda pair: pair[0](pair[1]), zip(guides, x, strict=True))
    training.join()
    for draws, wanted in zip(found, expected, strict=True):
        if draws is not None:
            assert_equal(draws, wanted, **EXACT)


def test_training(meta):
    """Steps of one meta-batch from many threads are so many steps."""
    x = tasks()
    meta.init(x)
    start = meta.state_dict()
    for _ in range(THREADS * 2):
        meta.step(x)
    expected = values(meta)
    meta.load_state_dict(start)
    in_threads(meta.step, [x] * THREADS * 2)
    assert_equal(values(meta), expected, **EXACT)


def test_an_error_lets_the_others_go_on(meta):
    x = tasks()
    meta.step(x)
    bad = torch.full_like(x[0], torch.nan)

    def adapted(task):
        try:
            return values_of(meta.adapt(task))
        except (ValueError, ArithmeticError):
            return None

    given = [task for pair in zip(x, [bad] * len(x), strict=True) for task in pair]
    found = in_threads(adapted, given)
    assert found[1::2] == [None] * len(x)
    for values_found, task in zip(found[::2], x, strict=True):
        assert_equal(values_found, values_of(meta.adapt(task)), **EXACT)
