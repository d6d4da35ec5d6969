"""Many hospitals at once against a real server: what it loses, how much it holds, who waits."""

from __future__ import annotations

import multiprocessing
import os
import resource
import secrets
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx2
import numpy as np

from coordinator.config import FederationSection, RoundSection, ServerSection, load_config
from coordinator.context import Coordinator, open_coordinator
from coordinator.enrolment import create_invite, enrol, sign_roster
from coordinator.home import ca_certificate, create_home
from coordinator.opening import open_round
from coordinator.paths import Paths
from federation.adapter import ModuleShape, initial_adapter
from federation.base_model import BaseModelCard
from federation.canonical import file_sha256, sha256
from federation.envelope import payload_length, seal, sealed_length
from federation.membership import EnrolmentRequest, Member
from federation.messages import SUITE, EngineInfo, Manifest, PayloadHeader, ProgressReport
from federation.records import RoundRecord
from federation.request_signing import sign_request
from federation.signing import Identity, SignedDocument, fingerprint
from federation.tensors import write_tensors
from tests.chaos.uploading import Job, deliver
from tests.e2e.world import free_port
from tests.unit.coordinator.hospital import OCTETS, Hospital

_WIDTH = 2048
_RANK = 8
_MODULE_BYTES = 2 * _WIDTH * _RANK * 4
_SERVE = [sys.executable, "-c", "from coordinator.cli import main; main()"]
_LONGEST_SECONDS = 900.0


@dataclass
class Measured:
    """Seconds of each control call, seconds until each slow client was closed, and totals."""

    control: list[float] = field(default_factory=list)
    refused: int = 0
    slow: dict[str, float] = field(default_factory=dict)
    seconds: float = 0.0
    megabytes: float = 0.0
    server_rss_mib: float = 0.0
    server_cpu_seconds: float = 0.0
    retries: int = 0
    receipts: int = 0
    counted: int = 0

    def percentile(self, part: float) -> float:
        """The control calls' time that ``part`` of them stay below."""
        ordered = sorted(self.control)
        return ordered[min(len(ordered) - 1, int(part * len(ordered)))] if ordered else 0.0


class Crowd:
    """A coordinator with ``n`` members, a round open, and a sealed update of each."""

    def __init__(self, folder: Path, n: int, megabytes: float) -> None:
        self.folder, self.port = folder, free_port()
        self.paths = Paths(folder / "home")
        names = [f"h{i:03d}" for i in range(n)]
        created = create_home(
            self.paths, FederationSection(name="load"), ServerSection(port=self.port)
        )
        config = load_config(self.paths.config, flags={"limits": {"disk_reserve_mib": 0}})
        coordinator = open_coordinator(self.paths, config)
        self.url = f"https://127.0.0.1:{self.port}"
        self.ca = ca_certificate(self.paths, config) or ""
        admin = Identity.load(created.admin_key)
        self.identities = {name: Identity.generate() for name in names}
        _join(coordinator, admin, self.identities, self.url, self.ca)
        document = _open(coordinator, folder, n, megabytes)
        # It joins after the round opened: the round does not wait for it.
        self.identities["probe"] = Identity.generate()
        _join(coordinator, admin, self.identities, self.url, self.ca)
        self.coordinator_key = coordinator.identity.public()
        self.jobs = _sealed(coordinator, document, folder, {m: self.identities[m] for m in names})
        coordinator.store.database.close()

    @contextmanager
    def serving(self) -> Iterator[int]:
        """A real server; its process id."""
        log = self.folder / "events.log"
        with log.open("wb") as file:
            process = subprocess.Popen(
                [*_SERVE, "--home", str(self.paths.home), "serve"], stderr=file
            )
        try:
            while b'"serving"' not in log.read_bytes():
                assert process.poll() is None, log.read_text()
                time.sleep(0.05)
            yield process.pid
        finally:
            process.terminate()
            process.wait(30)

    def member(self, client: httpx2.Client, name: str) -> Hospital:
        """A hospital that asks through ``client``."""
        return Hospital(name, client, self.folder, lambda: int(time.time()), self.identities[name])

    def context(self) -> ssl.SSLContext:
        """TLS that trusts the coordinator's authority alone."""
        return ssl.create_default_context(cadata=self.ca)


