"""Reviewing a round's updates: what was found about each, and a person's word about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from coordinator.aggregation import ValidatedLoss
from coordinator.context import Coordinator
from coordinator.errors import NoSuchRound
from coordinator.facts import accepted, facts_of, in_quarantine
from coordinator.rounds import State
from coordinator.store.reviews import Decided, Review
from coordinator.store.round_row import RoundRow
from coordinator.store.uploads import UploadRow
from federation.errors import RoundClosed, RoundError
from federation.findings import UpdateFinding

_LIST = "`coordinator review list` shows which updates there are."


@dataclass(frozen=True)
class Reviewed:
    """One accepted update as a person sees it.

    ``state`` is waiting (not examined yet), usual, quarantined, noted (odd, but used as the round
    says), admitted or excluded. ``until`` is when a quarantined one is left out at the earliest.
    """

    round: int
    hospital: str
    upload_id: str
    state: str
    finding: UpdateFinding | None
    reported_loss: float | None
    decision_reason: str | None
    until: int | None


def why_left_out(review: Review) -> str:
    """What the record says about an update that is not used."""
    if review.decision is None:
        return f"left in quarantine, nobody admitted it: {review.odd}"
    if review.finding.figures is None:
        return review.odd
    odd = f" ({review.odd})" if review.odd else ""
    return f"excluded by the administrator: {review.decision_reason}{odd}"


def remark(review: Review) -> str:
    """What the record adds to the explanation of an odd update that is used."""
    if not review.suspicious:
        return ""
    if review.decision == "admitted":
        return f"; admitted by the administrator: {review.decision_reason} ({review.odd})"
    return f"; noted: {review.odd}"


def validated_losses(
    reviews: Mapping[str, Review], included: Sequence[UploadRow]
) -> dict[str, ValidatedLoss]:
    """The validated losses by upload id: of all updates, else of none.

    A validated loss and a reported one are of different examples, and cannot be compared.
    """
    losses = {
        u.upload_id: ValidatedLoss(loss, review.finding.validated_variance)
        for u in included
        if (review := reviews.get(u.upload_id)) is not None
        and (loss := review.finding.validated_loss) is not None
    }
    return losses if len(losses) == len(included) else {}


def quarantine_of(coordinator: Coordinator, row: RoundRow, own: Sequence[UploadRow]) -> str:
    """Why one of these updates of an open round waits to be admitted; empty where none does."""
    if row.state is not State.OPEN:
        return ""
    reviews = coordinator.store.reviews.of_round(row.number)
    found = [reviews[u.upload_id] for u in accepted(own) if u.upload_id in reviews]
    return "; ".join(r.odd for r in found if in_quarantine(row.descriptor, r))[:1000]


def listing(coordinator: Coordinator, number: int | None = None) -> list[Reviewed]:
    """The accepted updates of a round, the newest by default, with what was found and decided.

    Raises NoSuchRound.
    """
    row = _round(coordinator, number)
    reviews = coordinator.store.reviews.of_round(row.number)
    uploads = coordinator.store.uploads.of_round(row.number)
    return [
        _reviewed(row, upload, reviews.get(upload.upload_id))
        for upload in uploads
        if upload.state in ("accepted", "excluded")
    ]


def find(coordinator: Coordinator, hospital: str, number: int | None = None) -> Reviewed:
    """One hospital's accepted update in a round. Raises NoSuchRound, RoundError without one."""
    row = _round(coordinator, number)
    for one in listing(coordinator, row.number):
        if one.hospital == hospital:
            return one
    raise RoundError(f"{hospital} has no update in round {row.number}.", hint=_LIST)


def _reviewed(row: RoundRow, upload: UploadRow, review: Review | None) -> Reviewed:
    until: int | None = None
    if review is None:
        state = "waiting"
    elif upload.state == "excluded" or review.decision == "excluded":
        state = "excluded"
    elif in_quarantine(row.descriptor, review):
        state = "quarantined"
        until = review.found_at + row.descriptor.review_minutes * 60
    elif review.suspicious:
        state = "admitted" if review.decision else "noted"
    else:
        state = "usual"
    return Reviewed(
        round=row.number,
        hospital=upload.hospital,
        upload_id=upload.upload_id,
        state=state,
        finding=review.finding if review else None,
        reported_loss=upload.payload_header().metrics.get("loss_after"),
        decision_reason=upload.reason
        if upload.state == "excluded"
        else (review.decision_reason if review else None),
        until=until,
    )


def decide_about(
    coordinator: Coordinator, hospital: str, decision: Decided, reason: str
) -> Reviewed:
    """Admit or exclude a hospital's update of the newest round, while that is open.

    Raises NoSuchRound, RoundClosed once the round goes on without or with it, and RoundError where
    there is nothing to decide about.
    """
    row = _round(coordinator, None)
    if row.state is not State.OPEN:
        raise RoundClosed(
            f"Round {row.number} is {row.state}: what it used cannot be changed any more.",
            hint="Its record says what was left out and why; the next round can be trained anew.",
        )
    upload = _accepted(coordinator, row, hospital)
    review = coordinator.store.reviews.of_round(row.number).get(upload.upload_id)
    if review is None:
        raise RoundError(
            f"The update of {hospital} was not examined yet: that happens once there are "
            f"{row.descriptor.quorum}.",
            hint="Try again then; `coordinator status` shows how many there are.",
        )
    if decision == "admitted":
        _check_admissible(hospital, review)
    if not coordinator.store.reviews.decide(row.number, upload.upload_id, decision, reason):
        raise RoundClosed(f"Round {row.number} was closed at the same time.")
    coordinator.emit(
        f"update_{decision}_by_hand", round=row.number, hospital=hospital, reason=reason
    )
    return find(coordinator, hospital, row.number)


def _check_admissible(hospital: str, review: Review) -> None:
    if review.finding.figures is None:
        raise RoundError(
            f"The update of {hospital} cannot be used: {review.odd}.",
            hint="It cannot be admitted; restore the coordinator's home from a backup.",
        )
    if not review.suspicious and review.decision is None:
        raise RoundError(
            f"Nothing is odd about the update of {hospital}: it needs no admission.", hint=_LIST
        )


def _accepted(coordinator: Coordinator, row: RoundRow, hospital: str) -> UploadRow:
    uploads = coordinator.store.uploads.of_round(row.number)
    own = [u for u in accepted(uploads) if u.hospital == hospital]
    if not own or hospital not in facts_of(coordinator, row).delivered:
        raise RoundError(f"{hospital} has no update in round {row.number}.", hint=_LIST)
    return own[0]


def _round(coordinator: Coordinator, number: int | None) -> RoundRow:
    rounds = coordinator.store.rounds
    row = rounds.newest() if number is None else rounds.get(number)
    if row is None:
        raise NoSuchRound(
            "There is no round yet." if number is None else f"There is no round {number}.",
            hint="`coordinator round open` opens one.",
        )
    return row
