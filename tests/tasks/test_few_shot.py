import math

import pytest
import torch

from pyrometa.tasks import FewShotTasks

LABELS = torch.tensor([30, 10, 20, 50] * 6 + [10, 30, 30])


def numbered(labels=LABELS):
    """Image i is the number i."""
    return torch.arange(float(len(labels)))[:, None]


def batch(tasks=50, *, shots=2, queries=3, seed=0, **arguments):
    family = FewShotTasks(numbered(), LABELS, **{"ways": 3, **arguments})
    return family.sampler(shots=shots, queries=queries, seed=seed).sample(tasks)


def test_shapes_and_order():
    (x, y), (query_x, query_y) = batch(4)
    assert (x.shape, query_x.shape) == ((4, 6, 1), (4, 9, 1))
    assert y.tolist() == [[0, 1, 2] * 2] * 4
    assert query_y.tolist() == [[0, 1, 2] * 3] * 4
    assert y.dtype == torch.int64


def test_a_label_is_one_class_within_its_task_and_classes_are_distinct():
    (x, y), (query_x, query_y) = batch()
    rows, numbers = torch.cat([x, query_x], 1).squeeze(-1).long(), torch.cat([y, query_y], 1)
    for task, number in zip(LABELS[rows], numbers, strict=True):
        pairs = set(zip(task.tolist(), number.tolist(), strict=True))
        assert len(pairs) == len({label for label, _ in pairs}) == 3


def test_support_and_query_share_no_image():
    (x, _), (query_x, _) = batch()
    for task in torch.cat([x, query_x], 1).flatten(1):
        assert len(task.unique()) == 15


def test_each_class_is_as_likely_under_each_number():
    (x, _), _ = batch(3000, shots=1)
    classes = LABELS[x.squeeze(-1).long()]
    for number in range(3):
        for label in (10, 20, 30, 50):
            assert abs((classes[:, number] == label).float().mean() - 0.25) < 5 * math.sqrt(0.1875 / 3000)


def test_every_image_is_drawn():
    (x, _), (query_x, _) = batch(300)
    assert set(torch.cat([x, query_x], 1).flatten().tolist()) == set(range(len(LABELS)))


def test_only_the_classes_asked_for_are_drawn():
    (x, _), (query_x, _) = batch(classes=[50, 10, 10], ways=2)
    assert set(LABELS[torch.cat([x, query_x], 1).long()].flatten().tolist()) == {10, 50}


def test_one_seed_gives_the_same_bits():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first, again, other = (batch(seed=seed).support[0] for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)
    assert torch.equal(torch.get_rng_state(), before)


def test_a_quarter_turn_is_another_class():
    generator = torch.Generator().manual_seed(0)
    images, labels = torch.rand(12, 1, 5, 5, generator=generator), torch.arange(12) % 2
    sampler = FewShotTasks(images, labels, ways=8, quarter_turns=True).sampler(shots=2, queries=4, seed=0)
    (x, y), (query_x, _) = sampler.sample(10)
    assert x.shape == (10, 16, 1, 5, 5)
    versions = torch.stack([torch.rot90(images, turn, dims=(-2, -1)) for turn in range(4)])
    for support, query in zip(x, query_x, strict=True):
        everything = torch.cat([support, query])
        found = [(versions == image).flatten(2).all(2).nonzero()[0] for image in everything]  # (turn, image)
        kinds = [(int(turn), int(labels[image])) for turn, image in found]
        assert len(set(kinds[:8])) == 8  # both classes in all four turns
        assert kinds == kinds[:8] * 6
        assert len({tuple(pair.tolist()) for pair in found}) == 48
    assert y[0].tolist() == list(range(8)) * 2


def test_a_pooled_draw_of_numbered_classes_is_refused():
    sampler = FewShotTasks(numbered(), LABELS, ways=3).sampler(shots=1, queries=1, seed=0)
    with pytest.raises(ValueError, match="1 rows are no multiple of 3 ways"):
        sampler.pooled(4)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"labels": LABELS.float()}, TypeError, "labels must be int64, got torch.float32"),
        ({"labels": LABELS[1:]}, ValueError, r"shapes \(n, \.\.\.\) and \(n,\), got \(27, 1\) and \(26,\)"),
        ({"images": torch.zeros(27)}, ValueError, r"got \(27,\) and \(27,\)"),
        ({"ways": 5}, ValueError, "a task of 5 ways needs as many classes: there are 4"),
        ({"ways": 2, "classes": [10, 10]}, ValueError, "there are 1"),
        ({"ways": 0}, ValueError, "ways must be at least 1"),
        ({"ways": 2.0}, TypeError, "ways must be an integer"),
        ({"classes": [10, 40]}, ValueError, r"classes names \[40\], of which there is no image"),
        ({"classes": []}, ValueError, "there are 0"),
        ({"quarter_turns": True}, ValueError, r"quarter_turns needs images .* got \(27, 1\)"),
        ({"quarter_turns": True, "images": torch.zeros(27, 4, 5)}, ValueError, r"got \(27, 4, 5\)"),
    ],
)
def test_bad_arguments(change, error, message):
    with pytest.raises(error, match=message):
        FewShotTasks(**{"images": numbered(), "labels": LABELS, "ways": 2, **change})


@pytest.mark.parametrize(
    ("counts", "error", "message"),
    [
        ({"shots": 0}, ValueError, "shots must be at least 1"),
        ({"queries": 1.0}, TypeError, "queries must be an integer"),
        ({"shots": 3, "queries": 4}, ValueError, "3 shots and 4 queries need 7 images of a class: 20 has 6"),
    ],
)
def test_bad_counts(counts, error, message):
    with pytest.raises(error, match=message):
        batch(**counts)
