"""safetensors as a stream: header first, then one tensor at a time, both ways.

The safetensors library wants a whole file or buffer; an update is decrypted chunk by chunk and
may never touch a disk in the clear, and an aggregate is written while it is computed. What is
written here loads in the library, byte for byte (https://github.com/huggingface/safetensors,
"Format"); tensors lie in name order without gaps, which makes the bytes canonical.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import IO, Protocol

import ml_dtypes
import numpy as np

from federation.errors import AdapterError, StorageError

MAX_HEADER = 1 << 20
"""Largest header accepted, in bytes, where no schema says how long it is; not parsed before."""

DTYPES: dict[str, np.dtype] = {
    "F32": np.dtype(np.float32),
    "BF16": np.dtype(ml_dtypes.bfloat16),
    "F16": np.dtype(np.float16),
}
CODED_DTYPES: dict[str, np.dtype] = {**DTYPES, "I8": np.dtype(np.int8)}
"""What a codec writes (federation.codec): an adapter itself never holds integers."""

_NAMES = {dtype: name for name, dtype in CODED_DTYPES.items()}


class Readable(Protocol):
    """A stream of bytes: ``read(n)`` gives n bytes, fewer only at the end."""

    def read(self, n: int, /) -> bytes | memoryview:
        """Up to ``n`` bytes."""


class Pieces:
    """Bytes that come in pieces, as a stream: what lies in one piece is read without a copy."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = iter(pieces)
        self._left = memoryview(b"")

    def read(self, n: int, /) -> bytes | memoryview:
        """``n`` bytes, fewer only at the end; a view keeps its piece in memory."""
        taken = []
        while n > len(self._left):
            if self._left:
                taken.append(self._left)
                n -= len(self._left)
            piece = next(self._pieces, None)
            self._left = memoryview(piece or b"")
            if piece is None:
                return b"".join(taken)
        last, self._left = self._left[:n], self._left[n:]
        return b"".join((*taken, last)) if taken else last


@dataclass(frozen=True)
class TensorInfo:
    """Where one tensor lies: name, dtype and shape; ``size`` in bytes."""

    name: str
    dtype: np.dtype
    shape: tuple[int, ...]

    @cached_property
    def size(self) -> int:
        """Length of the tensor's data in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize


def _read_exactly(source: Readable, n: int, what: str) -> bytes | memoryview:
    data = source.read(n)
    if len(data) != n:
        raise _ends_inside(what)
    return data


def _ends_inside(what: str) -> AdapterError:
    return AdapterError(f"The safetensors data ends inside {what}.")


def _parse_entry(
    name: str, entry: object, dtypes: Mapping[str, np.dtype]
) -> tuple[int, int, TensorInfo]:
    if not isinstance(entry, dict) or entry.keys() != {
        "dtype",
        "shape",
        "data_offsets",
    }:
        raise AdapterError(f"The safetensors header's entry {name!r} is malformed.")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in dtypes:
        raise AdapterError(f"Tensor {name!r} has dtype {dtype!r}; allowed are {', '.join(dtypes)}.")
    for numbers in (shape, offsets):
        if not isinstance(numbers, list) or not all(
            type(x) is int and 0 <= x < 1 << 40 for x in numbers
        ):
            raise AdapterError(f"Tensor {name!r} has a malformed shape or offset.")
    if len(shape) > 8 or len(offsets) != 2:
        raise AdapterError(f"Tensor {name!r} has a malformed shape or offset.")
    return offsets[0], offsets[1], TensorInfo(name, dtypes[dtype], tuple(shape))


def _no_duplicate_keys(pairs: list[tuple[str, object]]) -> dict[str, object]:
    if len({key for key, _ in pairs}) != len(pairs):
        raise AdapterError("The safetensors header names a tensor twice.")
    return dict(pairs)


def read_header(source: Readable) -> list[TensorInfo]:
    """Read and check an adapter's header; the tensors in the order of their data, gapless from 0.

    Raises AdapterError on one of more than ``MAX_HEADER`` bytes, and as ``parse_header`` does.
    """
    return parse_header(read_header_text(source))


def read_header_text(source: Readable, longest: int = MAX_HEADER) -> bytes:
    """The header's JSON, not looked at. Raises AdapterError beyond ``longest`` bytes."""
    length = int.from_bytes(_read_exactly(source, 8, "the header's length"), "little")
    if length > longest:
        raise AdapterError(f"The safetensors header has {length} bytes, more than {longest}.")
    return bytes(_read_exactly(source, length, "the header"))


