"""Uploads in parts: offsets, resumption, limits, idempotence."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import IO

import numpy as np
import pytest

from coordinator import uploads
from coordinator.errors import TooManyUploads
from coordinator.rounds import State
from coordinator.verification import check_manifest, largest_update
from federation.canonical import canonical_json
from federation.tensors import write_tensors
from tests.unit.coordinator.hospital import Hospital, SealedUpdate, problem
from tests.unit.coordinator.world import World


@pytest.fixture
def h01(world: World) -> Hospital:
    hospital = world.member("h01")
    world.member("h02")
    world.open()
    return hospital


@pytest.fixture
def update(h01: Hospital) -> SealedUpdate:
    return h01.seal(1)


def test_announcing_again_tells_where_the_upload_stands(
    h01: Hospital, update: SealedUpdate
) -> None:
    assert h01.announce(update).status_code == 201
    h01.part(update, 0, update.body[:100])
    again = h01.announce(update)
    assert again.status_code == 200
    assert again.json() == {
        "upload_id": update.manifest.upload_id,
        "offset": 100,
        "length": len(update.body),
    }


def test_head_tells_the_durable_offset(h01: Hospital, update: SealedUpdate) -> None:
    h01.announce(update)
    h01.part(update, 0, update.body[:77])
    response = h01.request("HEAD", update.path)
    assert response.status_code == 200
    assert response.headers["upload-offset"] == "77"
    assert response.headers["upload-length"] == str(len(update.body))


@pytest.mark.parametrize("offset", [0, 99, 101, 10_000])
def test_a_wrong_offset_is_answered_with_the_true_one(
    h01: Hospital, update: SealedUpdate, offset: int
) -> None:
    h01.announce(update)
    h01.part(update, 0, update.body[:100])
    response = h01.part(update, offset, update.body[100:200])
    assert problem(response)[:2] == (409, "round")
    assert response.headers["upload-offset"] == "100"


@pytest.mark.parametrize("offset", ["", "-1", "1e3", "abc", "99999999999999"])
def test_a_malformed_offset_is_refused(h01: Hospital, update: SealedUpdate, offset: str) -> None:
    h01.announce(update)
    headers = {"Upload-Offset": offset}
    assert problem(h01.request("PATCH", update.path, b"x", headers=headers))[0] == 422


def test_a_part_beyond_the_end_is_refused(h01: Hospital, update: SealedUpdate) -> None:
    h01.announce(update)
    assert problem(h01.part(update, 0, update.body + b"x"))[:2] == (422, "invalid-envelope")
    assert h01.upload(update).accepted


def test_an_oversized_part_is_refused_before_it_is_read(
    h01: Hospital, update: SealedUpdate
) -> None:
    h01.announce(update)
    assert problem(h01.part(update, 0, bytes((8 << 20) + 1)))[:2] == (413, "invalid-input")


def test_bytes_of_an_unacknowledged_part_are_written_again(
    world: World, h01: Hospital, update: SealedUpdate
) -> None:
    h01.announce(update)
    h01.part(update, 0, update.body[:100])
    # The power went after the write, before the row: the file is longer than the offset.
    with world.coordinator.blobs.body(update.manifest.upload_id).open("ab") as file:
        file.write(b"garbage" * 1000)
    assert h01.request("HEAD", update.path).headers["upload-offset"] == "100"
    h01.part(update, 100, update.body[100:])
    assert h01.receipt(h01.commit(update)).accepted


def test_committing_too_early_tells_the_offset(h01: Hospital, update: SealedUpdate) -> None:
    h01.announce(update)
    h01.part(update, 0, update.body[:-1])
    response = h01.commit(update)
    assert problem(response)[0] == 409
    assert response.headers["upload-offset"] == str(len(update.body) - 1)


def test_committing_again_gives_the_same_receipt(h01: Hospital, update: SealedUpdate) -> None:
    receipt = h01.upload(update)
    assert receipt.body_sha256 == update.request.body_sha256
    assert h01.commit(update).content == h01.commit(update).content


def test_a_second_update_of_the_round_is_refused(h01: Hospital, update: SealedUpdate) -> None:
    other = h01.seal(1)
    h01.announce(other)
    h01.part(other, 0, other.body)
    assert h01.upload(update).accepted
    assert problem(h01.announce(h01.seal(1)))[:2] == (409, "round")
    assert "delivered its update" in problem(h01.commit(other))[2]


def test_what_a_hospital_calls_its_tensors_does_not_fill_log_and_database(
    world: World, h01: Hospital, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = ("x" * 5000, np.ones(1, np.float32))

    def one_more(
        file: IO[bytes],
        shapes: Mapping[str, tuple[int, ...]],
        tensors: Iterable[tuple[str, np.ndarray]],
    ) -> None:
        write_tensors(file, {**shapes, odd[0]: (1,)}, (*tensors, odd))

    monkeypatch.setattr("tests.unit.coordinator.hospital.write_tensors", one_more)
    update = h01.seal(1)
    receipt = h01.upload(update)
    assert not receipt.accepted
    row = world.coordinator.store.uploads.get(update.manifest.upload_id)
    assert row is not None
    (logged,) = [fields["reason"] for name, fields in world.events if name == "update_refused"]
    assert logged == row.reason == receipt.reason
    assert len(receipt.reason) == 1000


def test_another_update_under_the_same_id_is_refused(h01: Hospital, update: SealedUpdate) -> None:
    h01.announce(update)
    other = h01.seal(1, manifest={"upload_id": update.manifest.upload_id})
    assert problem(h01.announce(other))[:2] == (409, "round")


def test_uploads_of_another_hospital_are_not_there(
    world: World, h01: Hospital, update: SealedUpdate
) -> None:
    h01.announce(update)
    h03 = world.member("h03")
    for response in (
        h03.request("HEAD", update.path),
        h03.part(update, 0, update.body),
        h03.commit(update),
    ):
        assert response.status_code == 404
    assert h01.upload(update).accepted


def test_a_third_unfinished_upload_waits_until_one_stands_still(
    world: World, h01: Hospital
) -> None:
    first, second, third = h01.seal(1), h01.seal(1), h01.seal(1)
    h01.announce(first)
    world.clock.now += 1
    h01.announce(second)
    h01.part(first, 0, first.body[:10])
    assert problem(h01.announce(third))[:2] == (429, "round")
    world.clock.now += 600
    h01.part(first, 10, first.body[10:20])
    assert h01.announce(third).status_code == 201
    assert "replaced by a newer" in problem(h01.part(second, 0, second.body))[2]
    assert h01.upload(third).accepted


def test_uploads_announced_at_once_do_not_exceed_the_limit(world: World, h01: Hospital) -> None:
    updates = [h01.seal(1) for _ in range(4)]
    member = world.coordinator.roster().member("h01")
    assert member is not None
    together, calls = threading.Barrier(len(updates)), threading.local()

    def clock() -> int:
        # Asked when the round is looked at, then for the new row: there each waits for the others.
        calls.n = getattr(calls, "n", 0) + 1
        if calls.n == 2:
            together.wait(10)
        return world.clock()

    coordinator = replace(world.coordinator, clock=clock)

    def announced(update: SealedUpdate) -> bool:
        try:
            uploads.announce(coordinator, member, 1, update.request)
        except TooManyUploads:
            return False
        return True

    with ThreadPoolExecutor(len(updates)) as pool:
        assert sorted(pool.map(announced, updates)) == [False, False, True, True]
    assert len(world.coordinator.store.uploads.of_round(1)) == 2


def test_an_update_larger_than_the_schema_allows_is_refused(
    world: World, h01: Hospital, update: SealedUpdate
) -> None:
    row = world.coordinator.store.rounds.get(1)
    assert row is not None
    descriptor = row.descriptor
    most = largest_update(descriptor.codec, descriptor.adapter_schema, descriptor.factors)
    assert update.manifest.body_length < most < update.manifest.body_length + (32 << 10)
    member = world.coordinator.roster().member("h01")
    assert member is not None
    fitting = update.manifest.model_copy(update={"body_length": most})
    check_manifest(row, member, fitting)
    # Refused for its length alone: everything else is right, and both signatures are.
    text = canonical_json({**json.loads(update.request.manifest), "body_length": most + 1}).decode()
    request = update.request.model_copy(update={"manifest": text})
    response = h01.request("POST", "/v1/rounds/1/uploads", request)
    assert problem(response)[:2] == (422, "invalid-envelope")
    assert f"at most {most}" in problem(response)[2]
    assert h01.upload(update).accepted


def test_a_hospital_that_joined_later_waits_for_the_next_round(world: World, h01: Hospital) -> None:
    late = world.member("h03")
    assert "h03 joined after this round opened" in problem(late.announce(late.seal(1)))[2]


def test_after_the_deadline_everything_is_gone(
    world: World, h01: Hospital, update: SealedUpdate
) -> None:
    h01.announce(update)
    h01.part(update, 0, update.body)
    late = h01.seal(1)
    world.clock.now += 24 * 3600
    for response in (h01.announce(late), h01.part(update, 0, b"x"), h01.commit(update)):
        assert problem(response)[:2] == (410, "round-closed")
    assert world.advance(1).state is State.ABORTED
    assert problem(h01.commit(update))[:2] == (410, "round-closed")


def test_a_round_that_never_was_takes_nothing(h01: Hospital, update: SealedUpdate) -> None:
    assert problem(h01.announce(update, number=2))[:2] == (404, "round")
