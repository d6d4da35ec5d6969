"""Rate limits: by hospital, by address before anybody is known, in bounded memory."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from coordinator.config import LimitsSection
from coordinator.limits import Limits, RateLimit
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
