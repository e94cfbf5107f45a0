"""Captured recordings say what the loop says: on a GPU by CUDA graphs, elsewhere by a stand-in for these."""

import contextlib
import re
import types
import weakref

import meta_cases
import pytest
import torch
from programs import modules
from torch.fx import GraphModule

import pyrometa as pm
from pyrometa.recording import on_cuda
from pyrometa.recording.cuda_graphs import CAPTURES, Captured
from pyrometa.recording.held import held
from pyrometa.recording.on_cuda import Launch
from pyrometa.recording.record import trace

pytestmark = pytest.mark.gpu

LOOP = pm.Engine(vectorize=False)


def stand_in(operations, inputs):
    """Operations on inputs where they are, with results where they were, which a replay writes over."""
    results = operations(*inputs)

    def replay():
        for place, value in zip(results, operations(*inputs), strict=True):
            place.untyped_storage().copy_(value.untyped_storage())

    return Launch(replay, results, 1000)


@pytest.fixture(autouse=True)
def _cpu_captures(monkeypatch):
    monkeypatch.setitem(CAPTURES, "cpu", stand_in)


def recorded(function, *given, capture=None):
    """A function of tensors that is captured at its second call."""
    traced, _ = trace(lambda tensors: function(*tensors), list(given), {})
    graph = GraphModule(traced, traced.graph)
    return Captured(graph, graph, capture or CAPTURES[given[0].device.type])


def many(x, y):
    """More than a few operations."""
    for _ in range(6):
        x = (x * y).sin() + y
    return x


def results(x, y):
    """Several: one is expanded, one is given, one is seen in what is given, one is no float."""
    made = many(x, y)
    return [made, x[:1].exp().expand(3, 4), x, y[1], made > 0]


def test_calls_are_captured_at_the_second_and_their_results_are_their_own():
    given = [torch.randn(2, 3, 4, dtype=torch.float64).unbind() for _ in range(5)]
    graph, found, captured = recorded(results, *given[0]), [], []
    for values in given:
        found.append(graph(*values))
        captured.append(graph.launch is not None)
    assert captured == [False, True, True, True, True], graph.why
    for made, values in zip(found, given, strict=True):
        torch.testing.assert_close(made, results(*values), rtol=1e-12, atol=1e-14)


def test_tensors_of_an_inference():
    graph = recorded(many, torch.randn(3), torch.randn(3))
    for values in torch.randn(3, 2, 3):
        with torch.inference_mode():
            graph(*(value.clone() for value in values))
    [found] = graph(*values)
    torch.testing.assert_close(found, many(*values))


@pytest.mark.parametrize(
    ("function", "why"),
    [
        (lambda x, y: x.exp() * y, "fewer than 10 operations"),
        (lambda x, y: many(x, y) + torch.rand_like(x), r"rand_like\S* draws"),
        (lambda x, y: many(x, y) @ torch.linalg.inv(x.T @ x), r"linalg_inv\S* waits for the device"),
        (lambda x, y: many(x, y) + many(x, y)[x > -99].sum(), r"index\S* waits for the device"),
        (lambda x, y: many(x, y) + torch.nonzero(x).sum(), r"nonzero\S* waits for the device"),
        (lambda x, y: many(x, y) + torch.ones(3, device="meta").to("meta").numel(), r"a tensor of ones\S* is on meta"),
    ],
    ids=["few", "draws", "factors", "mask", "nonzero", "devices"],
)
def test_what_is_not_captured_runs_as_it_is(function, why):
    given = torch.randn(2, 4, 3)
    graph = recorded(function, *given)
    for _ in range(3):
        [found] = graph(*given)
    assert found.shape == (4, 3)
    assert graph.launch is None
    assert graph.bytes == 0
    assert re.fullmatch(why, graph.why)


@pytest.mark.parametrize("error", [RuntimeError("no memory\nat all"), AssertionError()], ids=["message", "none"])
def test_a_capture_that_fails_leaves_the_recording_as_it_was(error):
    def fails(operations, inputs):
        operations(*inputs)
        raise error

    given = torch.randn(2, 3)
    graph = recorded(many, *given, capture=fails)
    for _ in range(3):
        torch.testing.assert_close(graph(*given), [many(*given)])
    assert graph.why == (str(error).split("\n")[0] or "AssertionError")


def test_a_capture_that_gives_other_numbers_is_not_taken():
    def wrong(operations, inputs):
        return Launch(lambda: None, [1.01 * value for value in operations(*inputs)], 1)

    given = torch.randn(2, 3)
    graph = recorded(many, *given, capture=wrong)
    for _ in range(3):
        torch.testing.assert_close(graph(*given), [many(*given)])
    assert graph.why == "captured it gives other numbers"


def test_an_interrupt_is_no_reason():
    def interrupted(operations, inputs):
        raise KeyboardInterrupt

    given = torch.randn(2, 3)
    graph = recorded(many, *given, capture=interrupted)
    graph(*given)
    with pytest.raises(KeyboardInterrupt):
        graph(*given)
    assert graph.why is None
    assert graph.launch is None


