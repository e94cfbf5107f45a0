"""An interrupt at any moment of an operation leaves everything as before it or after it, never between."""

import copy
import gc
import random
import signal
import sys
import threading

import pyro
import pytest
import torch
from meta_cases import store, values
from portable_programs import normal_model
from pyro.infer.autoguide import AutoNormal
from pyro.nn import PyroModule
from pyro.poutine.runtime import _DIM_ALLOCATOR, _PYRO_STACK
from torch import nn
from torch._C import _functorch
from torch.overrides import _get_current_function_mode_stack
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

import pyrometa as pm
from pyrometa.learner.beginning import Beginning

PROFILED = sys.version_info >= (3, 11)  # before, frames are missing from the traceback of what a profiler raises

ENGINES = {"as it is": {"record": False}, "recorded": {"record": True}, "loop": {"vectorize": False}}


class Interrupt:
    """Raises KeyboardInterrupt at one of the events that the interpreter tells a profiler of.

    Args:
        at: which one, counted from 1.
        names: of the functions of which events count; all if there are none.
    """

    def __init__(self, at=0, names=()):
        self.at, self.names, self.count = at, names, 0

    def __call__(self, frame, event, argument):
        if self.names and frame.f_code.co_name not in self.names:
            return
        self.count += 1
        if self.count == self.at:
            sys.setprofile(None)
            raise KeyboardInterrupt


CONTEXTS = ("__enter__", "__exit__", "_pop_mode_temporarily", "_pop_mode", "_push_mode", "vmap_increment_nesting")


def interrupted(run, at, names=()):
    """Whether the run did not come to its end."""
    if not PROFILED:
        return interrupted_by_a_signal(run, at)
    sys.setprofile(Interrupt(at, names))
    try:
        run()
    except KeyboardInterrupt:
        return True
    finally:
        sys.setprofile(None)
    return False


def interrupted_by_a_signal(run, at):
    """The same, after about as long as so many events take without a profiler."""
    held = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 5e-8 * at)
        run()
        signal.setitimer(signal.ITIMER_REAL, 0)
    except KeyboardInterrupt:
        return True
    finally:
        signal.signal(signal.SIGALRM, held)
    return False


def moments(run, count=None, names=()):
    """Some random ones; None for all of them."""
    counter = Interrupt(names=names)
    gc.collect()
    gc.disable()  # what earlier tests left would count where it happens to be collected
    sys.setprofile(counter)
    try:
        run()
    finally:
        sys.setprofile(None)
        gc.enable()
    every = range(1, counter.count)  # the last is the end of profiling
    return every if count is None else random.Random(0).sample(every, count)


class Net(nn.Module):
    """A guide of an nn.Module's parameters, with a frozen one."""

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(2, 4)

    def forward(self, x):
        z, s, *scales = self.net(x.mean(0)).unbind()
        pyro.sample("z", pyro.distributions.Normal(z, scales[0].exp()))
        pyro.sample("s", pyro.distributions.LogNormal(s, scales[1].exp()))


def trained(guide, engine="as it is", **options):
    torch.manual_seed(1)
    x = torch.randn(3, 5, 2)
    meta = pm.MetaSVI(
        normal_model,
        guide,
        pyro.optim.ClippedAdam({"lr": 0.05, "lrd": 0.9}),
        steps=1,
        **{"inner": pm.SGD(1e-4, learn="layer"), "engine": pm.Engine(**ENGINES[engine]), **options},
    )

    def step():
        torch.default_generator.manual_seed(2)  # torch.manual_seed has a lock, which an interrupt may leave closed
        return meta.step(x)

    return meta, step


def learned(meta):
    """Leaves and optimiser state, as plain values, and the gradients that leaves are left with."""
    state = meta.state_dict()
    return as_plain(state), [leaf.grad for _, leaf in meta.named_parameters()]


