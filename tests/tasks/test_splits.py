from itertools import combinations

import pytest
import torch

from pyrometa.tasks import TaskSampler, digit_tasks, load_images

LABELS = torch.arange(10).repeat_interleave(10)
IMAGES = torch.zeros(100, 8, 8)


def test_no_image_is_in_two_splits():
    data = load_images("digits8x8")
    splits = digit_tasks(data.train_x, data.train_y)
    for a, b in combinations(splits, 2):
        assert not set(a.index.tolist()) & set(b.index.tolist())
    assert sum(len(family.index) for family in splits) == len(data.train_y)  # and none is lost


def test_drawn_pixels_never_cross_splits():
    images = ((torch.arange(100) + 1) / 101)[:, None, None].expand(-1, 9, 9)
    drawn = []
    for family in digit_tasks(images, LABELS):
        rows = torch.cat([*TaskSampler(family, shots=1, queries=1, seed=0).sample(2000)])
        drawn.append(set((rows[..., 40] * 101).round().long().sub(1).flatten().tolist()))
    train, validation, test = drawn
    assert train == {i for i in range(70) if i % 5}  # every fifth image of a class is held out
    assert validation == set(range(0, 70, 5))
    assert test == set(range(70, 100))


def test_meta_test_classes_are_unseen():
    splits = digit_tasks(IMAGES, LABELS, train_classes=[0, 2, 4], test_classes=[1, 9])
    assert splits.train.classes == splits.validation.classes == [0, 2, 4]
    assert splits.test.classes == [1, 9]
    assert len(splits.test.index) == 20


def test_angles_are_held_out():
    splits = digit_tasks(IMAGES, LABELS)
    assert splits.train.angles == (-90.0, 90.0)
    assert splits.validation.angles == (90.0, 180.0)
    assert splits.test.angles == (-180.0, 180.0)


@pytest.mark.parametrize(
    ("train", "validation"),
    [
        ((-90, 90), (80, 100)),
        ((80, 100), (-90, 90)),
        ((-90, 90), (270, 300)),  # 270 is -90
        ((0, 360), (10, 20)),
        ((10, 20), (0, 360)),
        ((0, 0), (0, 0)),
        ((0, 0), (360, 360)),
        ((0, 90), (30, 30)),
        ((350, 370), (0, 5)),
    ],
)
def test_overlapping_angles_are_refused(train, validation):
    with pytest.raises(
        ValueError, match=r"train_angles .* and validation_angles .* overlap: give ranges that are apart"
    ):
        digit_tasks(IMAGES, LABELS, train_angles=train, validation_angles=validation)


@pytest.mark.parametrize(("train", "validation"), [((0, 180), (180, 360)), ((-90, 90), (90, 270)), ((0, 0), (10, 10))])
def test_touching_angles_are_not_an_overlap(train, validation):
    digit_tasks(IMAGES, LABELS, train_angles=train, validation_angles=validation)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"train_classes": (0, 1, 7)}, r"share \[7\]: a meta-test class must be unseen"),
        ({"test_classes": ()}, "test_classes is empty"),
        ({"train_classes": []}, "train_classes is empty"),
        ({"test_classes": (11,)}, "test_classes names class 11, of which there are 0 images"),
        ({"validation_angles": (200, 100)}, "validation_angles must be"),
        ({"test_angles": (0, 1000)}, "test_angles must be"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        digit_tasks(IMAGES, LABELS, **arguments)


def test_a_training_class_needs_two_images():
    with pytest.raises(ValueError, match="train_classes names class 0, of which there are 1 images"):
        digit_tasks(IMAGES[9:], LABELS[9:])


def test_bad_images():
    with pytest.raises(TypeError, match="images must be floating point"):
        digit_tasks(IMAGES.to(torch.uint8), LABELS)
