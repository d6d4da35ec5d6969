"""Rate limits: by hospital, by address before anybody is known, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from coordinator import uploads
from coordinator.config import LimitsSection
from coordinator.limits import AtOnce, Limits, RateLimit
from federation.messages import ProgressReport
from tests.unit.coordinator.hospital import JSON, problem
from tests.unit.coordinator.world import FakeClock, World

SECTION = LimitsSection(
    requests_per_second=1, request_burst=4, strangers_per_second=1, stranger_burst=3
)


@pytest.fixture
def strict(world: World) -> World:
    """A coordinator with a handful of requests for each caller; time is the world's."""
    limits = Limits(SECTION, monotonic=lambda: float(world.clock()))
    world.client.app.state.limits = limits  # type: ignore[attr-defined]
    return world


def test_a_bucket_holds_its_burst_and_refills() -> None:
    clock = FakeClock(0)
    limit = RateLimit(2.0, 4, clock)
    assert [limit.take("a") for _ in range(5)] == [0, 0, 0, 0, 0.5]
    assert limit.take("b") == 0
    clock.now = 1
    assert [limit.take("a") for _ in range(3)] == [0, 0, 0.5]
    clock.now = 100
    assert limit.wait("a") == 0
    # Full again, thus forgotten.
    assert len(limit) == 1


def test_many_callers_do_not_fill_the_memory() -> None:
    limit = RateLimit(1.0, 2, FakeClock(0))
    limit.take("first")
    for i in range(5000):
        limit.take(str(i))
    assert len(limit) == 4096
    assert limit.take("4999") == 0
    assert limit.take("4999") > 0


def test_at_most_the_burst_passes_among_many_threads() -> None:
    limit = RateLimit(0.001, 50)
    with ThreadPoolExecutor(8) as pool:
        waits = list(pool.map(lambda _: limit.take("a"), range(400)))
    assert waits.count(0) == 50


def test_addresses_of_one_ipv6_network_share_a_limit() -> None:
    limits = Limits(SECTION, monotonic=FakeClock(0))
    for i in range(3):
        limits.charge_address(f"2001:db8::{i}")
    with pytest.raises(Exception, match="this address"):
        limits.check_address("2001:db8::ffff")
    limits.check_address("2001:db8:0:1::1")
    limits.check_address("192.0.2.1")


def test_a_hospital_that_asks_too_often_is_told_when_to_come_back(strict: World) -> None:
    h01, h02 = strict.member("h01"), strict.member("h02")
    strict.clock.now += 10
    for _ in range(4):
        assert h01.request("GET", "/v1/rounds/current").status_code == 200
    refused = h01.request("GET", "/v1/rounds/current")
    assert problem(refused)[:2] == (429, "transport")
    assert refused.headers["retry-after"] == "1"
    assert h02.request("GET", "/v1/rounds/current").status_code == 200
    strict.clock.now += 1
    assert h01.request("GET", "/v1/rounds/current").status_code == 200


def test_a_refused_request_has_not_used_up_its_nonce(strict: World) -> None:
    h01 = strict.member("h01")
    strict.clock.now += 10
    for _ in range(6):
        h01.request("GET", "/v1/rounds/current")
    with strict.coordinator.store.database.read() as connection:
        remembered = connection.exec_driver_sql("SELECT count(*) FROM nonces").scalar_one()
    assert remembered == 4


def test_an_address_pays_for_what_nobody_signed(strict: World) -> None:
    h01 = strict.member("h01")
    strict.clock.now += 10
    statuses = [strict.client.get("/v1/rounds/current").status_code for _ in range(5)]
    assert statuses == [401, 401, 401, 429, 429]
    # Before the signature is looked at, which is what costs.
    assert h01.request("GET", "/v1/rounds/current").status_code == 429
    strict.clock.now += 1
    assert h01.request("GET", "/v1/rounds/current").status_code == 200


@pytest.mark.parametrize("path", ["/v1/enrolments", "/readyz"])
def test_what_needs_no_signature_is_charged_to_the_address(strict: World, path: str) -> None:
    method = "GET" if path == "/readyz" else "POST"
    statuses = [
        strict.client.request(method, path, content=b"{}", headers={"Content-Type": JSON})
        for _ in range(4)
    ]
    assert [answer.status_code == 429 for answer in statuses] == [False, False, False, True]
    assert strict.client.get("/healthz").status_code == 200


def test_members_behind_one_address_do_not_pay_for_each_other(strict: World) -> None:
    hospitals = [strict.member(f"h{i:02d}") for i in range(1, 4)]
    strict.open()
    for _ in range(3):
        strict.clock.now += 2
        for hospital in hospitals:
            beat = ProgressReport(phase="training", step=1, of=2)
            assert hospital.request("POST", "/v1/rounds/1/progress", beat).status_code == 204


def test_a_hospital_holds_few_parts_in_memory_at_once(world: World) -> None:
    h01, h02 = world.member("h01"), world.member("h02")
    world.open()
    limits: Limits = world.client.app.state.limits  # type: ignore[attr-defined]
    own, other = h01.seal(1), h02.seal(1)
    h01.announce(own)
    h02.announce(other)
    with ExitStack() as others:
        for _ in range(4):
            others.enter_context(limits.parts.one("h01"))
        refused = h01.part(own, 0, b"part")
        assert problem(refused)[:2] == (429, "transport")
        assert refused.headers["retry-after"] == "2"
        assert h01.request("GET", "/v1/rounds/current").status_code == 200
        assert h02.part(other, 0, other.body).status_code == 204
    assert h01.part(own, 0, own.body).status_code == 204


@pytest.mark.parametrize("holding", ["parts", "commits"])
def test_the_place_is_held_until_the_work_is_done(
    world: World, monkeypatch: pytest.MonkeyPatch, holding: str
) -> None:
    h01 = world.member("h01")
    world.open()
    limits: Limits = world.client.app.state.limits  # type: ignore[attr-defined]
    update = h01.seal(1)
    held: list[int] = []
    for name in ("append", "commit"):
        work = getattr(uploads, name)

        def watched(*arguments: object, work: Callable[..., object] = work) -> object:
            at_once: AtOnce = getattr(limits, holding)
            held.append(len(at_once))
            return work(*arguments)

        monkeypatch.setattr(uploads, name, watched)
    assert h01.upload(update).accepted
    assert held == ([1, 0] if holding == "parts" else [0, 1])
    assert len(getattr(limits, holding)) == 0


def test_an_upload_is_verified_once_at_a_time(world: World) -> None:
    h01 = world.member("h01")
    world.open()
    limits: Limits = world.client.app.state.limits  # type: ignore[attr-defined]
    update = h01.seal(1)
    h01.announce(update)
    h01.part(update, 0, update.body)
    with limits.commits.one(update.manifest.upload_id):
        assert problem(h01.commit(update))[:2] == (429, "transport")
    assert h01.receipt(h01.commit(update)).accepted
