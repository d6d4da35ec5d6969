"""Metrics, readiness and the event log: what an operator sees, and what nobody may see there."""

from __future__ import annotations

import base64
import json
import signal
import socket
import ssl
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from coordinator.config import LimitsSection, MetricsSection, load_config
from coordinator.context import open_coordinator, passphrase
from coordinator.limits import Limits
from coordinator.metrics import Metrics, metrics_listener
from coordinator.paths import Paths
from coordinator.store.sqlite import library as sqlite3
from coordinator.wrapping import WrappingKey
from federation.errors import InputError
from federation.request_signing import sign_request
from federation.signing import Identity
from tests.unit.coordinator.hospital import Hospital, SealedUpdate, problem
from tests.unit.coordinator.quick_home import QuickHome
from tests.unit.coordinator.test_serve import free_port
from tests.unit.coordinator.world import World

Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def parse(text: str) -> Samples:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def scrape(world: World) -> Samples:
    """Over real HTTP, as Prometheus does."""
    metrics: Metrics = world.client.app.state.metrics  # type: ignore[attr-defined]
    port = free_port()
    with metrics_listener(metrics, MetricsSection(port=port), lambda *_, **__: None):
        return parse(urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics").read().decode())


def test_a_round_shows_in_the_metrics(world: World) -> None:
    h01, _ = world.member("h01"), world.member("h02")
    assert scrape(world)["fedmed_round", ()] == 0
    world.open(quorum=2)
    world.clock.now += 100
    update = h01.seal(1)
    h01.upload(update)
    world.client.get("/v1/rounds/current")
    found = scrape(world)
    assert found["fedmed_round", ()] == 1
    assert found["fedmed_round_state", (("state", "open"),)] == 1
    assert found["fedmed_round_state", (("state", "published"),)] == 0
    assert found["fedmed_round_deadline_seconds", ()] == 1440 * 60 - 100
    assert found["fedmed_round_expected", ()] == 2
    assert found["fedmed_round_delivered", ()] == 1
    assert found["fedmed_round_quorum", ()] == 2
    assert found["fedmed_hospital_state", (("hospital", "h01"), ("state", "delivered"))] == 1
    assert found["fedmed_hospital_state", (("hospital", "h02"), ("state", "silent"))] == 1
    assert found["fedmed_events_total", (("event", "update_accepted"),)] == 1
    assert found["fedmed_refused_requests_total", (("reason", "identity"),)] == 1
    assert found["fedmed_received_bytes_total", ()] > len(update.body)
    assert found["fedmed_sent_bytes_total", ()] > 1000
    route = (("method", "PATCH"), ("route", "/v1/uploads/{upload_id}"), ("status", "204"))
    assert found["fedmed_request_seconds_count", route] == 1
    assert found["fedmed_disk_free_bytes", ()] > 0
    assert found["fedmed_state_readable", ()] == 1
    assert found["process_resident_memory_bytes", ()] > 0


def test_labels_stay_few_whatever_is_asked(world: World) -> None:
    for i in range(50):
        world.client.get(f"/nothing/{i}")
        world.client.request(f"M{i}", "/healthz")
    counted = [key for key in scrape(world) if key[0] == "fedmed_request_seconds_count"]
    assert len(counted) < 5


def test_two_applications_do_not_share_metrics(folder: Path) -> None:
    worlds = [World.create(folder / name) for name in ("a", "b")]
    worlds[0].client.get("/v1/rounds/current")
    refused = "fedmed_refused_requests_total", (("reason", "identity"),)
    assert refused in scrape(worlds[0])
    assert refused not in scrape(worlds[1])
    for world in worlds:
        world.client.close()
        world.coordinator.store.database.close()


def test_a_rate_limit_is_counted_by_whom_it_met(world: World) -> None:
    world.client.app.state.limits = Limits(LimitsSection(stranger_burst=1))  # type: ignore[attr-defined]
    for _ in range(3):
        world.client.get("/v1/rounds/current")
    assert scrape(world)["fedmed_rate_limited_requests_total", (("by", "address"),)] == 2
    assert [event for event, _ in world.events][-3:] == [
        "request_refused",
        *["request_limited"] * 2,
    ]


def test_metrics_say_that_the_database_fails(world: World) -> None:
    world.paths.uploads.rmdir()
    assert scrape(world)["fedmed_state_readable", ()] == 0


def test_a_taken_metrics_port_is_said(world: World) -> None:
    metrics = Metrics(world.coordinator)
    section = MetricsSection(port=free_port())
    with (
        metrics_listener(metrics, section, lambda *_, **__: None),
        pytest.raises(InputError, match="Cannot listen for metrics"),
        metrics_listener(metrics, section, lambda *_, **__: None),
    ):
        pass


def test_readiness_names_all_that_fails(world: World) -> None:
    database = world.coordinator.store.database
    with database.write() as connection:
        connection.exec_driver_sql("DROP TABLE alembic_version")
    world.coordinator.blobs.reserve = 1 << 60
    status, slug, detail = problem(world.client.get("/readyz"))
    assert (status, slug) == (503, "storage")
    assert "database: " in detail
    assert "disk: " in detail
    assert world.client.get("/healthz").status_code == 200


def test_a_refusal_is_an_event_with_the_id_that_the_caller_got(world: World) -> None:
    h01 = world.member("h01")
    answer = h01.request("GET", "/v1/rounds/7")
    event, fields = world.events[-1]
    assert event == "request_refused"
    assert fields["request"] == answer.headers["x-request-id"]
    assert (fields["status"], fields["hospital"], fields["route"]) == (
        404, "h01", "/v1/rounds/{number}",
    )  # fmt: skip
    assert fields["detail"] == problem(answer)[2]


PASSPHRASE = "correct horse battery staple"


@pytest.fixture
def home(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[QuickHome]:
    monkeypatch.setenv("COORDINATOR_PASSPHRASE", PASSPHRASE)
    made = QuickHome.make(folder)
    yield made
    made.end()


def secrets_of(home: QuickHome, hospital: Hospital, update: SealedUpdate) -> dict[str, bytes]:
    """What must not come into a log, whatever happens."""
    paths = Paths(home.folder)
    coordinator = open_coordinator(paths, load_config(paths.config))
    row = coordinator.store.rounds.get(1)
    assert row is not None
    assert row.wrapped_seed is not None
    coordinator.store.database.close()
    assert hospital.invite is not None
    return {
        "token": hospital.invite.token.encode(),
        "wrapping key": WrappingKey.load(paths.wrapping_key, passphrase()).key,
        "round seed": coordinator.wrapping.unwrap(row.wrapped_seed, "demo-net", 1),
        "wrapped seed": row.wrapped_seed,
        "hospital's key": hospital.identity.ed25519.private_bytes_raw(),
        "coordinator's key": coordinator.identity.ed25519.private_bytes_raw(),
        "admin's key": Identity.load(paths.admin_key).ed25519.private_bytes_raw(),
        "body": update.body[100:148],
        "wrapped data key": base64.b64decode(update.request.wrapped_key)[:48],
        "signature": base64.b64decode(update.request.signatures.ed25519)[:48],
        "passphrase": PASSPHRASE.encode(),
    }


def spellings(secret: bytes) -> set[str]:
    whole = secret[: len(secret) // 3 * 3]
    return {
        secret.hex(),
        base64.b64encode(whole).decode(),
        base64.urlsafe_b64encode(whole).decode(),
        json.dumps(secret.decode("latin-1"))[1:-1],
        repr(secret)[2:-1],
    }


def damage(home: QuickHome, statement: str) -> None:
    with closing(sqlite3.connect(Paths(home.folder).database, timeout=15)) as database:
        database.execute(statement)
        database.commit()


def refuse_everything(h01: Hospital, update: SealedUpdate, home: QuickHome) -> None:
    """Every kind of refusal, with what is secret in all that is sent."""
    assert h01.invite is not None
    h01.request("PATCH", update.path, update.body, headers={"Upload-Offset": "secret-value-1"})
    h01.request("POST", "/v1/rounds/1/uploads", update.body, media="application/json")
    h01.client.post("/v1/enrolments", content=h01.invite.token.encode())
    h01.client.get("/v1/rounds/current", headers={"Signature": "secret-value-2"})
    h01.client.get("/v1/rounds/1?secret-value-3")
    h01.announce(update)
    damage(home, "UPDATE uploads SET request = '{' || request")
    assert problem(h01.announce(update))[:2] == (507, "storage")
    damage(home, "UPDATE uploads SET request = substr(request, 2)")
    damage(home, "UPDATE uploads SET body_length = body_length || 'x'")
    assert problem(h01.announce(update))[:2] == (500, "error")
    damage(home, "UPDATE uploads SET body_length = CAST(rtrim(body_length, 'x') AS INTEGER)")
    # After a failure of its own the server ends the connection; let the client see that.
    time.sleep(0.3)


def test_a_whole_round_leaves_no_secret_in_the_log(home: QuickHome) -> None:
    server = home.serve()
    h01, h02 = home.join("h01"), home.join("h02")
    home.open_round()
    update = h01.seal(1)
    known = secrets_of(home, h01, update)
    refuse_everything(h01, update, home)
    assert h01.upload(update).accepted
    broken = h02.seal(1)
    h02.announce(broken)
    h02.part(broken, 0, bytes(len(broken.body)))
    assert not h02.receipt(h02.commit(broken)).accepted
    assert h02.upload(h02.seal(1)).accepted
    for _ in range(200):
        if h01.current().state == "published":
            break
        time.sleep(0.05)
    server.send_signal(signal.SIGTERM)
    assert server.wait(10) == 0
    log = home.log.read_text(encoding="utf-8")
    events = [json.loads(line) for line in log.splitlines()]
    assert {
        "enrolled", "update_accepted", "update_refused", "request_refused", "log",
        "round_closed", "round_aggregated", "round_published", "stopped",
    } <= {event["event"] for event in events}  # fmt: skip
    # The traceback of what was damaged is there, without the values.
    assert any("Traceback" in (event.get("traceback") or "") for event in events)
    for name, secret in known.items():
        assert not any(spelling in log for spelling in spellings(secret)), name
    assert "secret-value" not in log


def send_slowly(home: QuickHome, h01: Hospital, update: SealedUpdate) -> ssl.SSLSocket:
    """Begin to send the update's only part: the header, and half of the body."""
    assert h01.invite is not None
    headers = sign_request(
        h01.identity.ed25519, "h01", "PATCH", update.path, "", update.body, h01.clock()
    )
    lines = [f"PATCH {update.path} HTTP/1.1", "Host: a", "Content-Type: application/octet-stream"]
    lines += [f"Content-Length: {len(update.body)}", "Upload-Offset: 0"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    context = ssl.create_default_context(cadata=h01.invite.ca_certificate)
    raw = socket.create_connection(("127.0.0.1", home.port))
    connection = context.wrap_socket(raw, server_hostname="127.0.0.1")
    connection.sendall("\r\n".join([*lines, "", ""]).encode() + update.body[:400])
    return connection


@pytest.mark.parametrize("finishes", [True, False])
def test_an_upload_in_flight_ends_before_the_server_does(home: QuickHome, finishes: bool) -> None:
    server = home.serve()
    h01 = home.join("h01")
    home.open_round()
    update = h01.seal(1)
    h01.announce(update)
    with send_slowly(home, h01, update) as connection:
        time.sleep(0.5)
        server.send_signal(signal.SIGTERM)
        time.sleep(0.5)
        assert server.poll() is None
        begun = time.monotonic()
        if finishes:
            connection.sendall(update.body[400:])
            assert connection.recv(1000).startswith(b"HTTP/1.1 204")
            connection.close()
        assert server.wait(20) == 0
        assert time.monotonic() - begun < (5 if finishes else 13)
    home.serve()
    offset = int(h01.request("HEAD", update.path).headers["upload-offset"])
    # Acknowledged and kept, or neither.
    assert offset == (len(update.body) if finishes else 0)
