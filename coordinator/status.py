"""Where the federation stands, for people and scripts: read from the database alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from coordinator.context import Coordinator
from coordinator.facts import facts_of, last_heard
from coordinator.forecast import SILENT_AFTER_SECONDS, Ahead, after_the_round, forecast, span
from coordinator.planning import current
from coordinator.review import Reviewed, listing
from coordinator.rounds import FINAL, State
from coordinator.store.reading import stored
from coordinator.store.reports import Evaluation, Heartbeat
from coordinator.store.round_row import RoundRow
from federation.membership import Roster
from federation.records import Contribution, RoundRecord


@dataclass(frozen=True)
class HospitalStatus:
    """One hospital's part in the newest round; ``seconds_ago`` is when it last showed life.

    ``odd`` is what is unusual about its update, ``weight`` what it counted for in a round that was
    aggregated, and ``why`` the record's words about that, or about its being left out.
    """

    hospital: str
    state: str
    phase: str | None = None
    step: int | None = None
    of: int | None = None
    seconds_ago: int | None = None
    odd: str = ""
    weight: float | None = None
    why: str = ""

    @property
    def ago(self) -> str:
        """How long ago that was, for people."""
        return span(self.seconds_ago or 0)

    def text(self) -> str:
        """One phrase for people."""
        if said := self.why or self.odd:
            return f"{self.state}: {said}"
        if self.state not in ("working", "silent", "refused") or self.seconds_ago is None:
            return self.state
        if self.phase is None:
            return f"{self.state}, last heard of {self.ago} ago"
        place = f"{self.phase} step {self.step} of {self.of}" if self.of else self.phase
        heard = f"{place} ({self.ago} ago)"
        return heard if self.state == "working" else f"{self.state}, last {heard}"


@dataclass(frozen=True)
class RoundLoss:
    """A published adapter's mean held-out loss, and that at each hospital that reported it."""

    round: int
    loss: float
    by_hospital: dict[str, float]


@dataclass(frozen=True)
class Status:
    """The newest round, its hospitals, and the losses of all published adapters.

    ``adapter_sha256`` is the global adapter's; ``deadline`` is that of an open round. ``ahead`` is
    what comes next, None where that is up to the administrator.
    """

    federation: str
    hospitals: tuple[HospitalStatus, ...]
    round: int = 0
    state: str = "none"
    reason: str | None = None
    deadline: int | None = None
    quorum: int | None = None
    aggregator: str | None = None
    adapter_sha256: str | None = None
    losses: tuple[RoundLoss, ...] = ()
    best_round: int | None = None
    ahead: Ahead | None = None


def federation_status(coordinator: Coordinator) -> Status:
    """Read the status now."""
    newest = coordinator.store.rounds.newest()
    if newest is None:
        return Status(coordinator.federation, _hospitals(coordinator, None))
    published = coordinator.store.rounds.last_published()
    losses = mean_losses(coordinator.store.reports.evaluations())
    best = best_round(losses)
    descriptor = newest.descriptor
    return Status(
        federation=coordinator.federation,
        hospitals=_hospitals(coordinator, newest),
        round=newest.number,
        state=newest.state.value,
        reason=newest.reason,
        deadline=newest.deadline if newest.state is State.OPEN else None,
        quorum=descriptor.quorum,
        aggregator=descriptor.aggregator,
        adapter_sha256=published.adapter_sha256 if published else None,
        losses=losses,
        best_round=best.round if best else None,
        ahead=_ahead(coordinator, newest),
    )


def _ahead(coordinator: Coordinator, row: RoundRow) -> Ahead | None:
    if row.state in FINAL:
        plan = current(coordinator)
        return after_the_round(*plan) if plan else None
    descriptor = row.descriptor
    return forecast(
        facts_of(coordinator, row),
        descriptor.extension_minutes,
        descriptor.opened_at,
        coordinator.clock(),
    )


