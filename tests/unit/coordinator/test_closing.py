"""Closing, aggregating, publishing, aborting; crashes in between; damaged disks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from coordinator import aggregation, closing
from coordinator.enrolment import revoke
from coordinator.inputs import round_inputs
from coordinator.records import signed_record
from coordinator.rounds import Decision, Facts, Request, State, decide
from coordinator.store.round_row import RoundRow
from coordinator.store.rounds import Rounds
from coordinator.wrapping import Wrapping, WrappingKey
from federation.canonical import file_sha256
from federation.errors import StorageError
from federation.messages import ProgressReport
from federation.signing import SignedDocument
from tests.unit.coordinator.hospital import Hospital, problem
from tests.unit.coordinator.world import World

DAY = 24 * 3600


def three(world: World) -> list[Hospital]:
    hospitals = [world.member(name) for name in ("h01", "h02", "h03")]
    world.open()
    return hospitals


def deliver(*hospitals: Hospital) -> None:
    for hospital in hospitals:
        assert hospital.upload(hospital.seal(1)).accepted


def beat(hospital: Hospital) -> None:
    report = ProgressReport(phase="training", step=1, of=2)
    assert hospital.request("POST", "/v1/rounds/1/progress", report).status_code == 204


def test_a_round_without_quorum_is_aborted_at_the_deadline(world: World) -> None:
    h01, h02, h03 = three(world)
    deliver(h02)
    world.clock.now += DAY - 1
    assert world.advance(1).state is State.OPEN
    world.clock.now += 1
    row = world.advance(1)
    assert row.state is State.ABORTED
    record = h01.record(1)
    assert record.outcome == "aborted"
    assert record.reason == "quorum not met at the deadline: 1 of 2 needed updates"
    assert record.adapter_sha256 == record.parent_adapter_sha256
    assert record.absent == ("h01", "h03")
    assert [(c.hospital, c.weight) for c in record.contributions] == [("h02", 0.0)]
    assert h03.current().state == "aborted"


def test_an_update_accepted_while_a_round_is_being_aborted_counts(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    h01, h02, h03 = three(world)
    deliver(h02)
    late = h03.seal(1)
    h03.announce(late)
    assert h03.part(late, 0, late.body).status_code == 204
    deadline = world.clock.now + DAY

    def after_the_commit(*arguments: Any) -> SignedDocument:  # noqa: ANN401  passed on
        row = world.coordinator.store.rounds.get(1)
        if row and row.state is State.OPEN:
            # Its verification began just before the deadline.
            world.clock.now = deadline - 1
            assert h03.commit(late).status_code == 200
            world.clock.now = deadline
        return signed_record(*arguments)

    monkeypatch.setattr("coordinator.closing.signed_record", after_the_commit)
    world.clock.now = deadline
    assert world.advance(1).state is State.PUBLISHED
    record = h01.record(1)
    assert [c.hospital for c in record.contributions] == ["h02", "h03"]


def test_a_round_with_quorum_closes_at_the_deadline_without_the_absent(world: World) -> None:
    h01, h02, h03 = three(world)
    deliver(h01, h02)
    assert world.advance(1).state is State.OPEN
    for _ in range(24 * 2 - 1):
        world.clock.now += 1800
        beat(h03)
        assert world.advance(1).state is State.OPEN
    world.clock.now += 1800
    assert world.advance(1).state is State.PUBLISHED
    record = h01.record(1)
    assert (record.outcome, record.absent) == ("published", ("h03",))
    assert record.reason == "the deadline has passed with quorum met"


def test_a_reason_that_names_very_many_hospitals_is_cut(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Names have up to 63 characters: twenty silent hospitals are more than a record takes."""
    h01, h02, _ = three(world)
    deliver(h01, h02)
    names = ", ".join(f"{i:02d}".ljust(63, "x") for i in range(20))

    def of_many(facts: Facts, now: int, request: Request) -> Decision:
        decision = decide(facts, now, request)
        return replace(decision, reason=f"{decision.reason}: {names}")

    monkeypatch.setattr(closing, "decide", of_many)
    world.clock.now += DAY
    assert world.advance(1).state is State.PUBLISHED
    reason = h01.record(1).reason
    assert reason.startswith("quorum met; silent for 60 min: h03: 00x")
    assert len(reason) == 1000


