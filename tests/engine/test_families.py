"""Tasks of changing sizes by one recording say what they say one by one."""

from dataclasses import dataclass

import pyro
import pyro.distributions as dist
import pytest
import torch
from meta_cases import assert_equal
from pyro.infer import Trace_ELBO, TraceEnum_ELBO, config_enumerate
from pyro.infer.autoguide import AutoNormal
from torch import nn

import pyrometa as pm
from pyrometa.engine import families
from pyrometa.guides import SetEncoderGuide
from pyrometa.recording import recordings
from pyrometa.types.latest import LatestBytes

LOOP, RECORDED = pm.Engine(vectorize=False), pm.Engine(record=True)
CLOSE = {"rtol": 1e-9, "atol": 1e-11}
FIRST, OTHERS = ((7, 2, 4, 6, 3), (5, 6, 8, 3, 2)), ((3, 8, 5), (4, 4, 1))
"""Rows of support and query sets: what is recorded, and what is replayed by it, padded to as many tasks and rows."""


def regression(x, y, strength=None):
    weight = pyro.sample("weight", dist.Normal(x.new_zeros(2), 1.0 if strength is None else strength).to_event(1))
    with pyro.plate("data", len(x)):
        pyro.sample("y", dist.Normal(x @ weight, 0.5), obs=y)


