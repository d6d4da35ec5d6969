"""How an update's tensors are written inside the envelope, as streams.

    fp32   the factors themselves, 4 bytes a value
    bf16   their change from the round's parent adapter, 2 bytes a value
    int8   the same change, 1 byte a value and a float32 scale for each of the rank's components:
           a row of A, a column of B (coded as a row: I8 of shape (rank, out) beside F32 of (rank,))

All are safetensors in name order; bf16 and int8 lie in one zstd frame (RFC 8878). A change is small
beside its factor, so that one byte says more of it. Where an update's rank is not the schema's
there is no parent of its shape: then the factors themselves are coded.

What coding loses of a change is given back by ``encode``. A hospital that adds it to its next
change (error feedback: Seide et al. 2014; Karimireddy et al., arXiv 1901.09847) has sent the truth
in the sum over rounds, but for the last rest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import IO, cast

import numpy as np
import zstandard

from federation.adapter import AdapterSchema, Factors, check_layout, checked_tensors
from federation.errors import AdapterError
from federation.messages import Codec
from federation.tensors import (
    CODED_DTYPES,
    MAX_HEADER,
    Readable,
    TensorInfo,
    header_of,
    parse_header,
    read_header_text,
    read_tensors,
)

_Tensors = Iterator[tuple[str, np.ndarray]]

_SCALE = ".scale"
_LARGEST_CODE = 127
_SMALLEST_SCALE = np.finfo(np.float32).tiny
_WINDOW_LOG = 17
"""128 KiB: values do not repeat, and an aggregation has a window of each hospital open at once."""

_COMPRESSION = zstandard.ZstdCompressionParameters.from_level(1, window_log=_WINDOW_LOG)
"""Level 1: higher ones find nothing more in such values. No checksum: the header has a digest."""

_SOURCE_CHUNK = 16 << 10


def reference(
    codec: Codec, schema: AdapterSchema, rank: int, parent: Mapping[str, np.ndarray]
) -> Mapping[str, np.ndarray]:
    """What an update of this rank is coded as the change from: the parent adapter, or nothing."""
    return parent if codec != "fp32" and rank == schema.rank else {}


@dataclass(frozen=True)
class _Layout:
    """What is written for tensors of some shapes: in name order, with ``length`` bytes in all."""

    infos: tuple[TensorInfo, ...]
    header: bytes
    length: int


def _layout(codec: Codec, shapes: Mapping[str, tuple[int, ...]]) -> _Layout:
    return _layout_of(codec, tuple(sorted(shapes.items())))


@lru_cache(maxsize=8)  # one for all hospitals of a round: its list of tensors is shared
def _layout_of(codec: Codec, shapes: tuple[tuple[str, tuple[int, ...]], ...]) -> _Layout:
    infos: list[TensorInfo] = []
    for name, shape in shapes:
        if codec != "int8":
            dtype = CODED_DTYPES["F32" if codec == "fp32" else "BF16"]
            infos.append(TensorInfo(name, dtype, shape))
        else:
            rows, columns = _components(name, shape)
            infos.append(TensorInfo(name, CODED_DTYPES["I8"], (rows, columns)))
            infos.append(TensorInfo(name + _SCALE, CODED_DTYPES["F32"], (rows,)))
    header = header_of(infos)
    return _Layout(tuple(infos), header, len(header) + sum(info.size for info in infos))


def _is_b(name: str) -> bool:
    return ".lora_B." in name


def _components(name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    return shape[::-1] if _is_b(name) else shape


def largest_payload(codec: Codec, schema: AdapterSchema, factors: Factors) -> int:
    """Bytes that ``encode`` writes at most for an update of the schema's rank."""
    plain = _layout(codec, schema.shapes(factors)).length
    if codec == "fp32":
        return plain
    # What cannot be compressed is stored: 3 bytes for each block of 128 KiB; RFC 8878, 3.1.1.
    return plain + 3 * (plain // (1 << _WINDOW_LOG) + 1) + 32


def encode(
    target: IO[bytes],
    codec: Codec,
    shapes: Mapping[str, tuple[int, ...]],
    tensors: _Tensors,
    since: Mapping[str, np.ndarray],
) -> _Tensors:
    """Write float32 tensors that come in name order; yields what coding lost of each.

    Coded is their change from ``since``, which ``reference`` gives. Nothing is written but by
    reading what this yields. The same values give the same bytes, with one release of zstd. Raises
    AdapterError for a value that is not finite and for tensors other than ``shapes`` announce.
    """
    layout = _layout(codec, shapes)
    changes = _joined(tensors, since, np.subtract)
    if codec == "fp32":
        yield from _write(target.write, codec, layout, changes)
        return
    compressor = zstandard.ZstdCompressor(compression_params=_COMPRESSION)
    frame = compressor.compressobj(size=layout.length)
    yield from _write(lambda part: target.write(frame.compress(part)), codec, layout, changes)
    target.write(frame.flush())


def _joined(tensors: _Tensors, others: Mapping[str, np.ndarray], join: np.ufunc) -> _Tensors:
    def joined(entry: tuple[str, np.ndarray]) -> tuple[str, np.ndarray]:
        name, tensor = entry
        if name not in others:
            return entry
        # What gets too large is refused as not finite by whoever reads it.
        with np.errstate(over="ignore", invalid="ignore"):
            return name, join(tensor, others[name])

    # Not a loop, here and below: its variables would keep each hospital's last tensor.
    return map(joined, tensors)


def _write(
    write: Callable[[bytes], object],
    codec: Codec,
    layout: _Layout,
    changes: _Tensors,
) -> _Tensors:
    write(layout.header)
    announced = iter(layout.infos)
    for name, change in checked_tensors(changes):
        coded = _coded(codec, name, change)
        for part in coded:
            info = next(announced, None)
            if info is None or not info.name.startswith(name) or info.shape != part.shape:
                raise AdapterError(f"Tensor {name!r} {change.shape} is out of order or mis-shaped.")
            write(part.tobytes())
        yield name, change - _value(codec, name, coded)
    if (left := next(announced, None)) is not None:
        raise AdapterError(f"Tensor {left.name!r} was announced but not written.")


def _coded(codec: Codec, name: str, tensor: np.ndarray) -> list[np.ndarray]:
    if codec != "int8":
        return [tensor.astype(CODED_DTYPES["F32" if codec == "fp32" else "BF16"])]
    rows = np.ascontiguousarray(tensor.T if _is_b(name) else tensor)
    # The smallest normal number keeps a row of zeros, or of nearly that, from a division by zero.
    largest = np.abs(rows).max(axis=1, initial=0.0)
    scales = np.maximum(largest / np.float32(_LARGEST_CODE), _SMALLEST_SCALE)
    codes = np.rint(rows / scales[:, None]).clip(-_LARGEST_CODE, _LARGEST_CODE)
    return [codes.astype(np.int8), scales]


def _value(codec: Codec, name: str, coded: list[np.ndarray]) -> np.ndarray:
    """The float32 tensor that was coded. Raises AdapterError for codes and scales out of bounds."""
    if codec != "int8":
        return coded[0].astype(np.float32, copy=False)
    codes, scales = coded
    if not (np.isfinite(scales).all() and (scales > 0).all()):
        raise AdapterError(f"The scales of tensor {name!r} are not all finite and above zero.")
    if (codes < -_LARGEST_CODE).any():
        raise AdapterError(f"Tensor {name!r} holds the code -128, which int8 does not use.")
    with np.errstate(over="ignore"):
        rows = codes.astype(np.float32) * scales[:, None]
    return np.ascontiguousarray(rows.T) if _is_b(name) else rows


def decode(
    source: Readable,
    codec: Codec,
    shapes: Mapping[str, tuple[int, ...]],
    since: Mapping[str, np.ndarray],
) -> _Tensors:
    """What ``encode`` was given, float32 in name order, but for what coding lost.

    No more is expanded than the shapes need, a tensor at a time. The header is read at once: raises
    AdapterError for tensors that are not those of ``shapes`` as this codec writes them; while
    iterating also for damage, values out of bounds, and bytes that follow. Values may not be
    finite: ``federation.adapter.checked_tensors`` is for that.
    """
    layout = _layout(codec, shapes)
    if codec != "fp32":
        source = _Expanded(source, layout.length)
    # With a scale for each tensor it may be longer than that of any adapter.
    text = read_header_text(source, max(MAX_HEADER, len(layout.header)))
    if text != layout.header[8:]:
        # Only now is it worth looking what it says, or what is wrong with it.
        _check_header(codec, parse_header(text, CODED_DTYPES), layout.infos)
    return _joined(_values(codec, read_tensors(source, layout.infos)), since, np.add)


def _check_header(
    codec: Codec, found: Sequence[TensorInfo], expected: Sequence[TensorInfo]
) -> None:
    check_layout({i.name: i.shape for i in found}, {i.name: i.shape for i in expected})
    if [i.name for i in found] != [i.name for i in expected]:
        raise AdapterError("The update's tensors do not lie in the order of their names.")
    for info, wanted in zip(found, expected, strict=True):
        if info.dtype != wanted.dtype:
            raise AdapterError(
                f"Tensor {info.name!r} is {info.dtype}, not {wanted.dtype} as {codec} writes it."
            )


def _values(codec: Codec, coded: _Tensors) -> _Tensors:
    def value(first: tuple[str, np.ndarray]) -> tuple[str, np.ndarray]:
        name, codes = first
        return name, _value(codec, name, [codes, next(coded)[1]] if codec == "int8" else [codes])

    return map(value, coded)


class _Expanded:
    """A zstd frame as the stream of what it holds, ``length`` bytes at most."""

    def __init__(self, source: Readable, length: int) -> None:
        decompressor = zstandard.ZstdDecompressor(max_window_size=1 << _WINDOW_LOG)
        # Across frames: bytes behind the frame are looked at too, and refused.
        self._frame = decompressor.stream_reader(
            cast("IO[bytes]", source), read_size=_SOURCE_CHUNK, read_across_frames=True
        )
        self._length = self._left = length

    def read(self, n: int, /) -> bytes:
        """``n`` bytes, fewer only at the end. Raises AdapterError on damage and beyond the end."""
        try:
            taken = self._frame.read(min(n, self._left + 1))
        except zstandard.ZstdError as error:
            raise AdapterError(f"The update's compressed tensors are damaged: {error}.") from error
        if len(taken) > self._left:
            raise AdapterError(
                f"The update expands to more than the {self._length} bytes that its tensors have."
            )
        self._left -= len(taken)
        return taken
