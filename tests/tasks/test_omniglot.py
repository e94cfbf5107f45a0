import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.datasets import Omniglot

from pyrometa.tasks import DigitTasks, FewShotTasks, TaskSampler, load_omniglot, optional

BACKGROUND = {"Latin": {"character01": 3, "character02": 3}, "Greek": {"character01": 3, "character02": 3}}
EVALUATION = {"Oriya": {"character02": 3, "character01": 3}}


def drawing(folder, alphabet, character, drawer):
    """Black ink on white paper, one bit a pixel as the originals: another square for each drawing."""
    seed = [len(folder), *alphabet.encode(), *character.encode(), drawer]
    return np.random.default_rng(seed).random((105, 105)) < 0.9


@pytest.fixture
def root(tmp_path, monkeypatch):
    """Omniglot's folders with a few drawings; torchvision is told that the archives are there."""
    for folder, alphabets in (("images_background", BACKGROUND), ("images_evaluation", EVALUATION)):
        for alphabet, characters in alphabets.items():
            for character, drawers in characters.items():
                path = tmp_path / "omniglot-py" / folder / alphabet / character
                path.mkdir(parents=True)
                for drawer in reversed(range(drawers)):
                    pixels = drawing(folder, alphabet, character, drawer)
                    Image.fromarray(pixels).save(path / f"{drawer:02}.png")
    monkeypatch.setattr(Omniglot, "_check_integrity", lambda self: True)
    return tmp_path


def test_characters_are_numbered_by_name_and_the_parts_share_none(root):
    background, evaluation = load_omniglot(root)
    assert background.labels.tolist() == [0] * 3 + [1] * 3 + [2] * 3 + [3] * 3
    assert background.alphabets.tolist() == [0] * 6 + [1] * 6  # Greek before Latin
    assert evaluation.labels.tolist() == [4] * 3 + [5] * 3
    assert evaluation.alphabets.tolist() == [2] * 6
    assert background.images.shape == (12, 28, 28)
    assert background.images.dtype == torch.float32
    assert background.labels.dtype == background.alphabets.dtype == torch.int64


def test_ink_is_one_and_every_image_has_its_label(root):
    background, evaluation = load_omniglot(root, size=105)
    order = [(alphabet, character) for alphabet in ("Greek", "Latin") for character in ("character01", "character02")]
    for i, image in enumerate(background.images):
        ink = ~drawing("images_background", *order[int(background.labels[i])], i % 3)
        assert torch.equal(image, torch.from_numpy(ink).float())
    assert torch.equal(
        evaluation.images[4].bool(), torch.from_numpy(~drawing("images_evaluation", "Oriya", "character02", 1))
    )


def test_scaling_keeps_the_ink(root):
    full, small = (load_omniglot(root, size=size).background.images for size in (105, 28))
    torch.testing.assert_close(small.mean((1, 2)), full.mean((1, 2)), atol=2e-3, rtol=0)
    assert 0 <= small.min() < small.max() <= 1
    blocks = load_omniglot(root, size=1).background.images.flatten()
    assert abs(blocks - full.mean((1, 2))).max() < 0.02


def test_the_file_systems_order_does_not_matter(root, monkeypatch):
    expected = load_omniglot(root)
    monkeypatch.setattr("torchvision.datasets.omniglot.list_dir", lambda *args, **kwargs: [])
    again = load_omniglot(root)
    assert all(
        torch.equal(a, b) for one, other in zip(expected, again, strict=True) for a, b in zip(one, other, strict=True)
    )


def test_both_kinds_of_tasks(root):
    background, evaluation = load_omniglot(root)
    few_shot = FewShotTasks(background.images[:, None], background.labels, ways=5, quarter_turns=True)
    (x, _), _ = few_shot.sampler(shots=1, queries=2, seed=0).sample(3)
    assert x.shape == (3, 5, 1, 28, 28)
    everything = torch.arange(len(evaluation.labels))
    one_character = DigitTasks(evaluation.images, evaluation.labels, everything, angles=(0.0, 0.0))
    support, query = TaskSampler(one_character, shots=1, queries=2, seed=0).sample(8)
    known = evaluation.images.flatten(1)
    for task in torch.cat([support, query], 1):
        rows = [int((known - image).abs().sum(1).argmin()) for image in task]
        assert len({int(evaluation.labels[row]) for row in rows}) == 1
        assert len(set(rows)) == 3


def test_without_files(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"'omniglot' .* in .*omniglot-py: .* or download=True"):
        load_omniglot(tmp_path)


def test_a_failed_download_is_not_disguised(tmp_path, monkeypatch):
    monkeypatch.setattr(Omniglot, "download", lambda self: None)
    with pytest.raises(RuntimeError, match="Dataset not found or corrupted"):
        load_omniglot(tmp_path, download=True)


def test_bad_size(tmp_path):
    with pytest.raises(ValueError, match="size must be at least 1, got 0"):
        load_omniglot(tmp_path, size=0)
    with pytest.raises(TypeError, match="size must be an integer"):
        load_omniglot(tmp_path, size=28.0)


def test_missing_package(monkeypatch, tmp_path):
    monkeypatch.setattr(optional, "find_spec", lambda _: None)
    with pytest.raises(ModuleNotFoundError, match=r"'omniglot' needs torchvision, .* \"pyrometa\[digits\]\""):
        load_omniglot(tmp_path)
