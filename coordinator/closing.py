"""Moving a round on: close, aggregate, publish or abort. Every step may be run again."""

from __future__ import annotations

from collections.abc import Sequence

from coordinator import aggregation
from coordinator.aggregation import Inputs, Share, Tensors, Update
from coordinator.context import Coordinator
from coordinator.errors import CannotAggregate, NoSuchRound
from coordinator.extending import extend_automatically
from coordinator.facts import accepted, gather, round_roster
from coordinator.records import Account, contribution, signed_record
from coordinator.rounds import Action, Facts, Request, decide
from coordinator.store.rounds import RoundRow
from coordinator.store.uploads import UploadRow
from federation.canonical import canonical_json, sha256
from federation.envelope import open_update
from federation.errors import AdapterError, EnvelopeError, StorageError
from federation.messages import Roster, RoundDescriptor
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
        roster = round_roster(coordinator, row.descriptor)
        uploads = coordinator.store.uploads.of_round(number)
        facts = gather(coordinator, row, roster, uploads)
        decision = decide(facts, coordinator.clock(), request)
        match decision.action:
            case Action.WAIT:
                return row
            case Action.EXTEND:
                extend_automatically(coordinator, row, decision.reason)
            case Action.CLOSE:
                _close(coordinator, row, uploads, facts, decision.reason)
            case Action.AGGREGATE:
                try:
                    _aggregate(coordinator, row, accepted(uploads))
                except CannotAggregate as error:
                    _abort(coordinator, row, roster, uploads, f"not aggregated: {error}")
            case Action.PUBLISH:
                _publish(coordinator, row, roster, uploads)
            case Action.ABORT:
                _abort(coordinator, row, roster, uploads, decision.reason)


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
    verified = accepted(uploads)
    included = [u for u in verified if u.hospital in facts.delivered]
    closed = coordinator.store.rounds.close(
        row.number,
        included=frozenset(u.upload_id for u in included),
        excluded={u.upload_id: _REVOKED for u in verified if u not in included},
        inputs_sha256=_inputs_digest(row, included),
        reason=reason,
        now=coordinator.clock(),
    )
    if closed:
        coordinator.emit("round_closed", round=row.number, updates=len(included), reason=reason)


def _aggregate(coordinator: Coordinator, row: RoundRow, included: list[UploadRow]) -> None:
    descriptor = row.descriptor
    aggregator = aggregation.get(descriptor.aggregator)
    inputs = _inputs(coordinator, row, descriptor, included)
    try:
        shares = aggregator.shares(inputs)
        weights = {hospital: share.weight for hospital, share in shares.items()}
        merged = aggregator.merge(inputs, weights)
        adapter_sha256 = coordinator.blobs.put_adapter(
            descriptor.adapter_schema.shapes(), merged.tensors
        )
    except _Damaged as error:
        _exclude(coordinator, row, included, error)
        return
    except AdapterError as error:
        raise CannotAggregate(str(error)) from error
    contributions = [contribution(upload, shares[upload.hospital]) for upload in included]
    account = Account(contributions=tuple(contributions), discarded=merged.discarded)
    done = coordinator.store.rounds.aggregated(
        row.number,
        inputs_sha256=_inputs_digest(row, included),
        adapter_sha256=adapter_sha256,
        contributions=account.to_json().decode(),
    )
    if done:
        coordinator.emit("round_aggregated", round=row.number, adapter=adapter_sha256)


def _inputs(
    coordinator: Coordinator,
    row: RoundRow,
    descriptor: RoundDescriptor,
    included: list[UploadRow],
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
        [update(upload) for upload in included],
    )


def _exclude(
    coordinator: Coordinator, row: RoundRow, included: list[UploadRow], error: _Damaged
) -> None:
    left = [u for u in included if u.upload_id != error.upload_id]
    coordinator.store.rounds.exclude(
        row.number,
        error.upload_id,
        str(error)[:1000],
        inputs=_inputs_digest(row, included),
        remaining=_inputs_digest(row, left),
    )
    coordinator.emit("update_excluded", round=row.number, upload=error.upload_id, reason=str(error))


def _publish(
    coordinator: Coordinator, row: RoundRow, roster: Roster, uploads: Sequence[UploadRow]
) -> None:
    assert row.contributions is not None
    assert row.adapter_sha256 is not None
    account = Account.model_validate_json(row.contributions)
    record = signed_record(coordinator, row, roster, uploads, account, row.adapter_sha256)
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
    account = Account(
        contributions=tuple(contribution(upload, unused) for upload in accepted(uploads)),
        discarded={},
    )
    record = signed_record(coordinator, row, roster, uploads, account, None, reason)
    done = coordinator.store.rounds.aborted(
        row.number, row.state, reason=reason, record=record, now=coordinator.clock()
    )
    if done:
        coordinator.emit("round_aborted", round=row.number, reason=reason)
        _forget_bodies(coordinator)


def _forget_bodies(coordinator: Coordinator) -> None:
    # Nothing can open them any more: the round's key is destroyed.
    coordinator.blobs.sweep(coordinator.store.uploads.needed_bodies)
