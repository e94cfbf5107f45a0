"""Torch's passes and ours are compared on one graph, and only where they agree."""

import dataclasses

import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from benchmarks import torch_pieces
from benchmarks.workloads import workload


@pytest.mark.slow
def test_every_way_leaves_a_graph_that_agrees():
    work = dataclasses.replace(workload("B", 25).quick(), tasks=2, steps=1)
    result = torch_pieces.run(work, rounds=1)
    nodes = result["nodes"]
    assert nodes["pyrometa"] < nodes["and inductor's"] < nodes["and constants"] < nodes["as recorded"]
    assert nodes["torch's, then pyrometa"] <= nodes["pyrometa"]
    assert max(result["relative_errors"].values()) <= torch_pieces.TOLERANCE
    assert "and inductor's" in torch_pieces.report(result)


def test_a_graph_that_gives_other_numbers_is_refused():
    x = torch.randn(3)
    graph, other = (make_fx(function)(x) for function in (lambda x: [x.exp()], lambda x: [x.exp() * 1.001]))
    assert torch_pieces.error(graph, graph, [x]) == 0.0
    with pytest.raises(ArithmeticError, match="other numbers"):
        torch_pieces.error(other, graph, [x])
