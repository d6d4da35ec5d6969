"""Moving a round on: close, aggregate, publish or abort. Every step may be run again."""

from __future__ import annotations

import json
from collections.abc import Sequence

from coordinator import aggregation
from coordinator.aggregation import Inputs, Share, Tensors, Update
from coordinator.context import Coordinator
from coordinator.errors import NoSuchRound
from coordinator.records import contribution, signed_record
from coordinator.rounds import Action, Facts, Request, State, decide
from coordinator.store.rounds import RoundRow
from coordinator.store.uploads import UploadRow
from federation.canonical import canonical_json, sha256
from federation.envelope import open_update
from federation.errors import AdapterError, EnvelopeError, StorageError
from federation.messages import (
    Contribution,
    Roster,
    RoundDescriptor,
)
from federation.round_keys import private_key

_REVOKED = "revoked before the round closed"


class _Damaged(EnvelopeError):
    """A stored update cannot be read any more, though it was verified when it came."""

    upload_id = ""


def advance(coordinator: Coordinator, number: int, request: Request = Request.NONE) -> RoundRow:
    """Do all that can be done with a round now; safe to repeat and to run twice at once.

    Raises NoSuchRound, and StorageError when the disk refuses (then nothing is lost).
    """
    while True:
        row = coordinator.store.rounds.get(number)
        if row is None:
            raise NoSuchRound(f"There is no round {number}.")
        roster = _round_roster(coordinator, row.descriptor)
        uploads = coordinator.store.uploads.of_round(number)
        facts = gather(coordinator, row, roster, uploads)
        decision = decide(facts, coordinator.clock(), request)
        match decision.action:
            case Action.WAIT:
                return row
            case Action.CLOSE:
                _close(coordinator, row, uploads, facts, decision.reason)
            case Action.AGGREGATE:
                _aggregate(coordinator, row, _accepted(uploads))
            case Action.PUBLISH:
                _publish(coordinator, row, roster, uploads)
            case Action.ABORT:
                _abort(coordinator, row, roster, uploads, decision.reason)


def gather(
    coordinator: Coordinator, row: RoundRow, roster: Roster, uploads: Sequence[UploadRow]
) -> Facts:
    """What decides about the round. A member revoked while it is open no longer counts."""
    descriptor = row.descriptor
    expected = frozenset(m.hospital for m in roster.members)
    if row.state is State.OPEN:
        expected &= {m.hospital for m in coordinator.roster().members}
    return Facts(
        state=row.state,
        expected=expected,
        delivered={u.hospital: u.touched_at for u in _accepted(uploads) if u.hospital in expected},
        quorum=descriptor.quorum,
        deadline=descriptor.deadline,
        grace=descriptor.grace_minutes * 60,
        heard=last_heard(coordinator, row.number, uploads),
        awake_since=coordinator.awake_since,
    )


def last_heard(
    coordinator: Coordinator, number: int, uploads: Sequence[UploadRow]
) -> dict[str, int]:
    """When each hospital last showed life in a round: by a heartbeat, or a part of an update."""
    heard = {name: beat.at for name, beat in coordinator.store.reports.heartbeats(number).items()}
    for upload in uploads:
        heard[upload.hospital] = max(upload.touched_at, heard.get(upload.hospital, 0))
    return heard


def _round_roster(coordinator: Coordinator, descriptor: RoundDescriptor) -> Roster:
    document = coordinator.store.members.roster_by_digest(descriptor.roster_sha256)
    assert document is not None
    return document.open(Roster, coordinator.admin, "roster")


def _accepted(uploads: Sequence[UploadRow]) -> list[UploadRow]:
    return [upload for upload in uploads if upload.state == "accepted"]


def _inputs_digest(row: RoundRow, uploads: Sequence[UploadRow]) -> str:
    """Digest of all that an aggregation depends on."""
    bodies = [[u.hospital, u.upload_id, u.announced().body_sha256] for u in uploads]
    return sha256(canonical_json([row.document.body_sha256, sorted(bodies)]))


def _close(
    coordinator: Coordinator,
    row: RoundRow,
    uploads: Sequence[UploadRow],
    facts: Facts,
    reason: str,
) -> None:
    accepted = _accepted(uploads)
    included = [u for u in accepted if u.hospital in facts.delivered]
    closed = coordinator.store.rounds.close(
        row.number,
        included=frozenset(u.upload_id for u in included),
        excluded={u.upload_id: _REVOKED for u in accepted if u not in included},
        inputs_sha256=_inputs_digest(row, included),
        reason=reason,
        now=coordinator.clock(),
    )
    if closed:
        coordinator.emit("round_closed", round=row.number, updates=len(included), reason=reason)


