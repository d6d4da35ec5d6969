"""A sealed update on disk until the coordinator's signed receipt for it is on disk too."""

from __future__ import annotations

import random
import secrets
import time
from collections.abc import Callable
from pathlib import Path

from pydantic import ValidationError

from appliance.client import CoordinatorClient
from appliance.events import Event, Note, Sink, Transfer
from appliance.rounds.descriptor import VerifiedRound
from appliance.trust import Trust
from federation.canonical import sha256
from federation.envelope import payload_length, seal, sealed_length
from federation.errors import (
    FedMedError,
    IdentityError,
    RoundError,
    StorageError,
    TransportError,
)
from federation.files import atomic_writer, storage_errors, write_atomically
from federation.messages import SUITE, Manifest, PayloadHeader, Receipt, UploadRequest
from federation.signing import Identity, SignedDocument, fingerprint

PART = 4 << 20
"""Half of what the coordinator takes at once, which holds a part of each hospital in memory."""

_REQUEST = "request.json"
_BODY = "body"
_RECEIPT = "receipt.json"
_FIRST_WAIT, _LONGEST_WAIT = 1.0, 60.0
_IN_OUTBOX = "The update stays in the outbox; run the same command if the round is extended."


def make_manifest(
    verified: VerifiedRound, hospital: str, identity: Identity, body_length: int
) -> Manifest:
    """The clear part of an update for this round."""
    descriptor = verified.descriptor
    return Manifest(
        suite=SUITE,
        federation=descriptor.federation,
        round=descriptor.round,
        descriptor_sha256=verified.sha256,
        hospital=hospital,
        signer=fingerprint(identity.public()),
        recipient=sha256(descriptor.round_public_key.encode()),
        upload_id=secrets.token_hex(16),
        base_sha256=descriptor.base.sha256,
        parent_adapter_sha256=descriptor.parent_adapter_sha256,
        roster_sha256=descriptor.roster_sha256,
        schema_sha256=descriptor.schema_sha256,
        body_length=body_length,
    )


