"""The coordinator's calls: each request built, each answer parsed and checked."""

from __future__ import annotations

import ssl
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import httpx2
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from pydantic import ValidationError

from appliance.connection import IMPOSTOR, Answer, Connection, Successor
from federation.canonical import Message, file_sha256
from federation.errors import FedMedError, TransportError
from federation.files import make_folder, storage_errors, sync_file
from federation.log import ConsistencyProof, InclusionProof, LogEntries
from federation.membership import EnrolmentAnswer
from federation.messages import (
    CurrentRound,
    EvaluationReport,
    ProgressReport,
    UploadRequest,
    UploadStatus,
)
from federation.rotation import RotationRequest
from federation.signing import SignedDocument
from federation.succession import SuccessionChain

_M = TypeVar("_M", bound=Message)
_JSON = {"Content-Type": "application/json"}
_NO_SUCH_CALL = 404


class CoordinatorClient:
    """One hospital's connection. Methods raise TransportError when there is no usable answer, and
    the coordinator's own error (``federation.errors``) when it refuses."""

    def __init__(
        self,
        *,
        url: str,
        hospital: str,
        key: Ed25519PrivateKey,
        verify: ssl.SSLContext,
        proxy: str | None = None,
        timeout_seconds: float = 30.0,
        successors: Callable[[], Sequence[Successor]] = tuple,
        transport: httpx2.BaseTransport | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._connection = Connection(
            url=url,
            hospital=hospital,
            key=key,
            verify=verify,
            proxy=proxy,
            timeout_seconds=timeout_seconds,
            successors=successors,
            transport=transport,
            clock=clock,
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._connection.close()

    @property
    def bytes_sent(self) -> int:
        """Bytes of request bodies so far."""
        return self._connection.bytes_sent

    @property
    def bytes_received(self) -> int:
        """Bytes of answer bodies so far."""
        return self._connection.bytes_received

    def enrol(self, request: SignedDocument) -> EnrolmentAnswer:
        """Spend an invite's token."""
        response = self._call("POST", "/v1/enrolments", request.to_json(), _JSON)
        return self._parse(response, EnrolmentAnswer)

    def rotate(self, request: RotationRequest) -> EnrolmentAnswer:
        """Ask for new keys in place of those that sign here."""
        return self._parse(
            self._call("POST", "/v1/keys", request.to_json(), _JSON), EnrolmentAnswer
        )

    def coordinator_keys(self) -> SuccessionChain:
        """All successions of the coordinator's keys since the founding ones, not yet verified.

        None of a coordinator that is too old to have any.
        """
        answer = self._connection.send("GET", "/v1/coordinator-keys", b"", {})
        if answer.status == _NO_SUCH_CALL:
            return SuccessionChain()
        self._connection.raise_problem(answer)
        return self._parse(answer, SuccessionChain)

    def current(self) -> CurrentRound:
        """The newest round's number and state."""
        return self._parse(self._call("GET", "/v1/rounds/current"), CurrentRound)

    def descriptor(self, number: int) -> SignedDocument:
        """A round's signed descriptor, not yet verified."""
        return self._parse(self._call("GET", f"/v1/rounds/{number}"), SignedDocument)

    def extension(self, number: int) -> SignedDocument:
        """A round's newest signed extension, not yet verified. Raises RoundError without one."""
        return self._parse(self._call("GET", f"/v1/rounds/{number}/extension"), SignedDocument)

    def roster(self, digest: str) -> SignedDocument:
        """The roster with this digest, not yet verified."""
        return self._parse(self._call("GET", f"/v1/rosters/{digest}"), SignedDocument)

    def record(self, number: int) -> SignedDocument:
        """A finished round's signed record, not yet verified. Raises RoundError before that."""
        return self._parse(self._call("GET", f"/v1/rounds/{number}/record"), SignedDocument)

    def progress(self, number: int, report: ProgressReport) -> None:
        """Tell the coordinator that this hospital is at work."""
        self._call("POST", f"/v1/rounds/{number}/progress", report.to_json(), _JSON)

    def evaluation(self, number: int, report: EvaluationReport) -> None:
        """Report the published adapter's held-out loss here."""
        self._call("POST", f"/v1/rounds/{number}/evaluations", report.to_json(), _JSON)

    def log_checkpoint(self) -> SignedDocument:
        """The audit log's signed root, not yet verified."""
        return self._parse(self._call("GET", "/v1/log/checkpoint"), SignedDocument)

    def log_entries(self, start: int, end: int) -> LogEntries:
        """Entries of the audit log from ``start`` to before ``end``, or the first of many."""
        path = f"/v1/log/entries?start={start}&end={end}"
        return self._parse(self._call("GET", path), LogEntries)

    def log_inclusion(self, index: int, size: int) -> InclusionProof:
        """The proof for entry ``index`` among the first ``size``, not yet verified."""
        path = f"/v1/log/inclusion?index={index}&size={size}"
        return self._parse(self._call("GET", path), InclusionProof)

    def log_consistency(self, first: int, second: int) -> ConsistencyProof:
        """The proof that ``second`` entries begin with the ``first``, not yet verified."""
        path = f"/v1/log/consistency?first={first}&second={second}"
        return self._parse(self._call("GET", path), ConsistencyProof)

    def announce(self, number: int, request: UploadRequest) -> UploadStatus:
        """Announce a sealed update; the same one again gives its present state."""
        response = self._call("POST", f"/v1/rounds/{number}/uploads", request.to_json(), _JSON)
        return self._parse(response, UploadStatus)

    def append(self, upload_id: str, offset: int, part: bytes, length: int) -> int:
        """Send one part at ``offset`` of ``length``; returns the offset that is durable now.

        Where the coordinator stands elsewhere it says so, and that other offset within
        [0, length] is returned instead. An offset that makes no sense is a TransportError.
        """
        headers = {"Upload-Offset": str(offset), "Content-Type": "application/octet-stream"}
        path = f"/v1/uploads/{upload_id}"
        answer = self._connection.send("PATCH", path, part, headers)
        stated = answer.headers.get("upload-offset", "")
        elsewhere = answer.status == 409 and stated != ""
        if not elsewhere:
            self._raise_about_upload(answer)
        # Nineteen digits are more than any length, and int() takes no longer for them.
        durable = int(stated) if stated.isascii() and stated.isdigit() and len(stated) < 20 else -1
        least = 0 if elsewhere else offset + 1
        if not least <= durable <= length or durable == offset:
            raise TransportError(
                f"{self._connection.url}{path} answered with the Upload-Offset {stated[:40]!r} "
                f"to a part at {offset} of {length} bytes.",
                hint=IMPOSTOR,
                retryable=True,
            )
        return durable

    def commit(self, upload_id: str) -> SignedDocument:
        """Finish an upload; the answer is the signed receipt, not yet verified."""
        answer = self._connection.send("POST", f"/v1/uploads/{upload_id}/commit", b"", {})
        self._raise_about_upload(answer)
        return self._parse(answer, SignedDocument)

    def _raise_about_upload(self, answer: Answer) -> None:
        """Raise the error that an answer states; announcing anew mends a 404 of an upload.

        A coordinator that was restored from a backup may have lost the announcement.
        """
        try:
            self._connection.raise_problem(answer)
        except FedMedError as error:
            error.retryable |= answer.status == 404
            raise

    def adapter(
        self,
        digest: str,
        length: int,
        target: Path,
        progress: Callable[[int, int], None] | None = None,
    ) -> None:
        """Download a published adapter of ``length`` bytes to ``target``, continuing a part.

        The file appears only when its SHA-256 is ``digest``, its content durable; never more than
        ``length`` bytes are read. ``progress`` gets bytes done and of all. Raises TransportError
        when the content is not what was asked for.
        """
        partial = target.with_name(f".{digest}.part")
        with storage_errors(target):
            make_folder(target.parent)
            have = partial.stat().st_size if partial.exists() else 0
            if have > length:
                partial.unlink()
                have = 0
        if have < length:
            self._connection.download(f"/v1/adapters/{digest}", partial, have, length, progress)
        with storage_errors(partial):
            if file_sha256(partial) != digest:
                partial.unlink()
                raise TransportError(
                    f"The adapter {digest[:12]}... arrived damaged.", hint="Run the command again."
                )
            sync_file(partial)
            partial.replace(target)

    def _call(
        self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None
    ) -> Answer:
        answer = self._connection.send(method, path, body, headers or {})
        self._connection.raise_problem(answer)
        return answer

    def _parse(self, answer: Answer, model: type[_M]) -> _M:
        try:
            return model.model_validate_json(answer.content)
        except ValidationError as error:
            raise TransportError(
                f"{self._connection.url} gave an answer that is not a {model.__name__}.",
                hint="The two sides may run different versions of fedmed.",
            ) from error
