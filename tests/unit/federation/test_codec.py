"""Update codecs: what they lose and how little, the same bytes each time, all bad input."""

from __future__ import annotations

import io
import json
import struct
import tracemalloc
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import get_args

import ml_dtypes
import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from federation.adapter import AdapterSchema, ModuleShape, initial_adapter
from federation.codec import decode, encode, largest_payload, reference
from federation.errors import AdapterError
from federation.messages import Codec
from federation.tensors import DTYPES, MAX_HEADER, Pieces, header_bytes

SCHEMA = AdapterSchema(
    modules=(
        ModuleShape(path="m.q_proj", inputs=6, outputs=4),
        ModuleShape(path="m.v_proj", inputs=3, outputs=5),
    ),
    rank=2,
    alpha=4.0,
)
A, B = "base_model.model.m.q_proj.lora_A.weight", "base_model.model.m.q_proj.lora_B.weight"
LOSSY: tuple[Codec, ...] = ("bf16", "int8")
Adapter = dict[str, np.ndarray]


def written(
    codec: Codec, tensors: Adapter, since: Mapping[str, np.ndarray]
) -> tuple[bytes, Adapter]:
    """The bytes, and what they lost."""
    target = io.BytesIO()
    shapes = {name: tensor.shape for name, tensor in tensors.items()}
    lost = dict(encode(target, codec, shapes, iter(tensors.items()), since))
    return target.getvalue(), lost


def read(codec: Codec, data: bytes, since: Mapping[str, np.ndarray] | None = None) -> Adapter:
    return dict(decode(io.BytesIO(data), codec, SCHEMA.shapes(), since or {}))


def made(seed: int, exponents: list[int]) -> Adapter:
    """Normal values of very different sizes from one component to the next; some are zero."""
    stream = np.random.default_rng(seed)
    tensors: Adapter = {}
    for name, shape in SCHEMA.shapes().items():
        rows = stream.standard_normal(shape[::-1] if "lora_B" in name else shape)
        rows *= 10.0 ** np.resize(exponents, (len(rows), 1))
        rows[stream.random(rows.shape) < 0.2] = 0
        tensors[name] = np.ascontiguousarray(components(name, rows), dtype=np.float32)
    return tensors


def adapters(lowest: int, highest: int) -> st.SearchStrategy[Adapter]:
    """Adapters with components of 10^lowest to 10^highest, on both sides."""
    exponents = st.lists(st.integers(lowest, highest), min_size=1, max_size=2)
    return st.builds(made, st.integers(0, 1 << 30), exponents)


def components(name: str, tensor: np.ndarray) -> np.ndarray:
    return tensor.T if "lora_B" in name else tensor


@given(adapters(-45, 37))
def test_fp32_is_exact(tensors: Adapter) -> None:
    data, lost = written("fp32", tensors, {})
    found = read("fp32", data)
    assert all(found[name].tobytes() == tensors[name].tobytes() for name in tensors)
    assert not any(tensor.any() for tensor in lost.values())


@given(adapters(-45, 37))
def test_bf16_is_exact_on_bf16_values(tensors: Adapter) -> None:
    held = {n: t.astype(ml_dtypes.bfloat16).astype(np.float32) for n, t in tensors.items()}
    found = read("bf16", written("bf16", held, {})[0])
    assert all(np.array_equal(found[name], held[name]) for name in held)


@given(adapters(-45, 37))
def test_int8_is_within_half_a_step_of_each_component(tensors: Adapter) -> None:
    found = read("int8", written("int8", tensors, {})[0])
    for name, tensor in tensors.items():
        rows, got = components(name, tensor), components(name, found[name])
        largest = np.abs(rows).max(axis=1, keepdims=True)
        bound = np.maximum(largest / 127, np.finfo(np.float32).tiny) * (0.5 + 1e-4)
        assert (np.abs(got.astype(np.float64) - rows) <= bound).all()


def test_a_component_of_another_size_costs_the_others_nothing() -> None:
    """A row of A and a column of B have scales of their own."""
    tensors = dict(initial_adapter(SCHEMA, 1))
    tensors[B] = tensors[A].T[: tensors[B].shape[0]].copy()
    tensors[A][0] *= 1e6
    tensors[B][:, 1] *= 1e6
    _, lost = written("int8", tensors, {})
    assert np.abs(lost[A][1]).max() < 0.01
    assert np.abs(lost[B][:, 0]).max() < 0.01