def test_captured_memory_counts_and_goes_with_its_graph():
    given = torch.randn(2, 3)
    graph = recorded(many, *given)
    before = held(20, graph)
    for _ in range(2):
        graph(*given)
    assert held(20, graph) == before + graph.launch.bytes > before
    launch = weakref.ref(graph.launch)
    del graph
    assert launch() is None


class Stream:
    def __init__(self, device=None):
        self.waited = []

    def wait_stream(self, other):
        self.waited.append(other)


class Driver:
    """Of ``torch.cuda`` what a capture needs, with a memory that each run takes some of."""

    Stream = Stream
    device = staticmethod(contextlib.nullcontext)

    def __init__(self, ends=True):
        self.here = self.now = Stream()
        self.ran, self._ends = [], ends
        self.CUDAGraph = lambda: types.SimpleNamespace(replay=lambda: None)

    def __call__(self, x):
        self.ran.append(self.now)
        return [x + 1]

    def current_stream(self, device):
        return self.now

    def memory_reserved(self, device):
        return 2**20 * len(self.ran)

    def get_device_properties(self, device):
        return types.SimpleNamespace(total_memory=2**30)

    @contextlib.contextmanager
    def stream(self, stream):
        before, self.now = self.now, stream
        try:
            yield
        finally:
            self.now = before

    @contextlib.contextmanager
    def graph(self, graph, stream, capture_error_mode):
        """As torch 2.9 does it, which leaves its stream in force where the capture can't be ended."""
        assert capture_error_mode == "thread_local"
        before, self.now = self.now, stream
        yield
        if not self._ends:
            raise RuntimeError("the capture was invalidated")
        self.now = before


@pytest.fixture
def of_torch(monkeypatch):
    """Puts a driver in the place of torch's."""

    def put(driver):
        monkeypatch.setattr(on_cuda, "torch", types.SimpleNamespace(cuda=driver))
        monkeypatch.setattr(on_cuda, "_BROKEN_OFF", [])
        monkeypatch.setattr(on_cuda, "_streams", lambda device: (Stream(), Stream()))
        return driver

    return put


def test_a_capture_is_warmed_up_and_weighed(of_torch):
    driver = of_torch(Driver())
    launch = on_cuda.on_cuda(driver, [torch.ones(2**18)])
    warm, side = driver.ran
    assert len({warm, side, driver.here}) == 3
    assert (warm.waited, driver.here.waited) == ([driver.here], [warm])
    assert launch.bytes == 2 * 2**20  # with the input 2 MiB of 1,024, of which a quarter fills 256 of the cache
    assert torch.equal(launch.results[0], torch.full((2**18,), 2.0))


def test_a_capture_that_is_broken_off_is_the_last(of_torch):
    driver = of_torch(Driver(ends=False))
    for message in ("the capture was invalidated", "an earlier capture was broken off"):
        with pytest.raises(Exception, match=message):
            on_cuda.on_cuda(driver, [torch.ones(3)])
    assert len(driver.ran) == 2
    assert driver.now is driver.here


def meta_svi(case, engine, **options):
    return meta_cases.meta_svi(case, **{"inner": pm.ProximalSGD(0.02, 1.0), "engine": engine, **options})


def gradients(meta, support, query):
    torch.manual_seed(3)
    return meta.loss_and_grads(support, query)


@pytest.mark.parametrize(
    ("gradient", "steps"),
    [
        (pm.Unrolled(), 2),
        (pm.Unrolled(), 6),
        pytest.param(pm.Unrolled(first_order=True), 6, marks=pytest.mark.slow),
        pytest.param(pm.Unrolled(truncate=1), 6, marks=pytest.mark.slow),
        (pm.Displacement(), 6),
        (pm.Implicit(3), 2),
    ],
    ids=["as one", "second order", "first order", "truncated", "displacement", "implicit"],
)
def test_meta_gradients_equal_the_loop(gradient, steps):
    """Recorded as one, and in parts that are replayed several times before any is read back."""
    case, options = modules(), {"meta_gradient": gradient, "steps": steps}
    graphs, loop = (meta_svi(case, engine, **options) for engine in (pm.Engine(record=True), LOOP))
    for _ in range(2):
        gradients(graphs, case.query, case.support)
    found, expected = (gradients(meta, case.support, case.query) for meta in (graphs, loop))
    torch.testing.assert_close(found[0], expected[0], rtol=1e-10, atol=1e-12)
    meta_cases.assert_equal(found[1], expected[1], rtol=1e-9, atol=1e-11)
    [ran] = graphs.engine_report().ran
    whole, of = map(int, re.match(r"(\d+) of (\d+)", ran.graphs).groups())
    assert whole >= (1 if steps == 2 else 2)
    assert f"CUDA graphs: {whole} of {of}" in str(graphs.engine_report())
