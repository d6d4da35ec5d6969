"""What decides about a round, read from the store for the pure ``coordinator.rounds``."""

from __future__ import annotations

from collections.abc import Sequence

from coordinator.context import Coordinator
from coordinator.inputs import inputs_digest
from coordinator.rotation import same_member
from coordinator.rounds import Facts, State
from coordinator.store.reviews import Review
from coordinator.store.round_row import RoundRow
from coordinator.store.uploads import UploadRow
from federation.membership import Roster
from federation.messages import RoundDescriptor


def facts_of(coordinator: Coordinator, row: RoundRow) -> Facts:
    """What decides about the round now."""
    roster = round_roster(coordinator, row.descriptor)
    return gather(coordinator, row, roster, coordinator.store.uploads.of_round(row.number))


def gather(
    coordinator: Coordinator, row: RoundRow, roster: Roster, uploads: Sequence[UploadRow]
) -> Facts:
    """The same, of the round's roster and uploads.

    A member revoked while the round is open no longer counts, also if it is invited anew.
    """
    descriptor = row.descriptor
    expected = frozenset(m.hospital for m in roster.members)
    if row.state is State.OPEN:
        expected = _still_members(coordinator, roster)
    delivered = [u for u in accepted(uploads) if u.hospital in expected]
    # What was decided about an update is part of its state once the round is closed.
    reviews = coordinator.store.reviews.of_round(row.number) if row.state is State.OPEN else {}
    found = {u.hospital: reviews[u.upload_id] for u in delivered if u.upload_id in reviews}
    return Facts(
        state=row.state,
        expected=expected,
        delivered={u.hospital: u.touched_at for u in delivered},
        quorum=descriptor.quorum,
        deadline=row.deadline,
        grace=descriptor.grace_minutes * 60,
        extensions_left=descriptor.extensions - (row.extended.automatic if row.extended else 0),
        heard=last_heard(coordinator, row.number, uploads),
        awake_since=coordinator.awake_since,
        examined=row.state is not State.OPEN
        or row.examined_sha256 == inputs_digest(row, delivered),
        quarantined={h: r.found_at for h, r in found.items() if in_quarantine(descriptor, r)},
        rejected=frozenset(h for h, review in found.items() if review.decision == "excluded"),
        review=descriptor.review_minutes * 60,
    )


def in_quarantine(descriptor: RoundDescriptor, review: Review) -> bool:
    """Whether an update waits for a person to admit it."""
    return descriptor.anomalies == "quarantine" and review.suspicious and review.decision is None


def _still_members(coordinator: Coordinator, then: Roster) -> frozenset[str]:
    now = {m.hospital: m.identity for m in coordinator.roster().members}
    return frozenset(
        member.hospital
        for member in then.members
        if member.hospital in now and same_member(coordinator, member, now[member.hospital])
    )


def round_roster(coordinator: Coordinator, descriptor: RoundDescriptor) -> Roster:
    """The roster that the round was opened with."""
    return coordinator.roster_of(descriptor.roster_sha256)


def accepted(uploads: Sequence[UploadRow]) -> list[UploadRow]:
    """Those with an accepted update."""
    return [upload for upload in uploads if upload.state == "accepted"]


def last_heard(
    coordinator: Coordinator, number: int, uploads: Sequence[UploadRow]
) -> dict[str, int]:
    """When each hospital last showed life in a round: by a heartbeat, or a part of an update."""
    heard = {name: beat.at for name, beat in coordinator.store.reports.heartbeats(number).items()}
    for upload in uploads:
        heard[upload.hospital] = max(upload.touched_at, heard.get(upload.hospital, 0))
    return heard
