"""Parts of the server: the header deadline, the round thread, the listening socket."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import time
from collections.abc import AsyncIterator

import pytest
import uvicorn
from sqlalchemy import text

from coordinator import server
from coordinator.api import create_app
from coordinator.config import load_config
from coordinator.context import open_coordinator
from coordinator.deadlines import DeadlineProtocol
from coordinator.locks import LOCK, exclusive, last_held
from coordinator.rounds import State
from coordinator.server import Ticker, bind
from coordinator.status import federation_status
from coordinator.succession import rotate
from federation.errors import InputError, StorageError
from federation.request_signing import sign_request
from federation.signing import Identity
from tests.unit.coordinator.hospital import problem
from tests.unit.coordinator.world import World


class Quick(DeadlineProtocol):
    header_seconds = 0.3


@pytest.fixture
async def address(world: World) -> AsyncIterator[tuple[str, int]]:
    """A plain server with a short header deadline."""
    listener = bind("127.0.0.1", 0)
    config = uvicorn.Config(
        create_app(world.coordinator), http=Quick, log_config=None, lifespan="off"
    )
    running = uvicorn.Server(config)
    task = asyncio.create_task(running.serve(sockets=[listener]))
    while not running.started:
        await asyncio.sleep(0.01)
    yield listener.getsockname()
    running.should_exit = True
    await task


async def test_a_trickled_header_is_cut_off(address: tuple[str, int]) -> None:
    _, writer = await asyncio.open_connection(*address)
    started = time.monotonic()

    async def trickle() -> None:
        for byte in b"GET /healthz HTTP/1.1\r\nHost: " + b"a" * 1000:
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0.02)

    with pytest.raises(ConnectionError):
        await trickle()
    assert time.monotonic() - started < 2
    writer.close()


async def test_a_silent_connection_is_cut_off(address: tuple[str, int]) -> None:
    reader, writer = await asyncio.open_connection(*address)
    with pytest.raises((ConnectionError, asyncio.IncompleteReadError)):
        await asyncio.wait_for(reader.readexactly(1), 3)
    writer.close()


async def test_requests_on_one_connection_are_not_cut_off(address: tuple[str, int]) -> None:
    reader, writer = await asyncio.open_connection(*address)
    for _ in range(3):
        writer.write(b"GET /healthz HTTP/1.1\r\nHost: a\r\n\r\n")
        answer = await reader.readuntil(b"ok\n")
        assert answer.startswith(b"HTTP/1.1 200")
        # Longer than the deadline in all, idle in between.
        await asyncio.sleep(0.15)
    writer.close()


async def test_a_body_that_stands_still_is_answered_408(
    address: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coordinator.api.calls._STALL_SECONDS", 0.2)
    reader, writer = await asyncio.open_connection(*address)
    writer.write(
        b"POST /v1/enrolments HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
        b"Content-Length: 100\r\n\r\n{"
    )
    # To its end: what is left of the body is not waited for.
    answer = await asyncio.wait_for(reader.read(), 3)
    assert b" 408 " in answer
    writer.close()


async def test_a_trickled_body_is_answered_408(
    address: tuple[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("coordinator.api.calls._STALL_SECONDS", 0.3)
    reader, writer = await asyncio.open_connection(*address)
    writer.write(
        b"POST /v1/enrolments HTTP/1.1\r\nHost: a\r\nContent-Type: application/json\r\n"
        b"Content-Length: 100\r\n\r\n"
    )
    answer = asyncio.create_task(reader.readuntil(b"\r\n"))
    for _ in range(90):
        if answer.done():
            break
        writer.write(b" ")
        await asyncio.sleep(0.02)
    assert b"408" in await asyncio.wait_for(answer, 1)
    writer.close()


@pytest.mark.parametrize("signed_by", ["nobody", "a stranger", "a member's old keys"])
async def test_a_body_is_not_read_before_its_sender_is_known(
    world: World, address: tuple[str, int], signed_by: str
) -> None:
    h01, path = world.member("h01"), "/v1/uploads/" + "0" * 32
    signed = {}
    if signed_by != "nobody":
        name = "h09" if signed_by == "a stranger" else "h01"
        key = Identity.generate().ed25519
        signed = sign_request(key, name, "PATCH", path, "", bytes(1000), h01.clock())
    lines = [f"PATCH {path} HTTP/1.1", "Host: a", "Content-Type: application/octet-stream"]
    lines += ["Content-Length: 1000", "Upload-Offset: 0"]
    lines += [f"{name}: {value}" for name, value in signed.items()]
    reader, writer = await asyncio.open_connection(*address)
    # No byte of the body is ever sent.
    writer.write("\r\n".join([*lines, "", ""]).encode())
    answer = await asyncio.wait_for(reader.readuntil(b"\r\n"), 3)
    assert (b"403" if signed_by == "a stranger" else b"401") in answer
    writer.close()


async def test_a_replayed_part_is_refused_though_the_first_is_still_coming_in(
    world: World, address: tuple[str, int]
) -> None:
    h01 = world.member("h01")
    world.open()
    update = h01.seal(1)
    h01.announce(update)
    part = update.body[:1000]
    signed = sign_request(h01.identity.ed25519, "h01", "PATCH", update.path, "", part, h01.clock())
    lines = [f"PATCH {update.path} HTTP/1.1", "Host: a", "Content-Type: application/octet-stream"]
    lines += ["Content-Length: 1000", "Upload-Offset: 0"]
    lines += [f"{name}: {value}" for name, value in signed.items()]
    head = "\r\n".join([*lines, "", ""]).encode()
    slow, writer = await asyncio.open_connection(*address)
    writer.write(head + part[:500])
    nonces = text("SELECT count(*) FROM nonces WHERE nonce = :nonce")
    nonce = signed["Signature-Input"].split('nonce="')[1].split('"')[0]

    def remembered() -> bool:
        with world.coordinator.store.database.read() as connection:
            return bool(connection.scalar(nonces, {"nonce": nonce}))

    # Durable before the body is there.
    while not remembered():
        await asyncio.sleep(0.01)
    reader, again = await asyncio.open_connection(*address)
    again.write(head)
    assert b"401" in await asyncio.wait_for(reader.readuntil(b"\r\n"), 3)
    writer.write(part[500:])
    assert b"204" in await asyncio.wait_for(slow.readuntil(b"\r\n"), 3)
    for stream in (writer, again):
        stream.close()


def test_the_round_thread_publishes_and_reports_what_is_stuck(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "_TICK_SECONDS", 0.01)
    hospital = world.member("h01")
    world.open()
    assert hospital.upload(hospital.seal(1)).accepted
    adapters = world.paths.adapters.rename(world.paths.home / "elsewhere")
    ticker = Ticker(world.coordinator)
    ticker.start()
    wait_for(lambda: any(name == "round_stuck" for name, _ in world.events))
    adapters.rename(world.paths.adapters)
    wait_for(lambda: hospital.current().state == State.PUBLISHED.value)
    ticker.stop(5)
    assert not ticker.is_alive()
    # Once when it appeared, not once a tick.
    assert [name for name, _ in world.events].count("round_stuck") == 1


def test_the_round_thread_outlives_an_unforeseen_error(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "_TICK_SECONDS", 0.01)
    hospital = world.member("h01")
    world.open()
    assert hospital.upload(hospital.seal(1)).accepted
    database = world.coordinator.store.database
    with database.write() as connection:
        connection.exec_driver_sql("UPDATE uploads SET touched_at = touched_at || ' o''clock'")
    ticker = Ticker(world.coordinator)
    ticker.start()
    wait_for(lambda: any(name == "round_stuck" for name, _ in world.events))
    (reason,) = [fields["reason"] for name, fields in world.events if name == "round_stuck"]
    assert "TypeError" in reason
    with database.write() as connection:
        connection.exec_driver_sql("UPDATE uploads SET touched_at = CAST(touched_at AS INTEGER)")
    assert federation_status(world.coordinator).state == "open"
    wait_for(lambda: hospital.current().state == State.PUBLISHED.value)
    ticker.stop(5)


def test_the_server_says_that_a_command_has_replaced_its_keys(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "_TICK_SECONDS", 0.01)
    ticker = Ticker(world.coordinator)
    ticker.start()
    other = open_coordinator(world.paths, load_config(world.paths.config))
    done = rotate(other, world.admin)
    other.store.database.close()
    expected = ("signing_rotated", {"fingerprint": done.fingerprint})
    wait_for(lambda: expected in world.events)
    ticker.stop(5)
    assert world.events.count(expected) == 1


def wait_for(condition: object) -> None:
    assert callable(condition)
    for _ in range(500):
        if condition():
            return
        time.sleep(0.01)
    raise AssertionError("did not happen")


def test_readiness_says_when_rounds_do_not_move(world: World) -> None:
    ended = threading.Thread(target=lambda: None)
    ended.start()
    ended.join()
    world.client.app.state.background = ended  # type: ignore[attr-defined]
    status, slug, detail = problem(world.client.get("/readyz"))
    assert (status, slug) == (503, "storage")
    assert detail.startswith("rounds: ")


def test_a_taken_port_is_said_before_anything_starts() -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        with pytest.raises(InputError, match="Cannot listen on"):
            bind("127.0.0.1", other.getsockname()[1])
    with pytest.raises(InputError, match="Cannot listen on"):
        bind("no.such.host.invalid", 1)


def test_one_server_a_home(world: World) -> None:
    with (
        exclusive(world.paths.home),
        pytest.raises(StorageError, match="already serves"),
        exclusive(world.paths.home),
    ):
        pass
    with exclusive(world.paths.home):
        pass


def test_a_second_server_does_not_change_since_when_the_first_listens(world: World) -> None:
    with exclusive(world.paths.home):
        os.utime(world.paths.home / LOCK, (1000, 1000))
        with pytest.raises(StorageError), exclusive(world.paths.home):
            pass
        assert last_held(world.paths.home) == 1000
    with exclusive(world.paths.home):
        assert last_held(world.paths.home) > 1000


def test_a_home_of_somebody_else_is_said(world: World) -> None:
    (world.paths.home / LOCK).mkdir()
    with pytest.raises(StorageError, match=LOCK), exclusive(world.paths.home):
        pass
