"""Checkpoints: what is saved comes back, damage is always told, and nothing in a file is ever run."""

import io
import json
import os
import pickle
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

from rmc_rl.checkpoint import FORMAT, HEADER, TENSORS, CheckpointError, load_checkpoint, one_line, save_checkpoint

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


def archive(*members: tuple[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    """As a checkpoint's, if it is stored: without dates, and from a system of the same kind everywhere."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as zipped:
        for name, content in members:
            member = zipfile.ZipInfo(name)
            member.create_system = 3
            zipped.writestr(member, content, compression)
    return file.getvalue()


EMPTY = b"\2\0\0\0\0\0\0\0{}"  # the safetensors of no tensor


def header(**fields: Any) -> bytes:
    fields = {"format": FORMAT, "version": 1, "rmc_rl": "9.9.9", "kind": "policy", "data": {}} | fields
    return json.dumps({name: value for name, value in fields.items() if value is not ...}).encode()


def forged(tensors: bytes = EMPTY, compression: int = zipfile.ZIP_STORED, **fields: Any) -> bytes:
    """A checkpoint whose parts are legal unless given otherwise."""
    return archive((HEADER, header(**fields)), (TENSORS, tensors), compression=compression)


def with_data(text: str) -> bytes:
    """A checkpoint with this text as the JSON of its data."""
    return archive((HEADER, header(data="DATA").replace(b'"DATA"', text.encode())), (TENSORS, EMPTY))


def safetensors_of(text: str, content: bytes = b"") -> bytes:
    return len(text).to_bytes(8, "little") + text.encode() + content


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
        (forged(version="1"), "format version must be 1, got '1'; load a file saved by rmc-rl"),
        (forged(version=True), "format version must be 1, got True"),
        (forged(version=...), "format version must be 1, got None"),
        (forged(version=0), "format version 0 is older than 1, .*; load it with rmc-rl '9.9.9', which saved it"),
        (forged(version=-(10**30)), "is older than 1"),
        (forged(data=[]), "no kind or no data"),
        (forged(kind=3), "no kind or no data"),
        (forged(tensors=b""), "damaged one .*[hH]eader"),
        (forged(tensors=b"\xff" * 7 + b"\x7f{}"), "damaged one .*[hH]eader"),
        (forged(compression=zipfile.ZIP_DEFLATED), "must be stored without compression"),
        (forged(compression=zipfile.ZIP_LZMA, tensors=bytes(10**6)), "must be stored without compression"),
        (archive((HEADER, b"{}")), r"must hold .* alone, got \['checkpoint.json'\]"),
        (archive((HEADER, b"{}"), (TENSORS, EMPTY), ("extra", b"")), "must hold .* alone, got .*'extra'"),
        (archive((HEADER, header()), (TENSORS, EMPTY), ("../../evil", b"")), "must hold .* alone, got .*evil"),
        (archive((TENSORS, EMPTY), (HEADER, header())), "its archive is not as it was written"),
        (forged() + b"\0", "its archive is not as it was written"),
        (b"PK\3\4" + forged(), "its archive is not as it was written"),
        (archive((HEADER, b"{"), (TENSORS, EMPTY)), "damaged one"),
        (archive((HEADER, b"\xff"), (TENSORS, EMPTY)), "damaged one .*utf-8"),
        (archive((HEADER, header().decode().encode("utf-16")), (TENSORS, EMPTY)), "damaged one .*utf-8"),
        (archive((HEADER, b"[]"), (TENSORS, EMPTY)), "not the header of a checkpoint"),
        (archive((HEADER, b"[" * 10**5), (TENSORS, EMPTY)), "damaged one .*recursion"),
        (with_data("[" * 101 + "]" * 101), "no kind or no data"),
        (with_data('{"a": ' * 101 + "0" + "}" * 101), "must have at most 100 lists and dicts in one another"),
        (with_data('{"a": NaN}'), "must have finite numbers, got NaN"),
        (with_data('{"a": [-Infinity]}'), "must have finite numbers, got -Infinity"),
        (with_data('{"a": 1e999}'), r"data\['a'\] must be .* got inf"),
        (with_data(f'{{"a": {"9" * 5000}}}'), "damaged one .*4300"),
        (with_data('{"a": 1, "a": 1}'), "must have each key once"),
        (forged(safetensors_of('{"a":{"dtype":"F32","shape":[4],"data_offsets":[0,8]}}', bytes(8))), "damaged one"),
        (forged(safetensors_of('{"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}}', bytes(9))), "damaged one"),
        (forged(safetensors_of('{"a":{"dtype":"O","shape":[],"data_offsets":[0,8]}}', bytes(8))), "damaged one"),
        (
            forged(safetensors_of(f'{{"a":{{"dtype":"F32","shape":[{2**62}, 4],"data_offsets":[0,0]}}}}')),
            "damaged one .*",
        ),
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
    os.mkfifo(tmp_path / "pipe.1")  # to open it would be to wait for a writer
    (tmp_path / "link.1").symlink_to("pipe.1")
    for name in ("run", "pipe", "link"):
        with pytest.raises(CheckpointError, match=rf"{name}\.1: it is not a file"):
            load_checkpoint(tmp_path / f"{name}.1", "policy")
    (tmp_path / "loop.1").symlink_to("loop.1")
    for absent in ("loop.1", "nul\0.1"):
        with pytest.raises(CheckpointError, match="there is no such file"):
            load_checkpoint(tmp_path / absent, "policy")


def test_a_huge_file_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "huge.zip").open("wb") as file:
        file.write(b"PK\3\4")
        file.truncate(2**40)  # of holes
    with pytest.raises(CheckpointError, match=r"huge\.zip: it has more than 4294967295 bytes"):
        load_checkpoint(tmp_path / "huge", "policy")


def test_what_a_message_quotes_is_cut(tmp_path: Path) -> None:
    path = tmp_path / "model.zip"
    path.write_bytes(forged(kind="a\nb" * 10**5))
    with pytest.raises(CheckpointError, match="it holds") as error:
        load_checkpoint(path, "policy")
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 1000
    assert one_line("two\n  lines") == "two lines"


def deep(depth: int) -> Any:
    return [deep(depth - 1)] if depth else 0


def test_as_deep_as_can_be_saved_can_be_loaded(tmp_path: Path) -> None:
    path = save_checkpoint(tmp_path / "model", "policy", {"a": deep(99)}, {})
    assert load_checkpoint(path, "policy") == ({"a": deep(99)}, {})


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"a": {"b": [0.0, float("inf")]}}, r"data\['a'\]\['b'\]\[1\] must be None, .* got inf"),
        ({"a": float("nan")}, r"data\['a'\] must be .* got nan"),
        ({"a": {3: "x"}}, r"data\['a'\] must have keys of type str, got 3"),
        ({"a": {1, 2}}, r"data\['a'\] must be .* got \{1, 2\}"),
        ({"a": 10**5000}, "data must be JSON, got .*4300 digits"),
        ({"a": deep(100)}, "must have at most 100 lists and dicts in one another, got more"),
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
    with pytest.raises(CheckpointError, match="tensors must not be called '__metadata__'"):
        save_checkpoint(tmp_path / "model", "policy", {}, {"__metadata__": torch.ones(2)})
    assert list(tmp_path.iterdir()) == []


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
