"""What a program reads is compared or refused by name; what it keeps of a vectorised run is usable."""

import abc
import array
import bisect
import collections
import contextvars
import copy
import dataclasses
import datetime
import decimal
import enum
import functools
import gc
import heapq
import itertools
import logging
import math
import operator
import os
import pathlib
import random
import secrets
import signal
import struct
import sys
import threading
import time
import types
import uuid
import weakref

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import TraceMeanField_ELBO
from torch import nn

import pyrometa as pm
from pyrometa.program import Given, Program
from pyrometa.program.findings import Findings, Look
from pyrometa.program.guards.guarded import Guarded

FACTOR = {"beta": 1.0}


class Base:
    beta = 1.0

    def save(self):
        return pathlib.Path("weights").read_text()


class Derived(Base):
    pass


class Property:
    def __init__(self):
        self._beta = 1.0

    @property
    def beta(self):
        return self._beta


class Meta(type):
    beta = 1.0


class WithMeta(metaclass=Meta):
    pass


class GetAttribute:
    def __init__(self):
        self.held = {"beta": 1.0}

    def __getattr__(self, name):
        return self.held[name]


class Color(enum.Enum):
    RED = 1


class Callable:
    beta = 1.0

    def __call__(self):
        return self.beta


class ListOf(list):
    beta = 1.0


class Overridden(Callable):
    def __call__(self):
        return super().__call__()


@dataclasses.dataclass(slots=True)
class Slots:
    beta: float = 1.0


def read_beta(config):
    return config.beta


def module(**values):
    made = types.ModuleType("config")
    vars(made).update(values)
    return made


def instance(kind, **values):
    def make():
        thing = kind()
        return lambda: read_beta(thing), functools.partial(setattr, thing, *next(iter(values.items()), ("beta", 3.0)))

    return make


def attribute(kind, call=False):
    """A class attribute, which is put back afterwards by the test."""

    def make():
        owner = type(kind.__name__, (kind,), {})
        thing = owner()
        return (thing if call else lambda: thing.beta), lambda: setattr(owner, "beta", 3.0)

    return make


def item(container, key, value=3.0, read=None):
    def make():
        held = container()
        return lambda: held[key] if read is None else read(held), lambda: held.__setitem__(key, value)

    return make


def shared_memory():
    held = np.ones(3)
    tensor = torch.from_numpy(held)
    return lambda: tensor.sum(), lambda: held.fill(3.0)


def data_write():
    tensor = torch.ones(100_000)
    return lambda: tensor.sum(), lambda: tensor.data[7:8].fill_(3.0)


def other_type():
    tensor = torch.ones(())
    return lambda: tensor.sum(), lambda: setattr(tensor, "data", tensor.data.view(torch.int32))


def submodule():
    config = module(inner=module(beta=1.0))
    return lambda: read_beta(config.inner), lambda: setattr(config.inner, "beta", 3.0)


def looked_up():
    config, name = module(beta=1.0), "be"
    return lambda: getattr(config, name + "ta"), lambda: setattr(config, "beta", 3.0)


def by_name(make_read):
    def make():
        config = module(beta=1.0)
        return make_read(config), lambda: setattr(config, "beta", 3.0)

    return make


def getter(config):
    get = operator.attrgetter("beta")
    return lambda: get(config)


def alias(config):
    look_up, name = getattr, "beta"
    return lambda: look_up(config, name)


def held_format(config):
    text = "{0.beta}"
    return lambda: text.format(config)


class Constructed:
    def __init__(self):
        self.beta = FACTOR["beta"]

    def __getstate__(self):
        return {"beta": FACTOR["beta"]}

    def again(self):
        return type(self)().beta

    def factor(self):
        return FACTOR["beta"]


@dataclasses.dataclass
class PostInit:
    alpha: float = 1.0

    def __post_init__(self):
        self.beta = FACTOR["beta"]


def factor(kind, read):
    def make():
        thing = kind()
        return lambda: read(thing), lambda: FACTOR.__setitem__("beta", 3.0)

    return make


def level():
    logger = logging.Logger("beta", logging.INFO)
    return lambda: logger.isEnabledFor(logging.INFO), lambda: logger.setLevel(logging.ERROR)


def registered():
    class Abstract(abc.ABC):  # noqa: B024
        pass

    held = Slots()
    return lambda: isinstance(held, Abstract), lambda: Abstract.register(Slots)


METHOD = operator.methodcaller("factor")


def referent():
    thing = Callable()
    reference = weakref.ref(thing)
    return lambda: reference().beta, lambda: setattr(thing, "beta", 3.0)


def weak_values():
    thing = Callable()
    held = weakref.WeakValueDictionary(thing=thing)
    return lambda: held["thing"].beta, lambda: setattr(thing, "beta", 3.0)


