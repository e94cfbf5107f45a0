import io

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer import Trace_ELBO
from pyro.infer.autoguide import AutoNormal

import pyrometa as pm
from pyrometa.tasks import GroupSampler, group_tasks

SIZES = [2, 3, 5, 8, 2, 6, 4, 7, 3, 9]


def table():
    """Column 0 is the row's number, column 1 its group; rows of the groups are mixed."""
    groups = torch.arange(10).repeat_interleave(torch.tensor(SIZES))
    groups = groups[torch.randperm(len(groups), generator=torch.Generator().manual_seed(3))]
    return (torch.arange(len(groups)), groups.double()), groups


def test_every_row_is_in_its_own_group_once_and_keeps_its_order():
    data, groups = table()
    splits = group_tasks(data, groups, seed=1)
    assert [len(tasks) for tasks in splits] == [7, 1, 2]
    assert sorted(name for tasks in splits for name in tasks.names) == list(range(10))
    for tasks in splits:
        for (numbers, group), name in zip(tasks.rows, tasks.names, strict=True):
            assert numbers.tolist() == (groups == name).nonzero().flatten().tolist()
            assert (group == name).all()


def test_groups_are_split_by_the_seed():
    data, groups = table()
    names = [[tasks.names for tasks in group_tasks(data, groups, seed=seed)] for seed in (0, 0, 1)]
    assert names[0] == names[1]
    assert names[0] != names[2]


def test_small_groups_are_left_out():
    data, groups = table()
    splits = group_tasks(data, groups, minimum=5, fractions=(0.4, 0.2, 0.4))
    assert sorted(name for tasks in splits for name in tasks.names) == [2, 3, 5, 7, 9]
    assert [len(tasks) for tasks in splits] == [2, 1, 2]


@pytest.mark.parametrize("kind", [list, tuple, np.array])
def test_groups_can_be_names(kind):
    names = kind(["b", "a", "b", "a", "b"])
    (tasks, *empty) = group_tasks(torch.arange(5), names, fractions=(1.0, 0.0, 0.0))
    assert {name: rows.tolist() for name, rows in zip(tasks.names, tasks.rows, strict=True)} == {
        "a": [1, 3],
        "b": [0, 2, 4],
    }
    assert [len(tasks) for tasks in empty] == [0, 0]


def all_in_train():
    data, groups = table()
    return group_tasks(data, groups, fractions=(1.0, 0.0, 0.0)).train


@pytest.mark.parametrize(
    ("support", "counts"),
    [(1, [1] * 10), (0.5, [1, 2, 2, 4, 1, 3, 2, 4, 2, 4]), (0.01, [1] * 10), (0.99, [size - 1 for size in SIZES])],
)
def test_support_and_query_are_a_partition_of_each_group(support, counts):
    tasks = all_in_train()
    supports, queries = tasks.split(support, seed=0)
    for name, rows, s, q in zip(tasks.names, tasks.rows, supports, queries, strict=True):
        assert len(s[0]) == len(s[1]) == counts[name]
        assert sorted(s[0].tolist() + q[0].tolist()) == rows[0].tolist()
        assert (s[1] == name).all()
        assert (q[1] == name).all()


def test_all_rows_may_be_support_and_query():
    tasks = all_in_train()
    for rows, support, query in zip(tasks.rows, *tasks.split("all"), strict=True):
        assert sorted(support[0].tolist()) == rows[0].tolist()
        assert all(map(torch.equal, support, query))


def test_a_split_is_fixed_by_its_seed():
    tasks = all_in_train()
    first, again, other = ([s[0].tolist() for s in tasks.split(0.5, seed=seed)[0]] for seed in (0, 0, 1))
    assert first == again != other


def names(tasks):
    return [int(group[0]) for _, group in tasks]


def numbers(pair):
    return [[part[0].tolist() for part in side] for side in pair]


def test_a_meta_batch_has_distinct_groups_and_splits_them_anew():
    sampler = GroupSampler(all_in_train(), support=0.5, seed=0)
    drawn = [sampler.sample(10) for _ in range(2)]
    for support, query in drawn:
        assert names(support) == names(query)
        assert sorted(names(support)) == list(range(10))
        assert not any(set(s[0].tolist()) & set(q[0].tolist()) for s, q in zip(support, query, strict=True))
    last = [dict(zip(names(support), numbers((support, query))[0], strict=True))[9] for support, query in drawn]
    assert sorted(last[0]) != sorted(last[1])


