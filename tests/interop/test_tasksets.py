import random

import pytest
import torch
from learn2learn.data import MetaDataset, Taskset, partition_task
from learn2learn.data.transforms import FilterLabels, FusedNWaysKShots, KShots, LoadData, NWays, RemapLabels
from torch.utils.data import Dataset, TensorDataset

from pyrometa.interop.learn2learn_tasks import taskset_sampler

CLASSES = torch.arange(60) // 10


def data(labels=CLASSES):
    """Row i is the number i, of class i // 10."""
    return MetaDataset(TensorDataset(torch.arange(60.0)[:, None], labels))


def taskset(ways=3, per_class=5, *, num_tasks=-1, remap=True):
    rows = data()
    transforms = [NWays(rows, ways), KShots(rows, per_class), LoadData(rows)]
    return Taskset(rows, [*transforms, RemapLabels(rows)] if remap else transforms, num_tasks=num_tasks)


def batch(tasks=20, *, shots=2, seed=0, **given):
    return taskset_sampler(taskset(**given), shots=shots, seed=seed).sample(tasks)


def test_shapes_and_order():
    (x, y), (query_x, query_y) = batch(4)
    assert (x.shape, query_x.shape) == ((4, 6, 1), (4, 9, 1))
    assert y.tolist() == [[0, 1, 2] * 2] * 4
    assert query_y.tolist() == [[0, 1, 2] * 3] * 4


def test_labels_stay_with_their_rows_and_no_row_is_shared():
    (x, y), (query_x, query_y) = batch()
    rows, numbers = torch.cat([x, query_x], 1).squeeze(-1).long(), torch.cat([y, query_y], 1)
    for task, number in zip(rows, numbers, strict=True):
        pairs = set(zip(CLASSES[task].tolist(), number.tolist(), strict=True))
        assert len(pairs) == len({label for label, _ in pairs}) == 3
        assert len(task.unique()) == 15


def test_labels_that_are_not_numbered_anew_are_kept():
    (x, y), _ = batch(remap=False)
    assert torch.equal(CLASSES[x.squeeze(-1).long()], y)


def test_equal_to_learn2learns_own_partition():
    kept = taskset(num_tasks=1)
    sampler = taskset_sampler(kept, shots=2, seed=0)
    (x, y), (query_x, query_y) = sampler.sample(1)
    (x_hand, y_hand), (query_x_hand, query_y_hand) = partition_task(*kept[0], shots=2)

    def by_class(x, y):
        order = y.argsort(stable=True)
        return x[order].flatten().tolist(), y[order].tolist()

    assert by_class(x[0], y[0]) == by_class(x_hand, y_hand)
    assert by_class(query_x[0], query_y[0]) == by_class(query_x_hand, query_y_hand)


@pytest.mark.parametrize("num_tasks", [-1, 30])
def test_one_seed_gives_the_same_bits_and_leaves_the_global_generators_alone(num_tasks):
    first = batch(num_tasks=num_tasks).support[0]
    random.seed(77)
    torch.manual_seed(77)
    before = random.getstate(), torch.get_rng_state()
    assert torch.equal(batch(num_tasks=num_tasks).support[0], first)
    assert not torch.equal(batch(num_tasks=num_tasks, seed=1).support[0], first)
    assert random.getstate() == before[0]
    assert torch.equal(torch.get_rng_state(), before[1])


def test_a_taskset_of_few_tasks_gives_these_and_no_others():
    sampler = taskset_sampler(taskset(num_tasks=3), shots=2, seed=0)
    tasks = torch.cat([sampler.sample(20).support[0], sampler.sample(20).support[0]])
    assert len(tasks.unique(dim=0)) == 3


def test_kept_tasks_do_not_depend_on_which_came_first():
    one, other = (taskset_sampler(taskset(num_tasks=4), shots=2, seed=seed).sample(40) for seed in (0, 1))
    assert torch.equal(one.support[0].unique(dim=0), other.support[0].unique(dim=0))


