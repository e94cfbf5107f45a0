import dataclasses

import pytest
import torch

from pyrometa.tasks import MetaBatch


def pair(tasks=4):
    """Support and query of a model that takes (x, y)."""
    x, y = torch.arange(tasks * 6.0).reshape(tasks, 3, 2), torch.arange(tasks * 3).reshape(tasks, 3)
    return (x, y), (x[:, :2] + 100, y[:, :2] + 100)


def test_unpacks_to_support_and_query():
    support, query = pair()
    batch = MetaBatch(support, query)
    assert [*batch] == [support, query]
    assert len(batch) == 4
    assert not isinstance(batch, tuple)


def test_a_slice_is_a_smaller_meta_batch():
    (x, y), (_, query_y) = pair()
    part = MetaBatch(*pair())[1:3]
    assert isinstance(part, MetaBatch)
    assert len(part) == 2
    assert torch.equal(part.support[0], x[1:3])
    assert torch.equal(part.support[1], y[1:3])
    assert torch.equal(part.query[1], query_y[1:3])


def test_an_integer_is_one_task_without_the_task_dimension():
    (x, _), (_, query_y) = pair()
    support, query = MetaBatch(*pair())[-1]
    assert torch.equal(support[0], x[3])
    assert torch.equal(query[1], query_y[3])
    support, query = MetaBatch(x, x + 1)[2]
    assert torch.equal(query, x[2] + 1)


def test_index_out_of_range_and_empty_slice():
    batch = MetaBatch(*pair())
    with pytest.raises(IndexError):
        batch[4]
    with pytest.raises(ValueError, match="at least one task"):
        batch[4:]


def test_to_a_dtype_keeps_integers_and_the_original():
    batch = MetaBatch(*pair())
    double = batch.to(torch.float64)
    assert [tensor.dtype for tensor in double.support] == [torch.float64, torch.int64]
    assert [tensor.dtype for tensor in double.query] == [torch.float64, torch.int64]
    assert batch.support[0].dtype == torch.float32


def test_to_a_device():
    moved = MetaBatch(*pair()).to("meta")
    assert {tensor.device.type for tensor in (*moved.support, *moved.query)} == {"meta"}


def test_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        MetaBatch(*pair()).support = torch.zeros(4)


@pytest.mark.parametrize(
    ("support", "query", "error", "message"),
    [
        (torch.zeros(3, 2), torch.zeros(4, 2), ValueError, "support has 3, query has 4"),
        ((torch.zeros(3, 2), torch.zeros(2)), torch.zeros(3), ValueError, "support has 3 and 2, query has 3"),
        (torch.zeros(0, 2), torch.zeros(0, 2), ValueError, "at least one task"),
        (torch.tensor(1.0), torch.zeros(1), ValueError, "support has a tensor without dimensions"),
        ([torch.zeros(2)], torch.zeros(1), TypeError, "support must be a tensor .* got list"),
        (torch.zeros(1), None, TypeError, "query must be a tensor .* got NoneType"),
        (torch.zeros(1), (torch.zeros(1), 2), TypeError, "query must be a tensor .* got int"),
        (torch.zeros(1), (), TypeError, "query is an empty tuple"),
    ],
)
def test_bad_input(support, query, error, message):
    with pytest.raises(error, match=message):
        MetaBatch(support, query)
