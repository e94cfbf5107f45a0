"""An adapted guide weighs little until it is used, and is the same module whatever uses it first."""

import copy
import gc
import pickle
import tracemalloc
from concurrent.futures import ThreadPoolExecutor

import pyro
import pytest
import torch
from portable_programs import bare_guide, bare_model
from programs import DIM
from pyro.poutine import trace

import pyrometa as pm

X = torch.linspace(-1.0, 2.0, 4 * DIM, dtype=torch.float64).view(4, DIM)
FIRST_USES = {
    "parameters": lambda guide: list(guide.parameters()),
    "a run": lambda guide: guide(X),
    "an attribute of its own": lambda guide: setattr(guide, "note", 1),
    "its model": lambda guide: guide.model,
    "words": repr,
    "a pickle": pickle.dumps,
    "a copy": copy.deepcopy,
}


def made():
    return pm.MetaSVI(bare_model, bare_guide, pyro.optim.Adam({"lr": 0.01}), inner=pm.SGD(0.01), steps=1)


def weight(meta, tasks):
    """Bytes of Python's that the guides of so many tasks hold, and tensors."""
    x = X.expand(tasks, *X.shape)
    gc.collect()
    tensors_before = count_tensors()
    tracemalloc.start()
    try:
        guides = meta.adapt_many(x)
        gc.collect()
        held = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert len(guides) == tasks
    return held, count_tensors() - tensors_before


def count_tensors():
    return sum(issubclass(type(value), torch.Tensor) for value in gc.get_objects())


def test_a_kilobyte_and_a_tensor_a_task():
    """A tensor weighs half a kilobyte and its numbers besides, which Python does not count."""
    meta = made()
    meta.adapt_many(X[None])
    (few, few_tensors), (many, many_tensors) = weight(meta, 250), weight(meta, 1000)
    assert (many - few) / 750 < 1024
    assert many_tensors - few_tensors <= 750


@pytest.mark.parametrize("use", FIRST_USES.values(), ids=FIRST_USES)
def test_whatever_uses_it_first_finds_the_same(use):
    meta = made()
    meta.init(X[None])
    found = []
    for first in (use, lambda guide: guide.parameters()):
        torch.manual_seed(2)
        guide = meta.adapt(X)
        first(guide)
        torch.manual_seed(3)
        drawn = trace(guide).get_trace(X).nodes["loc"]["value"]
        assert guide.training
        found.append((drawn.tolist(), {name: value.tolist() for name, value in guide.named_parameters()}))
    assert found[0] == found[1]
    assert found[0][1]["adapted.guide/mean"] != dict(meta.named_parameters())["guide.mean"].tolist()


def test_what_is_set_first_stays():
    guide, other = made().adapt_many(X.expand(2, *X.shape))
    assert not guide.eval().training
    other.offset = torch.nn.Parameter(torch.ones(2))
    assert [name for name, _ in other.named_parameters()][:1] == ["offset"]
    assert len(list(other.parameters())) == 3


def test_threads_that_use_it_first_at_once_find_one_module():
    guides = made().adapt_many(X.expand(50, *X.shape))
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda guide: list(map(id, guide.parameters())), [g for g in guides for _ in range(4)]))
    assert all(found[i] == found[i - i % 4] for i in range(len(found)))


def test_it_keeps_no_other_task():
    for value in made().adapt_many(X.expand(50, *X.shape))[3].parameters():
        assert value.untyped_storage().nbytes() == value.numel() * value.element_size()


def test_parameters_of_two_types_keep_them():
    def guide(x):
        mean = pyro.param("mean", torch.full((DIM,), 0.3, dtype=torch.float32))
        scale = pyro.param("scale", torch.full((DIM,), 0.5, dtype=torch.float64))
        last = pyro.param("last", torch.zeros(DIM, 2))
        pyro.sample("loc", pyro.distributions.Normal(mean + last.sum(1), scale.exp()).to_event(1))

    meta = pm.MetaSVI(bare_model, guide, pyro.optim.Adam({"lr": 0.01}), steps=0)
    one = meta.adapt_many(X[None])[0]
    expected = dict(meta.named_parameters())
    found = one.adapted.by_name()
    assert list(found) == [name for name in expected if name in found]
    assert all(torch.equal(found[n], expected[n]) and found[n].dtype == expected[n].dtype for n in found)
    assert {value.dtype for value in found.values()} == {torch.float32, torch.float64}