def _aggregate(coordinator: Coordinator, row: RoundRow, accepted: list[UploadRow]) -> None:
    descriptor = row.descriptor
    aggregator = aggregation.get(descriptor.aggregator)
    inputs = _inputs(coordinator, row, descriptor, accepted)
    try:
        shares = aggregator.weights(inputs)
        weights = {hospital: share.weight for hospital, share in shares.items()}
        adapter_sha256 = coordinator.blobs.put_adapter(
            descriptor.adapter_schema.shapes(), aggregator.aggregate(inputs, weights)
        )
    except _Damaged as error:
        _exclude(coordinator, row, accepted, error)
        return
    contributions = [contribution(upload, shares[upload.hospital]) for upload in accepted]
    done = coordinator.store.rounds.aggregated(
        row.number,
        inputs_sha256=_inputs_digest(row, accepted),
        adapter_sha256=adapter_sha256,
        contributions=canonical_json([c.model_dump(mode="json") for c in contributions]).decode(),
    )
    if done:
        coordinator.emit("round_aggregated", round=row.number, adapter=adapter_sha256)


def _inputs(
    coordinator: Coordinator,
    row: RoundRow,
    descriptor: RoundDescriptor,
    accepted: list[UploadRow],
) -> Inputs:
    if row.wrapped_seed is None:
        raise StorageError(
            f"The secret of round {row.number} is missing.",
            hint="Restore the database, or give the round up: `coordinator round close --abort`.",
        )
    seed = coordinator.wrapping.unwrap(row.wrapped_seed, coordinator.federation, row.number)

    def tensors(upload: UploadRow) -> Tensors:
        try:
            yield from open_update(
                upload.announced(),
                coordinator.blobs.body(upload.upload_id),
                private_key(seed),
                descriptor.adapter_schema,
                max_norm=descriptor.max_norm,
            ).tensors
        except (EnvelopeError, AdapterError, OSError) as error:
            damaged = _Damaged(f"damaged on the coordinator's disk: {error}")
            damaged.upload_id = upload.upload_id
            raise damaged from error

    def update(upload: UploadRow) -> Update:
        header = upload.payload_header()
        return Update(
            hospital=upload.hospital,
            rank=header.rank,
            n_examples=header.n_examples,
            metrics=header.metrics,
            tensors=lambda: tensors(upload),
        )

    return Inputs.of(
        descriptor.adapter_schema,
        lambda: coordinator.blobs.read_adapter(descriptor.parent_adapter_sha256),
        [update(upload) for upload in accepted],
    )


def _exclude(
    coordinator: Coordinator, row: RoundRow, accepted: list[UploadRow], error: _Damaged
) -> None:
    left = [u for u in accepted if u.upload_id != error.upload_id]
    coordinator.store.rounds.exclude(
        row.number,
        error.upload_id,
        str(error)[:1000],
        inputs=_inputs_digest(row, accepted),
        remaining=_inputs_digest(row, left),
    )
    coordinator.emit("update_excluded", round=row.number, upload=error.upload_id, reason=str(error))


def _publish(
    coordinator: Coordinator, row: RoundRow, roster: Roster, uploads: Sequence[UploadRow]
) -> None:
    assert row.contributions is not None
    assert row.adapter_sha256 is not None
    contributions = tuple(
        Contribution.model_validate_json(json.dumps(entry))
        for entry in json.loads(row.contributions)
    )
    record = signed_record(coordinator, row, roster, uploads, contributions, row.adapter_sha256)
    done = coordinator.store.rounds.published(
        row.number, adapter_sha256=row.adapter_sha256, record=record
    )
    if done:
        coordinator.emit("round_published", round=row.number, adapter=row.adapter_sha256)
        _forget_bodies(coordinator)


def _abort(
    coordinator: Coordinator,
    row: RoundRow,
    roster: Roster,
    uploads: Sequence[UploadRow],
    reason: str,
) -> None:
    unused = Share(0.0, "delivered, but not used: the round was aborted")
    contributions = tuple(contribution(upload, unused) for upload in _accepted(uploads))
    record = signed_record(coordinator, row, roster, uploads, contributions, None, reason)
    done = coordinator.store.rounds.aborted(
        row.number, row.state, reason=reason, record=record, now=coordinator.clock()
    )
    if done:
        coordinator.emit("round_aborted", round=row.number, reason=reason)
        _forget_bodies(coordinator)


def _forget_bodies(coordinator: Coordinator) -> None:
    # Nothing can open them any more: the round's key is destroyed.
    coordinator.blobs.sweep(coordinator.store.uploads.needed_bodies)
