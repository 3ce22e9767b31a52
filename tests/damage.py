"""Files that are damaged in many ways, for tests of what reads them."""

import io
import json
import os
import pickle
import random
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rmc_rl.checkpoint import HEADER, TENSORS

WRONG_VALUES: list[Any] = [None, True, -1, 0, 2**31, 10**12, 10**30, 0.5, -1e300, [], [[]], [10**12, "x"], {}]
WRONG_VALUES += ["", "x", "\ud800", "a\nb", {"type": "Box"}]
WRONG_TEXTS = ["NaN", "-Infinity", "1e999", "9" * 5000, "[" * 3000, '{"a": 1, "a": 2}', '{"a": ' * 200, "tru", '"\\ud8']


class Malice:
    """Its pickle makes a file when it is read."""

    def __init__(self, evidence: Path) -> None:
        self.evidence = evidence

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.mknod, (str(self.evidence),)


def archive(header: bytes, tensors: bytes) -> bytes:
    """Two members in a whole archive, as a checkpoint has them: what is wrong in them is all that is wrong."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as zipped:
        for name, content in ((HEADER, header), (TENSORS, tensors)):
            member = zipfile.ZipInfo(name)
            member.create_system = 3
            zipped.writestr(member, content)
    return file.getvalue()


def members(content: bytes) -> tuple[bytes, bytes]:
    with zipfile.ZipFile(io.BytesIO(content)) as zipped:
        return zipped.read(HEADER), zipped.read(TENSORS)


def broken(content: bytes, generator: random.Random) -> bytes:
    """With some bytes lost, added or changed: what disks and networks do."""
    place, other = sorted(generator.randrange(len(content) + 1) for _ in range(2))
    match generator.randrange(6):
        case 0:
            return content[:place]
        case 1:
            return content[:place] + content[other:] if place < other else content[:-1]
        case 2:
            return content[:place] + generator.randbytes(generator.randrange(1, 20)) + content[place:]
        case 3:
            return content[:place] + bytes(max(1, other - place)) + content[max(other, place + 1) :] + b"\1"
        case _:
            return flipped(content, generator.randrange(len(content)), generator.randrange(8))


def flipped(content: bytes, position: int, bit: int) -> bytes:
    return content[:position] + bytes([content[position] ^ 1 << bit]) + content[position + 1 :]


def with_forged_json(content: bytes, generator: random.Random, evidence: Path) -> bytes:
    """A whole archive in whose JSON, or in the place of a member, is something that somebody means."""
    header, tensors = members(content)
    match generator.randrange(4):
        case 0:
            return archive(_with_text(header, generator), tensors)
        case 1:
            return _with_pickle(header, tensors, generator, evidence)
        case _:
            return archive(_with_value(header, generator), tensors)


def with_forged_tensors(content: bytes, generator: random.Random) -> bytes:
    """A whole archive with something wrong in its safetensors."""
    header, tensors = members(content)
    forge = generator.choice([broken, _with_other_header, _with_other_header])
    return archive(header, forge(tensors, generator))


def _with_value(header: bytes, generator: random.Random) -> bytes:
    """JSON with a value replaced, lost, or doubled under another name."""
    data = json.loads(header)
    places = list(_places(data))
    parent, key = generator.choice(places)
    match generator.randrange(5):
        case 0:
            del parent[key]
        case 1:
            other, other_key = generator.choice(places)
            parent[key] = json.loads(json.dumps(other[other_key]))
        case 2 if isinstance(parent, dict):
            parent[f"{key} "] = parent[key]
        case _:
            parent[key] = generator.choice(WRONG_VALUES)
    return json.dumps(data, indent=1).encode()


def _with_text(header: bytes, generator: random.Random) -> bytes:
    """What is no JSON, or more than JSON, in the place of a value."""
    data = json.loads(header)
    parent, key = generator.choice(list(_places(data)))
    parent[key] = "HERE"
    encoding = generator.choice(["utf-8", "utf-8", "utf-8", "utf-16", "utf-32", "utf-8-sig"])
    return json.dumps(data).replace('"HERE"', generator.choice(WRONG_TEXTS), 1).encode(encoding)


def _with_other_header(tensors: bytes, generator: random.Random) -> bytes:
    """Safetensors whose names, dtypes, shapes or offsets are not what they were."""
    length = int.from_bytes(tensors[:8], "little")
    data, content = json.loads(tensors[8 : 8 + length]), tensors[8 + length :]
    if not data:
        return tensors + b"\0"
    name = generator.choice(list(data))
    match generator.randrange(7):
        case 0:
            data[f"{name}.x"] = data.pop(name)
        case 1:
            data[name]["dtype"] = generator.choice(["F16", "F64", "I64", "BOOL", "U8", "F8_E4M3", "C64", "O", None, 3])
        case 2:
            data[name]["shape"] = generator.choice([[], [-1], [2**63], [2**62, 4], [10**30], [1] * 999, "x", None])
        case 3:
            data[name]["shape"] = [*data[name]["shape"], 1]
        case 4:
            data[name]["data_offsets"] = generator.choice([[0, 0], [8, 4], [0, 2**63], [0, 10**30], [-8, 0], [1], "x"])
        case 5:
            del data[name]
        case _:
            content = generator.randbytes(len(content))
    text = json.dumps(data).encode()
    length = generator.choice([len(text)] * 7 + [2**63 - 1, 2**64 - 1, len(text) + 10**8])
    return length.to_bytes(8, "little") + text + content


def _with_pickle(header: bytes, tensors: bytes, generator: random.Random, evidence: Path) -> bytes:
    """A pickle in the place of a file, of a member, of a value, or beside all."""
    bomb = pickle.dumps(Malice(evidence), protocol=generator.randrange(6))
    match generator.randrange(5):
        case 0:
            return bomb
        case 1:
            return archive(bomb, tensors)
        case 2:
            return archive(header, bomb)
        case 3:
            data = json.loads(header)
            parent, key = generator.choice(list(_places(data)))
            parent[key] = {":type:": "object", ":serialized:": bomb.hex()}
            return archive(json.dumps(data).encode(), tensors)
        case _:
            file = io.BytesIO(archive(header, tensors))
            with zipfile.ZipFile(file, "a") as zipped:
                zipped.writestr(generator.choice(["data.pkl", "policy.pth", "data", "x", "__reduce__"]), bomb)
            return file.getvalue()


def _places(data: Any) -> Iterator[tuple[Any, Any]]:
    """Each value of a nest, as the list or dict that it is in and its key there."""
    if isinstance(data, list | dict):
        for key in range(len(data)) if isinstance(data, list) else list(data):
            yield data, key
            yield from _places(data[key])