class Outbox:
    """One round's sealed update in ``folder``; survives any restart of either side."""

    def __init__(self, folder: Path, trust: Trust, identity: Identity) -> None:
        self._folder = folder
        self._trust = trust
        self._identity = identity

    def sealed(self) -> bool:
        """Whether an update waits here, whole."""
        return (self._folder / _REQUEST).exists()

    def put(self, verified: VerifiedRound, header: PayloadHeader, adapter: Path) -> None:
        """Seal an adapter file for the round; the announcement is written last."""
        self._sweep()
        length = sealed_length(payload_length(header, adapter))
        manifest = make_manifest(verified, self._trust.enrolment.hospital, self._identity, length)
        with atomic_writer(self._folder / _BODY, mode=0o600) as body:
            key = verified.descriptor.round_public_key
            request = seal(manifest, header, adapter, key, self._identity, body)
        write_atomically(self._folder / _REQUEST, request.to_json())

    def _sweep(self) -> None:
        """Remove what a killed ``put`` left: only one training runs at a time."""
        with storage_errors(self._folder):
            for name in (_BODY, _REQUEST, _RECEIPT):
                for left in self._folder.glob(f".{name}.*"):
                    left.unlink()

    def receipt(self) -> Receipt | None:
        """The verified receipt of the update that waits here, once it was committed."""
        try:
            signed = SignedDocument.model_validate_json((self._folder / _RECEIPT).read_bytes())
        except FileNotFoundError:
            return None
        except (OSError, ValidationError) as error:
            raise StorageError(
                f"{self._folder / _RECEIPT} cannot be read: {error}.",
                hint="Remove it: the coordinator gives the same receipt again.",
            ) from error
        receipt = self._trust.open_held(signed, Receipt, "receipt")
        if not self.sealed() or receipt.upload_id != self._announcement()[1].upload_id:
            return None
        return receipt

    def deliver(
        self,
        client: CoordinatorClient,
        deadline: Callable[[], float],
        sink: Sink,
        clock: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
    ) -> Receipt:
        """Upload and commit, retrying what may pass with backoff and jitter until ``deadline``:
        it is asked for at the start and whenever it seems to have come, since rounds are extended.

        A receipt that is here ends it, unless the coordinator says that the round is open and that
        it has no update of this hospital: one that was restored from a backup needs it again.
        Returns the receipt, accepted or not. Raises TransportError when the deadline passes, and
        at once any error that no waiting mends: the coordinator's refusal of the upload itself, a
        wrong certificate.
        """
        if (known := self.receipt()) is not None:
            if not known.accepted or not _is_missed(client, known.round):
                return known
            sink(Note("The coordinator has lost this update, and gets it again."))
        wait, farthest = _FIRST_WAIT, 0
        until = deadline()

        def noting(event: Event) -> None:
            nonlocal wait, farthest
            # A line that breaks often but moves on is not waited for longer each time.
            if isinstance(event, Transfer) and event.done > farthest:
                wait, farthest = _FIRST_WAIT, event.done
            sink(event)

        while True:
            try:
                return self._deliver_once(client, noting, lambda: clock() > until)
            except FedMedError as error:
                if not error.retryable:
                    raise
                pause = max(min(wait, _LONGEST_WAIT) * random.uniform(0.5, 1.0), error.retry_after)
                if clock() + pause > until and clock() + pause > (until := deadline()):
                    raise TransportError(
                        f"{error} The round's deadline passed before the update was delivered.",
                        hint=_IN_OUTBOX,
                        retryable=True,
                    ) from error
                sink(Note(f"{error} Trying again in {pause:.0f} s."))
                sleep(pause)
                wait *= 2

    def _deliver_once(
        self, client: CoordinatorClient, sink: Sink, late: Callable[[], bool]
    ) -> Receipt:
        request, manifest = self._announcement()
        status = client.announce(manifest.round, request)
        if status.length != manifest.body_length or status.offset > status.length:
            raise TransportError(
                f"The coordinator is at {status.offset} of {status.length} bytes of an update "
                f"of {manifest.body_length}.",
                hint="The two sides may run different versions of fedmed.",
            )
        if status.offset:
            # Also what arrived although its answer was lost.
            sink(Transfer("sent", status.offset, status.length))
        self._send_body(client, manifest, status.offset, sink, late)
        signed, receipt = self._trust.fetch(
            client, lambda: client.commit(manifest.upload_id), Receipt, "receipt"
        )
        if (receipt.upload_id, receipt.body_sha256) != (manifest.upload_id, request.body_sha256):
            raise IdentityError(
                "The receipt is for another update.",
                hint="The update stays in the outbox; tell the coordinator's administrator.",
            )
        write_atomically(self._folder / _RECEIPT, signed.to_json())
        return receipt

    def _send_body(
        self,
        client: CoordinatorClient,
        manifest: Manifest,
        offset: int,
        sink: Sink,
        late: Callable[[], bool],
    ) -> None:
        length = manifest.body_length
        with (self._folder / _BODY).open("rb") as body:
            while offset < length:
                if late():
                    raise TransportError(
                        f"{offset} of {length} bytes are sent.", hint=_IN_OUTBOX, retryable=True
                    )
                body.seek(offset)
                if not (part := body.read(PART)):
                    raise StorageError(
                        f"{body.name} ends at {offset} of {length} bytes.",
                        hint=f"Remove {self._folder}: the update is sealed again.",
                    )
                durable = client.append(manifest.upload_id, offset, part, length)
                sink(Transfer("sent", durable, length))
                if durable < offset:
                    # Waiting before it is sent again keeps a wavering coordinator from a busy loop.
                    raise TransportError(
                        f"The coordinator went back from {offset} to {durable} bytes.",
                        hint=_IN_OUTBOX,
                        retryable=True,
                    )
                offset = durable

    def _announcement(self) -> tuple[UploadRequest, Manifest]:
        path = self._folder / _REQUEST
        try:
            request = UploadRequest.model_validate_json(path.read_bytes())
            return request, Manifest.model_validate_json(request.manifest)
        except FileNotFoundError as error:
            raise RoundError(
                "There is no sealed update to deliver.",
                hint="`appliance train --round N` trains, seals and delivers.",
            ) from error
        except (OSError, ValidationError) as error:
            raise StorageError(
                f"{path} cannot be read: {error}.", hint="Remove it: the update is sealed again."
            ) from error

    def discard(self) -> None:
        """Forget a refused update, so that a new one can be made for the same round."""
        # The receipt first: a kill in between must not leave it to a later update.
        with storage_errors(self._folder):
            for name in (_RECEIPT, _REQUEST, _BODY):
                (self._folder / name).unlink(missing_ok=True)


def _is_missed(client: CoordinatorClient, number: int) -> bool:
    """Whether the coordinator says that it waits for this hospital's update of the round."""
    try:
        current = client.current()
    except FedMedError:
        # The receipt counts until the coordinator itself says otherwise.
        return False
    return current.round == number and current.state == "open" and not current.delivered