@pytest.mark.parametrize("codec", LOSSY)
@given(tensors=adapters(-3, 0), since=adapters(-3, 0))
def test_a_decoded_update_and_what_was_lost_are_the_update(
    codec: Codec, tensors: Adapter, since: Adapter
) -> None:
    data, lost = written(codec, tensors, since)
    found = read(codec, data, since)
    for name, tensor in tensors.items():
        np.testing.assert_allclose(found[name] + lost[name], tensor, rtol=0, atol=1e-5)
    assert written(codec, tensors, since)[0] == data


@pytest.mark.parametrize("codec", LOSSY)
@settings(max_examples=20)
@given(changes=st.lists(adapters(-3, -1), min_size=3, max_size=8))
def test_with_error_feedback_the_sum_is_the_truth_but_for_the_last_rest(
    codec: Codec, changes: list[Adapter]
) -> None:
    owed: Adapter = {name: np.zeros(shape, np.float32) for name, shape in SCHEMA.shapes().items()}
    sent = {name: np.zeros(shape) for name, shape in SCHEMA.shapes().items()}
    for change in changes:
        whole = {name: change[name] + owed[name] for name in change}
        data, owed = written(codec, whole, {})
        for name, tensor in read(codec, data).items():
            sent[name] += tensor
    for name in sent:
        truth = np.sum([change[name] for change in changes], axis=0, dtype=np.float64)
        np.testing.assert_allclose(sent[name] + owed[name], truth, rtol=0, atol=1e-5)
        # Nothing piles up: the rest is one coding's, of a change and of what was owed to it.
        assert np.abs(owed[name]).max() <= 0.005


def test_a_change_is_coded_more_exactly_than_its_factor() -> None:
    parent = dict(initial_adapter(SCHEMA, 1))
    trained = {name: tensor + np.float32(1e-3) for name, tensor in parent.items()}
    for codec in LOSSY:
        plain, change = written(codec, trained, {})[1], written(codec, trained, parent)[1]
        assert np.abs(change[A]).max() < 0.05 * np.abs(plain[A]).max()


def test_what_an_update_is_the_change_from() -> None:
    parent = dict(initial_adapter(SCHEMA, 1))
    assert reference("int8", SCHEMA, 2, parent) is parent
    assert reference("int8", SCHEMA, 1, parent) == {}
    assert reference("fp32", SCHEMA, 2, parent) == {}


@pytest.mark.parametrize("codec", get_args(Codec))
def test_no_payload_is_larger_than_was_said(codec: Codec) -> None:
    wide = AdapterSchema(
        modules=(ModuleShape(path="m.q_proj", inputs=70_000, outputs=4),), rank=8, alpha=16.0
    )
    stream = np.random.default_rng(0)
    noise = {
        name: stream.integers(0, 1 << 30, shape, np.uint32).view(np.float32)
        for name, shape in wide.shapes().items()
    }
    target = io.BytesIO()
    for _ in encode(target, codec, wide.shapes(), iter(noise.items()), {}):
        pass
    length = len(target.getvalue())
    assert length <= largest_payload(codec, wide, "AB") <= 4.01 * wide.n_parameters()
    assert codec != "int8" or length <= 1.01 * wide.n_parameters()


def test_int8_has_less_than_a_quarter_of_the_bytes() -> None:
    schema = AdapterSchema(
        modules=(ModuleShape(path="m.q_proj", inputs=576, outputs=576),), rank=8, alpha=16.0
    )
    stream = np.random.default_rng(0)
    normal = {n: stream.normal(0, 1e-3, s).astype(np.float32) for n, s in schema.shapes().items()}
    assert len(written("int8", normal, {})[0]) < 4 * schema.n_parameters() / 4


@pytest.mark.parametrize("codec", get_args(Codec))
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_is_not_written(codec: Codec, bad: float) -> None:
    tensors = dict(initial_adapter(SCHEMA, 1))
    tensors[B][0, 0] = bad
    with pytest.raises(AdapterError, match="not finite"):
        written(codec, tensors, {})