def remembered():
    config = Slots()
    cached = functools.lru_cache(lambda: config.beta)
    return lambda: cached(), lambda: setattr(config, "beta", 3.0)


def partial():
    config = Slots()
    return functools.partial(read_beta, config), lambda: setattr(config, "beta", 3.0)


def default():
    def read(held=[1.0]):  # noqa: B006
        return held[0]

    return lambda: read(), lambda: read.__defaults__[0].__setitem__(0, 3.0)


def replaced_code():
    def read():
        return 1.0

    return lambda: read(), lambda: setattr(read, "__code__", (lambda: 3.0).__code__)


def member():
    held = {"red": Color.RED}
    return lambda: held["red"].value, lambda: held.__setitem__("red", 1)


WATCHED = {
    "array": item(lambda: np.ones(2), 0),
    "array of objects": item(lambda: np.array([1.0, {}], dtype=object), 0),
    "memory of an array": shared_memory,
    "tensor behind its version": data_write,
    "bits of a tensor as another type's": other_type,
    "array.array": item(lambda: array.array("d", [1.0]), 0),
    "bytearray": item(lambda: bytearray(b"a"), 0, 7),
    "memoryview": item(lambda: memoryview(bytearray(b"a")), 0, 7),
    "deque": item(lambda: collections.deque([1.0]), 0),
    "defaultdict": item(lambda: collections.defaultdict(float, a=1.0), "a"),
    "Counter": item(lambda: collections.Counter("a"), "a"),
    "OrderedDict": item(lambda: collections.OrderedDict(a=1.0), "a"),
    "ChainMap": item(lambda: collections.ChainMap({"a": 1.0}), "a"),
    "UserDict": item(lambda: collections.UserDict(a=1.0), "a"),
    "nested": item(lambda: [[1.0]], 0, [3.0]),
    "class attribute": attribute(Base),
    "inherited attribute": attribute(Derived),
    "called object": attribute(Callable, call=True),
    "overridden method": attribute(Overridden, call=True),
    "list of a user's": instance(ListOf),
    "property": instance(Property, _beta=3.0),
    "slots": instance(Slots),
    "__getattr__": instance(GetAttribute, held={"beta": 3.0}),
    "namespace": instance(functools.partial(types.SimpleNamespace, beta=1.0)),
    "module that is handed on": instance(functools.partial(module, beta=1.0)),
    "submodule": submodule,
    "name made at run time": looked_up,
    "attrgetter": by_name(getter),
    "partial of getattr": by_name(lambda config: functools.partial(getattr, config, "beta")),
    "getattr by another name": by_name(alias),
    "format": by_name(lambda config: lambda: float("{0.beta}".format(config))),  # noqa: UP030, UP032
    "format that is held": by_name(held_format),
    "methodcaller": factor(Constructed, lambda thing: METHOD(thing)),
    "type(self)()": factor(Constructed, lambda thing: thing.again()),
    "__class__": factor(Constructed, lambda thing: thing.__class__().beta),
    "copy": factor(Constructed, lambda thing: copy.copy(thing).beta),
    "replace": factor(PostInit, lambda thing: dataclasses.replace(thing, alpha=2.0).beta),
    "level of a logger": level,
    "isinstance": registered,
    "weak reference": referent,
    "weak values": weak_values,
    "remembered": remembered,
    "partial": partial,
    "default": default,
    "code": replaced_code,
    "enum": member,
}
CONTEXT, LOCAL, ITERATOR = contextvars.ContextVar("beta"), threading.local(), iter([1.0])
NUMPY, PYTHON, TORCH = np.random.default_rng(0), random.Random(0), torch.Generator()
PATH, STORE = pathlib.Path("beta"), pyro.get_param_store()


def imported_inside():
    import os as system

    return system.environ["BETA"]