def parse_header(raw: bytes, dtypes: Mapping[str, np.dtype] = DTYPES) -> list[TensorInfo]:
    """What a header says, checked; the tensors in the order of their data, gapless from 0.

    Raises AdapterError on a header that is not JSON, with gaps, overlaps, other dtypes than
    ``dtypes`` or sizes that do not match the shapes.
    """
    try:
        parsed = json.loads(raw, object_pairs_hook=_no_duplicate_keys)
    except (ValueError, RecursionError) as error:
        raise AdapterError("The safetensors header is not JSON.") from error
    if not isinstance(parsed, dict):
        raise AdapterError("The safetensors header is not a JSON object.")
    entries = sorted(
        (
            _parse_entry(name, entry, dtypes)
            for name, entry in parsed.items()
            if name != "__metadata__"
        ),
        key=lambda entry: entry[:2],
    )
    position = 0
    for start, end, info in entries:
        if start != position or end - start != info.size:
            raise AdapterError(f"Tensor {info.name!r} does not lie where its shape puts it.")
        position = end
    return [info for _, _, info in entries]


def read_tensors(source: Readable, infos: Iterable[TensorInfo]) -> Iterator[tuple[str, np.ndarray]]:
    """The tensors that follow a header, one at a time, then a check that nothing follows.

    A tensor that the reader has dropped is not kept here either.
    """
    for info in infos:
        yield info.name, _tensor(source, info)
    if source.read(1):
        raise AdapterError("Bytes follow the last tensor.")


def _tensor(source: Readable, info: TensorInfo) -> np.ndarray:
    data = source.read(info.size)
    if len(data) != info.size:
        raise _ends_inside(f"tensor {info.name!r}")
    return np.ndarray(info.shape, info.dtype, data)


class TensorFile(Mapping[str, np.ndarray]):
    """The tensors of a safetensors file by name, each read when it is asked for.

    The file is open only meanwhile, so that any number of streams may look something up in turn;
    the tensor read last is kept, since the updates of all hospitals ask for the same one in turn.
    Raises StorageError where it cannot be read, AdapterError where it is not safetensors.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._places: dict[str, tuple[int, TensorInfo]] = {}
        self._last: tuple[str, np.ndarray] | None = None
        with _readable(path), path.open("rb") as file:
            infos = read_header(file)
            position = file.tell()
        for info in infos:
            self._places[info.name] = position, info
            position += info.size

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Tensor name -> shape."""
        return {name: info.shape for name, (_, info) in self._places.items()}

    def __getitem__(self, name: str) -> np.ndarray:
        last = self._last
        if last is not None and last[0] == name:
            return last[1]
        position, info = self._places[name]
        with _readable(self._path), self._path.open("rb") as file:
            file.seek(position)
            tensor = _tensor(file, info)
        self._last = name, tensor
        return tensor

    def __contains__(self, name: object) -> bool:
        return name in self._places

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(
            f"The adapter {path} cannot be read: {error.strerror}.",
            hint="Check that disk; at the coordinator, restore the adapters folder from a backup.",
        ) from error


def header_bytes(shapes: Mapping[str, tuple[int, ...]], dtype: np.dtype) -> bytes:
    """The canonical header for tensors of one dtype in name order, padded to 8 bytes."""
    return header_of(TensorInfo(name, dtype, shapes[name]) for name in sorted(shapes))


def header_of(infos: Iterable[TensorInfo]) -> bytes:
    """The canonical header for tensors that lie in this order, which is that of their names."""
    entries: dict[str, object] = {}
    position = 0
    for info in infos:
        entries[info.name] = {
            "dtype": _NAMES[info.dtype],
            "shape": list(info.shape),
            "data_offsets": [position, position + info.size],
        }
        position += info.size
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text


def write_tensors(
    target: IO[bytes],
    shapes: Mapping[str, tuple[int, ...]],
    tensors: Iterable[tuple[str, np.ndarray]],
    dtype: np.dtype = DTYPES["F32"],
) -> None:
    """Write header and tensors; ``tensors`` must come in name order with the shapes announced."""
    target.write(header_bytes(shapes, dtype))
    expected = iter(sorted(shapes.items()))
    for name, tensor in tensors:
        if (name, tensor.shape) != next(expected, None):
            raise AdapterError(f"Tensor {name!r} {tensor.shape} is out of order or mis-shaped.")
        target.write(np.ascontiguousarray(tensor, dtype=dtype).tobytes())
    if (left := next(expected, None)) is not None:
        raise AdapterError(f"Tensor {left[0]!r} was announced but not written.")
