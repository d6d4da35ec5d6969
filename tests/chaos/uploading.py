"""Hospitals that deliver at once, as one process of many threads."""

from __future__ import annotations

import random
import ssl
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.queues import Queue
from pathlib import Path

import httpx2

from appliance.rounds.outbox import PART
from federation.messages import UploadRequest
from federation.signing import Identity
from tests.unit.coordinator.hospital import JSON, OCTETS, Hospital

_TRIES = 200
_RETRYABLE = (408, 429, 503)


@dataclass(frozen=True)
class Job:
    """One hospital's sealed update, and the file of its keys."""

    hospital: str
    upload_id: str
    request: bytes
    body: Path
    keys: Path


@dataclass
class Outcome:
    """Whether its receipt says accepted, and how often it had to ask again."""

    accepted: bool = False
    retries: int = 0


Delivered = tuple[list[Outcome], float]
"""The outcomes, and how many seconds all of it took."""


def deliver(url: str, ca: str, jobs: list[Job], within: float, results: Queue[Delivered]) -> None:
    """Deliver all updates, each begun ``within`` so many seconds; results come of it."""
    context = ssl.create_default_context(cadata=ca)
    with ThreadPoolExecutor(len(jobs)) as pool:
        begun = time.monotonic()
        outcomes = list(pool.map(lambda job: _deliver(url, context, job, within), jobs))
        results.put((outcomes, time.monotonic() - begun))


def _deliver(url: str, context: ssl.SSLContext, job: Job, within: float) -> Outcome:
    time.sleep(random.uniform(0, within))
    outcome = Outcome()
    with httpx2.Client(base_url=url, verify=context, timeout=300) as client:
        clock = lambda: int(time.time())  # noqa: E731
        hospital = Hospital(job.hospital, client, job.body.parent, clock, Identity.load(job.keys))
        _insist(hospital, outcome, "GET", "/v1/rounds/current", b"", {})
        UploadRequest.model_validate_json(job.request)
        _insist(hospital, outcome, "POST", "/v1/rounds/1/uploads", job.request, {"": JSON})
        path = f"/v1/uploads/{job.upload_id}"
        with job.body.open("rb") as file:
            while part := file.read(PART):
                offset = str(file.tell() - len(part))
                headers = {"": OCTETS, "Upload-Offset": offset}
                _insist(hospital, outcome, "PATCH", path, part, headers)
        receipt = _insist(hospital, outcome, "POST", f"{path}/commit", b"", {})
        outcome.accepted = '\\"accepted\\":true' in receipt.text
    return outcome


def _insist(
    hospital: Hospital,
    outcome: Outcome,
    method: str,
    path: str,
    body: bytes,
    headers: dict[str, str],
) -> httpx2.Response:
    """Ask until answered, as an appliance does."""
    media = headers.pop("", None)
    for attempt in range(_TRIES):
        try:
            answer = hospital.request(method, path, body, headers=headers, media=media)
        except httpx2.TransportError:
            answer = None
        if answer is not None and answer.status_code not in _RETRYABLE:
            assert answer.status_code in (200, 201, 204, 409), answer.text
            return answer
        outcome.retries += 1
        time.sleep(random.uniform(0.5, 1) * min(10, 2**attempt / 4))
    raise AssertionError(f"{hospital.name} was never answered")