def as_plain(value):
    if isinstance(value, dict):
        return {key: as_plain(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [as_plain(part) for part in value]
    return value.tolist() if isinstance(value, torch.Tensor) else value


def around(meta):
    """What is not the meta-learner's own."""
    modules = meta._program.modules()
    return {
        "handlers": list(_PYRO_STACK),
        "plates": list(_DIM_ALLOCATOR._stack),
        "store": {name: id(leaf) for name, leaf in store().items()},
        "settings": dict(pyro.settings.get()),
        "function modes": _get_current_function_mode_stack(),
        "dispatch modes": _get_current_dispatch_mode_stack(),
        "levels": _functorch.get_dynamic_layer_stack_depth(),
        "grad mode": torch.is_grad_enabled(),
        "parameters": [{key: id(value) for key, value in m._parameters.items()} for m in modules],
        "attributes": [list(vars(m)) for m in modules],
        "contexts": [m._pyro_context.active for m in modules if isinstance(m, PyroModule)],
    }


def check_steps(meta, step, count, names=()):
    step()
    states = [copy.deepcopy(meta.state_dict())]
    for _ in range(3):
        step()
        states.append(copy.deepcopy(meta.state_dict()))
    expected = [as_plain(state) for state in states]
    surroundings = around(meta)
    meta.load_state_dict(states[0])
    seen = set()
    for at in moments(step, count, names):
        meta.load_state_dict(states[0])
        ended = not interrupted(step, at, names)
        now, grads = learned(meta)
        assert now in expected[:2], f"torn at {at}"
        done = expected.index(now)
        assert done or not ended
        assert grads == [None] * len(grads)
        assert around(meta) == surroundings, f"at {at}"
        step()
        assert learned(meta)[0] == expected[done + 1], f"at {at}"
        seen.add(done)
    return seen


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(("engine", "count"), [("as it is", 40), ("recorded", 120), ("loop", 40)])
def test_a_step(engine, count):
    """200 moments in all."""
    check_steps(*trained(AutoNormal(normal_model), engine), count)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize(("engine", "count"), [("as it is", 60), ("loop", 20)])
def test_as_a_context_is_entered_or_left(engine, count):
    """Where one may stay open."""
    check_steps(*trained(AutoNormal(normal_model), engine), count, CONTEXTS)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_step_of_a_module():
    check_steps(*trained(Net()), 20)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("local", [False, True])
def test_a_step_at_many_more_moments(engine, local):
    with pyro.settings.context(module_local_params=local):
        assert check_steps(*trained(AutoNormal(normal_model), engine), 1000) == {0, 1}


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_the_update():
    """Where it is in the midst of writing."""
    meta, step = trained(Net())
    step()
    grads = {name: torch.ones_like(leaf) for name, leaf in meta.named_parameters()}
    meta._loss_and_grads = lambda *_: (torch.zeros(()), grads)
    start = copy.deepcopy(meta.state_dict())
    before, surroundings = as_plain(start), around(meta)
    where = moments(step)
    after = as_plain(meta.state_dict())
    assert before != after
    seen = []
    for at in {*where[::11], *where[-6:]}:
        meta.load_state_dict(start)
        interrupted(step, at)
        assert around(meta) == surroundings, f"at {at}"
        now, left = learned(meta)
        assert now in (before, after), f"torn at {at}"
        assert left == [None] * len(left)
        seen.append(now == after)
    assert True in seen or not PROFILED


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("local", [False, True])
def test_the_first_step(local):
    """Finding the parameters is part of it."""
    with pyro.settings.context(module_local_params=local):
        meta, step = trained(AutoNormal(normal_model))
        at_rest = around(meta)
        where = moments(step, 6)
        after = learned(meta)
        for at in where:
            pyro.clear_param_store()
            meta, step = trained(AutoNormal(normal_model))
            if interrupted(step, at) and isinstance(meta._state, Beginning):
                assert around(meta) == at_rest, f"at {at}"
                assert not meta._program.leaves
                step()
            assert learned(meta) == after, f"at {at}"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_adapting_and_an_adapted_guide():
    meta, step = trained(AutoNormal(normal_model))
    step()
    x = torch.randn(5, 2)
    before, surroundings = learned(meta), around(meta)
    guide = meta.adapt(x)
    median = guide.median(x)

    def run():
        meta.adapt(x)
        guide(x)
        guide.median(x)

    ended = 0
    for at in moments(run, 40):
        ended += not interrupted(run, at)
        assert around(meta) == surroundings, f"at {at}"
        assert learned(meta) == before
        assert as_plain(guide.median(x)) == as_plain(median)
    assert ended < 5 or not PROFILED  # Python drops what is raised while it closes a generator: 1 in 100 moments


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_other_threads_go_on():
    meta, step = trained(Net())
    step()
    for at in moments(meta.named_parameters):
        interrupted(meta.named_parameters, at)
        other = threading.Thread(target=meta.named_parameters, daemon=True)
        other.start()
        other.join(10)
        assert not other.is_alive(), f"at {at}"


def test_an_error_of_another_kind_undoes_the_update_too():
    class Failing(torch.optim.SGD):
        def step(self, closure=None):
            super().step(closure)
            raise RuntimeError("after the fact")

    meta, step = trained(Net())
    step()
    optimizer = meta._state.known().optimizer
    optimizer.optimizer = Failing(list(optimizer._leaves.values()), lr=0.1, momentum=0.9)
    before = as_plain(values(meta))
    with pytest.raises(RuntimeError, match="after the fact"):
        step()
    assert as_plain(values(meta)) == before
    assert not optimizer.optimizer.state


def test_an_interrupt_that_was_caught_before_is_not_taken_for_a_new_one():
    def model(x):
        z = pyro.sample("z", pyro.distributions.Normal(0.0, 5.0))
        assert z > -100  # which vmap can't batch
        with pyro.plate("data", len(x)):
            pyro.sample("x", pyro.distributions.Normal(z, 1.0).expand([len(x), 2]).to_event(1), obs=x)

    meta = pm.MetaSVI(model, AutoNormal(model), pyro.optim.Adam({"lr": 0.05}), inner=pm.SGD(1e-4), steps=1)
    try:
        raise KeyboardInterrupt
    except KeyboardInterrupt:
        with pytest.warns(pm.LoopWarning):
            meta.step(torch.randn(3, 5, 2))