def test_with_quorum_a_silent_hospital_is_waited_for_no_longer_than_the_grace(
    world: World,
) -> None:
    h01, h02, h03 = (world.member(name) for name in ("h01", "h02", "h03"))
    world.open(grace_minutes=10)
    world.clock.now += 7200
    deliver(h01, h02)
    world.clock.now += 300
    part = h03.seal(1)
    h03.announce(part)
    world.clock.now += 599
    assert world.advance(1).state is State.OPEN
    assert h03.part(part, 0, part.body[:100]).status_code == 204
    world.clock.now += 599
    assert world.advance(1).state is State.OPEN
    world.clock.now += 1
    assert world.advance(1).state is State.PUBLISHED
    record = h01.record(1)
    assert (record.reason, record.absent) == ("quorum met; silent for 10 min: h03", ("h03",))
    assert problem(h03.part(part, 100, part.body[100:]))[:2] == (410, "round-closed")


def test_after_a_restart_the_silence_counts_anew(world: World) -> None:
    h01, h02, _ = (world.member(name) for name in ("h01", "h02", "h03"))
    world.open(grace_minutes=10)
    deliver(h01, h02)
    world.clock.now += 7200
    restarted = replace(world.coordinator, awake_since=world.clock.now)
    assert closing.advance(restarted, 1).state is State.OPEN
    world.clock.now += 600
    assert closing.advance(restarted, 1).state is State.PUBLISHED


def test_there_is_no_record_before_the_end(world: World) -> None:
    h01, *_ = three(world)
    assert problem(h01.request("GET", "/v1/rounds/1/record"))[:2] == (404, "round")


def test_the_administrator_closes_early_only_with_quorum(world: World) -> None:
    h01, h02, _ = three(world)
    deliver(h01)
    assert world.advance(1, Request.CLOSE).state is State.OPEN
    deliver(h02)
    assert world.advance(1, Request.CLOSE).state is State.PUBLISHED


def test_the_administrator_aborts_whatever_was_delivered(world: World) -> None:
    h01, h02, _ = three(world)
    deliver(h01, h02)
    row = world.advance(1, Request.ABORT)
    assert (row.state, row.reason) == (State.ABORTED, "aborted by the administrator")


def test_refusals_and_their_reasons_are_on_record(world: World) -> None:
    h01, h02, h03 = three(world)
    refused = h03.seal(1, header={"n_examples": 0})
    assert not h03.upload(refused).accepted
    deliver(h01, h02)
    world.clock.now += DAY
    world.advance(1)
    record = h01.record(1)
    assert [(r.hospital, r.upload_id) for r in record.rejections] == [
        ("h03", refused.manifest.upload_id)
    ]
    assert "n_examples" in record.rejections[0].reason
    assert record.absent == ()


def test_a_revoked_hospital_is_left_out_and_not_waited_for(world: World) -> None:
    h01, h02, h03 = three(world)
    deliver(h01, h02, h03)
    revoke(world.coordinator, world.admin, "h03")
    assert world.advance(1).state is State.PUBLISHED
    record = h01.record(1)
    assert [c.hospital for c in record.contributions] == ["h01", "h02"]
    assert [(r.hospital, r.reason) for r in record.rejections] == [
        ("h03", "revoked before the round closed")
    ]


def test_the_secret_is_destroyed_and_the_bodies_go_when_the_round_is_over(world: World) -> None:
    hospitals = three(world)
    opened = world.coordinator.store.rounds.get(1)
    assert opened is not None
    assert opened.wrapped_seed is not None
    deliver(*hospitals)
    assert len(list(world.paths.uploads.iterdir())) == 3
    assert world.advance(1).wrapped_seed is None
    assert list(world.paths.uploads.iterdir()) == []
    stored = b"".join(p.read_bytes() for p in world.paths.home.glob("coordinator.sqlite*"))
    assert opened.wrapped_seed not in stored


class PowerCut(Exception):
    """Ends a step as a power cut would."""


