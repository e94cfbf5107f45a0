"""Damaged files are refused with the reason and the whole one beside them; a write that fails changes nothing."""

import hashlib
import json
import os
import re
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from pyrometa import saving
from pyrometa.errors import CheckpointError
from pyrometa.saving import frame, whole_files

STATE = {"é": torch.arange(3.0), "b": (torch.ones(2, dtype=torch.complex128), [1, 2**70, "two", 0.5])}


def written(path, state=STATE, kind="test"):
    saving.write(path, state, kind=kind)
    return path.read_bytes()


def refusal(path, kind="test"):
    """The one line by which a file is refused."""
    with pytest.raises(CheckpointError) as caught:
        saving.read(path, kind=kind)
    message = str(caught.value)
    assert message.startswith(f"{path} ")
    assert "\n" not in message
    return message.removeprefix(f"{path} ")


def test_every_length_but_the_whole_is_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    whole = written(path)
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        assert re.match(r"is truncated: it has \d+ of \d+ bytes: no whole one is beside it", refusal(path)), length


def altered(byte):
    """Another byte that JSON and hexadecimal digits mind as little as can be: a tab for a blank, an A for an a."""
    if byte == ord(" "):
        return ord("\t")
    return byte ^ 32 if chr(byte).isalpha() and byte < 128 else byte ^ 1


def test_every_flipped_byte_is_refused(tmp_path):
    """Also where JSON would not mind, as in the blanks after the header."""
    path = tmp_path / "a.safetensors"
    whole = next(data for n in range(1, 9) if b"}    " in (data := written(path, kind="k" * n)))
    reasons = set()
    for at, byte in enumerate(whole):
        path.write_bytes(whole[:at] + bytes([altered(byte)]) + whole[at + 1 :])
        reasons.add(re.split(": |, ", refusal(path))[0])
    assert reasons == {"is truncated", "is no checkpoint of pyrometa's", "was altered"}


def test_a_longer_file_is_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(written(path) + b"\0")
    assert refusal(path).startswith("was altered, as its checksum says: ")


@pytest.mark.parametrize("content", [b"a text that is long enough", b'{"json": 1}', b'{"json": 1, "more": [2, 3]}'])
def test_other_files_are_refused(content, tmp_path):
    path = tmp_path / "a.safetensors"
    path.write_bytes(content)
    assert refusal(path).startswith(("is no checkpoint of pyrometa's", "is truncated"))


def test_a_safetensors_file_of_others_is_refused(tmp_path):
    save_file({"a": torch.ones(2)}, tmp_path / "a.safetensors", metadata={"format": "pt"})
    assert refusal(tmp_path / "a.safetensors").startswith("is no checkpoint of pyrometa's, or was altered: ")


def test_a_newer_format_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(frame, "FORMAT", 2)
    written(tmp_path / "a.safetensors")
    monkeypatch.undo()
    expected = "has format 2, and this pyrometa reads up to 1: update pyrometa"
    assert refusal(tmp_path / "a.safetensors") == expected


def test_no_file_is_no_checkpoint_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.safetensors"):
        saving.read(tmp_path / "none.safetensors", kind="test")


def run_of_three(folder):
    """Three checkpoints, by names that do not tell their order, and by times of which two are lost in copying."""
    paths = [folder / f"{name}.safetensors" for name in ("b", "c", "a")]
    for i, path in enumerate(paths):
        saving.write(path, i, kind="test")
        os.utime(path, (100 - i, 100 - i))
    return paths


def cut(path):
    path.write_bytes(path.read_bytes()[:-1])


