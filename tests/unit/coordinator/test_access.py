"""Signed requests: who, unchanged, in time, once."""

from __future__ import annotations

import pytest

from federation.messages import ProgressReport
from federation.request_signing import MAX_SKEW_SECONDS, sign_request
from federation.signing import Identity
from tests.unit.coordinator.hospital import Hospital, problem
from tests.unit.coordinator.world import World


@pytest.fixture
def h01(world: World) -> Hospital:
    return world.member("h01")


def signed(h01: Hospital, path: str = "/v1/rounds/current", query: str = "") -> dict[str, str]:
    return sign_request(h01.identity.ed25519, h01.name, "GET", path, query, b"", h01.clock())


def test_an_unsigned_request_is_refused(world: World) -> None:
    status, slug, detail = problem(world.client.get("/v1/rounds/current"))
    assert (status, slug) == (401, "identity")
    assert "not signed" in detail


def test_a_replayed_request_is_refused(world: World, h01: Hospital) -> None:
    headers = signed(h01)
    assert world.client.get("/v1/rounds/current", headers=headers).status_code == 200
    status, _, detail = problem(world.client.get("/v1/rounds/current", headers=headers))
    assert (status, detail) == (401, "This request was sent before; a signature serves once.")


def test_a_nonce_is_remembered_as_long_as_its_request_would_be_taken(
    world: World, h01: Hospital
) -> None:
    headers = signed(h01)
    world.client.get("/v1/rounds/current", headers=headers)
    world.clock.now += MAX_SKEW_SECONDS
    h01.current()
    assert "sent before" in problem(world.client.get("/v1/rounds/current", headers=headers))[2]
    world.clock.now += 1
    h01.current()
    assert (
        "from the coordinator's time"
        in problem(world.client.get("/v1/rounds/current", headers=headers))[2]
    )


def test_a_clock_set_back_lets_no_forgotten_request_in_again(world: World, h01: Hospital) -> None:
    headers = signed(h01)
    assert world.client.get("/v1/rounds/current", headers=headers).status_code == 200
    world.clock.now += 2 * MAX_SKEW_SECONDS
    assert h01.request("GET", "/v1/rounds/current").status_code == 200
    world.clock.now -= 2 * MAX_SKEW_SECONDS
    assert world.client.get("/v1/rounds/current", headers=headers).status_code == 401
    # What is signed after the last that was forgotten is taken, however far back it goes.
    world.clock.now += 1
    assert h01.request("GET", "/v1/rounds/current").status_code == 200


@pytest.mark.parametrize("change", ["path", "query", "method", "body", "key", "name"])
def test_a_signature_covers_the_request(world: World, h01: Hospital, change: str) -> None:
    other = world.member("h02")
    path = "/v1/rounds/current"
    headers = signed(h01)
    if change == "path":
        response = world.client.get("/v1/rounds/1", headers=headers)
    elif change == "query":
        response = world.client.get(f"{path}?all=1", headers=headers)
    elif change == "method":
        headers = signed(h01, "/v1/rounds/1/uploads") | {"Content-Type": "application/json"}
        response = world.client.post("/v1/rounds/1/uploads", headers=headers)
    elif change == "body":
        headers["Content-Digest"] = "sha-256=:" + "A" * 43 + "=:"
        response = world.client.get(path, headers=headers)
    elif change == "key":
        h01.identity = Identity.generate()
        response = h01.request("GET", path)
    else:
        headers["Signature-Input"] = headers["Signature-Input"].replace("h01", other.name)
        response = world.client.get(path, headers=headers)
    assert problem(response)[:2] == (401, "identity")


def test_another_body_than_was_signed_is_refused(world: World, h01: Hospital) -> None:
    world.open()
    path = "/v1/rounds/1/progress"
    bodies = [ProgressReport(phase="training", step=step, of=9).to_json() for step in (1, 2)]
    headers = sign_request(
        h01.identity.ed25519, h01.name, "POST", path, "", bodies[0], h01.clock()
    ) | {"Content-Type": "application/json"}
    response = world.client.post(path, content=bodies[1], headers=headers)
    assert problem(response)[:2] == (401, "identity")
    assert "not the one that was signed" in problem(response)[2]
    assert world.coordinator.store.reports.heartbeats(1) == {}


def test_a_hospital_nobody_invited_is_told_so(world: World) -> None:
    status, slug, detail = problem(world.hospital("h09").request("GET", "/v1/rounds/current"))
    assert (status, slug, detail) == (403, "identity", "h09 is not known to demo-net.")


@pytest.mark.parametrize("skew", [-MAX_SKEW_SECONDS - 1, MAX_SKEW_SECONDS + 1])
def test_a_wrong_clock_is_refused_with_the_remedy(world: World, h01: Hospital, skew: int) -> None:
    h01.clock = lambda: world.clock.now + skew
    response = h01.request("GET", "/v1/rounds/current")
    assert problem(response)[0] == 401
    assert "NTP" in response.json()["hint"]


def test_a_refused_request_does_not_use_up_its_nonce(world: World, h01: Hospital) -> None:
    headers = signed(h01)
    world.client.get("/v1/rounds/7", headers=headers)
    assert world.client.get("/v1/rounds/current", headers=headers).status_code == 200