@pytest.mark.parametrize("step", ["_aggregate", "_publish", "aggregated", "published"])
def test_a_crash_at_any_step_continues_to_the_same_adapter(
    world: World, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    hospitals = three(world)
    deliver(*hospitals)
    reference = adapter_of(world)

    def cut(*_: object, **__: object) -> None:
        raise PowerCut

    with monkeypatch.context() as patch:
        patch.setattr(closing if step.startswith("_") else Rounds, step, cut)
        with pytest.raises(PowerCut):
            world.advance(1)
    row = world.advance(1)
    assert row.state is State.PUBLISHED
    assert row.adapter_sha256 == reference
    assert file_sha256(world.coordinator.blobs.adapter(reference)) == reference


def adapter_of(world: World) -> str:
    """The digest that this round's aggregation gives, computed without changing its state."""
    row = world.coordinator.store.rounds.get(1)
    assert row is not None
    uploads = world.coordinator.store.uploads.of_round(1)
    inputs = round_inputs(world.coordinator, row, uploads, {})
    aggregator = aggregation.get(row.descriptor.aggregator)
    weights = {name: share.weight for name, share in aggregator.shares(inputs).items()}
    shapes = row.descriptor.adapter_schema.shapes()
    return world.coordinator.blobs.put_adapter(shapes, aggregator.merge(inputs, weights).tensors)


def test_running_twice_at_once_publishes_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    deliver(*three(world))
    real = Rounds.published

    def overtaken(self: Rounds, number: int, **values: object) -> bool:
        # The server's thread comes first.
        assert real(self, number, **values)  # type: ignore[arg-type]
        return real(self, number, **values)  # type: ignore[arg-type]

    monkeypatch.setattr(Rounds, "published", overtaken)
    assert world.advance(1).state is State.PUBLISHED
    assert [name for name, _ in world.events].count("round_published") == 0


def close(world: World, included: frozenset[str], inputs: str, looks: int = 0) -> bool:
    return world.coordinator.store.rounds.close(
        1, included=included, excluded={}, inputs_sha256=inputs, looks=looks, reason="", now=1
    )


def test_a_round_does_not_close_over_an_update_that_came_meanwhile(world: World) -> None:
    h01, h02, _ = three(world)
    deliver(h01, h02)
    first, second = (u.upload_id for u in world.coordinator.store.uploads.of_round(1))
    for included, closed in ({first}, False), ({first, second}, True), ({first, second}, False):
        assert closed == close(world, frozenset(included), "0" * 64)


def test_an_aggregate_of_other_inputs_is_not_taken(world: World) -> None:
    deliver(*three(world))
    uploads = frozenset(u.upload_id for u in world.coordinator.store.uploads.of_round(1))
    rounds = world.coordinator.store.rounds
    close(world, uploads, "1" * 64)
    for inputs, taken in ("2" * 64, False), ("1" * 64, True), ("1" * 64, False):
        assert taken == rounds.aggregated(
            1, inputs_sha256=inputs, adapter_sha256="3" * 64, contributions="[]"
        )


def damage(world: World, hospital: str) -> None:
    (upload,) = [u for u in world.coordinator.store.uploads.of_round(1) if u.hospital == hospital]
    path = world.coordinator.blobs.body(upload.upload_id)
    body = bytearray(path.read_bytes())
    body[-20] ^= 1
    path.write_bytes(body)


def test_an_update_damaged_on_the_coordinators_disk_is_excluded_and_named(world: World) -> None:
    h01, h02, h03 = three(world)
    deliver(h01, h02, h03)
    damage(world, "h02")
    assert world.advance(1).state is State.PUBLISHED
    record = h01.record(1)
    assert [c.hospital for c in record.contributions] == ["h01", "h03"]
    assert record.rejections[0].hospital == "h02"
    assert "damaged on the coordinator's disk" in record.rejections[0].reason


def test_too_many_damaged_updates_abort_the_round(world: World) -> None:
    h01, h02, h03 = three(world)
    deliver(h01, h02, h03)
    damage(world, "h02")
    damage(world, "h03")
    row: RoundRow = world.advance(1)
    assert (row.state, row.reason) == (
        State.ABORTED,
        "only 1 of 2 needed updates could be used",
    )


def test_a_round_whose_secret_is_lost_says_how_to_end_it(world: World) -> None:
    deliver(*three(world))
    with world.coordinator.store.database.write() as connection:
        connection.exec_driver_sql("UPDATE rounds SET wrapped_seed = NULL")
    with pytest.raises(StorageError, match="secret of round 1 is missing") as caught:
        world.advance(1)
    assert "round close --abort" in caught.value.hint
    assert world.advance(1, Request.ABORT).state is State.ABORTED


def test_a_lost_wrapping_key_stops_the_round_without_losing_it(world: World) -> None:
    h01, h02, h03 = three(world)
    deliver(h01, h02, h03)
    path = world.paths.home.parent / "other.pem"
    WrappingKey.create(path, None)
    broken = replace(world.coordinator, wrapping=Wrapping(path, None))
    with pytest.raises(StorageError, match="cannot be unwrapped"):
        closing.advance(broken, 1)
    assert world.advance(1).state is State.PUBLISHED
