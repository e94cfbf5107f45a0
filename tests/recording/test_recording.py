"""A recorded run says what the run says, and is replayed only while the program is what it was."""

import gc
import itertools
import types
import weakref

import meta_cases
import pyro
import pyro.distributions as dist
import pytest
import torch
from programs import PROGRAMS, Case, Decoder, auto_normal, modules, plain_modules, rows
from pyro import poutine
from pyro.infer import Trace_ELBO, TraceMeanField_ELBO
from torch import nn

import pyrometa as pm
import pyrometa.recording.recordings as recordings

pytestmark = pytest.mark.gpu

LOOP = pm.Engine(vectorize=False)


def meta_svi(case, engine, **options):
    return meta_cases.meta_svi(case, **{"inner": pm.SGD(0.02), "engine": engine, **options})


def gradients(meta, support, query, **given):
    torch.manual_seed(3)
    return meta.loss_and_grads(support, query, **given)


def assert_close(found, expected):
    torch.testing.assert_close(found[0], expected[0], rtol=1e-10, atol=1e-12)
    meta_cases.assert_equal(found[1], expected[1], rtol=1e-9, atol=1e-11)


def assert_same(case, engine=None, **options):
    """A recording, replayed on other data than it was made on, against the loop."""
    engine = engine or pm.Engine(record=True)
    meta = meta_svi(case, engine, **options)
    meta.loss_and_grads(case.query, case.support)
    before = meta.recordings()
    assert before
    found = gradients(meta, case.support, case.query)
    assert meta.recordings() == before
    assert_close(found, gradients(meta_svi(case, LOOP, **options), case.support, case.query))


@pytest.mark.parametrize("local", [False, True], ids=["store", "local"])
@pytest.mark.parametrize("make", PROGRAMS, ids=lambda p: p.__name__)
def test_a_recording_equals_the_loop(make, local):
    with pyro.settings.context(module_local_params=local):
        assert_same(make(), steps=1)


@pytest.mark.parametrize("steps", [0, 4])
@pytest.mark.parametrize("low_rank", [False, True])
@pytest.mark.parametrize("first_order", [False, True])
def test_steps_ranks_and_orders(first_order, low_rank, steps):
    gradient = pm.Unrolled(first_order=first_order)
    assert_same(modules(), pm.Engine(record=True, low_rank=low_rank), steps=steps, meta_gradient=gradient)


@pytest.mark.parametrize(
    ("elbo", "learn"),
    [
        (Trace_ELBO, "layer_step"),
        (TraceMeanField_ELBO, "parameter"),
        pytest.param(Trace_ELBO, "rate", marks=pytest.mark.slow),
        pytest.param(TraceMeanField_ELBO, "layer", marks=pytest.mark.slow),
        pytest.param(TraceMeanField_ELBO, "rate", marks=pytest.mark.slow),
        pytest.param(Trace_ELBO, "layer", marks=pytest.mark.slow),
        pytest.param(TraceMeanField_ELBO, "layer_step", marks=pytest.mark.slow),
        pytest.param(Trace_ELBO, "parameter", marks=pytest.mark.slow),
    ],
)
def test_rules_and_losses(elbo, learn):
    assert_same(modules(), loss=elbo(num_particles=2), inner=pm.SGD(0.02, learn=learn), reduction="mean")


def test_chunks_and_sizes():
    case = modules()
    sizes = (3, 2, 3, 3, 2, 3)
    ragged = Case(case.model, case.guide, *([torch.randn(n, 2, dtype=torch.float64) for n in sizes] for _ in range(2)))
    assert_same(ragged, pm.Engine(record=True, chunk_size=2), reduction="mean")


def test_scores_and_adapted_guides():
    case = auto_normal()
    metas = [meta_svi(case, engine) for engine in (pm.Engine(record=True), LOOP)]
    found = []
    for meta in metas:
        torch.manual_seed(0)
        losses = meta.evaluate(case.support, case.query, steps=(0, 2))
        found.append([losses, *(v for g in meta.adapt_many(case.support) for v in g.state_dict().values())])
    for mine, theirs in zip(*found, strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-9, atol=1e-11)
    single = metas[0].adapt(meta_cases.task(case.support, 0))
    assert isinstance(single, pm.AdaptedGuide)


def test_steps_of_the_outer_loop_are_seen():
    case = modules()
    histories = []
    for engine in (pm.Engine(record=True), LOOP):
        pyro.clear_param_store()
        torch.manual_seed(0)
        case = modules()
        meta = meta_svi(case, engine)
        histories.append([meta.step(case.support, case.query) for _ in range(4)])
    assert histories[0] == pytest.approx(histories[1], rel=1e-9)


def test_every_replay_draws_its_own_noise():
    case = modules()
    meta = meta_svi(case, pm.Engine(record=True))
    assert meta.evaluate_loss(case.support, case.query) != meta.evaluate_loss(case.support, case.query)


def gamma_guide(x):
    rate = pyro.param("rate", torch.tensor(2.0, dtype=torch.float64), constraint=dist.constraints.positive)
    pyro.sample("scale", dist.Gamma(rate.expand(2), 1.0).to_event(1))


