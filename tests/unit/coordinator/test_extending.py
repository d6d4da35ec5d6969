"""A later deadline: automatic or by hand, signed, and what hospitals see of it."""

from __future__ import annotations

import pytest

from coordinator.extending import extend_by_hand
from coordinator.rounds import Request, State
from coordinator.store.round_row import RoundRow
from federation.errors import RoundClosed
from federation.messages import RoundExtension
from federation.signing import SignedDocument
from tests.unit.coordinator.hospital import Hospital, problem
from tests.unit.coordinator.world import World

HOUR = 3600


def extension(hospital: Hospital) -> RoundExtension:
    assert hospital.invite is not None
    response = hospital.request("GET", "/v1/rounds/1/extension")
    signed = SignedDocument.model_validate_json(response.content)
    return signed.open(RoundExtension, hospital.invite.coordinator, "extension")


def opened(world: World, **settings: int) -> tuple[Hospital, Hospital, RoundRow]:
    h01, h02 = world.member("h01"), world.member("h02")
    return h01, h02, world.open(deadline_minutes=60, **settings)


def test_a_round_without_quorum_is_extended_as_often_as_its_descriptor_says(world: World) -> None:
    h01, h02, row = opened(world, extensions=2, extension_minutes=30)
    assert problem(h01.request("GET", "/v1/rounds/1/extension"))[:2] == (404, "round")
    assert h01.upload(h01.seal(1)).accepted
    for number in (1, 2):
        world.clock.now = world.coordinator.store.rounds.get(1).deadline  # type: ignore[union-attr]
        assert world.advance(1).state is State.OPEN
        found = extension(h02)
        assert (found.number, found.automatic) == (number, number)
        assert found.deadline == world.clock.now + 30 * 60
        assert found.descriptor_sha256 == row.document.body_sha256
        assert found.reason == "quorum not met at the deadline: 1 of 2 needed updates"
    world.clock.now += 30 * 60
    assert world.advance(1).state is State.ABORTED
    assert h01.record(1).adapter_sha256 == row.descriptor.parent_adapter_sha256


def test_updates_are_taken_until_the_extended_deadline_and_not_later(world: World) -> None:
    h01, h02, _ = opened(world, extensions=1, extension_minutes=30)
    update, late = h01.seal(1), h02.seal(1)
    world.clock.now += HOUR
    # The server has not looked at the round yet: nobody is turned away meanwhile.
    assert h01.announce(update).status_code == 201
    world.advance(1)
    world.clock.now += 30 * 60 - 1
    assert h01.upload(update).accepted
    world.clock.now += 1
    assert problem(h02.announce(late))[:2] == (410, "round-closed")
    assert world.advance(1).state is State.ABORTED


def test_an_extension_lasts_its_whole_time_also_after_the_coordinator_was_down(
    world: World,
) -> None:
    _, _, row = opened(world, extensions=1, extension_minutes=30)
    world.clock.now += 10 * HOUR
    assert world.advance(1).deadline == world.clock.now + 30 * 60
    assert row.deadline < world.clock.now


def test_the_administrator_extends_an_open_round(world: World) -> None:
    h01, _, row = opened(world, extensions=1)
    assert extend_by_hand(world.coordinator, 1, 90).deadline == row.deadline + 90 * 60
    assert extend_by_hand(world.coordinator, 1, 10).deadline == row.deadline + 100 * 60
    found = extension(h01)
    assert (found.number, found.automatic) == (2, 0)
    world.clock.now = found.deadline
    assert world.advance(1).state is State.OPEN
    assert extension(h01).automatic == 1
    world.advance(1, Request.ABORT)
    with pytest.raises(RoundClosed, match="Round 1 is aborted"):
        extend_by_hand(world.coordinator, 1, 10)


def test_a_round_is_extended_once_by_two_at_the_same_time(world: World) -> None:
    opened(world, extensions=5)
    world.clock.now += HOUR
    rounds = world.coordinator.store.rounds
    before = rounds.get(1)
    assert before is not None
    world.advance(1)
    after = rounds.get(1)
    assert after is not None
    assert after.extension is not None
    assert not rounds.extend(1, before.extension, after.extension, "too late")
    world.advance(1)
    assert rounds.get(1) == after
    assert [n for n, _ in world.events].count("round_extended") == 1
