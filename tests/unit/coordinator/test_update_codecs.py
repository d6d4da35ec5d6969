"""Rounds of every codec: what the coordinator gets of an update, and what it refuses."""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import IO, Any, get_args

import numpy as np
import pytest
import zstandard

from coordinator.rounds import State
from coordinator.verification import largest_update
from federation.adapter import ModuleShape, initial_adapter
from federation.base_model import BaseModelCard
from federation.codec import encode
from federation.errors import InputError
from federation.low_rank import truncated
from federation.messages import Codec, PayloadHeader, RoundDescriptor
from federation.records import RoundRecord
from tests.unit.coordinator.hospital import Hospital, SealedUpdate, trained
from tests.unit.coordinator.world import World


@pytest.fixture
def hospitals(world: World) -> list[Hospital]:
    return [world.member(name) for name in ("h01", "h02")]


def published(world: World, hospital: Hospital) -> dict[str, np.ndarray]:
    record: RoundRecord = hospital.record(1)
    assert record.outcome == "published"
    return dict(world.coordinator.blobs.read_adapter(record.adapter_sha256))


def descriptor_of(world: World) -> RoundDescriptor:
    row = world.coordinator.store.rounds.get(1)
    assert row is not None
    return row.descriptor


@pytest.mark.parametrize("codec", get_args(Codec))
@pytest.mark.parametrize("aggregator", ["fedavg", "stacked", "fedsvd", "alternating"])
def test_a_round_of_every_codec_and_combiner(
    world: World, hospitals: list[Hospital], codec: Codec, aggregator: str
) -> None:
    world.open(codec=codec, aggregator=aggregator, anomalies="note", review_minutes=0)
    for hospital in hospitals:
        assert hospital.upload(hospital.seal(1)).accepted
    world.advance(1)
    descriptor = descriptor_of(world)
    keeps = aggregator in ("fedavg", "alternating")
    assert descriptor.error_feedback == (keeps and codec != "fp32")
    if not keeps:
        assert published(world, hospitals[0]).keys() == descriptor.adapter_schema.shapes().keys()
        return
    sent = [dict(trained(descriptor, hospital.name)) for hospital in hospitals]
    found = published(world, hospitals[0])
    # Changes are of 0.05: a code of int8 is worth less than 0.002 of that, one of bf16 less yet.
    bound = {"fp32": 1e-6, "bf16": 4e-4, "int8": 1e-3}[codec]
    for name in sent[0]:
        np.testing.assert_allclose(found[name], (sent[0][name] + sent[1][name]) / 2, atol=bound)
    exact = all(
        np.array_equal(found[name], np.float32((sent[0][name] + sent[1][name]) / 2))
        for name in sent[0]
    )
    assert exact == (codec == "fp32")


@pytest.mark.parametrize("codec", ["bf16", "int8"])
def test_a_lower_rank_is_coded_without_a_parent(
    world: World, hospitals: list[Hospital], codec: Codec
) -> None:
    world.open(codec=codec, aggregator="stacked", anomalies="note", review_minutes=0)
    descriptor = descriptor_of(world)
    low = truncated(iter(trained(descriptor, "h01")), descriptor.adapter_schema, 1)
    assert hospitals[0].upload(hospitals[0].seal(1, low.tensors, rank=1)).accepted
    assert hospitals[1].upload(hospitals[1].seal(1)).accepted
    assert world.advance(1).state is State.PUBLISHED


@pytest.mark.parametrize("codec", get_args(Codec))
def test_another_codec_than_the_round_s_is_refused(
    world: World, hospitals: list[Hospital], codec: Codec
) -> None:
    world.open(codec=codec)
    for other in set(get_args(Codec)) - {codec}:
        receipt = hospitals[0].upload(hospitals[0].seal(1, header={"codec": other}))
        assert not receipt.accepted
        assert f"codec is {other}, not {codec}" in receipt.reason


def test_a_codec_that_nobody_knows_is_refused(world: World, hospitals: list[Hospital]) -> None:
    world.open(codec="int8")
    receipt = hospitals[0].upload(sealed_as(hospitals[0], "int4"))
    assert not receipt.accepted
    assert "sealed header is malformed: codec" in receipt.reason


def sealed_as(hospital: Hospital, codec: str) -> SealedUpdate:
    """An honest update, but for what its sealed header calls its codec."""
    honest = PayloadHeader.to_json

    def lying(header: PayloadHeader) -> bytes:
        return honest(header).replace(b'"codec":"int8"', f'"codec":"{codec}"'.encode())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(PayloadHeader, "to_json", lying)
        return hospital.seal(1)


def bomb(target: IO[bytes], *update: Any) -> Iterator[tuple[str, np.ndarray]]:  # noqa: ANN401
    """What ``encode`` writes, and then 64 MiB of zeros, all in one frame of some 10 kB."""
    honest = io.BytesIO()
    for _ in encode(honest, *update):
        pass
    plain = zstandard.decompress(honest.getvalue(), max_output_size=1 << 20)
    parameters = zstandard.ZstdCompressionParameters.from_level(1, window_log=17)
    compressor = zstandard.ZstdCompressor(compression_params=parameters)
    target.write(compressor.compress(plain + bytes(64 << 20)))
    return iter(())


def test_an_update_that_expands_without_end_is_a_named_outcome_of_the_round(
    world: World, hospitals: list[Hospital], monkeypatch: pytest.MonkeyPatch
) -> None:
    world.open(codec="int8")
    monkeypatch.setattr("tests.unit.coordinator.hospital.encode", bomb)
    for hospital in hospitals:
        assert not hospital.upload(hospital.seal(1)).accepted
    world.clock.now += 24 * 3600
    assert world.advance(1).state is State.ABORTED
    record = hospitals[0].record(1)
    assert record.adapter_sha256 == record.parent_adapter_sha256
    assert [r.hospital for r in record.rejections] == ["h01", "h02"]
    assert all("expands to more than the" in r.reason for r in record.rejections)


def test_the_norm_is_that_of_the_decoded_update(world: World, hospitals: list[Hospital]) -> None:
    world.open(codec="int8", max_norm=3.0)
    descriptor = descriptor_of(world)
    start = dict(initial_adapter(descriptor.adapter_schema, descriptor.recipe.seed))
    small = ((name, tensor + np.float32(0.001)) for name, tensor in start.items())
    large = ((name, tensor + np.float32(10)) for name, tensor in start.items())
    receipt = hospitals[0].upload(hospitals[0].seal(1, large))
    assert "above the bound" in receipt.reason
    assert hospitals[0].upload(hospitals[0].seal(1, small)).accepted


@pytest.mark.usefixtures("hospitals")
def test_what_is_too_large_as_fp32_may_go_as_int8(world: World) -> None:
    linears = tuple(
        ModuleShape(path=f"m.{i:03d}.q_proj", inputs=8192, outputs=8192) for i in range(70)
    )
    card = BaseModelCard(name="large", sha256="cd" * 32, n_bytes=1000, linears=linears)
    world.card.write_bytes(card.to_json())
    with pytest.raises(InputError, match="more than 256") as caught:
        world.open(codec="fp32", rank=64, target_modules="q_proj")
    assert "--codec int8" in caught.value.hint
    schema = card.adapter_schema(("q_proj",), rank=64, alpha=64.0)
    assert largest_update("int8", schema, "AB") < 256 << 20 < largest_update("fp32", schema, "AB")