class Switch(nn.Module):
    def forward(self, x):
        return 2 * x if self.training else x


class Annealed(nn.Module):
    """A model with every kind of Python state that a recording can't see."""

    def __init__(self):
        super().__init__()
        self.decoder = Decoder().double()
        self.switch = Switch()
        self.beta = 1.0
        self.config = types.SimpleNamespace(weights={"kl": 1.0})
        self.frozen = nn.Parameter(torch.ones((), dtype=torch.float64), requires_grad=False)
        self.register_buffer("shift", torch.zeros((), dtype=torch.float64))
        self.transform = lambda x: x

    def forward(self, x, temperature=1.0):
        weight = self.beta * self.config.weights["kl"] * GLOBAL["weight"] * temperature
        with poutine.scale(scale=weight):
            self.decoder(self.transform(self.switch(x) * self.frozen + self.shift))


GLOBAL = {"weight": 1.0}


def change_attribute(model):
    model.beta = 0.5


def change_nested(model):
    model.config.weights["kl"] = 0.5


def change_global(model):
    GLOBAL["weight"] = 0.5


def change_mode(model):
    model.train()


def change_buffer_in_place(model):
    model.shift.add_(1.0)


def change_buffer(model):
    model.shift = torch.ones((), dtype=torch.float64)


def change_frozen(model):
    model.frozen.data = torch.full((), 2.0, dtype=torch.float64)


def change_frozen_in_place(model):
    model.frozen.add_(1.0)


def change_closure(model):
    factor = 2.0
    model.transform = lambda x: factor * x


def change_submodule(model):
    model.switch = nn.Tanh()


CHANGES = [
    change_attribute,
    change_nested,
    change_global,
    change_mode,
    change_buffer_in_place,
    change_buffer,
    change_frozen,
    change_frozen_in_place,
    change_closure,
    change_submodule,
]


QUICK = [
    (change_attribute, True),
    (change_buffer_in_place, True),
    *((change, "auto") for change in (change_global, change_mode, change_closure, change_submodule)),
]
BOTH = itertools.product(CHANGES, ("auto", True))
SLOW = [pytest.param(*case, marks=pytest.mark.slow) for case in BOTH if case not in QUICK]


@pytest.mark.parametrize(("change", "record"), QUICK + SLOW, ids=lambda x: getattr(x, "__name__", str(x)))
def test_no_recording_is_replayed_when_it_is_stale(change, record, monkeypatch):
    monkeypatch.setattr(recordings, "_PATIENCE", 1)
    monkeypatch.setitem(GLOBAL, "weight", 1.0)
    model = Annealed().eval()
    case = Case(model, modules().guide, rows(), rows())
    engine = pm.Engine(record=record)
    recorded, loop = meta_svi(case, engine, steps=1), meta_svi(case, LOOP, steps=1)
    for _ in range(3):
        before = gradients(recorded, case.support, case.query)
    assert len(recorded.recordings()) == 1
    change(model)
    after, expected = (gradients(meta, case.support, case.query) for meta in (recorded, loop))
    assert not torch.allclose(after[0], before[0])
    assert_close(after, expected)


def test_any_layout_in_memory():
    """What was recorded as a view must not fail on tensors with other strides."""
    model = Annealed().eval()
    model.transform = lambda x: (2 * x.reshape(-1)).reshape(x.shape)
    case = Case(model, modules().guide, rows(), rows())
    recorded, loop = meta_svi(case, pm.Engine(record=True), steps=1), meta_svi(case, LOOP, steps=1)
    halves = torch.stack([case.support, case.query], dim=-1)
    for support, query in ((case.support, case.query), halves.unbind(-1), (rows().mT.contiguous().mT, rows())):
        found, expected = (gradients(meta, support, query) for meta in (recorded, loop))
        assert_close(found, expected)
    assert len(recorded.recordings()) == 1


def test_keyword_arguments_are_not_stale():
    case = Case(Annealed().eval(), lambda x, temperature: modules_guide(x), rows(), rows())
    modules_guide = modules().guide
    recorded, loop = meta_svi(case, pm.Engine(record=True), steps=1), meta_svi(case, LOOP, steps=1)
    for value in (1.0, 0.5, torch.tensor(0.25), torch.tensor(0.125)):
        given = {"kwargs": {"temperature": value}}
        found, expected = (gradients(meta, case.support, case.query, **given) for meta in (recorded, loop))
        assert_close(found, expected)


def test_another_rule_can_not_pass_for_the_recorded_one():
    """A recording knows its rule by identity, and an identity is free again when its object is gone."""
    case = modules()
    meta = meta_svi(case, pm.Engine(record=True), steps=1)
    meta.loss_and_grads(case.support, case.query)
    recorded_rule = weakref.ref(meta.inner)
    meta.inner = pm.SGD(0.1)
    gc.collect()
    assert recorded_rule() is not None
    found = gradients(meta, case.support, case.query)
    assert_close(found, gradients(meta_svi(case, LOOP, steps=1, inner=pm.SGD(0.1)), case.support, case.query))


