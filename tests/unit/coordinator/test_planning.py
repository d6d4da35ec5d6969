"""Several rounds with nobody there: what comes next, and why it ends."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.config import RoundSection
from coordinator.enrolment import revoke
from coordinator.planning import cancel, current, end_of, follow_plan, open_rounds, standing
from coordinator.rounds import FINAL, Request, State
from coordinator.store.plans import Plan
from coordinator.store.round_row import RoundRow
from federation.errors import RoundError
from tests.unit.coordinator.hospital import Hospital
from tests.unit.coordinator.world import World

PLAN = Plan(1, 3, 2, False, RoundSection())


def plan_rounds(world: World, rounds: int, max_aborts: int = 1, **settings: Any) -> RoundRow:  # noqa: ANN401
    shape = {"target_modules": "q_proj,v_proj", "rank": 2, "alpha": 4.0}
    section = RoundSection.model_validate({**shape, **settings}, strict=False)
    return open_rounds(
        world.coordinator, section, rounds=rounds, max_aborts=max_aborts, base=world.card
    )


def deliver(world: World, number: int, *hospitals: Hospital) -> None:
    for hospital in hospitals:
        assert hospital.upload(hospital.seal(number)).accepted
    assert world.advance(number).state is State.PUBLISHED


def newest(world: World) -> RoundRow:
    row = world.coordinator.store.rounds.newest()
    assert row is not None
    return row


def ended(world: World) -> str | None:
    found = current(world.coordinator)
    assert found is not None
    return end_of(*found)


@given(st.lists(st.sampled_from(FINAL), max_size=20))
def test_a_plan_ends_after_a_bounded_number_of_rounds(outcomes: list[State]) -> None:
    """Whatever becomes of them: published rounds are counted, aborted ones only in a row."""
    states: list[State] = []
    for outcome in [*outcomes, *[State.ABORTED] * 2]:
        if end_of(PLAN, standing(states)) is not None:
            break
        states.append(outcome)
    assert end_of(PLAN, standing(states)) is not None
    assert len(states) <= PLAN.rounds * PLAN.max_aborts
    assert states.count(State.PUBLISHED) <= PLAN.rounds


def test_rounds_follow_one_another_until_all_are_published(world: World) -> None:
    h01, h02 = world.member("h01"), world.member("h02")
    plan_rounds(world, 3, grace_minutes=7)
    for number in (1, 2, 3):
        follow_plan(world.coordinator)
        row = newest(world)
        assert (row.number, row.state, row.descriptor.grace_minutes) == (number, State.OPEN, 7)
        follow_plan(world.coordinator)
        assert newest(world).number == number
        deliver(world, number, h01, h02)
    for _ in range(2):
        follow_plan(world.coordinator)
    assert newest(world).number == 3
    assert ended(world) == "all 3 rounds are published"
    assert [f for n, f in world.events if n == "plan_ended"] == [
        {"first": 1, "rounds": 3, "reason": "all 3 rounds are published"}
    ]
    assert newest(world).descriptor.parent_adapter_sha256 != (
        world.coordinator.store.rounds.get(1).descriptor.parent_adapter_sha256  # type: ignore[union-attr]
    )


def test_an_aborted_round_is_repeated_as_often_as_was_said(world: World) -> None:
    h01, h02 = world.member("h01"), world.member("h02")
    plan_rounds(world, 2, max_aborts=2)
    for number in (1, 2):
        assert newest(world).number == number
        if number == 1:
            world.advance(1, Request.ABORT)
        else:
            deliver(world, 2, h01, h02)
        follow_plan(world.coordinator)
    world.advance(3, Request.ABORT)
    follow_plan(world.coordinator)
    assert ended(world) is None
    world.advance(4, Request.ABORT)
    follow_plan(world.coordinator)
    assert newest(world).number == 4
    assert ended(world) == "2 rounds in a row were aborted, with 1 of 2 to go"


def test_a_fresh_start_is_repeated_until_one_is_published(world: World) -> None:
    h01, h02 = world.member("h01"), world.member("h02")
    world.open()
    deliver(world, 1, h01, h02)
    shape = {"target_modules": "q_proj,v_proj", "rank": 3, "alpha": 4.0}
    section = RoundSection.model_validate(shape, strict=False)
    open_rounds(world.coordinator, section, rounds=2, max_aborts=3, fresh=True)
    world.advance(2, Request.ABORT)
    follow_plan(world.coordinator)
    row = newest(world)
    assert (row.number, row.turn, row.descriptor.adapter_schema.rank) == (3, 1, 3)
    deliver(world, 3, h01, h02)
    follow_plan(world.coordinator)
    assert (newest(world).number, newest(world).turn) == (4, 2)


def test_a_round_that_cannot_be_opened_ends_the_plan_and_says_why(world: World) -> None:
    h01, h02, _ = (world.member(name) for name in ("h01", "h02", "h03"))
    plan_rounds(world, 5, quorum=3)
    revoke(world.coordinator, world.admin, "h03")
    assert h01.upload(h01.seal(1)).accepted
    assert h02.upload(h02.seal(1)).accepted
    world.clock.now += 24 * 3600
    world.advance(1)
    assert newest(world).state is State.ABORTED
    follow_plan(world.coordinator)
    assert ended(world) == "a round was aborted, with 5 of 5 to go"
    plan_rounds(world, 2, quorum=2)
    deliver(world, 2, h01, h02)
    revoke(world.coordinator, world.admin, "h02")
    follow_plan(world.coordinator)
    assert newest(world).number == 2
    assert "--quorum 2 is more than the 1 hospitals" in (ended(world) or "")


def test_a_cancelled_plan_lets_the_open_round_go_on(world: World) -> None:
    h01, h02 = world.member("h01"), world.member("h02")
    plan_rounds(world, 3)
    with pytest.raises(RoundError, match="A plan of 3 rounds is under way"):
        plan_rounds(world, 2)
    cancel(world.coordinator)
    deliver(world, 1, h01, h02)
    follow_plan(world.coordinator)
    assert newest(world).number == 1
    assert ended(world) == "cancelled by the administrator"
    with pytest.raises(RoundError, match="No plan is under way"):
        cancel(world.coordinator)
    assert plan_rounds(world, 2).number == 2


def test_another_process_that_opened_the_round_is_no_failure(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    h01, h02 = world.member("h01"), world.member("h02")
    plan_rounds(world, 2)
    deliver(world, 1, h01, h02)
    real = world.coordinator.store.rounds.newest
    stale = real()
    follow_plan(world.coordinator)
    monkeypatch.setattr("coordinator.store.rounds.Rounds.newest", lambda _: stale)
    monkeypatch.setattr(
        "coordinator.store.rounds.Rounds.states_since", lambda *_: [State.PUBLISHED]
    )
    follow_plan(world.coordinator)
    monkeypatch.undo()
    assert newest(world).number == 2
    assert ended(world) is None