REFUSED = {
    "clock": [time.time, lambda: time.perf_counter(), lambda: datetime.datetime.now(), lambda: datetime.date.today()],
    "a file": [
        functools.partial(open, "beta"),
        lambda: PATH.read_text(),
        lambda: pathlib.Path("beta"),
        lambda: np.load("beta"),
        lambda: np.fromfile("beta"),
        lambda: np.memmap("beta"),
        lambda: np.genfromtxt("beta"),
        lambda: torch.from_file("beta"),
    ],
    "environment": [lambda: os.environ["BETA"], lambda: os.getenv("BETA"), imported_inside],
    "random generator": [
        lambda: random.random(),
        lambda: np.random.normal(),  # noqa: NPY002
        lambda: np.random.default_rng(),
        lambda: NUMPY.normal(),
        lambda: PYTHON.random(),
        lambda: torch.randn(1, generator=TORCH),
        lambda: uuid.uuid4(),
        lambda: secrets.randbelow(2),
    ],
    "the param store": [
        lambda: pyro.get_param_store()["beta"],
        lambda: "beta" in STORE,
        lambda: pyro.poutine.runtime._PYRO_PARAM_STORE.keys(),
    ],
    "by its name": [
        lambda: eval("1.0"),
        lambda: globals()["PATH"],
        lambda: sys._getframe(),
        lambda: program.__globals__,
    ],
    "a setting": [
        lambda: np.geterr(),
        lambda: torch.get_num_threads(),
        lambda: torch.are_deterministic_algorithms_enabled(),
        lambda: torch.get_float32_matmul_precision(),
        lambda: decimal.getcontext().prec,
        lambda: logging.getLogger("beta").level,
    ],
    "the compiled function": [lambda: sys.getrecursionlimit(), lambda: gc.isenabled(), lambda: signal.getsignal(2)],
    "an iterator": [lambda: next(ITERATOR), lambda: sys.stdin.readline()],
    "unknown kind": [lambda: CONTEXT.get(), lambda: LOCAL.beta],
}
PURE = [
    lambda: math.exp(1.0) + np.exp(1.0) + np.linalg.norm([1.0]),
    lambda: list(itertools.chain([1], [2])),
    lambda: datetime.date(2020, 1, 1),
    lambda: [*heapq.nlargest(1, [1.0]), bisect.bisect([1.0], 1.0), *struct.unpack("d", struct.pack("d", 1.0))],
    lambda: logging.getLogger("beta").info("beta"),
    lambda: torch.nn.functional.softplus(torch.ones(())),
    lambda: Base().beta,
]


def program(read):
    given = Given(lambda x: read(), lambda x: None, TraceMeanField_ELBO())
    return Program(given, Findings(given.loss, given.loss), Guarded(Look()))


@pytest.mark.parametrize("make", WATCHED.values(), ids=WATCHED)
def test_a_change_is_seen(make, monkeypatch):
    monkeypatch.setitem(FACTOR, "beta", 1.0)
    read, change = make()
    changing = program(read)
    before = changing.fingerprint()
    assert changing.fingerprint(before) is before
    assert changing.fingerprint() == before
    change()
    assert changing.fingerprint(before) != before


@pytest.mark.parametrize("beta", [Base, Derived, WithMeta])
def test_what_a_named_class_inherits_is_seen(beta, monkeypatch):
    changing = program(lambda: beta.beta)
    before = changing.fingerprint()
    monkeypatch.setattr(Meta if beta is WithMeta else Base, "beta", 3.0)
    assert changing.fingerprint(before) != before


def test_the_precision_of_decimals_is_seen():
    changing = program(lambda: decimal.Decimal(1) / decimal.Decimal(3))
    before = changing.fingerprint()
    with decimal.localcontext(decimal.Context(prec=3)):
        assert changing.fingerprint(before) != before


def test_a_table_in_place_is_seen():
    table = pytest.importorskip("pandas").DataFrame({"beta": [1.0], "name": ["a"]})
    changing = program(lambda: table["beta"])
    before = changing.fingerprint()
    assert changing.fingerprint(before) is before
    table.loc[0, "beta"] = 3.0
    assert changing.fingerprint(before) != before


@pytest.mark.parametrize(("what", "read"), [(what, read) for what, reads in REFUSED.items() for read in reads])
def test_what_can_not_be_watched_is_refused_by_name(what, read):
    with pytest.raises(pm.UnsupportedProgramError, match=rf"model\.read.*{what}.*Engine\(record=False\)"):
        program(read).fingerprint()


@pytest.mark.parametrize("read", PURE)
def test_what_depends_on_its_arguments_alone_is_not_refused(read):
    calm = program(read)
    known = calm.fingerprint()
    assert calm.fingerprint(known) is known


