import json
import pickle
from itertools import islice

import pytest
import torch
from torch.utils.data import DataLoader
from torchdata.stateful_dataloader import StatefulDataLoader

from pyrometa import nest
from pyrometa.tasks import FewShotTasks, GroupSampler, SinusoidTasks, TaskSampler, group_tasks
from pyrometa.tasks.batches import _seed_of

# torchdata 0.11 calls what torch 2.15 warns of.
pytestmark = pytest.mark.filterwarnings("ignore:'set_vital' is deprecated:UserWarning")


def one_size(seed=0):
    return TaskSampler(SinusoidTasks(), shots=3, queries=4, seed=seed)


def ragged(seed=0):
    tasks = group_tasks((torch.arange(60.0), torch.arange(60)), torch.arange(60) % 7, fractions=(1.0, 0.0, 0.0)).train
    return GroupSampler(tasks, support=0.4, seed=seed)


def one_column(seed=0):
    tasks = group_tasks(torch.arange(60.0), torch.arange(60) % 7, fractions=(1.0, 0.0, 0.0)).train
    return GroupSampler(tasks, support=2, seed=seed)


def few_shot(seed=0):
    tasks = FewShotTasks(torch.arange(40.0)[:, None], torch.arange(40) % 8, ways=3)
    return tasks.sampler(shots=1, queries=2, seed=seed)


SAMPLERS = pytest.mark.parametrize("make", [one_size, ragged, one_column, few_shot])


def same(a, b):
    """Whether two meta-batches hang together alike and have the same bits."""
    (a_layout, a), (b_layout, b) = ((nest.layout(list(batch), lambda t: t.shape), list(batch)) for batch in (a, b))
    pairs = zip(nest.tensors(a), nest.tensors(b), strict=True)
    return a_layout == b_layout and all(torch.equal(x, y) for x, y in pairs)


@SAMPLERS
def test_a_meta_batch_depends_on_the_seed_and_its_number_alone(make):
    sampler = make()
    batches = sampler.batches(3)
    later = batches.at(7)
    sampler.sample(3)
    assert same(make().batches(3).at(7), later)
    assert same(batches.at(7), later)
    assert not same(batches.at(6), later)
    assert not same(make(seed=1).batches(3).at(7), later)
    assert all(
        same(batch, make().batches(3).at(2 + i)) for i, batch in enumerate(islice(make().batches(3, start=2), 4))
    )


@SAMPLERS
def test_series_leave_the_sampler_and_the_global_generator_alone(make):
    expected = make().sample(3)
    before = torch.get_rng_state()
    sampler = make()
    list(islice(sampler.batches(3), 2))
    assert same(sampler.sample(3), expected)
    assert torch.equal(torch.get_rng_state(), before)


@SAMPLERS
@pytest.mark.parametrize("loader", [DataLoader, StatefulDataLoader])
@pytest.mark.parametrize("workers", [0, 2])
def test_any_number_of_workers_gives_the_same_sequence(make, loader, workers):
    drawn = islice(loader(make().batches(3, start=5), batch_size=None, num_workers=workers), 5)
    assert [same(batch, make().batches(3).at(5 + i)) for i, batch in enumerate(drawn)] == [True] * 5


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stateful_loader_goes_on_with_the_same_bits(workers):
    def loader(seed=0):
        return StatefulDataLoader(ragged(seed).batches(3), batch_size=None, num_workers=workers)

    interrupted = loader()
    list(islice(interrupted, 3))
    resumed = loader(seed=9)
    resumed.load_state_dict(interrupted.state_dict())
    assert [same(batch, ragged().batches(3).at(3 + i)) for i, batch in enumerate(islice(resumed, 4))] == [True] * 4
    again = loader()
    again.load_state_dict(resumed.state_dict())
    assert same(next(iter(again)), ragged().batches(3).at(7))


def test_a_state_is_plain_and_continues():
    batches = ragged().batches(3, start=10)
    list(islice(batches, 4))
    state = json.loads(json.dumps(batches.state_dict()))
    resumed = ragged(seed=5).batches(3)
    resumed.load_state_dict(state)
    assert resumed.state_dict() == state
    assert same(next(iter(resumed)), ragged().batches(3).at(14))
    assert same(next(iter(resumed)), ragged().batches(3).at(10))  # a later iteration begins at the start


def test_iterations_do_not_disturb_each_other():
    batches = ragged().batches(2)
    for n, (a, b) in enumerate(islice(zip(batches, batches, strict=True), 3)):
        assert same(a, b)
        assert same(a, batches.at(n))


@SAMPLERS
def test_a_series_can_be_sent_to_another_process(make):
    batches = make().batches(3)
    assert same(pickle.loads(pickle.dumps(batches)).at(4), batches.at(4))


@pytest.mark.parametrize("make", [ragged, one_column])
def test_a_ragged_batch_is_sent_as_one_tensor_a_column(make):
    batch = make().batches(6).at(0)
    columns = 2 if make is ragged else 1
    _, sides = batch.__reduce__()
    assert len(nest.tensors(sides)) == 2 * columns  # of support and query
    assert same(pickle.loads(pickle.dumps(batch)), batch)
    assert len(batch) == 6


def test_no_generator_is_seeded_alike_twice():
    assert len({_seed_of(0, n) for n in range(200_000)}) == 200_000
    assert len({_seed_of(0, n) for n in range(1000)} & {_seed_of(1, n) for n in range(1000)}) == 0
    assert _seed_of(0, 3) != _seed_of(0, 3 + 2**32)


def test_draws_that_figures_rest_on_stay_as_they_are():
    support, query = one_size().sample(3)
    assert support[1].sum().item() == pytest.approx(-4.3136, abs=1e-3)
    groups = group_tasks(torch.arange(60.0), torch.arange(60) % 7, seed=1)
    assert [tasks.names for tasks in groups] == [(0, 6, 1, 3, 5), (2,), (4,)]
    support, query = GroupSampler(groups.train, seed=4).sample(3)
    assert [int(rows.sum()) for rows in (*support, *query)] == [105, 103, 122, 147, 176, 122]


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: one_size().batches(0), ValueError, "batch_size must be at least 1, got 0"),
        (lambda: one_size().batches(1.5), TypeError, "batch_size must be an integer"),
        (lambda: one_size().batches(2, start=-1), ValueError, "start must be at least 0, got -1"),
        (lambda: one_size().batches(2).at(-1), ValueError, "n must be at least 0, got -1"),
        (lambda: one_size().batches(2).at("3"), TypeError, "n must be an integer"),
        (lambda: next(iter(ragged().batches(8))), ValueError, "batch_size 8 asks for more groups than there are: 7"),
        (lambda: one_size().batches(2).load_state_dict({"n": 3}), ValueError, r"not the state of Batches: .*\['n'\]"),
    ],
)
def test_bad_calls(call, error, message):
    with pytest.raises(error, match=message):
        call()
