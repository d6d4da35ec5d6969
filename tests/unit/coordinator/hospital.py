"""A hospital as the coordinator sees it, made of the real federation functions, over any client."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2
import numpy as np

from federation.adapter import Factors, initial_adapter
from federation.canonical import Message, file_sha256, sha256
from federation.codec import encode
from federation.envelope import payload_length, seal, sealed_length
from federation.membership import EnrolmentRequest, Invite
from federation.messages import (
    SUITE,
    Codec,
    CurrentRound,
    EngineInfo,
    Manifest,
    PayloadHeader,
    Receipt,
    RoundDescriptor,
    UploadRequest,
)
from federation.records import RoundRecord
from federation.request_signing import sign_request
from federation.signing import Identity, SignedDocument, fingerprint
from federation.tensors import read_header, read_tensors, write_tensors

JSON = "application/json"
OCTETS = "application/octet-stream"


@dataclass(frozen=True)
class SealedUpdate:
    """An announced upload and its body."""

    request: UploadRequest
    manifest: Manifest
    body: bytes

    @property
    def path(self) -> str:
        return f"/v1/uploads/{self.manifest.upload_id}"


@dataclass
class Hospital:
    """One hospital with its own keys."""

    name: str
    client: httpx2.Client
    folder: Path
    clock: Callable[[], int]
    identity: Identity
    invite: Invite | None = None

    def request(
        self,
        method: str,
        path: str,
        body: Message | bytes = b"",
        *,
        headers: dict[str, str] | None = None,
        media: str | None = None,
    ) -> httpx2.Response:
        """Send one signed request."""
        content = body.to_json() if isinstance(body, Message) else body
        kind = media or (JSON if isinstance(body, Message) else OCTETS if body else None)
        target, _, query = path.partition("?")
        signed = sign_request(
            self.identity.ed25519, self.name, method, target, query, content, self.clock()
        )
        extra = {"Content-Type": kind} if kind else {}
        return self.client.request(
            method, path, content=content, headers={**signed, **extra, **(headers or {})}
        )

    def enrol(self, invite: Invite, **changes: str) -> httpx2.Response:
        """Ask to join, with a proof of possession."""
        self.invite = invite
        request = EnrolmentRequest(
            federation=invite.federation,
            hospital=self.name,
            token=invite.token,
            identity=self.identity.public(),
        ).model_copy(update=changes)
        document = SignedDocument.sign(request, self.identity, "enrolment")
        return self.client.post(
            "/v1/enrolments", content=document.to_json(), headers={"Content-Type": JSON}
        )

    def current(self) -> CurrentRound:
        return CurrentRound.model_validate_json(self.request("GET", "/v1/rounds/current").content)

    def document(self, number: int) -> SignedDocument:
        response = self.request("GET", f"/v1/rounds/{number}")
        assert response.status_code == 200, response.text
        return SignedDocument.model_validate_json(response.content)

    def seal(
        self,
        number: int,
        tensors: Iterable[tuple[str, np.ndarray]] | None = None,
        *,
        rank: int | None = None,
        header: dict[str, Any] | None = None,
        manifest: dict[str, Any] | None = None,
    ) -> SealedUpdate:
        """Make an update for a round; ``header`` and ``manifest`` override honest values."""
        assert self.invite is not None
        document = self.document(number)
        descriptor = document.open(RoundDescriptor, self.invite.coordinator, "descriptor")
        chosen: Factors = (header or {}).get("factors", descriptor.factors)
        codec: Codec = (header or {}).get("codec", descriptor.codec)
        shapes = descriptor.adapter_schema.shapes(chosen, rank)
        adapter = self.folder / f"{self.name}.safetensors"
        with adapter.open("wb") as file:
            update = iter(tensors or trained(descriptor, self.name))
            if codec == "fp32":
                # Not encode: it would not write what a liar sends.
                write_tensors(file, shapes, update)
            else:
                since = self.parent(descriptor) if rank is None else {}
                for _ in encode(file, codec, shapes, update, since):
                    pass
        sealed_header = PayloadHeader(
            codec=codec,
            rank=rank or descriptor.adapter_schema.rank,
            factors=chosen,
            n_examples=10,
            metrics={"loss_after": 1.5},
            engine=EngineInfo(name="torch", version="2", quantisation="none"),
            plaintext_sha256=file_sha256(adapter),
        ).model_copy(update=header or {})
        honest = Manifest(
            suite=SUITE,
            federation=descriptor.federation,
            round=number,
            descriptor_sha256=document.body_sha256,
            hospital=self.name,
            signer=fingerprint(self.identity.public()),
            recipient=sha256(descriptor.round_public_key.encode()),
            upload_id=np.random.default_rng().bytes(16).hex(),
            base_sha256=descriptor.base.sha256,
            parent_adapter_sha256=descriptor.parent_adapter_sha256,
            roster_sha256=descriptor.roster_sha256,
            schema_sha256=descriptor.schema_sha256,
            body_length=sealed_length(payload_length(sealed_header, adapter)),
        ).model_copy(update=manifest or {})
        body = io.BytesIO()
        request = seal(
            honest, sealed_header, adapter, descriptor.round_public_key, self.identity, body
        )
        return SealedUpdate(request, honest, body.getvalue())

    def parent(self, descriptor: RoundDescriptor) -> dict[str, np.ndarray]:
        """The adapter that a round starts from, fetched."""
        answer = self.request("GET", f"/v1/adapters/{descriptor.parent_adapter_sha256}")
        assert answer.status_code == 200, answer.text
        source = io.BytesIO(answer.content)
        return dict(read_tensors(source, read_header(source)))

    def announce(self, update: SealedUpdate, number: int | None = None) -> httpx2.Response:
        path = f"/v1/rounds/{number or update.manifest.round}/uploads"
        return self.request("POST", path, update.request)

    def part(self, update: SealedUpdate, offset: int, data: bytes) -> httpx2.Response:
        headers = {"Upload-Offset": str(offset)}
        return self.request("PATCH", update.path, data, headers=headers, media=OCTETS)

    def commit(self, update: SealedUpdate) -> httpx2.Response:
        return self.request("POST", f"{update.path}/commit")

    def receipt(self, response: httpx2.Response) -> Receipt:
        assert self.invite is not None
        assert response.status_code == 200, response.text
        document = SignedDocument.model_validate_json(response.content)
        return document.open(Receipt, self.invite.coordinator, "receipt")

    def upload(self, update: SealedUpdate, part_size: int = 8 << 20) -> Receipt:
        """Announce, send in parts, commit."""
        announced = self.announce(update)
        assert announced.status_code in (200, 201), announced.text
        for offset in range(0, len(update.body), part_size):
            response = self.part(update, offset, update.body[offset : offset + part_size])
            assert response.status_code == 204, response.text
        return self.receipt(self.commit(update))

    def record(self, number: int) -> RoundRecord:
        assert self.invite is not None
        response = self.request("GET", f"/v1/rounds/{number}/record")
        assert response.status_code == 200, response.text
        document = SignedDocument.model_validate_json(response.content)
        return document.open(RoundRecord, self.invite.coordinator, "record")


def trained(descriptor: RoundDescriptor, hospital: str) -> list[tuple[str, np.ndarray]]:
    """What this hospital would send: the initial factors, moved as all move them and by noise."""
    stream = np.random.default_rng(list(hospital.encode()))
    common = np.random.default_rng(descriptor.recipe.seed)
    schema = descriptor.adapter_schema
    live = schema.shapes(descriptor.factors)
    return [
        (name, tensor + _moved(tensor.shape, common) + 0.5 * _moved(tensor.shape, stream))
        for name, tensor in initial_adapter(schema, descriptor.recipe.seed)
        if name in live
    ]


def _moved(shape: tuple[int, ...], stream: np.random.Generator) -> np.ndarray:
    moved: np.ndarray = stream.normal(0, 0.05, shape).astype(np.float32)
    return moved


def problem(response: httpx2.Response) -> tuple[int, str, str]:
    """Status, slug and detail of a problem document."""
    assert response.headers["content-type"] == "application/problem+json", response.text
    document = json.loads(response.content)
    assert document["status"] == response.status_code
    return (
        response.status_code,
        document["type"].removeprefix("urn:fedmed:problem:"),
        document["detail"],
    )