@config_enumerate
def mixture(x, y):
    weight = pyro.sample("weight", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
    with pyro.plate("data", len(x)):
        off = pyro.sample("off", dist.Bernoulli(x.new_full((), 0.3)))
        pyro.sample("y", dist.Normal(x @ weight + off, 0.5), obs=y)


def mixture_guide():
    return AutoNormal(pyro.poutine.block(mixture, hide=["off"]))


def encoded():
    encoder = nn.Linear(3, 3).double()
    return SetEncoderGuide(regression, lambda x, y: encoder(torch.cat([x, y[:, None]], -1)))


def subsampled(x, y):
    weight = pyro.sample("weight", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
    with pyro.plate("data", len(x), subsample_size=2) as chosen:
        pyro.sample("y", dist.Normal(x[chosen] @ weight, 0.5), obs=y[chosen])


def pairs(sizes):
    return [(torch.randn(n, 2, dtype=torch.float64), torch.randn(n, dtype=torch.float64)) for n in sizes]


def stacked(tasks, rows):
    return tuple(torch.stack(column) for column in zip(*pairs([rows] * tasks), strict=True))


def meta_svi(engine, model=regression, guide=None, **options):
    torch.manual_seed(1)
    guide = guide() if guide else AutoNormal(model)
    options = {"inner": pm.SGD(0.02), "steps": 2, "reduction": "mean", **options}
    return pm.MetaSVI(model, guide, pyro.optim.Adam({"lr": 0.01}), engine=engine, **options)


def loss_and_grads(meta, support, query, **options):
    torch.manual_seed(3)
    return meta.loss_and_grads(support, query, **options)


def assert_same(one, other, batches, **options):
    for support, query in batches:
        (loss, grads), (expected, by_loop) = (loss_and_grads(meta, support, query, **options) for meta in (one, other))
        torch.testing.assert_close(loss, expected, **CLOSE)
        assert_equal(grads, by_loop, **CLOSE)


FIRST_ORDER = pm.Unrolled(first_order=True)


@dataclass(frozen=True)
class Own:
    """A meta-gradient of the user's own, which may make of a task what it will."""

    order, unrolled_steps, one_noise = FIRST_ORDER.order, None, False

    def check(self, rule, learned, steps):
        pass

    def __call__(self, path):
        return FIRST_ORDER(path)


QUICK = {"Reptile": {"meta_gradient": pm.Displacement(), "steps": 1}}
SLOW = {
    "step weights": {"meta_gradient": pm.Unrolled(step_weights=(0.25, 0.75)), "inner": pm.SGD(0.02, learn="layer")},
    "implicit": {"meta_gradient": pm.Implicit(iterations=2), "inner": pm.ProximalSGD(0.02, 1.0)},
    "enumerated": {"model": mixture, "guide": mixture_guide, "loss": TraceEnum_ELBO(max_plate_nesting=1)},
    "set encoder": {"guide": encoded, "loss": Trace_ELBO(), "meta_gradient": pm.Unrolled(first_order=True)},
}


@pytest.mark.parametrize(
    "options",
    [
        *(pytest.param(options, id=name) for name, options in QUICK.items()),
        *(pytest.param(options, id=name, marks=pytest.mark.slow) for name, options in SLOW.items()),
    ],
)
def test_one_recording_is_exact_for_all_sizes(options):
    metas = [meta_svi(engine, **options) for engine in (RECORDED, LOOP)]
    assert_same(*metas, [tuple(map(pairs, sizes)) for sizes in (FIRST, OTHERS)])
    (recording,) = metas[0]._runners.by(RECORDED)._recordings.kept.values()
    constants = sum(buffer.nbytes for buffer in recording.now.operations.buffers())
    assert recording.bytes >= 2_000 * recording.size + constants


@pytest.mark.slow
def test_a_meta_gradient_of_ones_own_meets_no_repeated_tasks():
    metas = [meta_svi(engine, meta_gradient=Own(), steps=1) for engine in (RECORDED, LOOP)]
    assert_same(*metas, [(pairs((2, 3, 4)), pairs((4, 2, 3))), (pairs((4, 4, 2)), pairs((1, 2, 3)))])
    assert len(metas[0].recordings()) == 1


@pytest.mark.slow
def test_shapes_by_themselves_are_recorded_as_they_are_until_a_third_size_comes():
    metas = [meta_svi(engine, steps=1) for engine in (RECORDED, LOOP)]
    counts = []
    for tasks, rows, strength in ((2, 3, 1.0), (2, 5, 2.0), (3, 8, 1.5), (4, 3, 0.5), (1, 7, 3.0)):
        kwargs = {"strength": torch.tensor(strength, dtype=torch.float64)}
        assert_same(*metas, [(stacked(tasks, rows), stacked(tasks, rows))], kwargs=kwargs)
        counts.append(len(metas[0].recordings()))
    assert counts == [1, 2, 3, 3, 3]


@pytest.mark.slow
def test_evaluation_and_adaptation_of_more_tasks_than_a_replay_has(monkeypatch):
    monkeypatch.setattr(families, "_MOST_TASKS", 4)
    metas = [meta_svi(engine, steps=1) for engine in (RECORDED, LOOP)]
    for support, query in (map(pairs, sizes) for sizes in (FIRST, OTHERS)):
        found = []
        for meta in metas:
            torch.manual_seed(3)
            losses = meta.evaluate(support, query)
            found.append((losses, [list(guide.parameters()) for guide in meta.adapt_many(support)]))
        torch.testing.assert_close(*found, **CLOSE)
    assert len(metas[0].recordings()) == 2


@pytest.mark.slow
def test_what_takes_its_time_for_numbers_is_not_padded(monkeypatch):
    monkeypatch.setattr(families, "_FREE", 0)
    metas = [meta_svi(engine, steps=1) for engine in (RECORDED, LOOP)]
    assert_same(*metas, [(stacked(2, rows), stacked(2, rows)) for rows in (2, 3, 4, 2)])
    assert len(metas[0].recordings()) == 3


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::pyrometa.errors.LoopWarning")
def test_a_plate_that_subsamples_is_recorded_shape_by_shape():
    metas = [meta_svi(engine, model=subsampled, steps=1) for engine in (RECORDED, LOOP)]
    assert_same(*metas, [(stacked(2, rows), stacked(2, rows)) for rows in (3, 4, 5, 4)])
    assert len(metas[0].recordings()) == 3


def test_what_may_be_recorded_waits_until_it_has_seen_what_comes(monkeypatch):
    monkeypatch.setattr(families, "_SETTLED", 3)
    monkeypatch.setattr(recordings, "_PATIENCE", 2)
    metas = [meta_svi(engine, steps=1) for engine in (pm.Engine(record="auto"), LOOP)]
    counts = []
    for rows in (2, 3, 4, 5, 6, 7, 8, 2, 3):
        assert_same(*metas, [(stacked(2, rows), stacked(2, rows))])
        counts.append(len(metas[0].recordings()))
    assert counts == [0, 0, 0, 0, 0, 0, 0, 1, 1]


def never_eight(x, y):
    """Refuses what the rows are rounded to."""
    if len(x) == 8:
        raise ValueError("eight rows")
    regression(x, y)


def test_a_program_that_fails_on_repeated_rows_goes_shape_by_shape(monkeypatch):
    monkeypatch.setattr(families, "_SETTLED", 0)
    guide = AutoNormal(regression)
    metas = [meta_svi(engine, never_eight, lambda: guide, steps=1) for engine in (pm.Engine(record="auto"), LOOP)]
    assert_same(*metas, [(stacked(2, rows), stacked(2, rows)) for rows in (3, 5, 6, 7)])
    assert not metas[0].recordings()


class Held:
    def __init__(self, size):
        self.bytes = size


def test_recordings_are_kept_by_their_bytes():
    kept = LatestBytes(10)
    for name, size in (("a", 4), ("b", 4)):
        kept[name] = Held(size)
    assert kept["a"]
    kept["c"] = Held(5)
    assert list(kept) == ["a", "c"]
    kept["large"] = Held(11)
    assert list(kept) == ["large"]


def changing(meta, runs):
    """Losses of meta-batches of three sizes at first, and then of one, the same for each run."""
    found = []
    for run in runs:
        torch.manual_seed(run)
        found.append(meta.step(stacked(2 + run % 3, 3 + max(0, 2 - run))))
    return found


@pytest.mark.parametrize(("record", "saved"), [("auto", 3), ("auto", 10), (True, 10)])
def test_a_resumed_run_pads_to_what_the_whole_one_does(record, saved, tmp_path, monkeypatch):
    engine = pm.Engine(record=record, compile=False)
    monkeypatch.setattr(families, "_SETTLED", 3)
    monkeypatch.setattr(recordings, "_PATIENCE", 2)
    whole = meta_svi(engine)
    changing(whole, range(saved))
    whole.save(tmp_path / "meta.safetensors")
    expected = changing(whole, range(saved, 12))
    pyro.clear_param_store()
    rest = meta_svi(engine)
    rest.load(tmp_path / "meta.safetensors")
    assert changing(rest, range(saved, 12)) == expected
    assert len(rest.recordings()) == 1
    assert rest.checkpoint()["runs"] == whole.checkpoint()["runs"]


def two_plates(x, w):
    weight = pyro.sample("weight", dist.Normal(x.new_zeros(2), 1.0).to_event(1))
    with pyro.plate("rows", len(x)):
        pyro.sample("x", dist.Normal(weight[0], 0.5), obs=x[:, 0])
    with pyro.plate("others", len(w)):
        pyro.sample("w", dist.Normal(weight[1], 0.5), obs=w)


def test_rows_that_were_as_many_by_chance_are_not_taken_for_the_same():
    metas = [meta_svi(engine, two_plates, steps=1) for engine in (RECORDED, LOOP)]
    assert_same(*metas, [(stacked(2, rows), stacked(2, rows)) for rows in (5, 3, 4, 7)])
    others = [(stacked(2, rows)[0], stacked(2, 3)[1]) for rows in (7, 4)]
    assert_same(*metas, [(tasks, tasks) for tasks in others])


class Unhashable(pm.Unrolled):
    """A meta-gradient of the user's own that has no hash, as a dataclass that is not frozen."""

    __hash__ = None


def test_a_meta_gradient_without_a_hash_is_told_apart_by_identity(monkeypatch):
    monkeypatch.setattr(recordings, "_PATIENCE", 1)
    metas = [meta_svi(engine, meta_gradient=Unhashable()) for engine in (pm.Engine(), LOOP)]
    assert_same(*metas, [(stacked(2, 3), stacked(2, 3))] * 3)
    assert len(metas[0].recordings()) == 1
