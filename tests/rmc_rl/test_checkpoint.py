"""Checkpoints: what is saved comes back, damage is always told, and nothing in a file is ever run."""

import io
import json
import os
import pickle
import random
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3.common.save_util import save_to_zip_file
from torch import Tensor

from rmc_rl.checkpoint import FORMAT, HEADER, TENSORS, CheckpointError, load_checkpoint, save_checkpoint

DATA = {"steps": 12, "rate": 2.5e-4, "name": "ß", "nothing": None, "flag": True, "nested": {"list": [1, [2.5, "x"]]}}
DTYPES = [torch.float32, torch.float64, torch.bfloat16, torch.float16, torch.int64, torch.int8, torch.uint8, torch.bool]


def example_tensors() -> dict[str, Tensor]:
    matrix = torch.arange(15.0).view(3, 5)
    return {
        "matrix": matrix,
        "transposed": matrix.T,  # a view of the same memory, and not contiguous
        "row": matrix[1],
        "expanded": matrix[0].expand(2, 5),
        "count": torch.tensor(7),
        "empty": torch.empty(0, 4, dtype=torch.uint8),
        "parameter.with/odd name": torch.nn.Parameter(torch.ones(2)),
    }


def assert_same(actual: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert actual.keys() == expected.keys()
    for name, tensor in expected.items():
        assert actual[name].dtype == tensor.dtype
        assert actual[name].shape == tensor.shape
        assert actual[name].is_contiguous()
        assert torch.equal(actual[name], tensor)


def test_round_trip(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path / "new" / "folders" / "model", "policy", DATA, example_tensors())
    assert path == tmp_path / "new" / "folders" / "model.zip"
    for name in (path, str(path), path.with_suffix("")):
        data, tensors = load_checkpoint(name, "policy")
        assert data == DATA
        assert_same(tensors, example_tensors())
    tensors["matrix"].add_(1.0)  # they are the caller's own, to be trained on


def test_tuples_become_lists(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path / "model.ckpt", "policy", {"sizes": (3, (4,))}, {})
    assert path.name == "model.ckpt"
    assert load_checkpoint(path, "policy") == ({"sizes": [3, [4]]}, {})


tensor_strategy = st.builds(
    lambda dtype, shape, seed: torch.randint(0, 2, shape, generator=torch.Generator().manual_seed(seed)).to(dtype),
    st.sampled_from(DTYPES),
    st.lists(st.integers(0, 4), max_size=4),
    st.integers(0, 99),
)
json_strategy = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
names = st.text(st.characters(exclude_categories=["Cs"]), min_size=1).filter(lambda name: name != "__metadata__")


@settings(deadline=None, derandomize=True)
@given(data=st.dictionaries(st.text(), json_strategy, max_size=3), tensors=st.dictionaries(names, tensor_strategy))
def test_any_json_and_any_tensors_come_back(
    tmp_path_factory: pytest.TempPathFactory, data: dict[str, Any], tensors: dict[str, Tensor]
) -> None:
    path = save_checkpoint(tmp_path_factory.getbasetemp() / "property", "policy", data, tensors)
    loaded_data, loaded_tensors = load_checkpoint(path, "policy")
    assert loaded_data == data
    assert_same(loaded_tensors, tensors)


def test_equal_content_makes_equal_files(tmp_path: Path) -> None:
    paths = [save_checkpoint(tmp_path / name, "policy", DATA, example_tensors()) for name in ("a", "b")]
    assert paths[0].read_bytes() == paths[1].read_bytes()


def test_damaged_files_are_told_or_harmless(tmp_path: Path) -> None:
    """A flipped bit or a cut either leaves the content as it was or is a CheckpointError, and nothing else."""
    path = save_checkpoint(tmp_path / "model", "policy", DATA, example_tensors())
    content = path.read_bytes()
    generator = random.Random(0)
    cuts = [content[: generator.randrange(len(content))] for _ in range(100)]
    flips = [flipped(content, generator.randrange(8 * len(content))) for _ in range(500)]
    # The archive's own records stand at the end, with many a way to go wrong.
    flips += [flipped(content, 8 * (len(content) - 1 - i) + i % 8) for i in range(180)]
    rejected = 0
    for damaged in cuts + flips:
        path.write_bytes(damaged)
        try:
            data, tensors = load_checkpoint(path, "policy")
        except CheckpointError:
            rejected += 1
        else:
            assert data == DATA
            assert_same(tensors, example_tensors())
    assert rejected > 600


def flipped(content: bytes, bit: int) -> bytes:
    damaged = bytearray(content)
    damaged[bit // 8] ^= 1 << bit % 8
    return bytes(damaged)


class Bomb:
    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.mkdir, ("exploded",)


@pytest.mark.parametrize(
    "write",
    [
        lambda path: torch.save({"weights": Bomb()}, path),
        lambda path: torch.save({"weights": Bomb()}, path, _use_new_zipfile_serialization=False),
        lambda path: path.write_bytes(pickle.dumps(Bomb())),
        lambda path: save_to_zip_file(path, data={"bomb": Bomb()}, params={"policy": {}}),
    ],
    ids=["torch", "old torch", "pickle", "SB3"],
)
def test_pickles_are_never_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[Path], Any]
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "foreign.zip")
    with pytest.raises(CheckpointError, match=r"foreign\.zip: it holds pickled data, which could run any code"):
        load_checkpoint("foreign", "policy")
    assert not Path("exploded").exists()


