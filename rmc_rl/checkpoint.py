"""Checkpoints: JSON and safetensors in one file, written whole or not at all. Nothing is ever pickled or unpickled."""

import io
import json
import math
import zipfile
from collections.abc import Iterator, Mapping
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
MAX_SIZE = 2**32 - 1
"""Bytes: what an archive holds without extensions."""
MAX_DEPTH = 100
"""Of lists and dicts in one another: far more than any data of ours has, and far less than Python's recursion limit."""
MAX_REASON = 500
"""Characters: a reason may quote the file, and a file may hold anything."""


class CheckpointError(ValueError):
    """A checkpoint cannot be written or read; one line that names the file and says what to do."""


class PickledFileError(CheckpointError):
    """A file that is refused because it holds pickled data, whatever they are."""


def save_checkpoint(path: str | Path, kind: str, data: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Path:
    """Write a checkpoint: a zip file without compression, with the suffix `.zip` where `path` has none.

    The file appears under its name only when all of it is on disk; until then, one that was there before stays.
    Missing folders are made.

    Args:
        path: where to.
        kind: what is saved; `load_checkpoint` asks for the same.
        data: JSON: None, bool, int, finite float, str, and lists and str-keyed dicts of these, at most 100 in one
            another. Tuples become lists.
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
    archive = _pack(_dump(header), _serialize(tensors))
    if len(archive) > MAX_SIZE:
        raise CheckpointError(f"a checkpoint must be at most {MAX_SIZE} bytes, got {len(archive)}: store fewer tensors")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with replacing(path) as file:
            file.write(archive)
    except OSError as error:
        raise CheckpointError(f"cannot write {path}: {error.strerror or error}; choose another place") from error
    return path


def load_checkpoint(path: str | Path, kind: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Read what `save_checkpoint` wrote: its data and its tensors, on the CPU. No code in the file is ever run.

    Args:
        path: the file; the suffix `.zip` is added where there is none.
        kind: what the file must hold.

    Raises:
        CheckpointError: no such file, a damaged or foreign one, one of another kind or of another format version; a
            PickledFileError for one that holds pickled data. A single byte that is not as it was written is damage.
    """
    path = _with_suffix(path)
    try:
        header, tensors = _unpack(_read(path))
        if header["kind"] != kind:
            raise CheckpointError(f"it holds {header['kind']!r}, not {kind!r}; load it as what it is")
    except CheckpointError as error:
        raise type(error)(f"cannot load {path}: {one_line(error)}") from error.__cause__
    return header["data"], tensors


def tensor_group(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The tensors whose names begin with the prefix, without it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def one_line(reason: object) -> str:
    """A reason that may quote foreign text, for a message: without line breaks, and cut if it is long."""
    text = " ".join(str(reason).split())
    return text if len(text) <= MAX_REASON else f"{text[:MAX_REASON]}..."


def _with_suffix(path: str | Path) -> Path:
    path = Path(path)
    return path if path.suffix else Path(f"{path}.zip")


def _package_version() -> str:
    try:
        return version("rmc-rl")
    except PackageNotFoundError:  # used from a source folder
        return "unknown"


def json_leaves(value: Any, name: str, depth: int = 0) -> Iterator[tuple[str, Any]]:
    """What stands in lists, and in dicts with keys of type str, by its name. What is no JSON is a leaf like any other.

    Raises:
        CheckpointError: they stand too deep in one another.
    """
    if depth > MAX_DEPTH:
        raise CheckpointError(f"data must have at most {MAX_DEPTH} lists and dicts in one another, got more")
    match value:
        case list() | tuple():
            for i, item in enumerate(value):
                yield from json_leaves(item, f"{name}[{i}]", depth + 1)
        case dict() if all(isinstance(key, str) for key in value):
            for key, item in value.items():
                yield from json_leaves(item, f"{name}[{key!r}]", depth + 1)
        case _:
            yield name, value


def is_json_leaf(value: Any) -> bool:
    """Whether JSON gives back what is no list and no dict."""
    return value is None or isinstance(value, int | str) or (isinstance(value, float) and math.isfinite(value))


def _check_json(data: Any, name: str) -> None:
    """Raise a CheckpointError that names the first value that JSON would not give back."""
    for place, leaf in json_leaves(data, name):
        if isinstance(leaf, dict):
            other = next(key for key in leaf if not isinstance(key, str))
            raise CheckpointError(f"{place} must have keys of type str, got {other!r}")
        if not is_json_leaf(leaf):
            raise CheckpointError(f"{place} must be None, bool, int, finite float, str, list or dict, got {leaf!r}")


def _dump(header: Mapping[str, Any]) -> bytes:
    try:
        return json.dumps(header, indent=1).encode()
    except ValueError as error:  # an integer of thousands of digits
        raise CheckpointError(f"data must be JSON, got {error}") from error


def _serialize(tensors: Mapping[str, Tensor]) -> bytes:
    if "__metadata__" in tensors:  # safetensors has a meaning of its own for it, and would not load the file
        raise CheckpointError("tensors must not be called '__metadata__': give it another name")
    try:
        # Copies, since safetensors takes neither views that share memory nor those that are not contiguous.
        copies = {
            name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()
        }
        return safetensors.torch.save(copies)
    except (KeyError, RuntimeError) as error:
        raise CheckpointError(f"tensors must be dense and of dtypes that safetensors has, got {error}") from error


def _pack(header: bytes, tensors: bytes) -> bytes:
    """The archive of two members. The same content always makes the same bytes, so that any others are damage."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, content in ((HEADER, header), (TENSORS, tensors)):
            member = zipfile.ZipInfo(name)  # without a date
            member.create_system = 3  # whatever the system
            archive.writestr(member, content)
    return file.getvalue()


def _read(path: Path) -> bytes:
    try:
        if not path.exists():
            raise CheckpointError("there is no such file; check the path")
        if not path.is_file():  # a pipe would be waited for
            raise CheckpointError("it is not a file; name the checkpoint in it")
        with path.open("rb") as file:
            start = file.read(4)
            if start[:1] == b"\x80":  # how every pickle of protocol 2 and later begins
                _reject_pickle()
            if start != b"PK\3\4":
                raise CheckpointError("it is no checkpoint or a damaged one (not an archive); load another copy")
            if path.stat().st_size > MAX_SIZE:
                raise CheckpointError(f"it has more than {MAX_SIZE} bytes, which no checkpoint has; load another copy")
            return start + file.read()
    except OSError as error:
        raise CheckpointError(f"{error.strerror or error}; check the path and its permissions") from error


def _unpack(content: bytes) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Header and tensors of an archive."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            _check_members(archive.infolist(), len(content))
            header, tensors = archive.read(HEADER), archive.read(TENSORS)  # checks their CRC
        if _pack(header, tensors) != content:
            raise CheckpointError("its archive is not as it was written; load another copy")
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
    raise PickledFileError(
        "it holds pickled data, which could run any code and is never loaded unless trusted; "
        "load a file saved by rmc-rl"
    )


def _parse_header(content: bytes) -> dict[str, Any]:
    header = json.loads(content.decode(), parse_constant=_reject_constant, object_pairs_hook=_unique)
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise CheckpointError(f"{HEADER} is not the header of a checkpoint; load a file saved by rmc-rl")
    _check_version(header.get("version"), header.get("rmc_rl"))
    if not isinstance(header.get("kind"), str) or not isinstance(header.get("data"), dict):
        raise CheckpointError(f"{HEADER} has no kind or no data; load another copy")
    _check_json(header["data"], "data")  # a number may be too large for a float, and become infinite
    return header


def _check_version(version: Any, package: Any) -> None:
    if type(version) is not int:
        raise CheckpointError(f"format version must be {FORMAT_VERSION}, got {version!r}; load a file saved by rmc-rl")
    if version > FORMAT_VERSION:
        raise CheckpointError(
            f"format version {version} is newer than {FORMAT_VERSION}, the newest known here; "
            f"upgrade rmc-rl to {package!r} or later"
        )
    if version < FORMAT_VERSION:
        raise CheckpointError(
            f"format version {version} is older than {FORMAT_VERSION}, the oldest known here; "
            f"load it with rmc-rl {package!r}, which saved it"
        )


def _reject_constant(name: str) -> NoReturn:
    raise CheckpointError(f"{HEADER} must have finite numbers, got {name}; load another copy")


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    result = dict(pairs)
    if len(result) < len(pairs):
        raise CheckpointError(f"{HEADER} must have each key once, got one twice; load another copy")
    return result
