import pickle

import numpy as np
import pytest
import torch
from torchvision.datasets import CIFAR100, cifar

from pyrometa.tasks import DigitTasks, FewShotTasks, TaskSampler, load_cifar_fs, optional

# CIFAR-100's classes in the order of their labels.
NAMES = """
    apple aquarium_fish baby bear beaver bed bee beetle bicycle bottle bowl boy bridge bus butterfly camel can
    castle caterpillar cattle chair chimpanzee clock cloud cockroach couch crab crocodile cup dinosaur dolphin
    elephant flatfish forest fox girl hamster house kangaroo keyboard lamp lawn_mower leopard lion lizard lobster
    man maple_tree motorcycle mountain mouse mushroom oak_tree orange orchid otter palm_tree pear pickup_truck
    pine_tree plain plate poppy porcupine possum rabbit raccoon ray road rocket rose sea seal shark shrew skunk
    skyscraper snail snake spider squirrel streetcar sunflower sweet_pepper table tank telephone television tiger
    tractor train trout tulip turtle wardrobe whale willow_tree wolf woman worm
"""
CLASSES = NAMES.split()
VALIDATION = [4, 7, 14, 15, 19, 26, 27, 32, 40, 47, 48, 55, 71, 73, 87, 89]
TEST = [2, 5, 8, 21, 34, 42, 46, 58, 60, 62, 69, 70, 77, 83, 84, 86, 94, 95, 98, 99]


def pixels(label, test):
    """An image as a row of CIFAR-100's files: red, green, blue."""
    return np.random.default_rng([label, test]).integers(0, 256, 3 * 32 * 32, dtype=np.uint8)


@pytest.fixture
def root(tmp_path, monkeypatch):
    """CIFAR-100's files with one image a class each; torchvision is told that they are the real ones."""
    folder = tmp_path / "cifar-100-python"
    folder.mkdir()
    for name, order in (("train", range(100)), ("test", range(99, -1, -1))):
        rows = np.stack([pixels(label, name == "test") for label in order])
        (folder / name).write_bytes(pickle.dumps({"data": rows, "fine_labels": list(order)}))
    (folder / "meta").write_bytes(pickle.dumps({"fine_label_names": CLASSES}))
    monkeypatch.setattr(CIFAR100, "_check_integrity", lambda self: True)
    monkeypatch.setattr(cifar, "check_integrity", lambda *arguments: True)
    return tmp_path


def test_each_class_is_in_its_part(root):
    data = load_cifar_fs(root)
    assert data.classes == tuple(CLASSES)
    assert sorted(data.validation.labels.tolist()) == sorted(VALIDATION * 2)
    assert sorted(data.test.labels.tolist()) == sorted(TEST * 2)
    assert sorted(data.train.labels.tolist()) == sorted([*set(range(100)) - {*VALIDATION, *TEST}] * 2)


def test_every_image_has_its_label(root):
    for part in load_cifar_fs(root)[:3]:
        assert part.images.dtype == torch.float32
        half = len(part.labels) // 2  # the training file's, then those of the other
        for i, label in enumerate(part.labels.tolist()):
            expected = torch.tensor(pixels(label, i >= half).reshape(3, 32, 32) / 255, dtype=torch.float32)
            torch.testing.assert_close(part.images[i], expected)


def test_tasks_of_colour_images(root):
    train = load_cifar_fs(root).train
    (x, y), _ = FewShotTasks(*train, ways=5, quarter_turns=True).sampler(shots=1, queries=1, seed=0).sample(3)
    assert (x.shape, y.shape) == ((3, 5, 3, 32, 32), (3, 5))
    turned = DigitTasks(*train, torch.arange(128), angles=(-30.0, 30.0))
    support, _ = TaskSampler(turned, shots=1, queries=1, seed=0).sample(4)
    assert support.shape == (4, 1, 3 * 32 * 32)


def test_without_files_nothing_is_fetched_unless_asked_for(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(CIFAR100, "download", lambda self: asked.append(self.root))
    with pytest.raises(FileNotFoundError, match=r"'cifar-fs' in .*cifar-100-python: .* or download=True"):
        load_cifar_fs(tmp_path)
    assert not asked
    with pytest.raises(RuntimeError, match="Dataset not found or corrupted"):
        load_cifar_fs(tmp_path, download=True)
    assert asked == [tmp_path]


def test_missing_package(monkeypatch, tmp_path):
    monkeypatch.setattr(optional, "find_spec", lambda _: None)
    with pytest.raises(ModuleNotFoundError, match=r"'cifar-fs' needs torchvision, .* \"pyrometa\[digits\]\""):
        load_cifar_fs(tmp_path)