def mean_losses(evaluations: Sequence[Evaluation]) -> tuple[RoundLoss, ...]:
    """For each round the mean loss, weighted by held-out examples, in nats a token."""
    by_round: dict[int, list[Evaluation]] = {}
    for evaluation in evaluations:
        by_round.setdefault(evaluation.round, []).append(evaluation)
    return tuple(
        RoundLoss(
            number,
            math.fsum(e.loss * e.n_examples for e in found) / sum(e.n_examples for e in found),
            {e.hospital: e.loss for e in found},
        )
        for number, found in sorted(by_round.items())
    )


def best_round(losses: Sequence[RoundLoss]) -> RoundLoss | None:
    """The round of the lowest loss among those that most hospitals have evaluated.

    A round that only the hospital with the easiest questions reported would look best.
    """
    widest = max((len(loss.by_hospital) for loss in losses), default=0)
    widely_known = (loss for loss in losses if len(loss.by_hospital) == widest)
    return min(widely_known, key=lambda loss: loss.loss, default=None)


def _with_part(
    row: HospitalStatus, reviewed: Reviewed | None, counted: Contribution | None
) -> HospitalStatus:
    """The same, with what was found about the hospital's update and what it counted for."""
    if counted is not None:
        return replace(row, weight=counted.weight, why=counted.explanation)
    if reviewed is None:
        return row
    if reviewed.state == "excluded":
        return replace(row, state="left out", why=reviewed.decision_reason or "")
    odd = "; ".join(reviewed.finding.reasons) if reviewed.finding else ""
    state = "quarantined" if reviewed.state == "quarantined" else row.state
    return replace(row, state=state, odd=odd)


def _hospitals(coordinator: Coordinator, newest: RoundRow | None) -> tuple[HospitalStatus, ...]:
    roster = coordinator.roster()
    number = newest.number if newest else 0
    uploads = coordinator.store.uploads.of_round(number)
    delivered = {u.hospital for u in uploads if u.state == "accepted"}
    refused = {u.hospital for u in uploads if u.state == "refused"}
    beats = coordinator.store.reports.heartbeats(number)
    heard = last_heard(coordinator, number, uploads)
    now = coordinator.clock()
    rows = [
        _member(m.hospital, delivered, refused, beats.get(m.hospital), heard.get(m.hospital), now)
        for m in roster.members
    ]
    if newest is not None:
        reviewed = {one.hospital: one for one in listing(coordinator, number)}
        counted = _counted(newest)
        rows = [
            _with_part(row, reviewed.get(row.hospital), counted.get(row.hospital)) for row in rows
        ]
    return (*rows, *_waiting(coordinator, roster))


def _counted(row: RoundRow) -> dict[str, Contribution]:
    if row.state is not State.PUBLISHED or row.record is None:
        return {}
    record = stored(RoundRecord, row.record.body)
    return {c.hospital: c for c in record.contributions}


def _member(
    hospital: str,
    delivered: set[str],
    refused: set[str],
    beat: Heartbeat | None,
    heard: int | None,
    now: int,
) -> HospitalStatus:
    ago = None if heard is None else now - heard
    if hospital in delivered:
        state = "delivered"
    # The sending of an update that was refused is no sign of work.
    elif beat is not None and now - beat.at <= SILENT_AFTER_SECONDS:
        state = "working"
    elif hospital in refused:
        state = "refused"
    else:
        state = "silent" if ago is None or ago > SILENT_AFTER_SECONDS else "working"
    if beat is None:
        return HospitalStatus(hospital, state, seconds_ago=ago)
    return HospitalStatus(hospital, state, beat.phase, beat.step, beat.of, ago)


def _waiting(coordinator: Coordinator, roster: Roster) -> list[HospitalStatus]:
    now = coordinator.clock()
    return [
        HospitalStatus(
            candidate.hospital, "waiting for approval", seconds_ago=now - candidate.enrolled_at
        )
        for candidate in coordinator.store.members.candidates().values()
        if candidate.revoked_at is None and roster.member(candidate.hospital) is None
    ]
