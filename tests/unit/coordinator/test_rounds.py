"""The pure state machine."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from coordinator.rounds import FINAL, Action, Facts, Request, State, decide, outlook

DEADLINE = 10_000
GRACE = 600
NAMES = ("h01", "h02", "h03")
HOSPITALS = frozenset(NAMES)


def facts(state: State = State.OPEN, delivered: int = 0, quorum: int = 2) -> Facts:
    """The n-th of three hospitals delivered at second n."""
    times = {name: i + 1 for i, name in enumerate(NAMES[:delivered])}
    return Facts(state, HOSPITALS, times, quorum, DEADLINE, GRACE)


@pytest.mark.parametrize(
    ("delivered", "now", "request_", "action"),
    [
        (0, 0, Request.NONE, Action.WAIT),
        (2, 601, Request.NONE, Action.WAIT),
        (2, 602, Request.NONE, Action.CLOSE),
        (3, 0, Request.NONE, Action.CLOSE),
        (1, 9999, Request.NONE, Action.WAIT),
        (1, 10_000, Request.NONE, Action.ABORT),
        (2, 0, Request.CLOSE, Action.CLOSE),
        (1, 0, Request.CLOSE, Action.WAIT),
        (3, 0, Request.ABORT, Action.ABORT),
    ],
)
def test_an_open_round(delivered: int, now: int, request_: Request, action: Action) -> None:
    assert decide(facts(delivered=delivered), now, request_).action is action


def test_one_dead_hospital_costs_no_more_than_the_grace_period() -> None:
    dead = replace(facts(delivered=2), heard={"h03": 1})
    assert decide(dead, 2 + GRACE - 1).action is Action.WAIT
    decision = decide(dead, 2 + GRACE)
    assert decision.action is Action.CLOSE
    assert decision.reason == "quorum met; silent for 10 min: h03"


def test_a_hospital_that_shows_life_is_waited_for_until_the_deadline() -> None:
    for now in range(0, DEADLINE, 60):
        assert decide(replace(facts(delivered=2), heard={"h03": now}), now).action is Action.WAIT
    alive = replace(facts(delivered=2), heard={"h03": DEADLINE})
    assert decide(alive, DEADLINE).action is Action.CLOSE


def test_silence_does_not_count_before_quorum() -> None:
    # The second of the two needed came late; the third, silent since the start, has time still.
    late = replace(facts(), delivered={"h01": 1, "h02": 5000})
    assert decide(late, 5000 + GRACE - 1).action is Action.WAIT
    assert decide(late, 5000 + GRACE).action is Action.CLOSE


def test_nobody_was_silent_while_the_coordinator_was_down() -> None:
    back = replace(facts(delivered=2), awake_since=5000)
    assert decide(back, 5000 + GRACE - 1).action is Action.WAIT
    assert decide(back, 5000 + GRACE).action is Action.CLOSE


def test_one_living_hospital_keeps_the_round_open_for_all() -> None:
    one = replace(facts(delivered=1, quorum=1), heard={"h02": 3000})
    assert outlook(one).at == 3000 + GRACE
    assert outlook(one).without == ("h02", "h03")


def test_without_quorum_the_deadline_moves_as_often_as_was_said() -> None:
    short = replace(facts(delivered=1), extensions_left=1)
    assert decide(short, DEADLINE - 1).action is Action.WAIT
    assert decide(short, DEADLINE).action is Action.EXTEND
    assert decide(replace(short, extensions_left=0), DEADLINE).action is Action.ABORT
    met = replace(facts(delivered=2), extensions_left=1, heard={"h03": DEADLINE})
    assert decide(met, DEADLINE).action is Action.CLOSE


def test_a_whole_roster_below_quorum_waits_for_the_deadline() -> None:
    # Hospitals were revoked after the round opened.
    few = Facts(State.OPEN, frozenset({"h01"}), {"h01": 1}, 2, DEADLINE, GRACE)
    assert decide(few, 0).action is Action.WAIT
    assert decide(few, DEADLINE).action is Action.ABORT


@pytest.mark.parametrize(
    ("state", "delivered", "request_", "action"),
    [
        (State.CLOSED, 2, Request.NONE, Action.AGGREGATE),
        (State.CLOSED, 2, Request.ABORT, Action.ABORT),
        (State.CLOSED, 1, Request.NONE, Action.ABORT),
        (State.AGGREGATED, 2, Request.ABORT, Action.PUBLISH),
        (State.PUBLISHED, 3, Request.CLOSE, Action.WAIT),
        (State.ABORTED, 3, Request.CLOSE, Action.WAIT),
    ],
)
def test_later_states(state: State, delivered: int, request_: Request, action: Action) -> None:
    assert decide(facts(state, delivered), DEADLINE, request_).action is action


def in_quarantine(delivered: int, since: int, quorum: int = 2) -> Facts:
    """The last of those who delivered is in quarantine since then; 100 s for a review."""
    made = facts(delivered=delivered, quorum=quorum)
    return replace(made, quarantined={NAMES[delivered - 1]: since}, review=100)


def test_updates_are_examined_once_there_are_enough_and_before_anything_else() -> None:
    assert decide(replace(facts(delivered=1), examined=False), 0).action is Action.WAIT
    for request in Request.NONE, Request.CLOSE:
        new = replace(facts(delivered=2), examined=False)
        assert decide(new, DEADLINE, request).action is Action.EXAMINE
    assert decide(new, DEADLINE, Request.ABORT).action is Action.ABORT


def test_a_whole_roster_waits_for_a_review_no_longer_than_was_said() -> None:
    waiting = in_quarantine(3, since=50)
    assert decide(waiting, 149).action is Action.WAIT
    decision = decide(waiting, 150)
    assert decision.action is Action.CLOSE
    assert decision.reason == (
        "the whole roster has delivered; nobody admitted h03 from quarantine"
    )
    assert decide(waiting, 51, Request.CLOSE).action is Action.CLOSE
    assert decide(replace(waiting, quarantined={}), 51).action is Action.CLOSE


def test_what_is_in_quarantine_or_left_out_does_not_count_for_quorum() -> None:
    assert decide(in_quarantine(2, since=50), 9_999).action is Action.WAIT
    assert decide(in_quarantine(2, since=50), DEADLINE).action is Action.ABORT
    rejected = replace(facts(delivered=2), rejected=frozenset({"h01"}))
    assert decide(rejected, DEADLINE).reason.endswith("1 of 2 needed updates")
    # With the third here, nobody but a reviewer could change that.
    alone = in_quarantine(3, since=50, quorum=3)
    assert decide(alone, 149).action is Action.WAIT
    assert decide(alone, 150).action is Action.ABORT


def test_the_deadline_waits_for_a_review_that_began_before_it() -> None:
    late = in_quarantine(2, since=DEADLINE - 10)
    assert decide(late, DEADLINE + 89).action is Action.WAIT
    assert decide(late, DEADLINE + 90).action is Action.ABORT
    extensible = replace(late, extensions_left=1)
    assert decide(extensible, DEADLINE).action is Action.EXTEND
    everybody = replace(in_quarantine(3, since=0, quorum=3), extensions_left=1)
    assert decide(everybody, DEADLINE).action is Action.ABORT


TIMES = st.integers(0, 2 * DEADLINE)


@st.composite
def any_facts(draw: st.DrawFn) -> Facts:
    expected = draw(st.frozensets(st.sampled_from(NAMES)))
    state = draw(st.sampled_from(State))
    delivered = {name: draw(TIMES) for name in sorted(expected) if draw(st.booleans())}
    # Once a round is closed, those that were left out do not count as delivered any more.
    reviewed = sorted(delivered) if state is State.OPEN else []
    return Facts(
        state=state,
        expected=expected,
        delivered=delivered,
        quorum=draw(st.integers(1, 4)),
        deadline=draw(TIMES),
        grace=draw(st.integers(60, DEADLINE)),
        extensions_left=draw(st.integers(0, 3)),
        heard={name: draw(TIMES) for name in NAMES if draw(st.booleans())},
        awake_since=draw(TIMES),
        examined=state is not State.OPEN or draw(st.booleans()),
        quarantined={name: draw(TIMES) for name in reviewed if draw(st.booleans())},
        rejected=frozenset(name for name in reviewed if draw(st.booleans())),
        review=draw(st.integers(0, DEADLINE)),
    )


@given(any_facts(), TIMES, st.sampled_from(Request))
def test_nothing_is_aggregated_without_quorum(known: Facts, now: int, request_: Request) -> None:
    decision = decide(known, now, request_)
    if len(known.usable) < known.quorum:
        assert decision.action not in (Action.CLOSE, Action.AGGREGATE)
    # What ends or extends a round says why.
    if decision.action in (Action.CLOSE, Action.ABORT, Action.EXTEND):
        assert decision.reason


@given(any_facts(), TIMES)
def test_what_is_announced_is_what_happens_and_not_before(known: Facts, now: int) -> None:
    ahead = outlook(known)
    if ahead.at is not None and now < ahead.at:
        assert decide(known, now).action is Action.WAIT
        now = ahead.at
    assert decide(known, now).action is ahead.action


EXTENSION = 1800
NOBODY: frozenset[str] = frozenset()
AFTER = {
    Action.CLOSE: State.CLOSED,
    Action.AGGREGATE: State.AGGREGATED,
    Action.PUBLISH: State.PUBLISHED,
    Action.ABORT: State.ABORTED,
}


@given(any_facts())
def test_no_round_waits_for_ever(known: Facts) -> None:
    """Whatever is known, whoever goes on showing life: a bounded time leads to a final state."""
    now = max(known.deadline, known.reviewed_at)
    latest = now + known.extensions_left * EXTENSION
    while known.state not in FINAL:
        known = replace(known, heard=dict.fromkeys(NAMES, now))
        decision = decide(known, now)
        if decision.action is Action.EXTEND:
            left = known.extensions_left - 1
            known = replace(known, deadline=now + EXTENSION, extensions_left=left)
        elif decision.action is Action.EXAMINE:
            known = replace(known, examined=True)
        elif decision.action is Action.WAIT:
            assert now < known.deadline
            now = known.deadline
        else:
            used, state = known.usable, AFTER[decision.action]
            known = replace(known, state=state, delivered=used, quarantined={}, rejected=NOBODY)
        assert now <= latest


@given(any_facts())
def test_the_others_wait_no_longer_than_the_grace_period(known: Facts) -> None:
    """With quorum met and those who are missing dead, closing is at most the grace away."""
    known = replace(known, state=State.OPEN, examined=True)
    if known.quorum_at is None:
        return
    last_life = max([known.quorum_at, known.awake_since, *known.heard.values()])
    latest = max(last_life + known.grace, known.reviewed_at)
    assert decide(known, latest).action is Action.CLOSE
