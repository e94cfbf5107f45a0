import math

import pytest
import torch

from pyrometa.tasks import DigitTasks, TaskSampler, load_images
from pyrometa.tasks.digits import rotate

SIZE = 9


def constant_images(labels):
    """Image i has the value (i + 1) / (n + 1) everywhere, so that a drawn row shows which image it was."""
    values = torch.arange(1, len(labels) + 1) / (len(labels) + 1)
    return values[:, None, None].expand(-1, SIZE, SIZE)


def which(rows, labels):
    """Indices of constant images, shape of ``rows`` without its last dimension."""
    return (rows[..., SIZE * SIZE // 2] * (len(labels) + 1)).round().long() - 1


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("quarters", [-1, 0, 1, 2, 3, 4])
def test_quarter_turns_equal_rot90(quarters):
    images = torch.rand(2, 3, 28, 28, dtype=torch.float64, generator=seeded())
    turned = rotate(images, torch.full((2,), 90.0 * quarters, dtype=torch.float64))
    torch.testing.assert_close(turned, torch.rot90(images, quarters, dims=(-2, -1)), atol=1e-12, rtol=0)


def test_each_task_has_its_own_angle_and_its_rows_share_it():
    images = torch.rand(3, 2, 28, 28, generator=seeded())
    turned = rotate(images, torch.tensor([0.0, 90.0, 37.0]))
    torch.testing.assert_close(turned[0], images[0], atol=1e-5, rtol=0)
    torch.testing.assert_close(turned[1], torch.rot90(images[1], dims=(-2, -1)), atol=1e-5, rtol=0)
    for row in range(2):
        torch.testing.assert_close(turned[2, row], rotate(images[2:, row : row + 1], torch.tensor([37.0]))[0, 0])


def test_pixels_stay_in_the_unit_interval():
    turned = rotate(torch.ones(360, 1, 29, 29), torch.arange(360.0))  # 29: rounding passes 1
    assert turned.min() >= 0
    assert turned.max() <= 1


def test_rotation_keeps_the_digits_mean_pixel():
    images = load_images("digits").test_x[:200]
    turned = rotate(images.expand(8, -1, -1, -1), torch.arange(8) * 45.0 + 10)
    torch.testing.assert_close(turned.mean((-2, -1)), images.mean((-2, -1)).expand(8, -1), atol=0.01, rtol=0)


def test_drawn_angles_fill_the_range():
    dot = torch.zeros(1, 29, 29)
    dot[0, 14, 24] = 1.0  # due east: rotation by a moves it to the direction a, counter-clockwise
    family = DigitTasks(dot, torch.tensor([4]), torch.tensor([0]), (20.0, 70.0))
    drawn = family.draw(400, 1, seeded()).reshape(400, 29, 29)
    away = torch.arange(29.0) - 14
    mass = drawn.sum((1, 2))
    east, north = (drawn.sum(1) * away).sum(1) / mass, -(drawn.sum(2) * away).sum(1) / mass
    angles = torch.atan2(north, east) * 180 / math.pi
    assert 19.9 <= angles.min() < 22
    assert 68 < angles.max() <= 70.1
    assert abs(angles.mean() - 45) < 4 * 50 / math.sqrt(12 * 400)


def test_a_task_is_one_class_and_has_no_image_twice():
    labels = torch.tensor([5] * 12 + [2] * 30 + [8] * 7)
    index = torch.arange(49)[torch.arange(49) % 7 != 3]
    family = DigitTasks(constant_images(labels), labels, index, (0.0, 0.0))
    assert family.classes == [2, 5, 8]
    chosen = which(family.draw(300, 6, seeded()), labels)
    assert set(chosen.unique().tolist()) == set(index.tolist())  # all of the index, and nothing else
    for task in chosen:
        assert len(task.unique()) == 6
        assert len(labels[task].unique()) == 1


def test_classes_are_equally_likely_whatever_their_sizes():
    labels = torch.tensor([0] * 3 + [1] * 97)
    family = DigitTasks(constant_images(labels), labels, torch.arange(100), (0.0, 0.0))
    chosen = labels[which(family.draw(2000, 1, seeded()), labels)]
    assert abs(chosen.float().mean() - 0.5) < 4 * 0.5 / math.sqrt(2000)


def test_support_and_query_share_no_image():
    labels = torch.zeros(20, dtype=torch.long)
    family = DigitTasks(constant_images(labels), labels, torch.arange(20), (0.0, 0.0))
    support, query = TaskSampler(family, shots=12, queries=8, seed=0).sample(30)
    both = torch.cat([which(support, labels), which(query, labels)], dim=1)
    assert torch.equal(both.sort(1).values, torch.arange(20).expand(30, 20))


def test_every_image_can_be_support():
    labels = torch.zeros(20, dtype=torch.long)
    family = DigitTasks(constant_images(labels), labels, torch.arange(20), (0.0, 0.0))
    support, _ = TaskSampler(family, shots=5, queries=5, seed=0).sample(800)
    counts = which(support, labels).flatten().bincount(minlength=20)
    assert (counts - 200).abs().max() < 4 * math.sqrt(800 * 0.25 * 0.75)


def test_dtype_follows_the_images():
    labels = torch.zeros(4, dtype=torch.long)
    family = DigitTasks(constant_images(labels).double(), labels, torch.arange(4), (-90.0, 90.0))
    assert family.draw(2, 2, seeded()).dtype == torch.float64


GOOD = {
    "images": torch.zeros(4, 8, 8),
    "labels": torch.zeros(4, dtype=torch.long),
    "index": torch.arange(4),
    "angles": (0.0, 90.0),
}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"images": torch.zeros(4, 8, 8, dtype=torch.uint8)},
            TypeError,
            "floating point .* divide bytes by 255",
        ),
        ({"images": torch.zeros(4, 8, 9)}, ValueError, r"shape \(n, size, size\), got \(4, 8, 9\)"),
        ({"images": torch.zeros(4, 64)}, ValueError, r"shape \(n, size, size\), got \(4, 64\)"),
        ({"images": torch.full((4, 8, 8), 2.0)}, ValueError, r"lie in \[0, 1\]"),
        ({"images": torch.full((4, 8, 8), math.nan)}, ValueError, "finite"),
        ({"labels": torch.zeros(4)}, TypeError, "labels must be int64, got torch.float32"),
        ({"labels": torch.zeros(3, dtype=torch.long)}, ValueError, r"labels must have shape \(4,\)"),
        ({"index": torch.ones(4, dtype=torch.bool)}, TypeError, "index must be int64, got torch.bool"),
        ({"index": torch.zeros(0, dtype=torch.long)}, ValueError, "m at least 1"),
        ({"index": torch.tensor([0, 4])}, ValueError, r"index must lie in 0\.\.3, got 0\.\.4"),
        ({"index": torch.tensor([-1, 2])}, ValueError, r"index must lie in 0\.\.3, got -1\.\.2"),
        ({"index": torch.tensor([1, 1])}, ValueError, "names an image twice"),
        ({"angles": (90.0, 0.0)}, ValueError, r"angles must be .* got \(90.0, 0.0\)"),
        ({"angles": (0.0, 361.0)}, ValueError, "high <= low"),
        ({"angles": (0.0, math.nan)}, ValueError, "angles must be"),
    ],
)
def test_bad_input(change, error, message):
    DigitTasks(**GOOD)
    with pytest.raises(error, match=message):
        DigitTasks(**{**GOOD, **change})


def test_more_rows_than_images():
    with pytest.raises(ValueError, match="a task of 5 images needs as many of each class: the smallest has 4"):
        DigitTasks(**GOOD).draw(1, 5, seeded())


def test_the_channels_of_an_image_turn_together():
    images, labels = torch.rand(12, 3, SIZE, SIZE, generator=seeded()), torch.arange(12) % 2
    index, angles = torch.arange(12), (-45.0, 45.0)
    colour = DigitTasks(images, labels, index, angles).draw(4, 2, seeded(1)).unflatten(-1, (3, SIZE * SIZE))
    for channel in range(3):
        grey = DigitTasks(images[:, channel], labels, index, angles).draw(4, 2, seeded(1))
        assert torch.equal(colour[:, :, channel], grey)