@pytest.mark.parametrize("codec", get_args(Codec))
def test_other_tensors_than_announced_are_not_written(codec: Codec) -> None:
    tensors = dict(initial_adapter(SCHEMA, 1))
    order: list[Iterable[tuple[str, np.ndarray]]] = [
        reversed(tensors.items()),
        list(tensors.items())[:-1],
        [(A, tensors[A].T), *list(tensors.items())[1:]],
    ]
    for wrong in order:
        with pytest.raises(AdapterError):
            list(encode(io.BytesIO(), codec, SCHEMA.shapes(), iter(wrong), {}))


def test_a_header_with_scales_may_be_longer_than_that_of_any_adapter() -> None:
    layers = [ModuleShape(path=f"{i:0290d}", inputs=1, outputs=1) for i in range(900)]
    many = AdapterSchema(modules=tuple(layers), rank=1, alpha=2.0).shapes()
    data, _ = written("int8", {n: np.ones(shape, np.float32) for n, shape in many.items()}, {})
    assert int.from_bytes(unpacked(data)[:8], "little") > MAX_HEADER
    assert {n: t.shape for n, t in decode(io.BytesIO(data), "int8", many, {})} == many


# --- Bad input. What a liar may write is written by hand: encode would refuse to.


def packed(data: bytes) -> bytes:
    parameters = zstandard.ZstdCompressionParameters.from_level(1, window_log=17)
    return zstandard.ZstdCompressor(compression_params=parameters).compress(data)


def unpacked(data: bytes) -> bytes:
    return zstandard.decompress(data, max_output_size=1 << 21)


def good(codec: Codec) -> bytes:
    return written(codec, dict(initial_adapter(SCHEMA, 1)), {})[0]


@pytest.mark.parametrize("codec", LOSSY)
def test_truncation_is_refused_wherever_it_is(codec: Codec) -> None:
    data = good(codec)
    for length in range(len(data)):
        with pytest.raises(AdapterError, match=r"ends inside|damaged"):
            read(codec, data[:length])


@pytest.mark.parametrize("codec", get_args(Codec))
def test_bytes_that_follow_are_refused(codec: Codec) -> None:
    with pytest.raises(AdapterError, match=r"Bytes follow|damaged"):
        read(codec, good(codec) + b"x")


@pytest.mark.parametrize("codec", LOSSY)
def test_more_tensors_in_the_frame_or_in_another_are_refused(codec: Codec) -> None:
    for data in (packed(unpacked(good(codec)) + b"x"), good(codec) + packed(b"x")):
        with pytest.raises(AdapterError, match="expands to more than the"):
            read(codec, data)


class Counted(io.BytesIO):
    """Counts what was read of it."""

    taken = 0

    def read(self, n: int | None = -1, /) -> bytes:
        data = super().read(n)
        self.taken += len(data)
        return data


def test_a_bomb_is_refused_before_it_is_expanded() -> None:
    """A gigabyte of zeros behind the tensors, in some 30 kB."""
    body = unpacked(good("int8"))
    parameters = zstandard.ZstdCompressionParameters.from_level(1, window_log=17)
    compressor = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    parts = [compressor.compress(body), *(compressor.compress(bytes(1 << 20)) for _ in range(1024))]
    bomb = Counted(b"".join(parts) + compressor.flush())
    whole = len(bomb.getvalue())
    with pytest.raises(AdapterError, match=f"more than the {len(body)} bytes"):
        dict(decode(bomb, "int8", SCHEMA.shapes(), {}))
    assert bomb.taken <= 16 << 10 < whole


def test_a_header_that_is_a_bomb_is_refused() -> None:
    with pytest.raises(AdapterError, match="expands to more than"):
        read("int8", packed(struct.pack("<Q", 1 << 20) + bytes(1 << 20)))


def test_a_window_that_needs_memory_is_refused() -> None:
    parameters = zstandard.ZstdCompressionParameters.from_level(1, window_log=27)
    greedy = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    data = greedy.compress(unpacked(good("int8"))) + greedy.flush()
    with pytest.raises(AdapterError, match=r"damaged.*memory"):
        read("int8", data)


@pytest.mark.parametrize("scale", [np.nan, np.inf, 0.0, -1.0])
def test_wrong_scales_are_refused(scale: float) -> None:
    body = unpacked(good("int8"))
    bad = body[:-4] + struct.pack("<f", scale)
    with pytest.raises(AdapterError, match=r"scales of tensor .*v_proj.*above zero"):
        read("int8", packed(bad))


