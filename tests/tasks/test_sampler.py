import io

import pytest
import torch

from pyrometa.tasks import DigitTasks, MetaBatch, TaskSampler


class Numbered:
    """Rows (task, row) with a random integer to tell draws apart, and a second positional argument."""

    def draw(self, tasks, rows, generator):
        drawn = torch.randint(10**9, (tasks, rows), generator=generator)
        return drawn, torch.arange(rows).expand(tasks, rows)


def digits(**counts):
    images = torch.rand(60, 8, 8, generator=torch.Generator().manual_seed(5))
    family = DigitTasks(images, torch.arange(60) % 3, torch.arange(60), (-45.0, 45.0))
    return TaskSampler(family, **{"shots": 3, "queries": 4, "seed": 0, **counts})


def same(a: MetaBatch, b: MetaBatch) -> bool:
    return torch.equal(a.support, b.support) and torch.equal(a.query, b.query)


def test_support_and_query_are_a_partition_of_the_rows():
    batch = TaskSampler(Numbered(), shots=3, queries=4, seed=0).sample(5)
    assert batch.support[1].tolist() == [[0, 1, 2]] * 5
    assert batch.query[1].tolist() == [[3, 4, 5, 6]] * 5


def test_shapes():
    sampler = digits()
    batch = sampler.sample(5)
    assert batch.support.shape == (5, 3, 64)
    assert batch.query.shape == (5, 4, 64)
    assert sampler.pooled(7).shape == (7, 64)
    assert [rows.shape for rows in TaskSampler(Numbered(), shots=1, queries=1, seed=0).pooled(7)] == [
        (7,),
        (7,),
    ]


def test_one_seed_gives_the_same_bits_and_another_does_not():
    a, b, other = digits(), digits(), digits(seed=1)
    assert same(a.sample(4), b.sample(4))
    assert torch.equal(a.pooled(4), b.pooled(4))
    assert same(second := a.sample(4), b.sample(4))
    assert not same(second, digits().sample(4))  # the draws go on
    assert not same(digits().sample(4), other.sample(4))


def test_independent_of_global_settings():
    expected = digits().sample(4)
    torch.manual_seed(123)
    before = torch.get_rng_state()
    assert same(digits().sample(4), expected)
    digits().pooled(4)
    assert torch.equal(torch.get_rng_state(), before)


def test_independent_of_the_default_dtype():
    sampler, expected = digits(), digits().sample(4)
    torch.set_default_dtype(torch.float64)
    try:
        drawn = sampler.sample(4)
    finally:
        torch.set_default_dtype(torch.float32)
    assert same(drawn, expected)


def test_resume_gives_the_same_bits():
    sampler = digits()
    sampler.sample(4)
    file = io.BytesIO()
    torch.save(sampler.state_dict(), file)
    expected = sampler.sample(4), sampler.pooled(9)
    file.seek(0)
    resumed = digits(seed=77)
    resumed.load_state_dict(torch.load(file, weights_only=True))
    assert same(resumed.sample(4), expected[0])
    assert torch.equal(resumed.pooled(9), expected[1])


def test_the_state_is_a_copy():
    sampler = digits()
    state = sampler.state_dict()
    expected = sampler.sample(4)
    sampler.load_state_dict(state)
    assert same(sampler.sample(4), expected)


def test_pooled_draws_from_the_tasks_distribution():
    sampler = digits()
    tasks = sampler.sample(500)
    torch.testing.assert_close(sampler.pooled(4000).mean(0), tasks.query.mean((0, 1)), atol=0.05, rtol=0)
    assert len(sampler.pooled(50).unique(dim=0)) == 50  # each row has its own angle


@pytest.mark.parametrize(
    ("counts", "error", "message"),
    [
        ({"shots": 0}, ValueError, "shots must be at least 1, got 0"),
        ({"queries": -1}, ValueError, "queries must be at least 1, got -1"),
        ({"shots": 2.0}, TypeError, "shots must be an integer, got 2.0"),
        ({"queries": True}, TypeError, "queries must be an integer, got True"),
        ({"seed": None}, TypeError, "seed must be an integer, got None"),
    ],
)
def test_bad_arguments(counts, error, message):
    with pytest.raises(error, match=message):
        digits(**counts)


def test_bad_calls():
    sampler = digits()
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        sampler.sample(0)
    with pytest.raises(TypeError, match=r"batch_size must be an integer, got 1\.5"):
        sampler.pooled(1.5)
    with pytest.raises(ValueError, match=r"not the state of a TaskSampler: .*got \['seed'\]"):
        sampler.load_state_dict({"seed": 3})
    with pytest.raises(ValueError, match="needs as many of each class: the smallest has 20"):
        digits(shots=11, queries=10).sample(2)


def test_a_family_that_returns_the_wrong_shape_is_named():
    class Short:
        def draw(self, tasks, rows, generator):
            return torch.zeros(tasks, rows - 1, 4)

    with pytest.raises(
        ValueError, match=r"Short\.draw\(2, 5, \.\.\.\) returned shape \(2, 4, 4\): the leading dimensions"
    ):
        TaskSampler(Short(), shots=2, queries=3, seed=0).sample(2)