def _join(
    coordinator: Coordinator, admin: Identity, identities: dict[str, Identity], url: str, ca: str
) -> None:
    for name, identity in identities.items():
        if coordinator.roster().member(name):
            continue
        invite = create_invite(coordinator, name, url=url, ca_certificate=ca, hours=1)
        request = EnrolmentRequest(
            federation=invite.federation, hospital=name, token=invite.token,
            identity=identity.public(),
        )  # fmt: skip
        enrol(coordinator, SignedDocument.sign(request, identity, "enrolment"))
    members = [Member(hospital=n, identity=i.public()) for n, i in identities.items()]
    sign_roster(coordinator, admin, coordinator.roster(), members, kind="approval", hospital="all")


def _open(coordinator: Coordinator, folder: Path, n: int, megabytes: float) -> SignedDocument:
    count = max(1, round(megabytes * 1e6 / _MODULE_BYTES))
    width = _WIDTH if megabytes >= 1 else 64
    linears = [
        ModuleShape(path=f"m.{i:03d}.q_proj", inputs=width, outputs=width) for i in range(count)
    ]
    card = BaseModelCard(name="load", sha256="ab" * 32, n_bytes=1000, linears=tuple(linears))
    (folder / "card.json").write_bytes(card.to_json())
    section = RoundSection(
        target_modules=("q_proj",), rank=_RANK, alpha=16.0, quorum=n, grace_minutes=1,
        deadline_minutes=60, codec="fp32", aggregator="fedavg",
    )  # fmt: skip
    return open_round(coordinator, section, base=folder / "card.json").document


def _sealed(
    coordinator: Coordinator,
    document: SignedDocument,
    folder: Path,
    identities: dict[str, Identity],
) -> list[Job]:
    row = coordinator.store.rounds.newest()
    assert row is not None
    descriptor = row.descriptor
    adapter = folder / "adapter.safetensors"
    moved = (
        (name, tensor + np.float32(1e-3))
        for name, tensor in initial_adapter(descriptor.adapter_schema, 7)
    )
    with adapter.open("wb") as file:
        write_tensors(file, descriptor.adapter_schema.shapes(), moved)
    header = PayloadHeader(
        codec="fp32", rank=_RANK, factors="AB", n_examples=10, metrics={},
        engine=EngineInfo(name="torch", version="2", quantisation="none"),
        plaintext_sha256=file_sha256(adapter),
    )  # fmt: skip
    jobs = []
    for name, identity in identities.items():
        manifest = Manifest(
            suite=SUITE,
            federation=descriptor.federation,
            round=1,
            descriptor_sha256=document.body_sha256,
            hospital=name,
            signer=fingerprint(identity.public()),
            recipient=sha256(descriptor.round_public_key.encode()),
            upload_id=secrets.token_hex(16),
            base_sha256=descriptor.base.sha256,
            parent_adapter_sha256=descriptor.parent_adapter_sha256,
            roster_sha256=descriptor.roster_sha256,
            schema_sha256=descriptor.schema_sha256,
            body_length=sealed_length(payload_length(header, adapter)),
        )
        body = folder / f"{name}.body"
        with body.open("wb") as file:
            request = seal(manifest, header, adapter, descriptor.round_public_key, identity, file)
        identity.save(folder / f"{name}.pem")
        jobs.append(Job(name, manifest.upload_id, request.to_json(), body, folder / f"{name}.pem"))
    return jobs


def measure(crowd: Crowd, *, within: float, slow: bool) -> Measured:
    """All deliver, each begun ``within`` so many seconds, until the round is published.

    Control calls, and slow clients where asked for, meanwhile.
    """
    found = Measured()
    done = threading.Event()
    with crowd.serving() as server:
        context = multiprocessing.get_context("spawn")
        results = context.Queue()
        load = context.Process(
            target=deliver, args=(crowd.url, crowd.ca, crowd.jobs, within, results)
        )
        load.start()
        threads = [threading.Thread(target=_probe, args=(crowd, found, done))]
        if slow:
            threads += [
                threading.Thread(target=_trickle, args=(crowd, found, kind)) for kind in SLOW
            ]
        for thread in threads:
            thread.start()
        outcomes, found.seconds = results.get(timeout=_LONGEST_SECONDS)
        load.join(30)
        _wait_until_published(crowd)
        done.set()
        for thread in threads:
            thread.join()
        found.server_rss_mib = _peak_rss(server)
        found.server_cpu_seconds = _cpu(server)
        found.counted = _counted(crowd)
    found.receipts = sum(outcome.accepted for outcome in outcomes)
    found.retries = sum(outcome.retries for outcome in outcomes)
    found.megabytes = sum(job.body.stat().st_size for job in crowd.jobs) / 1e6
    return found


