"""Requests made from the OpenAPI document, signed by a member, in a world where much exists."""

from __future__ import annotations

import json
import random
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import FailureGroup
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from coordinator.api import create_app, openapi
from coordinator.rounds import Request
from federation.errors import PROBLEM_PREFIX, FedMedError
from federation.membership import EnrolmentRequest
from federation.messages import EvaluationReport, Problem, ProgressReport
from federation.rotation import RotationRequest
from federation.signing import Identity, SignedDocument
from tests.chaos.inprocess import InProcess
from tests.unit.coordinator.hospital import Hospital, SealedUpdate
from tests.unit.coordinator.world import World

CHECKS = (
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
)
_SIGNATURE = ("Signature", "Signature-Input", "Content-Digest")
_UNSIGNED = ("/v1/enrolments", "/v1/coordinator-keys", "/healthz", "/readyz")


@dataclass
class Existing:
    """What there is to be asked for, by the name of the parameter that asks for it."""

    hospital: Hospital
    parameters: dict[str, list[str]]
    bodies: dict[str, list[bytes]]
    parts: dict[str, SealedUpdate]


def populate(world: World) -> Existing:
    """A published round, an extended open one, uploads in every state; its third member asks."""
    h01, h02, h03 = (world.member(name) for name in ("h01", "h02", "h03"))
    world.open(deadline_minutes=60, quorum=1)
    for hospital in (h01, h02, h03):
        hospital.upload(hospital.seal(1))
    world.advance(1)
    world.open(base=False, deadline_minutes=600)
    waiting, half, whole, damaged = (h03.seal(2) for _ in range(4))
    for update in (half, whole):
        h03.announce(update)
    h03.part(half, 0, half.body[:200])
    h03.part(whole, 0, whole.body)
    h01.upload(h01.seal(2))
    world.advance(2, Request.NONE)
    record, beat = h03.record(1), ProgressReport(phase="training", step=1, of=3)
    rotation = RotationRequest.make("demo-net", "h03", h03.identity, Identity.generate())
    rosters = [json.loads(h03.document(n).body)["roster_sha256"] for n in (1, 2)]
    announced = [u.request.to_json() for u in (waiting, half, whole)]
    return Existing(
        h03,
        {
            "number": ["1", "2", "3"],
            "sha256": [record.adapter_sha256, record.parent_adapter_sha256, *rosters],
            "upload_id": [u.manifest.upload_id for u in (half, half, whole, damaged)],
            "start": ["0", "3"], "end": ["5", "9"], "index": ["0", "4"], "size": ["6", "9"],
            "first": ["1", "4"], "second": ["5", "9"], "Upload-Offset": ["200", "0"],
        },
        {
            "/v1/rounds/{number}/uploads": announced,
            "/v1/rounds/{number}/progress": [beat.to_json()],
            "/v1/rounds/{number}/evaluations": [EvaluationReport(loss=1, n_examples=3).to_json()],
            "/v1/keys": [rotation.to_json()],
            "/v1/enrolments": [_enrolment(world)],
        },
        {half.manifest.upload_id: half},
    )  # fmt: skip


def _enrolment(world: World) -> bytes:
    stranger, invite = world.hospital("h09"), world.invite("h09")
    request = EnrolmentRequest(
        federation=invite.federation,
        hospital="h09",
        token=invite.token,
        identity=stranger.identity.public(),
    )
    return SignedDocument.sign(request, stranger.identity, "enrolment").to_json()


