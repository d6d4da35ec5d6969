"""safetensors as a stream: the library reads what is written, damage is refused."""

from __future__ import annotations

import io
import json
import math
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load, save

from federation.adapter import checked_tensors
from federation.errors import AdapterError
from federation.tensors import (
    MAX_HEADER,
    Pieces,
    TensorFile,
    read_header,
    read_tensors,
    write_tensors,
)

names = st.text("abcAB._0", min_size=1, max_size=12)
shapes = st.dictionaries(names, st.tuples(st.integers(1, 4), st.integers(1, 5)), max_size=5)


def tensors_of(shapes: dict[str, tuple[int, ...]]) -> dict[str, np.ndarray]:
    return {
        name: np.arange(math.prod(shape), dtype=np.float32).reshape(shape)
        for name, shape in sorted(shapes.items())
    }


def written(tensors: dict[str, np.ndarray]) -> bytes:
    buffer = io.BytesIO()
    write_tensors(buffer, {n: t.shape for n, t in tensors.items()}, iter(sorted(tensors.items())))
    return buffer.getvalue()


@given(shapes)
def test_the_library_reads_what_is_written(shapes: dict[str, tuple[int, ...]]) -> None:
    tensors = tensors_of(shapes)
    found = load(written(tensors))
    assert found.keys() == tensors.keys()
    assert all(np.array_equal(found[name], tensors[name]) for name in tensors)


@given(shapes)
def test_reads_what_the_library_writes(shapes: dict[str, tuple[int, ...]]) -> None:
    tensors = tensors_of(shapes)
    source = io.BytesIO(save(tensors, metadata={"format": "pt"}))
    found = dict(read_tensors(source, read_header(source)))
    assert found.keys() == tensors.keys()
    assert all(np.array_equal(found[name], tensors[name]) for name in tensors)


@given(st.data())
def test_a_header_with_any_byte_changed_is_refused_or_describes_the_same_size(
    data: st.DataObject,
) -> None:
    whole = bytearray(written(tensors_of({"a": (2, 3), "b": (1, 4)})))
    end = 8 + int.from_bytes(whole[:8], "little")
    position = data.draw(st.integers(0, end - 1))
    whole[position] ^= data.draw(st.integers(1, 255))
    source = io.BytesIO(bytes(whole))
    try:
        infos = read_header(source)
        total = sum(tensor.nbytes for _, tensor in read_tensors(source, infos))
    except AdapterError:
        return
    assert total == len(whole) - end


def framed(header: object) -> io.BytesIO:
    text = json.dumps(header).encode()
    return io.BytesIO(len(text).to_bytes(8, "little") + text)


ENTRY = {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}


@pytest.mark.parametrize(
    ("header", "message"),
    [
        ([], "not a JSON object"),
        ({"a": 3}, "malformed"),
        ({"a": {**ENTRY, "dtype": "I64"}}, "dtype"),
        ({"a": {**ENTRY, "shape": [3]}}, "does not lie"),
        ({"a": {**ENTRY, "shape": [-2]}}, "malformed shape"),
        ({"a": {**ENTRY, "shape": [2.0]}}, "malformed shape"),
        ({"a": {**ENTRY, "data_offsets": [4, 12]}}, "does not lie"),
        ({"a": ENTRY, "b": ENTRY}, "does not lie"),
        ({"a": {**ENTRY, "extra": 1}}, "malformed"),
    ],
)
def test_a_malformed_header_is_refused(header: object, message: str) -> None:
    with pytest.raises(AdapterError, match=message):
        read_header(framed(header))


def test_a_name_given_twice_is_refused() -> None:
    text = b'{"a":{"dtype":"F32","shape":[0],"data_offsets":[0,0]},"a":{}}'
    with pytest.raises(AdapterError, match="twice"):
        read_header(io.BytesIO(len(text).to_bytes(8, "little") + text))


def test_an_oversized_header_is_refused_before_it_is_read() -> None:
    class Unread(io.BytesIO):
        def read(self, n: int | None = -1, /) -> bytes:
            assert n == 8, "the header's body must not be read"
            return super().read(n)

    with pytest.raises(AdapterError, match="more than"):
        read_header(Unread((MAX_HEADER + 1).to_bytes(8, "little") + b"{}"))


def test_bytes_after_the_last_tensor_are_refused() -> None:
    source = io.BytesIO(written(tensors_of({"a": (1, 2)})) + b"x")
    with pytest.raises(AdapterError, match="follow"):
        list(read_tensors(source, read_header(source)))


def test_a_tensor_out_of_order_is_not_written() -> None:
    a = np.zeros((1,), np.float32)
    with pytest.raises(AdapterError, match="out of order"):
        write_tensors(io.BytesIO(), {"a": (1,), "b": (1,)}, iter([("b", a), ("a", a)]))
    with pytest.raises(AdapterError, match="not written"):
        write_tensors(io.BytesIO(), {"a": (1,), "b": (1,)}, iter([("a", a)]))


@given(st.binary(max_size=60), st.data())
def test_pieces_are_one_stream(whole: bytes, data: st.DataObject) -> None:
    cuts = sorted(data.draw(st.lists(st.integers(0, len(whole)), max_size=6)))
    bounds = zip([0, *cuts], [*cuts, len(whole)], strict=True)
    source = Pieces([whole[start:end] for start, end in bounds])
    expected = io.BytesIO(whole)
    for n in data.draw(st.lists(st.integers(0, 20), max_size=12)):
        assert bytes(source.read(n)) == expected.read(n)
    assert bytes(source.read(100)) == expected.read()
    assert bytes(source.read(1)) == b""


def test_a_tensor_that_lies_in_one_piece_is_not_copied() -> None:
    whole = written(tensors_of({"a": (2, 3), "b": (4, 5)}))
    source = Pieces([whole])
    buffer = np.frombuffer(whole, np.uint8)
    for _, tensor in read_tensors(source, read_header(source)):
        assert np.shares_memory(tensor, buffer)
        assert not tensor.flags.writeable


def test_a_tensor_that_is_asked_for_in_turn_is_read_once(tmp_path: Path) -> None:
    tensors = tensors_of({"a": (2, 3), "b": (4, 5)})
    (tmp_path / "adapter").write_bytes(written(tensors))
    found = TensorFile(tmp_path / "adapter")
    assert found["a"] is found["a"]
    assert np.array_equal(found["b"], tensors["b"])
    assert np.array_equal(found["a"], tensors["a"])
    assert not found["a"].flags.writeable


def test_a_suspended_stream_keeps_no_tensor() -> None:
    """Aggregation has a stream of every hospital open: each would hold its last tensor."""
    shapes = dict.fromkeys("abc", (1024, 1024))
    file = io.BytesIO()
    write_tensors(file, shapes, ((name, np.ones(shape)) for name, shape in shapes.items()))
    file.seek(0)
    stream = checked_tensors(read_tensors(file, read_header(file)), max_norm=1e6)
    tracemalloc.start()
    assert next(stream)[0] == "a"
    left, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert left < 1 << 20
    assert [name for name, _ in stream] == ["b", "c"]