def test_a_resumed_sampler_goes_on():
    sampler = taskset_sampler(taskset(), shots=2, seed=0)
    sampler.sample(3)
    state = sampler.state_dict()
    expected = sampler.sample(3).support[0]
    resumed = taskset_sampler(taskset(), shots=2, seed=9)
    resumed.load_state_dict(state)
    assert torch.equal(resumed.sample(3).support[0], expected)


def test_fused_transforms():
    rows = data()
    fused = Taskset(rows, [FusedNWaysKShots(rows, n=2, k=3), LoadData(rows), RemapLabels(rows)])
    (_, y), (_, query_y) = taskset_sampler(fused, shots=1, seed=0).sample(5)
    assert y.tolist() == [[0, 1]] * 5
    assert query_y.tolist() == [[0, 1] * 2] * 5


class Jittered(Dataset):
    """Rows whose images a transform draws from torch anew at each reading."""

    def __len__(self):
        return 20

    def __getitem__(self, i):
        return torch.rand(1), i % 4


def test_transforms_of_images_are_drawn_anew_but_by_the_seed():
    rows = MetaDataset(Jittered())

    def draws(seed):
        kept = Taskset(rows, [NWays(rows, 2), KShots(rows, 3), LoadData(rows)], num_tasks=1)
        sampler = taskset_sampler(kept, shots=1, seed=seed)
        return sampler.sample(1).support[0], sampler.sample(1).support[0]

    first, second = draws(0)
    assert not torch.equal(first, second)
    assert torch.equal(first, draws(0)[0])


def test_regression_targets_are_split_as_they_come():
    rows = data()
    rows.dataset = TensorDataset(torch.arange(60.0)[:, None], torch.arange(60.0) * 2)
    tasks = Taskset(rows, [NWays(rows, 1), KShots(rows, 8), LoadData(rows)])
    (x, y), (query_x, query_y) = taskset_sampler(tasks, shots=3, seed=0).sample(4)
    assert (x.shape, y.shape, query_x.shape) == ((4, 3, 1), (4, 3), (4, 5, 1))
    assert torch.equal(2 * x.squeeze(-1), y)
    assert torch.equal(2 * query_x.squeeze(-1), query_y)
    for task in torch.cat([x, query_x], 1):
        assert len(task.unique()) == 8


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"taskset": [1, 2]}, TypeError, r"must be a learn2learn.data.Taskset, got list"),
        ({"shots": 1.0}, TypeError, "shots must be an integer, got 1.0"),
        ({"shots": 0}, ValueError, "shots must be at least 1 .* got 0 of the 5 rows"),
        ({"shots": 5}, ValueError, r"got 5 of the 5 rows .*k = shots \+ queries"),
        ({"seed": None}, TypeError, "seed must be an integer"),
    ],
)
def test_bad_arguments(change, error, message):
    with pytest.raises(error, match=message):
        taskset_sampler(**{"taskset": taskset(), "shots": 1, "seed": 0, **change})


def test_tasks_that_do_not_fit_are_named():
    rows = data()
    without_data = Taskset(rows, [NWays(rows, 2), KShots(rows, 3)])
    with pytest.raises(TypeError, match=r"must be \(data, labels\), two tensors, got Tensor: .* LoadData"):
        taskset_sampler(without_data, shots=1, seed=0)
    uneven = data(torch.tensor([0] * 20 + [1] * 40))
    with pytest.raises(ValueError, match=r"differ in their number of rows \(0: 20, 1: 40\): use KShots"):
        taskset_sampler(Taskset(uneven, [FilterLabels(uneven, [0, 1]), LoadData(uneven)]), shots=1, seed=0)


def test_labels_of_another_number_are_named():
    class Short:
        num_tasks = 1

        def __getitem__(self, index):
            return torch.zeros(4, 1), torch.zeros(3, dtype=torch.int64)

    with pytest.raises(ValueError, match=r"data \(4, 1\) and labels \(3,\) .* give each row one label"):
        taskset_sampler(Short(), shots=1, seed=0)
