import math

import pytest
import torch

from pyrometa.tasks import SineLineTasks, SinusoidTasks, TaskSampler


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def least_squares_error(x, y, basis):
    """Largest error of each task's best fit in a basis, float64, shape (tasks,)."""
    design, y = torch.cat([feature(x.double()) for feature in basis], -1), y.double()
    fit = design @ torch.linalg.lstsq(design, y).solution
    return (fit - y).abs().amax((1, 2))


SINE = (torch.sin, torch.cos)  # A sin(x + p) = A cos(p) sin(x) + A sin(p) cos(x)
LINE = (lambda x: x, torch.ones_like)


@pytest.mark.parametrize("family", [SinusoidTasks(), SineLineTasks()])
def test_shapes_and_dtypes_whatever_the_default(family):
    torch.set_default_dtype(torch.float64)
    try:
        drawn = TaskSampler(family, shots=5, queries=7, seed=0).sample(3)
    finally:
        torch.set_default_dtype(torch.float32)
    assert [part.shape for part in (*drawn.support, *drawn.query)] == [(3, 5, 1)] * 2 + [(3, 7, 1)] * 2
    assert {part.dtype for part in (*drawn.support, *drawn.query)} == {torch.float32}


@pytest.mark.parametrize("family", [SinusoidTasks(noise=0.1), SineLineTasks()])
def test_the_generator_alone_decides(family):
    expected = family.draw(4, 6, seeded())
    torch.manual_seed(99)
    before = torch.get_rng_state()
    assert all(torch.equal(a, b) for a, b in zip(expected, family.draw(4, 6, seeded()), strict=True))
    assert not torch.equal(expected[1], family.draw(4, 6, seeded(1))[1])
    assert torch.equal(torch.get_rng_state(), before)


def test_all_rows_of_a_task_lie_on_one_sinusoid():
    x, y = SinusoidTasks().draw(200, 10, seeded())
    assert (least_squares_error(x, y, SINE) < 1e-5).all()


def test_amplitude_and_phase_fill_their_ranges():
    x, y = SinusoidTasks().draw(4000, 10, seeded())
    design = torch.cat([torch.sin(x), torch.cos(x)], -1).double()
    sine, cosine = torch.linalg.lstsq(design, y.double()).solution.squeeze(-1).T
    amplitude, phase = torch.hypot(sine, cosine), torch.atan2(cosine, sine)
    for drawn, (low, high) in ((amplitude, (0.1, 5.0)), (phase, (0.0, math.pi)), (x, (-5.0, 5.0))):
        width = high - low
        assert low - 1e-4 <= drawn.min() < low + 0.02 * width
        assert high - 0.02 * width < drawn.max() <= high + 1e-4
        assert abs(drawn.mean() - (low + high) / 2) < 4 * width / math.sqrt(12 * 4000)


def test_a_task_is_a_sinusoid_or_a_line_each_as_likely():
    x, y = SineLineTasks(noise=0.0).draw(2000, 12, seeded())
    sine, line = (least_squares_error(x, y, basis) < 1e-5 for basis in (SINE, LINE))
    assert (sine ^ line).all()
    assert abs(line.float().mean() - 0.5) < 4 * 0.5 / math.sqrt(2000)
    design = torch.cat([feature(x[line].double()) for feature in LINE], -1)
    parameters = torch.linalg.lstsq(design, y[line].double()).solution.squeeze(-1).T  # slope, intercept
    assert abs(parameters.corrcoef()[0, 1]) < 4 / math.sqrt(len(x[line]))
    for drawn in parameters:
        assert -3 - 1e-4 <= drawn.min() < -2.9
        assert 2.9 < drawn.max() <= 3 + 1e-4


@pytest.mark.parametrize("kind", [SinusoidTasks, SineLineTasks])
def test_noise_is_added_to_the_same_functions_at_the_same_inputs(kind):
    sampler, exact = (TaskSampler(kind(noise=noise), shots=20, queries=20, seed=0) for noise in (0.3, 0.0))
    sampler.sample(1), exact.sample(1)
    ((x, y), _), ((exact_x, exact_y), _) = sampler.sample(200), exact.sample(200)
    assert torch.equal(x, exact_x)
    noise = y - exact_y
    assert abs(noise.mean()) < 4 * 0.3 / math.sqrt(noise.numel())
    assert abs(noise.std() - 0.3) < 4 * 0.3 / math.sqrt(2 * noise.numel())


def test_the_published_defaults():
    assert SinusoidTasks() == SinusoidTasks((0.1, 5.0), (0.0, math.pi), (-5.0, 5.0), 0.0)
    assert SineLineTasks() == SineLineTasks((0.1, 5.0), (0.0, math.pi), (-3.0, 3.0), (-3.0, 3.0), (-5.0, 5.0), 0.3)


@pytest.mark.parametrize("kind", [SinusoidTasks, SineLineTasks])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"amplitude": (5.0, 0.1)}, r"amplitude must be a finite \(low, high\).*got \(5.0, 0.1\)"),
        ({"phase": (0.0, math.inf)}, "phase must be a finite"),
        ({"x": (math.nan, 1.0)}, "x must be a finite"),
        ({"noise": -0.1}, "noise is a standard deviation.*got -0.1"),
        ({"noise": math.nan}, "noise is a standard deviation"),
    ],
)
def test_bad_arguments(kind, change, message):
    with pytest.raises(ValueError, match=message):
        kind(**change)


@pytest.mark.parametrize("name", ["slope", "intercept"])
def test_bad_lines(name):
    with pytest.raises(ValueError, match=f"{name} must be a finite"):
        SineLineTasks(**{name: (1.0, 0.0)})