def archive(compression: int = zipfile.ZIP_STORED, **members: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as zipped:
        for name, content in members.items():
            zipped.writestr(name, content)
    return file.getvalue()


def forged(tensors: bytes = b"\2\0\0\0\0\0\0\0{}", compression: int = zipfile.ZIP_STORED, **header: Any) -> bytes:
    """A checkpoint whose parts are legal unless given otherwise."""
    header = {"format": FORMAT, "version": 1, "rmc_rl": "9.9.9", "kind": "policy", "data": {}} | header
    return archive(compression, **{HEADER: json.dumps(header).encode(), TENSORS: tensors})


def test_the_forgery_of_these_tests_is_otherwise_legal(tmp_path: Path) -> None:
    (tmp_path / "forged.zip").write_bytes(forged())
    assert load_checkpoint(tmp_path / "forged", "policy") == ({}, {})


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "no checkpoint or a damaged one .*; load another copy"),
        (b"hello", "no checkpoint or a damaged one .*; load another copy"),
        (forged(kind="a2c"), "it holds 'a2c', not 'policy'; load it as what it is"),
        (forged(version=2), "format version 2 is newer than 1, .*; upgrade rmc-rl to '9.9.9' or later"),
        (forged(format="other"), "not the header of a checkpoint"),
        (forged(version="1"), "not the header of a checkpoint"),
        (forged(data=[]), "no kind or no data"),
        (forged(kind=3), "no kind or no data"),
        (forged(tensors=b""), "damaged one .*[hH]eader"),
        (forged(tensors=b"\xff" * 7 + b"\x7f{}"), "damaged one .*[hH]eader"),
        (forged(compression=zipfile.ZIP_DEFLATED), "must be stored without compression"),
        (forged(compression=zipfile.ZIP_LZMA, tensors=bytes(10**6)), "must be stored without compression"),
        (archive(**{HEADER: b"{}"}), r"must hold .* alone, got \['checkpoint.json'\]"),
        (archive(**{HEADER: b"{}", TENSORS: b"", "extra": b""}), "must hold .* alone, got .*'extra'"),
        (archive(**{HEADER: b"{", TENSORS: b""}), "damaged one"),
        (archive(**{HEADER: b"\xff", TENSORS: b""}), "damaged one"),
        (archive(**{HEADER: b"[]", TENSORS: b""}), "not the header of a checkpoint"),
        (archive(**{HEADER: b"[" * 10**5, TENSORS: b""}), "damaged one"),
    ],
)
def test_foreign_and_forged_files_are_told(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "model.zip"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=rf"^cannot load .*model\.zip: .*{message}"):
        load_checkpoint(path, "policy")


def test_missing_files_and_folders_are_told(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"absent\.zip: there is no such file"):
        load_checkpoint(tmp_path / "absent", "policy")
    (tmp_path / "run.1").mkdir()
    with pytest.raises(CheckpointError, match=r"run\.1: it is not a file"):
        load_checkpoint(tmp_path / "run.1", "policy")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"a": {"b": [0.0, float("inf")]}}, r"data\['a'\]\['b'\]\[1\] must be None, .* got inf"),
        ({"a": float("nan")}, r"data\['a'\] must be .* got nan"),
        ({"a": {3: "x"}}, r"data\['a'\] must have keys of type str, got 3"),
        ({"a": {1, 2}}, r"data\['a'\] must be .* got \{1, 2\}"),
    ],
)
def test_data_that_json_would_not_give_back_is_named(tmp_path: Path, data: dict[str, Any], message: str) -> None:
    with pytest.raises(CheckpointError, match=message):
        save_checkpoint(tmp_path / "model", "policy", data, {})
    assert list(tmp_path.iterdir()) == []


def test_tensors_that_cannot_be_stored_are_told(tmp_path: Path) -> None:
    for tensor in (torch.eye(3).to_sparse(), torch.ones(2, dtype=torch.complex128)):
        with pytest.raises(CheckpointError, match="tensors must be dense and of dtypes that safetensors has"):
            save_checkpoint(tmp_path / "model", "policy", {}, {"tensor": tensor})


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_failed_save_leaves_the_file_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    """Also when it is interrupted: the file has its name only once all of it is on disk."""
    path = save_checkpoint(tmp_path / "model", "policy", {"version": 1}, {})
    for error, expected in ((OSError(28, "No space left on device"), CheckpointError), (KeyboardInterrupt(), None)):

        def fail(*_: Any, error: BaseException = error) -> None:
            raise error

        with monkeypatch.context() as patch:
            patch.setattr(os, step, fail)
            with pytest.raises(expected or type(error)):
                save_checkpoint(path, "policy", {"version": 2}, {})
        assert load_checkpoint(path, "policy") == ({"version": 1}, {})
        assert list(tmp_path.iterdir()) == [path]


def test_places_that_cannot_be_written_are_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CheckpointError, match=r"cannot write .*file/model\.zip: .*; choose another place"):
        save_checkpoint(tmp_path / "file" / "model", "policy", {}, {})
    (tmp_path / "folder.zip").mkdir()
    with pytest.raises(CheckpointError, match=r"cannot write .*folder\.zip: Is a directory"):
        save_checkpoint(tmp_path / "folder", "policy", {}, {})
