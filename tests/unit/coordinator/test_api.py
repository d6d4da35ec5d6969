"""The HTTP edge: sizes, media types, unknown things, caching, ranges. Never a 500 for bad input."""

from __future__ import annotations

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from coordinator.rounds import State
from federation.messages import ProgressReport
from tests.unit.coordinator.hospital import JSON, Hospital, problem
from tests.unit.coordinator.world import World


@pytest.fixture
def h01(world: World) -> Hospital:
    hospital = world.member("h01")
    world.open()
    return hospital


def test_health_needs_no_signature(world: World) -> None:
    assert world.client.get("/healthz").status_code == 200
    assert world.client.get("/readyz").status_code == 200


def test_readiness_notices_a_missing_disk(world: World) -> None:
    world.paths.uploads.rmdir()
    status, slug, detail = problem(world.client.get("/readyz"))
    assert (status, slug) == (503, "storage")
    assert detail.startswith("disk: ")


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/v1/nothing", 404),
        ("GET", "/docs", 404),
        ("GET", "/openapi.json", 404),
        ("GET", "/v1/enrolments", 405),
        ("DELETE", "/v1/rounds/1", 405),
        ("GET", "/v1/rounds/1/", 404),
    ],
)
def test_unknown_paths_and_methods(world: World, method: str, path: str, status: int) -> None:
    assert problem(world.client.request(method, path))[0] == status


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/v1/rounds/0", 422),
        ("/v1/rounds/one", 422),
        ("/v1/rounds/99999999999999999999", 422),
        ("/v1/rounds/7", 404),
        ("/v1/rosters/xyz", 422),
        ("/v1/rosters/" + "0" * 64, 404),
        ("/v1/adapters/..%2F..%2Fcoordinator.toml", 404),
        ("/v1/adapters/" + "0" * 64, 404),
        ("/v1/rounds/7/record", 404),
    ],
)
def test_things_that_are_not_there(h01: Hospital, path: str, status: int) -> None:
    assert problem(h01.request("GET", path))[0] == status


def test_an_oversized_body_is_refused(world: World, h01: Hospital) -> None:
    big = b'{"body":"' + b"x" * (64 << 10) + b'"}'
    enrolment = world.client.post("/v1/enrolments", content=big, headers={"Content-Type": JSON})
    assert problem(enrolment)[:2] == (413, "invalid-input")
    # Also when no length is announced.
    chunked = world.client.post(
        "/v1/enrolments", content=iter([big[:40000], big[40000:]]), headers={"Content-Type": JSON}
    )
    assert problem(chunked)[0] == 413
    assert problem(h01.request("GET", "/v1/rounds/current", b"x"))[0] == 413


def test_other_media_types_and_encodings_are_refused(h01: Hospital) -> None:
    report = ProgressReport(phase="training", step=1, of=2)
    path = "/v1/rounds/1/progress"
    assert problem(h01.request("POST", path, report, media="text/json"))[0] == 415
    gzip = {"Content-Encoding": "gzip"}
    assert problem(h01.request("POST", path, report, headers=gzip))[0] == 415
    charset = h01.request("POST", path, report, media="application/json; charset=utf-8")
    assert charset.status_code == 204


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b"{",
        b"\xff\xfe",
        b"{}",
        b'{"phase":"training","step":1,"of":2,"patient":"x"}',
        b'{"phase":"training","step":"1","of":2}',
        b'{"phase":"training","step":-1,"of":2}',
        b'{"phase":"training","step":1e400,"of":2}',
        b"[" * 20_000,
    ],
)
def test_malformed_json_is_named_not_a_failure(h01: Hospital, body: bytes) -> None:
    response = h01.request("POST", "/v1/rounds/1/progress", body, media=JSON)
    assert problem(response)[:2] == (422, "invalid-input")


def test_a_validation_message_never_repeats_the_value(h01: Hospital) -> None:
    body = json.dumps({"phase": "Jane Doe", "step": 1, "of": 2}).encode()
    response = h01.request("POST", "/v1/rounds/1/progress", body, media=JSON)
    assert "Jane" not in response.text
    assert "phase" in problem(response)[2]


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.binary(max_size=300))
def test_no_body_makes_the_coordinator_fail(world: World, body: bytes) -> None:
    response = world.client.post("/v1/enrolments", content=body, headers={"Content-Type": JSON})
    assert problem(response)[0] in (401, 422)


def test_a_descriptor_is_cached_by_its_digest(h01: Hospital) -> None:
    response = h01.request("GET", "/v1/rounds/1")
    etag = response.headers["etag"]
    assert etag == f'"{h01.document(1).body_sha256}"'
    again = h01.request("GET", "/v1/rounds/1", headers={"If-None-Match": etag})
    assert (again.status_code, again.content) == (304, b"")
    other = h01.request("GET", "/v1/rounds/1", headers={"If-None-Match": '"abc"'})
    assert other.status_code == 200


@pytest.fixture
def adapter(world: World, h01: Hospital) -> str:
    h01.upload(h01.seal(1))
    row = world.advance(1)
    assert row.state is State.PUBLISHED
    return f"/v1/adapters/{row.adapter_sha256}"


def test_an_adapter_can_be_resumed(h01: Hospital, adapter: str) -> None:
    whole = h01.request("GET", adapter)
    assert whole.headers["accept-ranges"] == "bytes"
    assert whole.headers["etag"] == f'"{adapter.rpartition("/")[2]}"'
    rest = h01.request(
        "GET", adapter, headers={"Range": "bytes=100-", "If-Range": whole.headers["etag"]}
    )
    assert rest.status_code == 206
    assert (
        rest.headers["content-range"] == f"bytes 100-{len(whole.content) - 1}/{len(whole.content)}"
    )
    assert rest.content == whole.content[100:]
    middle = h01.request("GET", adapter, headers={"Range": "bytes=5-9"})
    assert middle.content == whole.content[5:10]


@pytest.mark.parametrize(
    "wanted", ["bytes=999999-", "bytes=9-5", "bytes=-5", "items=0-1", "bytes=0-1,3-4"]
)
def test_a_range_that_cannot_be_given_is_refused(h01: Hospital, adapter: str, wanted: str) -> None:
    size = len(h01.request("GET", adapter).content)
    response = h01.request("GET", adapter, headers={"Range": wanted})
    assert problem(response)[0] == 416
    assert response.headers["content-range"] == f"bytes */{size}"
