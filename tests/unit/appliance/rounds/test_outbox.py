"""The outbox over TCP to the coordinator's real application, with trouble put in between."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from appliance.client import CoordinatorClient
from appliance.connection import tls_context
from appliance.rounds.outbox import Outbox
from appliance.trust import Trust
from coordinator.certificates import Authority
from coordinator.config import LimitsSection
from coordinator.limits import Limits
from federation.errors import IdentityError, StorageError, TransportError
from federation.messages import Receipt
from tests.unit.appliance.answering import Asked, Reply, answering
from tests.unit.appliance.filling import fill
from tests.unit.appliance.line import Line, joined
from tests.unit.coordinator.hospital import Hospital
from tests.unit.coordinator.world import World


@dataclass
class Site:
    """A hospital with a sealed update for round 1, and its line to the coordinator."""

    world: World
    hospital: Hospital
    trust: Trust
    line: Line
    client: CoordinatorClient
    outbox: Outbox
    folder: Path
    waited: list[float] = field(default_factory=list)

    def fill(self) -> None:
        own = self.hospital.identity
        fill(self.outbox, self.client, self.trust, own, self.folder.parent)

    def wait(self, seconds: float) -> None:
        """Time passes for both sides; no test waits."""
        self.waited.append(seconds)
        self.world.clock.now += max(1, round(seconds))

    def deliver(self, client: CoordinatorClient | None = None, within: int = 3600) -> Receipt:
        clock = self.world.clock
        latest = clock() + within
        return self.outbox.deliver(
            client or self.client, lambda: latest, lambda _: None, clock, self.wait
        )


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with joined(tmp_path) as a:
        a.world.open()
        folder = tmp_path / "rounds" / "0001" / "outbox"
        outbox = Outbox(folder, a.trust, a.hospital.identity)
        made = Site(a.world, a.hospital, a.trust, a.line, a.client, outbox, folder)
        made.fill()
        yield made


def test_an_update_arrives_and_its_receipt_is_kept(site: Site) -> None:
    receipt = site.deliver()
    assert receipt.accepted
    assert site.outbox.receipt() == receipt
    before = len(site.line.asked)
    assert site.deliver() == receipt
    # Only asked whether it is still there.
    assert [asked.path for asked in site.line.asked[before:]] == ["/v1/rounds/current"]
    site.line.trouble = lambda _: Reply(503, b"")
    assert site.deliver() == receipt
    assert site.waited == []


def forget_uploads(site: Site) -> None:
    """What restoring an older backup does to the coordinator."""
    with site.world.coordinator.store.database.write() as connection:
        connection.exec_driver_sql("DELETE FROM uploads")


def test_an_update_that_the_coordinator_lost_is_sent_again(site: Site) -> None:
    first = site.deliver()
    forget_uploads(site)
    site.world.clock.now += 60
    second = site.deliver()
    assert second.accepted
    assert (second.upload_id, second.received_at - first.received_at) == (first.upload_id, 60)
    assert site.outbox.receipt() == second
    assert len(site.world.coordinator.store.uploads.of_round(1)) == 1


@pytest.mark.parametrize("method", ["PATCH", "commit"])
def test_an_upload_lost_under_way_is_announced_again(site: Site, method: str) -> None:
    lost: list[Asked] = []

    def lose(request: Asked) -> Reply | None:
        if not lost and method in (request.method, request.path.rpartition("/")[2]):
            lost.append(request)
            forget_uploads(site)
        return None

    site.line.trouble = lose
    assert site.deliver().accepted
    assert len(site.waited) == 1
    assert lost


def test_the_coordinator_is_not_asked_before_the_time_it_says(site: Site) -> None:
    world = site.world
    section = LimitsSection(requests_per_second=0.1, request_burst=12)
    limits = Limits(section, monotonic=lambda: float(world.clock()))
    for _ in range(12):
        limits.charge_hospital("a")
    world.client.app.state.limits = limits  # type: ignore[attr-defined]
    assert site.deliver().accepted
    # Until there is enough for announcement, part and commit.
    assert site.waited == [30]


@pytest.mark.parametrize(
    ("stated", "waits"), [("7", 7), ("999999999", 3600), ("1" * 5000, 1), ("soon", 1), ("-5", 1)]
)
def test_only_a_sensible_retry_after_counts(site: Site, stated: str, waits: int) -> None:
    document = {"type": "urn:fedmed:problem:error", "title": "", "status": 429, "detail": "x"}
    busy = Reply(429, json.dumps(document).encode(), {"Retry-After": stated})
    site.line.trouble = lambda _: None if site.waited else busy
    assert site.deliver(within=9000).accepted
    assert [max(1, round(pause)) for pause in site.waited] == [waits]


@pytest.mark.parametrize(
    ("method", "status"), [("POST", 429), ("PATCH", 408), ("PATCH", 507), ("POST", 500)]
)
def test_what_may_pass_is_tried_again(site: Site, method: str, status: int) -> None:
    slug = {507: "storage", 429: "identity"}.get(status, "error")
    document = {"type": f"urn:fedmed:problem:{slug}", "title": "", "status": status, "detail": "x"}

    def trouble(request: Asked) -> Reply | None:
        if request.method == method and len(site.waited) < 3:
            return Reply(status, json.dumps(document).encode())
        return None

    site.line.trouble = trouble
    assert site.deliver().accepted
    assert len(site.waited) == 3
    assert site.waited[2] > site.waited[0]


def test_a_refusal_ends_the_delivery_at_once(site: Site) -> None:
    document = {"type": "urn:fedmed:problem:identity", "title": "", "status": 401, "detail": "no"}
    site.line.trouble = lambda _: Reply(401, json.dumps(document).encode())
    with pytest.raises(IdentityError):
        site.deliver()
    assert site.waited == []


def test_a_wrong_certificate_ends_the_delivery_at_once(site: Site, tmp_path: Path) -> None:
    real, other = Authority(tmp_path / "real"), Authority(tmp_path / "other")
    now = int(time.time())
    for authority in (real, other):
        authority.create("f", now, None)
    tls = real.server_files(["127.0.0.1"], now, None)
    with answering(site.line, tls) as url:
        for authority, accepted in ((other, False), (real, True)):
            context = tls_context(authority.certificate.read_text(), "")
            client = CoordinatorClient(
                url=url,
                hospital="a",
                key=site.hospital.identity.ed25519,
                verify=context,
                clock=site.world.clock,
            )
            with client:
                if accepted:
                    assert site.deliver(client).accepted
                else:
                    with pytest.raises(TransportError, match="certificate"):
                        site.deliver(client)
            assert site.waited == []


def test_trouble_lasts_no_longer_than_the_deadline(site: Site) -> None:
    site.line.trouble = lambda _: Reply(503, b"")
    started = site.world.clock()
    with pytest.raises(TransportError, match="deadline passed") as caught:
        site.deliver(within=100)
    assert "outbox" in caught.value.hint
    assert site.world.clock() - started <= 100
    assert len(site.line.asked) < 20


def test_a_coordinator_that_goes_back_is_not_followed_in_a_busy_loop(site: Site) -> None:
    def waver(request: Asked) -> Reply | None:
        if request.method != "PATCH":
            return None
        at = int(request.headers["upload-offset"])
        return Reply(409, b"", {"Upload-Offset": "0" if at else "5"})

    site.line.trouble = waver
    with pytest.raises(TransportError):
        site.deliver(within=100)
    assert site.line.count("PATCH") < 40


def test_a_coordinator_that_creeps_is_left_at_the_deadline(site: Site) -> None:
    def creep(request: Asked) -> Reply | None:
        if request.method != "PATCH":
            return None
        site.world.clock.now += 10
        return Reply(204, b"", {"Upload-Offset": str(int(request.headers["upload-offset"]) + 1)})

    site.line.trouble = creep
    with pytest.raises(TransportError, match="deadline"):
        site.deliver(within=100)
    assert site.line.count("PATCH") <= 12


def test_an_upload_status_of_another_length_is_refused(site: Site) -> None:
    def lie(request: Asked) -> Reply | None:
        if not request.path.endswith("/uploads"):
            return None
        status = {"upload_id": "0" * 32, "offset": 0, "length": 7}
        return Reply(200, json.dumps(status).encode())

    site.line.trouble = lie
    with pytest.raises(TransportError, match="of 7 bytes"):
        site.deliver()


def test_a_body_that_was_cut_on_disk_is_said(site: Site) -> None:
    body = site.folder / "body"
    body.write_bytes(b"")
    with pytest.raises(StorageError, match="ends at 0") as caught:
        site.deliver()
    assert "sealed again" in caught.value.hint


def test_another_updates_receipt_does_not_count(site: Site) -> None:
    """What a kill inside an older ``discard`` leaves: a receipt, and later a new request."""
    first = site.deliver()
    site.fill()
    assert site.outbox.receipt() is None
    (site.folder / "request.json").unlink()
    assert site.outbox.receipt() is None
    assert (site.folder / "receipt.json").exists()
    assert first.accepted


def test_discard_removes_the_receipt_before_the_request(site: Site) -> None:
    site.deliver()
    request = site.folder / "request.json"
    request.unlink()
    request.mkdir()  # cannot be unlinked: what a kill at this point leaves
    with pytest.raises(StorageError, match="Is a directory"):
        site.outbox.discard()
    assert not (site.folder / "receipt.json").exists()


def test_sealing_again_sweeps_what_a_kill_left(site: Site) -> None:
    for name in (".body.abc123", ".request.json.x", ".receipt.json.y"):
        (site.folder / name).write_bytes(b"left")
    site.fill()
    assert sorted(p.name for p in site.folder.iterdir()) == ["body", "request.json"]


@pytest.mark.parametrize("arrives", [False, True])
def test_a_line_that_breaks_at_every_other_part_is_not_waited_for_longer(
    site: Site, monkeypatch: pytest.MonkeyPatch, arrives: bool
) -> None:
    monkeypatch.setattr("appliance.rounds.outbox.PART", 100)

    def breaks(request: Asked) -> Reply | None:
        if request.method != "PATCH" or (site.line.count("PATCH") % 2 and not arrives):
            return None
        if arrives:
            site.line.trouble = lambda _: None
            site.line(request)
            site.line.trouble = breaks
        return Reply(503, b"")

    site.line.trouble = breaks
    assert site.deliver().accepted
    assert len(site.waited) >= 5
    assert max(site.waited) <= 1.0