def _client(crowd: Crowd) -> httpx2.Client:
    return httpx2.Client(base_url=crowd.url, verify=crowd.context(), timeout=60)


def _probe(crowd: Crowd, found: Measured, done: threading.Event) -> None:
    """What an appliance asks meanwhile: the newest round, and a heartbeat."""
    beat = ProgressReport(phase="training", step=1, of=2)
    with _client(crowd) as client:
        probe = crowd.member(client, "probe")
        while not done.wait(0.15):
            for method, path, body in (
                ("GET", "/v1/rounds/current", b""),
                ("POST", "/v1/rounds/1/progress", beat),
            ):
                begun = time.monotonic()
                answer = probe.request(method, path, body)
                found.control.append(time.monotonic() - begun)
                found.refused += answer.status_code not in (200, 204, 410)


def _wait_until_published(crowd: Crowd) -> None:
    with _client(crowd) as client:
        probe = crowd.member(client, "probe")
        until = time.monotonic() + _LONGEST_SECONDS
        while probe.current().state != "published":
            assert time.monotonic() < until, "the round was not published"
            time.sleep(0.5)


def _counted(crowd: Crowd) -> int:
    """How many hospitals the record has; each once, or this raises."""
    with _client(crowd) as client:
        answer = crowd.member(client, "probe").request("GET", "/v1/rounds/1/record")
    record = SignedDocument.model_validate_json(answer.content).open(
        RoundRecord, crowd.coordinator_key, "record"
    )
    counted = [c.hospital for c in record.contributions]
    assert sorted(counted) == sorted(job.hospital for job in crowd.jobs)
    return len(counted)


SLOW = ("never speaks TLS", "silent after TLS", "trickles a header", "trickles a body")


def _trickle(crowd: Crowd, found: Measured, kind: str) -> None:
    """One slow client; how long the server bears it."""
    begun = time.monotonic()
    raw = socket.create_connection(("127.0.0.1", crowd.port))
    raw.settimeout(90)
    try:
        connection = raw
        if kind != "never speaks TLS":
            connection = crowd.context().wrap_socket(raw, server_hostname="127.0.0.1")
        connection.settimeout(1.0)
        with suppress(ConnectionError, ssl.SSLError, BrokenPipeError):
            connection.sendall(_head(crowd) if kind == "trickles a body" else b"")
            _send_slowly(connection, kind.startswith("trickles"), begun)
    finally:
        raw.close()
    found.slow[kind] = time.monotonic() - begun


def _send_slowly(connection: socket.socket, trickling: bool, begun: float) -> None:
    while time.monotonic() < begun + 120:
        if trickling:
            connection.sendall(b"a")
        try:
            if not connection.recv(4096):
                return
        except TimeoutError:
            continue


def _head(crowd: Crowd) -> bytes:
    path = f"/v1/uploads/{'0' * 32}"
    key = crowd.identities["probe"].ed25519
    signed = sign_request(key, "probe", "PATCH", path, "", b"a" * 1000, int(time.time()))
    lines = [
        f"PATCH {path} HTTP/1.1", "Host: a", "Upload-Offset: 0", "Content-Length: 1000",
        f"Content-Type: {OCTETS}", *(f"{k}: {v}" for k, v in signed.items()),
    ]  # fmt: skip
    return "\r\n".join([*lines, "", ""]).encode()


def _peak_rss(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def _cpu(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def allow_files(n: int) -> None:
    """Let this process, and the server that it starts, hold so many files at once."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(n, hard)), hard))
