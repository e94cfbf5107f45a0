import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import TensorDataset

from pyrometa.tasks import stack_images

GREY = np.arange(6, dtype=np.uint8).reshape(2, 3) * 51
COLOR = np.stack([GREY, GREY // 3, GREY // 5], -1)


@pytest.mark.parametrize(
    ("image", "expected"),
    [
        (Image.fromarray(GREY), GREY / 255),
        (Image.fromarray(COLOR), COLOR.transpose(2, 0, 1) / 255),
        (Image.fromarray(GREY > 100), GREY > 100),
        (GREY, GREY / 255),
        (GREY / 255, GREY / 255),
        (torch.from_numpy(COLOR.transpose(2, 0, 1).copy()), COLOR.transpose(2, 0, 1) / 255),
        (torch.from_numpy(GREY / 255), GREY / 255),
    ],
)
def test_pixels(image, expected):
    images, labels = stack_images([(image, 4), (image, np.int64(7))])
    torch.testing.assert_close(images, torch.from_numpy(np.array([expected] * 2)).float())
    assert images.dtype == torch.float32
    assert labels.tolist() == [4, 7]
    assert labels.dtype == torch.int64


def test_rows_keep_the_datasets_order():
    pixels, classes = torch.rand(9, 1, 4, 4), torch.randint(5, (9,))
    images, labels = stack_images(TensorDataset(pixels, classes))
    assert torch.equal(images, pixels)
    assert torch.equal(labels, classes)


def test_bad_datasets():
    with pytest.raises(ValueError, match="the dataset is empty"):
        stack_images([])
    with pytest.raises(ValueError, match=r"image 1 has shape \(3, 2\) and image 0 has \(2, 3\): resize"):
        stack_images([(GREY, 0), (GREY.T, 0)])
