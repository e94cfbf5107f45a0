"""Points are a net, and each alone is random."""

import pytest
import torch
from scipy.stats import kstest

from pyrometa.noise.draws import Draw
from pyrometa.noise.points import Column, Points
from pyrometa.noise.sobol import scrambled_sobol

F64, CPU = torch.float64, torch.device("cpu")


def test_sobol_points_are_nets():
    points = scrambled_sobol(16, 6, 3, 2)
    assert points.shape == (3, 2, 16, 6)
    assert points.dtype == F64
    assert (points * 2.0**53 % 2 == 1).all()  # in the middle of cells of 2**-52: never 0, nor 1
    strata = (points * 16).long().sort(2).values
    assert torch.equal(strata, torch.arange(16)[:, None].expand_as(strata))
    for columns in (2, 4, 8):  # in the first two dimensions one point is in each box of this form too
        boxes = (points[..., 0] * columns).long() * (16 // columns) + (points[..., 1] * (16 // columns)).long()
        assert torch.equal(boxes.sort(-1).values, torch.arange(16).expand(3, 2, 16))
    assert len(points.unique()) == points.numel()


@pytest.mark.parametrize("kind", ["antithetic", "sobol"])
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_each_point_alone_is_random(kind, dtype):
    """By Kolmogorov and Smirnov: of 32 comparisons, one in some 3,000 runs with other seeds fails by chance."""
    tape = (Draw("normal", (4, 2), dtype, CPU), Draw("uniform", (4,), dtype, CPU))
    normal, uniform = Points(kind, 4, (Column((0,), 0), Column((1,), 0))).sample(tape, 4000, 1)
    assert normal.dtype == uniform.dtype == dtype
    assert (uniform >= 0).all()
    assert (uniform < 1).all()
    for particle in range(4):
        for column in (0, 1):
            assert kstest(normal[:, 0, particle, column].double(), "norm").pvalue > 1e-5
        assert kstest(uniform[:, 0, particle].double(), "uniform").pvalue > 1e-5
