"""Moving a round on: close, aggregate, publish or abort. Every step may be run again."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from coordinator import aggregation
from coordinator.aggregation import Share
from coordinator.context import Coordinator
from coordinator.errors import CannotAggregate, NoSuchRound
from coordinator.examining import examine
from coordinator.extending import extend_automatically
from coordinator.facts import accepted, gather, round_roster
from coordinator.inputs import Damaged, inputs_digest, round_inputs
from coordinator.records import Account, contribution, signed_record
from coordinator.review import validated_losses, why_left_out
from coordinator.rounds import Action, Facts, Request, State, decide
from coordinator.store.reading import stored
from coordinator.store.round_row import RoundRow
from coordinator.store.uploads import UploadRow
from federation.errors import AdapterError, StorageError
from federation.membership import Roster

_REVOKED = "revoked before the round closed"


def advance(coordinator: Coordinator, number: int, request: Request = Request.NONE) -> RoundRow:
    """Do all that can be done with a round now; safe to repeat and to run twice at once.

    Raises NoSuchRound, and StorageError when the disk refuses (then nothing is lost).
    """
    while True:
        row = coordinator.store.rounds.get(number)
        if row is None:
            raise NoSuchRound(f"There is no round {number}.")
        roster = round_roster(coordinator, row.descriptor)
        uploads = coordinator.store.uploads.of_round(number)
        facts = gather(coordinator, row, roster, uploads)
        decision = decide(facts, coordinator.clock(), request)
        match decision.action:
            case Action.WAIT:
                return row
            case Action.EXTEND:
                extend_automatically(coordinator, row, decision.reason)
            case Action.EXAMINE:
                delivered = [u for u in accepted(uploads) if u.hospital in facts.delivered]
                examine(coordinator, row, delivered)
            case Action.CLOSE:
                _close(coordinator, row, uploads, facts, decision.reason)
            case Action.AGGREGATE:
                try:
                    _aggregate(coordinator, row, accepted(uploads))
                except CannotAggregate as error:
                    reason = f"not aggregated: {error}"
                    _abort(coordinator, row, roster, uploads, facts, reason)
            case Action.PUBLISH:
                _publish(coordinator, row, roster, uploads)
            case Action.ABORT:
                _abort(coordinator, row, roster, uploads, facts, decision.reason)


def _close(
    coordinator: Coordinator,
    row: RoundRow,
    uploads: Sequence[UploadRow],
    facts: Facts,
    reason: str,
) -> None:
    excluded = _left_out(coordinator, row, uploads, facts)
    included = [u for u in accepted(uploads) if u.upload_id not in excluded]
    closed = coordinator.store.rounds.close(
        row.number,
        included=frozenset(u.upload_id for u in included),
        excluded=excluded,
        inputs_sha256=inputs_digest(row, included),
        looks=row.looks,
        reason=reason,
        now=coordinator.clock(),
    )
    if closed:
        coordinator.emit("round_closed", round=row.number, updates=len(included), reason=reason)
        _say_excluded(coordinator, row, excluded)


def _left_out(
    coordinator: Coordinator, row: RoundRow, uploads: Sequence[UploadRow], facts: Facts
) -> dict[str, str]:
    """The accepted updates of an open round that are not used, and why."""
    if row.state is not State.OPEN:
        return {}
    reviews = coordinator.store.reviews.of_round(row.number)
    found: dict[str, str] = {}
    for upload in accepted(uploads):
        if upload.hospital not in facts.delivered:
            found[upload.upload_id] = _REVOKED
        elif upload.hospital not in facts.usable:
            found[upload.upload_id] = why_left_out(reviews[upload.upload_id])
    return found


def _say_excluded(coordinator: Coordinator, row: RoundRow, excluded: Mapping[str, str]) -> None:
    for upload_id, why in excluded.items():
        coordinator.emit("update_excluded", round=row.number, upload=upload_id, reason=why)


def _aggregate(coordinator: Coordinator, row: RoundRow, included: list[UploadRow]) -> None:
    descriptor = row.descriptor
    aggregator = aggregation.get(descriptor.aggregator)
    reviews = coordinator.store.reviews.of_round(row.number)
    losses = validated_losses(reviews, included)
    inputs = round_inputs(coordinator, row, included, losses)
    try:
        shares = aggregator.shares(inputs)
        weights = {hospital: share.weight for hospital, share in shares.items()}
        merged = aggregator.merge(inputs, weights)
        adapter_sha256 = coordinator.blobs.put_adapter(
            descriptor.adapter_schema.shapes(), merged.tensors
        )
    except Damaged as error:
        _exclude(coordinator, row, included, error)
        return
    except AdapterError as error:
        raise CannotAggregate(str(error)) from error
    contributions = [
        contribution(upload, shares[upload.hospital], reviews.get(upload.upload_id))
        for upload in included
    ]
    account = Account(
        contributions=tuple(contributions), discarded=merged.discarded, validated=bool(losses)
    )
    done = coordinator.store.rounds.aggregated(
        row.number,
        inputs_sha256=inputs_digest(row, included),
        adapter_sha256=adapter_sha256,
        contributions=account.to_json().decode(),
    )
    if done:
        coordinator.emit("round_aggregated", round=row.number, adapter=adapter_sha256)


def _exclude(
    coordinator: Coordinator, row: RoundRow, included: list[UploadRow], error: Damaged
) -> None:
    left = [u for u in included if u.upload_id != error.upload_id]
    coordinator.store.rounds.exclude(
        row.number,
        error.upload_id,
        str(error)[:1000],
        inputs=inputs_digest(row, included),
        remaining=inputs_digest(row, left),
    )
    coordinator.emit("update_excluded", round=row.number, upload=error.upload_id, reason=str(error))


def _publish(
    coordinator: Coordinator, row: RoundRow, roster: Roster, uploads: Sequence[UploadRow]
) -> None:
    assert row.contributions is not None
    assert row.adapter_sha256 is not None
    account = stored(Account, row.contributions)
    record = signed_record(coordinator, row, roster, uploads, account, row.adapter_sha256)
    done = coordinator.store.rounds.published(
        row.number, adapter_sha256=row.adapter_sha256, record=record
    )
    if done:
        coordinator.emit("round_published", round=row.number, adapter=row.adapter_sha256)
        _forget(coordinator)


def _abort(
    coordinator: Coordinator,
    row: RoundRow,
    roster: Roster,
    uploads: Sequence[UploadRow],
    facts: Facts,
    reason: str,
) -> None:
    unused = Share(0.0, "delivered, but not used: the round was aborted")
    excluded = _left_out(coordinator, row, uploads, facts)
    reviews = coordinator.store.reviews.of_round(row.number)
    settled = [
        replace(u, state="excluded", reason=excluded[u.upload_id]) if u.upload_id in excluded else u
        for u in uploads
    ]
    account = Account(
        contributions=tuple(
            contribution(upload, unused, reviews.get(upload.upload_id))
            for upload in accepted(settled)
        ),
        discarded={},
        validated=False,
    )
    record = signed_record(coordinator, row, roster, settled, account, None, reason)
    done = coordinator.store.rounds.aborted(
        row.number,
        row.state,
        accepted=frozenset(u.upload_id for u in accepted(uploads)),
        excluded=excluded,
        looks=row.looks,
        reason=reason,
        record=record,
        now=coordinator.clock(),
    )
    if done:
        coordinator.emit("round_aborted", round=row.number, reason=reason)
        _say_excluded(coordinator, row, excluded)
        _forget(coordinator)


def _forget(coordinator: Coordinator) -> None:
    # The round's secret is overwritten in the database, but its log has the pages as they were.
    try:
        coordinator.store.database.empty_log()
    except StorageError as error:
        # The round has ended all the same, and the sweeper empties the log later.
        coordinator.emit("log_not_emptied", reason=str(error), hint=error.hint)
    # Nothing can open the bodies any more.
    coordinator.blobs.sweep(coordinator.store.uploads.needed_bodies)