@dataclass
class Trial:
    """Sends cases and judges the answers."""

    folder: Path
    cases: int = 0
    reached: int = 0
    statuses: Counter[str] = field(default_factory=Counter)
    operations: Counter[str] = field(default_factory=Counter)
    failures: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.world = World.create(self.folder)
        self.existing = populate(self.world)
        app = create_app(self.world.coordinator)
        self.client = httpx2.Client(
            transport=InProcess(app, raise_errors=False), base_url="https://127.0.0.1:9443"
        )
        self.existing.hospital.client = self.client
        self.schema = schemathesis.openapi.from_dict(openapi())

    def run(self, cases: int, seed_: int) -> None:
        """About ``cases`` cases, equally many of each operation."""
        operations = [result.ok() for result in self.schema.get_all_operations()]
        for operation in operations:
            self._run_operation(operation, -(-cases // len(operations)), seed_)

    def _run_operation(self, operation: Any, cases: int, seed_: int) -> None:  # noqa: ANN401
        @seed(seed_)
        @settings(
            max_examples=cases, deadline=None, database=None, phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )  # fmt: skip
        @given(case=operation.as_strategy(), mixing=st.integers(0, 2**32))
        def examine(case: schemathesis.Case, mixing: int) -> None:
            self.send(case, random.Random(mixing))

        # Distinct cases run out for calls without parameters: each is sent again and again.
        before = self.cases
        examine()
        while self.cases < before + cases:
            self.send(operation.Case(), random.Random(self.cases))

    def send(self, case: schemathesis.Case, chance: random.Random) -> None:
        """One case, with some of what exists mixed in, and the judgement of its answer."""
        self._mix(case, chance)
        made = case.as_transport_kwargs(base_url="https://127.0.0.1:9443")
        body, media = self._content(case, chance)
        url = httpx2.URL(made["url"], params=made.get("params") or None)
        path = url.raw_path.decode()
        made_up = (case.headers or {}).items()
        headers = {k: str(v) for k, v in made_up if k not in _SIGNATURE}
        if case.operation.path in _UNSIGNED:
            headers |= {"Content-Type": media} if media else {}
            answer = self.client.request(case.method, path, content=body, headers=headers)
        else:
            answer = self.existing.hospital.request(
                case.method, path, body, headers=headers, media=media
            )
        self.cases += 1
        self.reached += _did_its_work(answer)
        self.statuses[str(answer.status_code)] += 1
        self.operations[f"{case.method} {case.operation.path}"] += 1
        self._judge(case, answer)

    def _mix(self, case: schemathesis.Case, chance: random.Random) -> None:
        """Put what exists in place of most of what was made up."""
        for place in (case.path_parameters, case.query, case.headers):
            for name in list(place or ()):
                known = self.existing.parameters.get(name)
                if known and chance.random() < 0.8:
                    place[name] = chance.choice(known)

    def _content(self, case: schemathesis.Case, chance: random.Random) -> tuple[bytes, str | None]:
        known = self.existing.bodies.get(case.operation.path)
        if known and chance.random() < 0.7:
            return _bent(chance.choice(known), chance), "application/json"
        if case.media_type == "application/json":
            return json.dumps(case.body, default=str).encode(), case.media_type
        if case.media_type is None:
            return b"", None
        update = self.existing.parts.get(str((case.path_parameters or {}).get("upload_id")))
        if update and chance.random() < 0.2:
            return update.body[200 : 200 + chance.randrange(1, 40)], case.media_type
        return chance.randbytes(chance.randrange(50)), case.media_type

    def _judge(self, case: schemathesis.Case, answer: httpx2.Response) -> None:
        try:
            case.validate_response(schemathesis.Response.from_any(answer), checks=list(CHECKS))
        except FailureGroup as group:
            self.failures += [f"{case.method} {case.path}: {e.message}" for e in group.exceptions]
        # Whatever was wrong in a case, an answer says so in a known way.
        if answer.status_code >= 400 and case.method != "HEAD":
            problem = Problem.model_validate_json(answer.content)
            slug = problem.type.removeprefix(PROBLEM_PREFIX)
            if slug not in _slugs(FedMedError) or problem.status != answer.status_code:
                self.failures.append(f"{case.method} {case.path}: an unknown problem {problem}")


def _bent(body: bytes, chance: random.Random) -> bytes:
    """Usually the same; sometimes with a value of another kind, a letter off, or cut short."""
    kind = chance.randrange(6)
    if kind == 0:
        return body[: chance.randrange(len(body))]
    if kind == 1:
        place = chance.randrange(len(body))
        return body[:place] + bytes([chance.randrange(32, 127)]) + body[place + 1 :]
    if kind == 2:
        value = json.loads(body)
        value[chance.choice(list(value))] = chance.choice([None, -1, 2**70, "", [], {}, 1e308])
        return json.dumps(value).encode()
    return body


def _slugs(error: type[FedMedError]) -> set[str]:
    return {error.slug} | {slug for sub in error.__subclasses__() for slug in _slugs(sub)}


def _did_its_work(answer: httpx2.Response) -> bool:
    """Whether signature, parameters and message were in order, as the answer tells.

    What is wrong with one of these is said by the types ``identity`` and ``invalid-input``.
    """
    if answer.status_code < 400 or answer.status_code == 416:
        return True
    if answer.request.method == "HEAD":
        return answer.status_code == 404
    return not answer.json()["type"].endswith((":identity", ":invalid-input"))