def test_a_code_that_int8_does_not_use_is_refused() -> None:
    body = bytearray(unpacked(good("int8")))
    body[-9] = 0x80
    with pytest.raises(AdapterError, match="-128"):
        read("int8", packed(bytes(body)))


def test_values_that_overflow_are_left_to_whoever_checks_them() -> None:
    body = unpacked(good("int8"))[:-4] + struct.pack("<f", 3e38)
    found = read("int8", packed(body[:-9] + b"\x7f" + body[-8:]))
    assert np.isinf(found["base_model.model.m.v_proj.lora_B.weight"]).any()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda text: text.replace(b'"shape":[2]', b'"shape":[1]'), "where its shape puts it"),
        (lambda text: text.replace(b'"shape":[2,6]', b'"shape":[6,2]'), r"shape \(6, 2\)"),
        (lambda text: text.replace(b".scale", b".skale"), "lacks 4 tensors"),
        (lambda text: text.replace(b'"I8"', b'"I4"'), "dtype 'I4'"),
    ],
)
def test_headers_other_than_the_codec_s_are_refused(
    change: Callable[[bytes], bytes], reason: str
) -> None:
    bad = change(unpacked(good("int8")))
    assert bad != unpacked(good("int8"))
    with pytest.raises(AdapterError, match=reason):
        read("int8", packed(bad))


def test_a_header_that_says_the_same_in_other_words_is_read() -> None:
    plain = good("fp32")
    length = int.from_bytes(plain[:8], "little")
    text = json.dumps(json.loads(plain[8 : 8 + length]), indent=1).encode()
    other = len(text).to_bytes(8, "little") + text + plain[8 + length :]
    found, expected = read("fp32", other), read("fp32", plain)
    assert all(np.array_equal(found[name], expected[name]) for name in expected)


@pytest.mark.parametrize("codec", ["fp32", *LOSSY])
def test_streams_that_wait_for_the_others_hold_no_tensor_and_share_their_list(
    codec: Codec,
) -> None:
    """An aggregation reads a tensor of every hospital in turn: memory must not grow with them."""
    schema = AdapterSchema(
        modules=tuple(ModuleShape(path=f"m.{i:02d}", inputs=4096, outputs=4096) for i in range(20)),
        rank=8,
        alpha=16.0,
    )
    shapes = schema.shapes()
    since = dict(initial_adapter(schema, 2)) if codec != "fp32" else {}
    target = io.BytesIO()
    for _ in encode(target, codec, shapes, initial_adapter(schema, 1), since):
        pass
    data = target.getvalue()
    cut = 1 << 17

    def opened() -> Iterator[tuple[str, np.ndarray]]:
        pieces = (data[i : i + cut] for i in range(0, len(data), cut))
        stream = decode(Pieces(pieces), codec, shapes, since)
        next(stream)
        return stream

    streams = [opened()]
    tracemalloc.start()
    streams += [opened() for _ in range(10)]
    held, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    # The rest of a piece, and less than a list of tensors would take.
    assert held / 10 < cut + (8 << 10)


def test_one_codec_s_bytes_are_not_another_s() -> None:
    plain = good("fp32")
    for codec in LOSSY:
        with pytest.raises(AdapterError, match="damaged"):
            read(codec, plain)
        with pytest.raises(AdapterError):
            read("fp32", good(codec))
    with pytest.raises(AdapterError, match="is float32, not bfloat16"):
        read("bf16", packed(plain))
    halves = header_bytes(SCHEMA.shapes(), DTYPES["F16"])
    with pytest.raises(AdapterError, match="is float16, not bfloat16"):
        read("bf16", packed(halves + bytes(2 * SCHEMA.n_parameters())))


def test_no_more_than_a_tensor_is_held() -> None:
    """Tensors are made while they are written, and read one after the other."""
    alive: list[str] = []

    def made() -> Iterator[tuple[str, np.ndarray]]:
        for name, tensor in initial_adapter(SCHEMA, 1):
            alive.append(name)
            yield name, tensor

    for seen, _ in enumerate(encode(io.BytesIO(), "int8", SCHEMA.shapes(), made(), {}), 1):
        assert len(alive) == seen