def test_the_newest_whole_one_is_found(tmp_path):
    first, second, third = run_of_three(tmp_path)
    found = saving.newest(tmp_path, kind="test")
    assert (found.path, found.state, found.refused) == (third, 2, ())
    cut(third)
    second.write_bytes(second.read_bytes().replace(b'\\"state\\":1', b'\\"state\\":7'))
    found = saving.newest(tmp_path, kind="test")
    assert (found.path, found.state) == (first, 0)
    by_third, by_second = map(str, found.refused)
    assert re.fullmatch(rf"{third} is truncated: it has \d+ of \d+ bytes", by_third)
    assert by_second == f"{second} was altered, as its checksum says"
    cut(first)
    with pytest.raises(CheckpointError, match=r"^no whole checkpoint of kind 'test' is in .*a.safet.*c.safet.*b.safet"):
        saving.newest(tmp_path, kind="test")


def test_an_empty_folder_has_none(tmp_path):
    with pytest.raises(CheckpointError, match=r"^no whole checkpoint .*: it has no \*\.safetensors file$"):
        saving.newest(tmp_path, kind="test")


def test_a_damaged_one_names_the_whole_one_beside_it(tmp_path):
    _, second, third = run_of_three(tmp_path)
    saving.write(tmp_path / "other.safetensors", 0, kind="another")
    cut(third)
    assert refusal(third).endswith(f"bytes: the newest whole one beside it is {second}")


def test_a_write_that_fails_leaves_the_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "a.safetensors"
    before = written(path)

    def interrupt(*_):
        raise KeyboardInterrupt

    for name in ("replace", "fsync"):
        with monkeypatch.context() as patched:
            patched.setattr(os, name, interrupt)
            with pytest.raises(KeyboardInterrupt):
                saving.write(path, 1, kind="test")
        assert [one.name for one in tmp_path.iterdir()] == ["a.safetensors"]
        assert path.read_bytes() == before


def test_the_folder_is_made_and_the_mode_is_the_users(tmp_path):
    path = tmp_path / "runs" / "one" / "a.safetensors"
    written(path)
    (path.parent / "other").touch()
    assert path.stat().st_mode == (path.parent / "other").stat().st_mode


def test_what_a_killed_process_left_is_removed_and_what_another_writes_is_not(tmp_path):
    left = tmp_path / f".0123{whole_files._SUFFIX}"
    left.write_bytes(b"half")
    (tmp_path / ".other.tmp").touch()
    with whole_files._temporary(tmp_path) as busy:
        written(tmp_path / "a.safetensors")
        assert {path.name for path in tmp_path.iterdir()} == {"a.safetensors", ".other.tmp", busy.name}


def test_one_that_was_taken_for_left_is_made_anew(tmp_path, monkeypatch):
    """Between its making and its locking another process may have removed it."""
    made = []

    def lock(held):
        made.append(held.name)
        if len(made) == 1:
            Path(held.name).unlink()

    monkeypatch.setattr(whole_files, "_lock", lock)
    with whole_files._temporary(tmp_path) as path:
        assert [path] == list(tmp_path.iterdir())
    assert len(made) == 2
    assert list(tmp_path.iterdir()) == []


def test_too_long_a_structure_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(frame, "LONGEST", 1000)
    written(tmp_path / "a.safetensors", "x" * 500)
    with pytest.raises(
        ValueError, match=r"besides tensors and arrays takes \d+ bytes, and 1000 is the most: hold many"
    ):
        saving.write(tmp_path / "a.safetensors", "x" * 1000, kind="test")
    assert saving.read(tmp_path / "a.safetensors", kind="test") == "x" * 500


def test_the_checksum_covers_all_but_itself(tmp_path):
    """By hand: format 1, as files of this version have to stay readable."""
    data = written(tmp_path / "a.safetensors", {"a": torch.tensor([1.5, -2.0])})
    (size,) = struct.unpack("<Q", data[:8])
    header = json.loads(data[8 : 8 + size])
    metadata = header.pop("__metadata__")
    digest = metadata["sha256"].encode()
    assert data.count(digest) == 1
    assert hashlib.sha256(data.replace(digest, b"0" * 64)).hexdigest() == metadata["sha256"]
    assert json.loads(metadata["pyrometa"])["state"] == {"dict": [["a", {"tensor": "0:a"}]]}
    assert header == {"0:a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}
    assert data[8 + size :] == struct.pack("<ff", 1.5, -2.0)