class Keeps(nn.Module):
    """Keeps what it computed in an attribute, a list and a tuple in a dictionary."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(1, 1)
        self.seen, self.held = [], {}

    def forward(self, x):
        self.last = self.linear(x[:, None])
        self.seen[:] = [self.last]
        self.held["pair"] = (self.last, 1.0)
        return self.last[:, 0]


def keeping(engine):
    torch.manual_seed(0)
    net = Keeps()

    def model(x):
        m = pyro.sample("m", dist.Normal(0.0, 5.0))
        with pyro.plate("d", len(x)):
            pyro.sample("x", dist.Normal(m, 1.0), obs=x)

    def guide(x):
        pyro.module("net", net)
        pyro.sample("m", dist.Normal(net(x).mean(), 1.0))

    optim = pyro.optim.Adam({"lr": 1e-3})
    return net, pm.MetaSVI(model, guide, optim, inner=pm.SGD(0.01), steps=2, engine=engine)


def test_what_a_program_keeps_is_the_last_tasks():
    kept = []
    for engine in (pm.Engine(), pm.Engine(vectorize=False)):
        pyro.clear_param_store()
        net, meta = keeping(engine)
        torch.manual_seed(1)
        meta.loss_and_grads(torch.linspace(-1, 1, 15).view(3, 5))
        kept.append(net)
    for read in (lambda net: net.last, lambda net: net.seen[0], lambda net: net.held["pair"][0]):
        torch.testing.assert_close(read(kept[0]), read(kept[1]).detach())


def test_a_program_that_keeps_a_tensor_is_not_recorded():
    net, meta = keeping(pm.Engine(record="auto"))
    for _ in range(2):
        meta.step(torch.ones(3, 5))
    assert torch.isfinite(net.last).all()
    _, meta = keeping(pm.Engine(record=True))
    with pytest.raises(pm.UnsupportedProgramError, match=r"it changes guide\.net\.\w+.* as it runs"):
        meta.step(torch.ones(3, 5))


@pytest.mark.parametrize(
    "prior", [dist.InverseGamma(3.0, 1.0), dist.Weibull(1.0, 2.0)], ids=["InverseGamma", "Weibull"]
)
def test_tensors_without_storage_are_recorded(prior):
    prior = prior.expand([1]).to_event(1)

    def model(y):
        s = pyro.sample("s", prior)
        with pyro.plate("d", len(y)):
            pyro.sample("y", dist.Normal(0.0, s), obs=y)

    found = []
    for engine in (pm.Engine(record=True), pm.Engine(vectorize=False)):
        pyro.clear_param_store()
        guide = pyro.infer.autoguide.AutoNormal(model)
        meta = pm.MetaSVI(model, guide, pyro.optim.Adam({"lr": 0.01}), inner=pm.SGD(1e-2), steps=1, engine=engine)
        y = torch.linspace(0.1, 1.0, 24).view(3, 8)
        torch.manual_seed(0)
        meta.init(y)
        torch.manual_seed(5)
        found.append(meta.loss_and_grads(y)[0])
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-6)


class Held:
    def __init__(self, beta):
        self.beta = beta


@dataclasses.dataclass
class Derives:
    y: torch.Tensor

    def __post_init__(self):
        self.beta = FACTOR["beta"]


def scaled(x, cfg=None):
    beta = x.beta if cfg is None else cfg.beta
    y = getattr(x, "y", x)
    z = pyro.sample("z", dist.Normal(0.0, 1.0))
    with pyro.plate("d", len(y)):
        pyro.sample("y", dist.Normal(z * torch.as_tensor(beta), 1.0), obs=y)


GIVEN = {
    "attribute": (lambda: Held(1.0), lambda held: setattr(held, "beta", 3.0)),
    "tensor": (lambda: Held(torch.tensor(1.0)), lambda held: held.beta.fill_(3.0)),
    "array": (lambda: Held(np.ones((), np.float32)), lambda held: held.beta.fill(3.0)),
}


@pytest.mark.parametrize("record", [True, "auto"])
@pytest.mark.parametrize(("make", "change"), GIVEN.values(), ids=GIVEN)
def test_an_argument_changed_in_place_is_seen(make, change, record, monkeypatch):
    monkeypatch.setattr("pyrometa.recording.recordings._PATIENCE", 1)
    held, y = make(), torch.ones(2, 3)
    losses = losses_of(scaled, y, record, lambda: change(held), cfg=held)
    torch.testing.assert_close(*losses)


def test_what_an_argument_derives_is_seen(monkeypatch):
    change = functools.partial(monkeypatch.setitem, FACTOR, "beta", 3.0)
    torch.testing.assert_close(*losses_of(scaled, Derives(torch.ones(2, 3)), True, change))


def losses_of(model, data, record, change, **kwargs):
    """The loss after a change in place, replayed and by the loop."""

    def guide(*args, **kwargs):
        pyro.sample("z", dist.Normal(pyro.param("loc", torch.tensor(0.3)), 0.5))

    pyro.clear_param_store()
    optim = pyro.optim.Adam({"lr": 1e-3})
    engines = (pm.Engine(record=record), pm.Engine(vectorize=False))
    metas = [pm.MetaSVI(model, guide, optim, inner=pm.SGD(0.01), steps=1, engine=engine) for engine in engines]
    for _ in range(3):
        before = losses(metas, data, kwargs)
    assert metas[0].recordings()
    change()
    after = losses(metas, data, kwargs)
    assert abs(after[1] - before[1]) > 1e-3
    return after


def losses(metas, data, kwargs):
    found = []
    for meta in metas:
        torch.manual_seed(0)
        found.append(meta.loss_and_grads(data, kwargs=kwargs)[0])
    return found