def test_one_seed_gives_the_same_meta_batches_and_can_go_on():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    a, b, other = (GroupSampler(all_in_train(), seed=seed) for seed in (0, 0, 1))
    assert numbers(a.sample(4)) == numbers(b.sample(4))
    assert numbers(GroupSampler(all_in_train(), seed=0).sample(4)) != numbers(other.sample(4))
    file = io.BytesIO()
    torch.save(a.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert numbers(a.sample(4)) == numbers(other.sample(4))
    assert torch.equal(torch.get_rng_state(), before)


def test_ragged_tasks_meta_learn():
    def model(x):
        mean = pyro.sample("mean", dist.Normal(0.0, 1.0))
        with pyro.plate("rows", len(x)):
            pyro.sample("x", dist.Normal(mean, 1.0), obs=x)

    tasks = group_tasks(torch.randn(40), torch.arange(40) % 7, fractions=(1.0, 0.0, 0.0)).train
    meta = pm.MetaSVI(
        model, AutoNormal(model), pyro.optim.Adam({"lr": 0.01}), Trace_ELBO(), inner=pm.SGD(0.1), reduction="mean"
    )
    assert meta.step(*GroupSampler(tasks, support=0.5, seed=0).sample(5)) > 0
    assert meta.evaluate(*tasks.split(2), steps=(0, 1)).shape == (2, 7)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"data": [1.0, 2.0]}, TypeError, "data must be a tensor or a tuple of tensors"),
        ({"data": ()}, TypeError, "data must be a tensor or a tuple of tensors"),
        ({"data": (torch.zeros(6), torch.zeros(5, 2))}, ValueError, r"groups names 6 rows, .* shape \(5, 2\)"),
        ({"data": torch.tensor(1.0)}, ValueError, r"shape \(\)"),
        ({"minimum": 1}, ValueError, "minimum must be at least 2.*got 1"),
        ({"minimum": 2.5}, TypeError, "minimum must be an integer"),
        ({"minimum": 4}, ValueError, "no group has 4 rows: the largest of 3 has 2"),
        ({"seed": None}, TypeError, "seed must be an integer"),
        ({"fractions": (0.5, 0.2, 0.2)}, ValueError, "add up to 1"),
        ({"fractions": (1.5, -0.5, 0.0)}, ValueError, "add up to 1"),
        ({"fractions": (0.5, 0.5)}, ValueError, "three shares"),
        ({"fractions": (0.9, 0.05, 0.05)}, ValueError, "0.05 of 3 groups leave validation empty"),
    ],
)
def test_bad_tables(change, error, message):
    good = {"data": torch.zeros(6), "groups": [0, 0, 1, 1, 2, 2], "fractions": (1.0, 0.0, 0.0)}
    with pytest.raises(error, match=message):
        group_tasks(**{**good, **change})


@pytest.mark.parametrize(
    ("support", "error", "message"),
    [
        (2, ValueError, r"2 support rows leave no query in group [04] of 2 rows: .*minimum=3"),
        (0, ValueError, "support must be at least 1"),
        (1.0, ValueError, r"within \(0, 1\), got 1.0"),
        (0.0, ValueError, r"within \(0, 1\)"),
        (True, TypeError, "a number of rows, a share of them or 'all'"),
        ("half", TypeError, "got 'half'"),
    ],
)
def test_bad_support(support, error, message):
    with pytest.raises(error, match=message):
        all_in_train().split(support)
    with pytest.raises(error, match=message):
        GroupSampler(all_in_train(), support=support, seed=0)


def test_bad_calls():
    sampler = GroupSampler(all_in_train(), seed=0)
    with pytest.raises(ValueError, match="batch_size 11 asks for more groups than there are: 10"):
        sampler.sample(11)
    with pytest.raises(ValueError, match="batch_size must be at least 1, got 0"):
        sampler.sample(0)
    with pytest.raises(ValueError, match=r"not the state of a GroupSampler: .*got \['seed'\]"):
        sampler.load_state_dict({"seed": 3})
