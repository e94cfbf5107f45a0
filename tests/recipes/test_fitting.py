"""A value of a recipe as an argument of a type."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, Optional

import pytest
import torch

from pyrometa.recipes.fitting import Unfit, fitted
from pyrometa.train.callbacks import Callback

NUMBERS = float | Mapping[str, float]


def here(path):
    return f"<{path}>"


@pytest.mark.parametrize(
    ("value", "hint", "result"),
    [
        (3, int, 3),
        (3, float, 3),
        (0.5, float | torch.Tensor, 0.5),
        (True, bool | Literal["auto"], True),
        ("auto", bool | Literal["auto"], "auto"),
        ("text", str, "text"),
        (3, Optional[int], 3),  # noqa: UP045 -- as older programs write it
        ([1, 2], tuple[int, int], (1, 2)),
        ([0.5, 0.9, 1], tuple[float, ...], (0.5, 0.9, 1)),
        ([], tuple[float, ...], ()),
        (["mean", "sd"], Sequence[str], ["mean", "sd"]),
        ("jsonl", str | Sequence[str], "jsonl"),
        ({"a": 0.1}, NUMBERS, {"a": 0.1}),
        ("m:f", Callable[[int], int] | None, "<m:f>"),
        (["m:f"], Sequence[Callback | Callable[[int], bool]], ["<m:f>"]),
        ("guide.*", str | Sequence[str] | Callable[[str], bool], "guide.*"),
        ({"any": 1}, Any, {"any": 1}),
    ],
)
def test_what_fits_is_given_as_the_type_has_it(value, hint, result):
    made = fitted(value, hint, here)
    assert made == result
    assert type(made) is type(result)


@pytest.mark.parametrize(
    ("value", "hint", "words"),
    [
        (True, int, "a whole number"),
        (True, float, "a number"),
        (1, bool, "true or false"),
        (3, str, "text"),
        ("3", int | None, "a whole number"),
        (1, Literal["a", "b"], "'a' or 'b'"),
        (1, Literal[True, "a"], "True or 'a'"),
        ([1, 2, 3], tuple[int, int], "an array of 2"),
        ([1, "a"], tuple[int, ...], "a whole number"),
        (3, tuple[float, ...], "an array of numbers"),
        (3, str | Sequence[str], "text or an array of texts"),
        ("a", NUMBERS, "a number or a table"),
        ({"a": "b"}, NUMBERS, "a number or a table"),
        (3, Callable[[int], int] | None, "an import path such as 'module:name'"),
        ("a", float | torch.Tensor, "a number"),
    ],
)
def test_what_does_not_fit_is_told_in_words(value, hint, words):
    with pytest.raises(Unfit) as error:
        fitted(value, hint, here)
    assert str(error.value) == words
