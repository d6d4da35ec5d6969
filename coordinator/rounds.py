"""The life of a round as a pure function: what is known and the time in, what to do out.

OPEN -> CLOSED -> AGGREGATED -> PUBLISHED
  └────────┴──> ABORTED (the previous adapter stays)

Every wait is bounded: without quorum by the deadline and its extensions, with quorum also by the
silence of those who are missing. Updates are examined as soon as there are as many as the quorum,
and again when another comes. One that looks unlike the others' is in quarantine: it counts for
nothing until a person admits it, and for that there is a time, after which the round goes on
without it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from enum import Enum, StrEnum


class State(StrEnum):
    """Where a round is."""

    OPEN = "open"
    CLOSED = "closed"
    AGGREGATED = "aggregated"
    PUBLISHED = "published"
    ABORTED = "aborted"


FINAL = (State.PUBLISHED, State.ABORTED)
"""States that a round never leaves."""


class Action(Enum):
    """What to do with a round next."""

    WAIT = "wait"
    EXTEND = "extend"
    EXAMINE = "examine"
    CLOSE = "close"
    AGGREGATE = "aggregate"
    PUBLISH = "publish"
    ABORT = "abort"


class Request(Enum):
    """What the administrator asked for, beyond what the clock does."""

    NONE = "none"
    CLOSE = "close"
    ABORT = "abort"


@dataclass(frozen=True)
class Facts:
    """All that decides about a round; times in seconds since 1970, ``grace`` in seconds.

    ``expected`` are the hospitals of the round's roster that are still members. ``delivered``
    says when the update of each was accepted, ``heard`` when any other was last heard of in this
    round. Hospitals that are merely connected count nothing. While the coordinator did not listen,
    until ``awake_since``, nobody can be called silent.

    ``examined`` says that findings are of exactly what was delivered. ``quarantined`` are the
    hospitals whose update looks odd and was not decided about, and since when; ``rejected`` those
    whose update a person left out. Neither counts for quorum. ``review`` is how many seconds a
    person has for each.
    """

    state: State
    expected: frozenset[str]
    delivered: Mapping[str, int]
    quorum: int
    deadline: int
    grace: int
    extensions_left: int = 0
    heard: Mapping[str, int] = field(default_factory=dict)
    awake_since: int = 0
    examined: bool = True
    quarantined: Mapping[str, int] = field(default_factory=dict)
    rejected: frozenset[str] = frozenset()
    review: int = 0

    @property
    def usable(self) -> dict[str, int]:
        """Who has delivered an update that nothing keeps from being aggregated, and when."""
        left_out = self.quarantined.keys() | self.rejected
        return {h: at for h, at in self.delivered.items() if h not in left_out}

    @property
    def reviewed_at(self) -> int:
        """When the time to decide about those in quarantine is over; 0 where there is none."""
        return max(self.quarantined.values()) + self.review if self.quarantined else 0

    @property
    def missing(self) -> tuple[str, ...]:
        """Who has not delivered, sorted."""
        return tuple(sorted(self.expected - self.delivered.keys()))

    @property
    def quorum_at(self) -> int | None:
        """When enough usable updates were here; None before that."""
        times = sorted(self.usable.values())
        return times[self.quorum - 1] if len(times) >= self.quorum else None

    def silent_since(self, hospital: str) -> int:
        """From when on the silence of a missing hospital counts, once quorum is met."""
        return max(self.quorum_at or 0, self.heard.get(hospital, 0), self.awake_since)


@dataclass(frozen=True)
class Outlook:
    """What comes next if nobody is heard of any more: at ``at``, or now where that is None.

    ``without`` are the hospitals that are waited for until then.
    """

    action: Action
    reason: str = ""
    at: int | None = None
    without: tuple[str, ...] = ()


@dataclass(frozen=True)
class Decision:
    """The next action and, for people, its reason."""

    action: Action
    reason: str = ""


_ADMINISTRATOR = "aborted by the administrator"


def decide(facts: Facts, now: int, request: Request = Request.NONE) -> Decision:
    """The next step of a round at ``now`` (seconds since 1970)."""
    if request is Request.ABORT and facts.state in (State.OPEN, State.CLOSED):
        return Decision(Action.ABORT, _ADMINISTRATOR)
    if request is Request.CLOSE and facts.state is State.OPEN and facts.quorum_at is not None:
        if not facts.examined:
            return Decision(Action.EXAMINE)
        reason = "closed by the administrator with quorum met"
        return Decision(Action.CLOSE, reason + _without(facts))
    ahead = outlook(facts)
    if ahead.at is not None and now < ahead.at:
        return Decision(Action.WAIT)
    return Decision(ahead.action, ahead.reason)


def outlook(facts: Facts) -> Outlook:
    """What comes next, and when at the latest."""
    match facts.state:
        case State.OPEN if len(facts.delivered) >= facts.quorum and not facts.examined:
            return Outlook(Action.EXAMINE)
        case State.OPEN if facts.quorum_at is not None:
            return _reviewed(facts, _closing(facts))
        case State.OPEN:
            return _reviewed(facts, _without_quorum(facts))
        case State.CLOSED if facts.quorum_at is not None:
            return Outlook(Action.AGGREGATE)
        case State.CLOSED:
            count = len(facts.delivered)
            return Outlook(
                Action.ABORT, f"only {count} of {facts.quorum} needed updates could be used"
            )
        case State.AGGREGATED:
            return Outlook(Action.PUBLISH)
        case _:
            return Outlook(Action.WAIT)


def _closing(facts: Facts) -> Outlook:
    missing = facts.missing
    if not missing:
        return Outlook(Action.CLOSE, "the whole roster has delivered")
    given_up = max(facts.silent_since(hospital) for hospital in missing) + facts.grace
    if given_up < facts.deadline:
        reason = f"quorum met; silent for {facts.grace // 60} min: {', '.join(missing)}"
        return Outlook(Action.CLOSE, reason, given_up, missing)
    reason = "the deadline has passed with quorum met"
    return Outlook(Action.CLOSE, reason, facts.deadline, missing)


def _without_quorum(facts: Facts) -> Outlook:
    used, needed = len(facts.usable), facts.quorum
    if not facts.missing and len(facts.delivered) >= needed:
        # Nobody is left to wait for but a person who reviews.
        return Outlook(Action.ABORT, f"only {used} of {needed} needed updates could be used")
    short = f"quorum not met at the deadline: {used} of {needed} needed updates"
    action = Action.EXTEND if facts.extensions_left and facts.missing else Action.ABORT
    return Outlook(action, short, facts.deadline, facts.missing)


def _reviewed(facts: Facts, ahead: Outlook) -> Outlook:
    """The same, but not before a person had the time to decide about those in quarantine."""
    if ahead.action is Action.EXTEND:
        return ahead
    at = ahead.at
    if facts.quarantined:
        at = max(at or 0, facts.reviewed_at)
    return replace(ahead, at=at, reason=ahead.reason + _without(facts))


def _without(facts: Facts) -> str:
    if not facts.quarantined:
        return ""
    return f"; nobody admitted {', '.join(sorted(facts.quarantined))} from quarantine"