class Anchored(Decoder):
    """Keeps what its weights started from without a copy, as a fill value for a prior or a start."""

    def __init__(self, reads):
        super().__init__()
        self.double()
        self.start = {name: value.detach() for name, value in self.named_parameters()}
        self.reads = reads

    def forward(self, x):
        super().forward(x + self.reads(self.start["linear.bias"]) if self.reads else x)


def test_a_tensor_that_shares_memory_with_a_parameter_may_be_kept():
    case = Case(Anchored(None), modules().guide, rows(), rows())
    recorded, loop = meta_svi(case, pm.Engine(record=True), steps=1), meta_svi(case, LOOP, steps=1)
    for _ in range(5):
        found, expected = (gradients(meta, case.support, case.query) for meta in (recorded, loop))
        assert_close(found, expected)
        recorded.step(case.support, case.query)
    assert len(recorded.recordings()) == 1


@pytest.mark.parametrize("reads", [torch.sum, lambda start: start[0].item()], ids=["tensor", "number"])
def test_a_tensor_that_shares_memory_with_a_parameter_may_not_be_read(reads):
    meta = meta_svi(Case(Anchored(reads), modules().guide, rows(), rows()), pm.Engine(record=True), steps=1)
    with pytest.raises(ValueError, match=r"shares memory with 'model.linear.bias': clone it"):
        meta.step(rows(), rows())


def test_a_handler_around_the_step_is_not_recorded_away():
    case = modules()
    recorded, loop = meta_svi(case, pm.Engine(record=True), steps=1), meta_svi(case, LOOP, steps=1)
    gradients(recorded, case.support, case.query)
    with poutine.scale(scale=0.5):
        found, expected = (gradients(meta, case.support, case.query) for meta in (recorded, loop))
    assert_close(found, expected)


def test_auto_records_only_what_keeps_coming():
    model = Annealed().eval()
    engine = pm.Engine(record="auto")
    meta = meta_svi(Case(model, modules().guide, rows(), rows()), engine, steps=1)
    support = rows()
    for i in range(recordings._PATIENCE + 2):
        model.beta = 1.0 + i
        meta.evaluate_loss(support)
    assert meta.recordings() == []
    for _ in range(recordings._PATIENCE + 1):
        meta.evaluate_loss(support)
    assert len(meta.recordings()) == 1


def test_a_program_that_is_another_at_every_run_is_refused_by_name():
    model = Annealed().eval()
    meta = meta_svi(Case(model, modules().guide, rows(), rows()), pm.Engine(record=True), steps=0)
    for i in range(recordings._UNUSED):
        model.beta = 1.0 + i
        meta.evaluate_loss(rows())
    model.beta = 0.5
    with pytest.raises(pm.UnsupportedProgramError, match=r"model\.beta is another at every run"):
        meta.evaluate_loss(rows())


class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.decoder = Decoder().double()
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        self.decoder(x)


def test_a_program_that_changes_itself_is_refused_by_name():
    case = Case(Counting(), modules().guide, rows(), rows())
    with pytest.raises(pm.UnsupportedProgramError, match=r"model\.calls as it runs"):
        meta_svi(case, pm.Engine(record=True)).step(case.support)
    meta_svi(case, pm.Engine(record="auto")).step(case.support)


def test_what_vmap_refuses_can_not_be_recorded():
    def model(x):
        modules_model(x if float(x.detach().sum()) > 0 else -x)

    modules_model, guide = modules().model, modules().guide
    case = Case(model, guide, rows(), rows())
    with pytest.raises(pm.UnsupportedProgramError, match="vectorised"):
        meta_svi(case, pm.Engine(record=True)).step(case.support)


def test_a_diverging_task_is_named():
    case = modules()
    meta = meta_svi(case, pm.Engine(record=True), steps=3, inner=pm.SGD(0.02))
    meta.step(case.support, case.query)
    broken = case.support.clone()
    broken[1] *= 1e200
    with pytest.raises(pm.NonFiniteError, match="task 1, inner step"):
        meta.step(broken, case.query)


def test_what_diverges_at_first_sight_is_told_as_unrecorded():
    """The last step's score is not finite, so that there is nothing to check a recording by; later there is."""
    case = modules()
    broken = case.support * 1e160
    found, told = [], []
    for engine in (pm.Engine(record=True), LOOP):
        meta = meta_svi(case, engine)
        meta.evaluate(case.support, steps=(0, 1))  # proves that tasks run side by side
        found.append(meta.evaluate(broken, steps=(0,)).isfinite())
        with pytest.raises(pm.NonFiniteError) as error:
            meta.evaluate(broken * 1e140, steps=(1,))
        told.append(str(error.value))
        assert meta.evaluate(case.support, steps=(0,)).isfinite().all()
    assert not found[0].any()
    assert not found[1].any()
    assert told[0] == told[1]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"record": "yes"}, "record must be"),
        ({"compile": 1}, "compile must be"),
        ({"record": True, "vectorize": False}, "one by one"),
    ],
)
def test_options(options, message):
    with pytest.raises(ValueError, match=message):
        pm.Engine(**options)


@pytest.mark.slow
def test_inductor_says_the_same():
    assert_same(plain_modules(), pm.Engine(compile=True), steps=1)
