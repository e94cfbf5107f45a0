"""What is read is what was written, in types and bits."""

import json
import math
import struct
import tempfile
from collections import Counter, OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from same_bits import same

from pyrometa import saving
from pyrometa.errors import CheckpointError

DTYPES = [
    *(torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.bool, torch.uint8, torch.int8, torch.int16),
    *(torch.int32, torch.int64, torch.uint16, torch.uint64, torch.complex64, torch.complex128, torch.float8_e4m3fn),
]


def after(state):
    """The state, written and read."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "a.safetensors")
        saving.write(path, state, kind="test")
        return saving.read(path, kind="test")


@st.composite
def tensors(draw):
    shape = draw(st.lists(st.integers(0, 3), max_size=3))
    dtype = draw(st.sampled_from(DTYPES))
    size = math.prod(shape) * dtype.itemsize
    content = bytearray(draw(st.binary(min_size=size, max_size=size)))
    if dtype is torch.bool:
        content = bytearray(byte % 2 for byte in content)
    flat = torch.frombuffer(content, dtype=torch.uint8) if size else torch.empty(0, dtype=torch.uint8)
    tensor = flat.view(dtype).reshape(shape)
    return tensor.transpose(0, -1) if draw(st.booleans()) and shape else tensor


def arrays():
    dtypes = st.sampled_from(["<f8", ">f8", "<f4", "|b1", "<i8", ">u2", "<c16", "<M8[s]", "<U3"])
    shapes = st.lists(st.integers(0, 3), max_size=3)
    return st.builds(lambda dtype, shape: np.arange(math.prod(shape)).reshape(shape).astype(dtype), dtypes, shapes)


TEXTS = st.text(st.characters(categories=("L", "N", "P", "S", "Z", "C")), max_size=8)
LEAVES = st.one_of(
    *(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=True), TEXTS, tensors(), arrays()),
    st.integers(-(10**30), 10**30),
    st.builds(np.float64, st.floats()),
)
NESTS = st.recursive(
    LEAVES,
    lambda part: st.one_of(
        st.lists(part, max_size=4),
        st.lists(part, max_size=4).map(tuple),
        st.dictionaries(TEXTS | st.integers(), part, max_size=4),
        st.dictionaries(TEXTS, part, max_size=4).map(OrderedDict),
    ),
    max_leaves=12,
)


@settings(max_examples=150, deadline=None)
@given(NESTS)
def test_a_nest_comes_back_as_it_was(state):
    assert same(state, after(state))


base = torch.arange(24.0).reshape(4, 6)

TRAPS = {
    "transposed": base.T,
    "every other": base[:, ::2],
    "expanded": torch.ones(1, 3).expand(4, 3),
    "shared storage": [base, base[1], base[1:3], base],
    "scalar": torch.tensor(3.5),
    "scalar of a dtype of bytes": torch.tensor(1 + 2j, dtype=torch.complex128),
    "one with a stride": torch.zeros(2, dtype=torch.complex128)[::2],
    "conjugated": torch.tensor([1 + 2j]).conj(),
    "imaginary part": torch.tensor([1 + 2j]).conj().imag,
    "empty": (torch.empty(0, 3), torch.empty(2, 0, dtype=torch.complex128), np.empty((0, 2))),
    "nan payloads": torch.tensor([0x7FF8000000000123, -1]).view(torch.float64),
    "parts of surrogate pairs": {"\ud800": "\ud83d", "pair": "\ud83d\ude00", "joined": "😀"},
    "like the file's own words": {'"sha256":"' + "1" * 64 + '"': '\\"written\\":5,', "__metadata__": torch.ones(1)},
    "one place by two names": {"a/b": torch.ones(1), "a": {"b": torch.zeros(1)}},
    "integers and text as keys": {1: "a", "1": "b"},
    "floats that are integers": [1, 1.0, True, -0.0, 1e300, 5e-324],
    "non-finite": [math.inf, -math.inf, math.nan, struct.unpack(">d", bytes.fromhex("fff8000000000001"))[0]],
    "long integers": [2**63 - 1, 2**63, -(2**63), 3**20000],
    "fortran order": np.asfortranarray(np.arange(6.0).reshape(2, 3)),
    "arrays of strides": np.arange(12)[::-2],
    "numpy's scalars": [np.float64(0.1), np.int64(3), np.bool_(True), np.float32("nan")],
    "a scheduler's milestones": Counter({3: 1, 5: 2}),
    "nothing": None,
}


@pytest.mark.parametrize("name", TRAPS)
def test_traps(name):
    assert same(TRAPS[name], after(TRAPS[name]))


def test_what_is_compared_is_told_apart():
    nested = {"a": (torch.zeros(2), 0.0)}
    for other in ({"a": [torch.zeros(2), 0.0]}, {"a": (torch.zeros(2), -0.0)}, {"a": (-torch.zeros(2), 0.0)}):
        assert not same(nested, other)


def test_what_is_read_is_its_own():
    state = {"a": torch.zeros(2), "array": np.zeros(2)}
    found = after(state)
    found["a"] += 1
    found["array"] += 1
    assert same(state, {"a": torch.zeros(2), "array": np.zeros(2)})


def test_a_parameter_comes_back_as_a_tensor():
    found = after({"a": torch.nn.Parameter(base.clone())})["a"]
    assert type(found) is torch.Tensor
    assert not found.requires_grad


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"a": [1, {2}]}, r"^a/1 is a set: a checkpoint holds dictionaries .*numbers$"),
        (print, "^the state is a builtin_function_or_method: "),
        ({"a": {(1, 2): 3}}, r"^a has the key \(1, 2\): "),
        ({"a": torch.ones(2).to_sparse()}, "^a is a tensor of layout torch.sparse_coo"),
        ({"a": torch.ones(2, device="meta")}, "^a is a tensor of layout .* on meta"),
        ({"a": np.array([None])}, "^a is an array of dtype object"),
        ({"a": torch.Size([2])}, "^a is a Size"),
    ],
)
def test_what_no_file_holds_is_refused_by_its_place(state, message, tmp_path):
    with pytest.raises(TypeError, match=message):
        saving.write(tmp_path / "a.safetensors", state, kind="test")
    assert list(tmp_path.iterdir()) == []


def test_other_readers_see_tensors_by_their_places(tmp_path):
    saving.write(tmp_path / "a.safetensors", {"parameters": {"guide.loc": base.T}}, kind="test")
    with safe_open(tmp_path / "a.safetensors", "pt") as file:
        (name,) = file.keys()
        told = json.loads(file.metadata()["pyrometa"])
        assert same(file.get_tensor(name), base.T.contiguous())
    assert name == "0:parameters/guide.loc"
    assert (told["format"], told["kind"]) == (1, "test")
    assert told["versions"].keys() == {"python", "pyrometa", "torch", "pyro-ppl", "numpy", "safetensors"}


def test_another_kind_is_refused(tmp_path):
    saving.write(tmp_path / "a.safetensors", 1, kind="run")
    with pytest.raises(CheckpointError, match=r"a.safetensors is a checkpoint of kind 'run': give one of kind 'meta'$"):
        saving.read(tmp_path / "a.safetensors", kind="meta")
