"""Checkpoints: JSON and safetensors in one file, written whole or not at all. Nothing is ever pickled or unpickled."""

import io
import json
import math
import zipfile
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NoReturn

import safetensors.torch
import torch
from torch import Tensor

from .files import replacing

FORMAT = "rmc-rl checkpoint"
FORMAT_VERSION = 1
HEADER, TENSORS = "checkpoint.json", "tensors.safetensors"  # the members of the archive


class CheckpointError(ValueError):
    """A checkpoint cannot be written or read; one line that names the file and says what to do."""


def save_checkpoint(path: str | Path, kind: str, data: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Path:
    """Write a checkpoint: a zip file without compression, with the suffix `.zip` where `path` has none.

    The file appears under its name only when all of it is on disk; until then, one that was there before stays.
    Missing folders are made.

    Args:
        path: where to.
        kind: what is saved; `load_checkpoint` asks for the same.
        data: JSON: None, bool, int, finite float, str, and lists and str-keyed dicts of these. Tuples become lists.
        tensors: of any shape and device, and of the dtypes of safetensors; views may share memory.

    Returns:
        The file's path, with its suffix.

    Raises:
        CheckpointError: a value that is not JSON or cannot be stored, or a file that cannot be written.
    """
    path = _with_suffix(path)
    _check_json(data, "data")
    header = {
        "format": FORMAT,
        "version": FORMAT_VERSION,
        "rmc_rl": _package_version(),
        "kind": kind,
        "data": data,
    }
    members = {HEADER: json.dumps(header, indent=1).encode(), TENSORS: _serialize(tensors)}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _write(path, members)
    except OSError as error:
        raise CheckpointError(f"cannot write {path}: {error.strerror or error}; choose another place") from error
    return path


def load_checkpoint(path: str | Path, kind: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read what `save_checkpoint` wrote: its data and its tensors, on the CPU. No code in the file is ever run.

    Args:
        path: the file; the suffix `.zip` is added where there is none.
        kind: what the file must hold.

    Raises:
        CheckpointError: no such file, a damaged or foreign one, one of another kind or of a newer format.
    """
    path = _with_suffix(path)
    try:
        header, tensors = _unpack(_read(path))
        if header["kind"] != kind:
            raise CheckpointError(f"it holds {header['kind']!r}, not {kind!r}; load it as what it is")
    except CheckpointError as error:
        raise CheckpointError(f"cannot load {path}: {error}") from error.__cause__
    return header["data"], tensors


def _with_suffix(path: str | Path) -> Path:
    path = Path(path)
    return path if path.suffix else Path(f"{path}.zip")


def _package_version() -> str:
    try:
        return version("rmc-rl")
    except PackageNotFoundError:  # used from a source folder
        return "unknown"


def _check_json(value: Any, name: str) -> None:
    """Raise a CheckpointError that names the first value that JSON would not give back."""
    match value:
        case None | bool() | int() | str():
            pass
        case float() if math.isfinite(value):
            pass
        case list() | tuple():
            for i, item in enumerate(value):
                _check_json(item, f"{name}[{i}]")
        case Mapping():
            for key, item in value.items():
                if not isinstance(key, str):
                    raise CheckpointError(f"{name} must have keys of type str, got {key!r}")
                _check_json(item, f"{name}[{key!r}]")
        case _:
            raise CheckpointError(f"{name} must be None, bool, int, finite float, str, list or dict, got {value!r}")


def _serialize(tensors: Mapping[str, Tensor]) -> bytes:
    try:
        # Copies, since safetensors takes neither views that share memory nor those that are not contiguous.
        copies = {
            name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()
        }
        return safetensors.torch.save(copies)
    except (KeyError, RuntimeError) as error:
        raise CheckpointError(f"tensors must be dense and of dtypes that safetensors has, got {error}") from error


def _write(path: Path, members: Mapping[str, bytes]) -> None:
    """Write an archive beside `path`, wait until it is on disk, and only then give it the name."""
    with replacing(path) as file, zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, content in members.items():
            archive.writestr(zipfile.ZipInfo(name), content)  # without a date: equal content, equal files


def _read(path: Path) -> bytes:
    try:
        if not path.exists():
            raise CheckpointError("there is no such file; check the path")
        if not path.is_file():
            raise CheckpointError("it is not a file; name the checkpoint in it")
        return path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{error.strerror or error}; check the path and its permissions") from error


def _unpack(content: bytes) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Header and tensors of an archive."""
    if content[:1] == b"\x80":  # how every pickle of protocol 2 and later begins
        _reject_pickle()
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            _check_members(archive.infolist(), len(content))
            header, tensors = archive.read(HEADER), archive.read(TENSORS)  # checks their CRC
        return _parse_header(header), safetensors.torch.load(tensors)
    except CheckpointError:
        raise
    except Exception as error:  # what zipfile, json and safetensors raise on damaged input is of many kinds
        reason = str(error) or type(error).__name__
        raise CheckpointError(f"it is no checkpoint or a damaged one ({reason}); load another copy") from error


def _check_members(members: list[zipfile.ZipInfo], file_size: int) -> None:
    names = sorted(member.filename for member in members)
    if any(name == "data" or name.endswith((".pkl", ".pth", ".pt")) for name in names):
        _reject_pickle()
    if names != [HEADER, TENSORS]:
        raise CheckpointError(f"it must hold {HEADER} and {TENSORS} alone, got {names}; load a file saved by rmc-rl")
    for member in members:
        stored = member.compress_type == zipfile.ZIP_STORED and member.file_size == member.compress_size
        if not stored or member.file_size > file_size:
            raise CheckpointError(f"{member.filename} must be stored without compression; load the file as saved")


def _reject_pickle() -> NoReturn:
    raise CheckpointError(
        "it holds pickled data, which could run any code and is never loaded; load a file saved by rmc-rl"
    )


def _parse_header(content: bytes) -> dict[str, Any]:
    header = json.loads(content)
    if not isinstance(header, dict) or header.get("format") != FORMAT or not isinstance(header.get("version"), int):
        raise CheckpointError(f"{HEADER} is not the header of a checkpoint; load a file saved by rmc-rl")
    if header["version"] > FORMAT_VERSION:
        raise CheckpointError(
            f"format version {header['version']} is newer than {FORMAT_VERSION}, the newest known here; "
            f"upgrade rmc-rl to {header.get('rmc_rl')!r} or later"
        )
    if not isinstance(header.get("kind"), str) or not isinstance(header.get("data"), dict):
        raise CheckpointError(f"{HEADER} has no kind or no data; load another copy")
    return header
