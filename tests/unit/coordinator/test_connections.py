"""Connections that are slow, silent or many: each ends in time, and others are served."""

from __future__ import annotations

import asyncio
import ssl
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import uvicorn

from coordinator import deadlines
from coordinator.api import create_app
from coordinator.certificates import Authority
from coordinator.deadlines import DeadlineLoop, DeadlineProtocol
from coordinator.server import bind
from federation.request_signing import sign_request
from tests.unit.coordinator.hospital import Hospital
from tests.unit.coordinator.world import World

SIZE = 40 << 20
ADAPTER = "0" * 64


class Quick(DeadlineProtocol):
    header_seconds = 0.5
    unread_seconds = 1.0


@asynccontextmanager
async def served(world: World, connections: int = 50) -> AsyncIterator[tuple[str, int]]:
    listener = bind("127.0.0.1", 0)
    config = uvicorn.Config(
        create_app(world.coordinator),
        http=Quick,
        log_config=None,
        lifespan="off",
        limit_concurrency=connections,
    )
    running = uvicorn.Server(config)
    task = asyncio.create_task(running.serve(sockets=[listener]))
    while not running.started:
        await asyncio.sleep(0.01)
    yield listener.getsockname()
    running.should_exit = True
    await task


async def ask_for_adapter(
    world: World, hospital: Hospital, address: tuple[str, int]
) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    with (world.paths.adapters / f"{ADAPTER}.safetensors").open("wb") as file:
        file.truncate(SIZE)
    path = f"/v1/adapters/{ADAPTER}"
    signed = sign_request(hospital.identity.ed25519, "h01", "GET", path, "", b"", hospital.clock())
    lines = [f"GET {path} HTTP/1.1", "Host: a", *(f"{k}: {v}" for k, v in signed.items())]
    reader, writer = await asyncio.open_connection(*address, limit=1 << 16)
    writer.write("\r\n".join([*lines, "", ""]).encode())
    await reader.readuntil(b"\r\n\r\n")
    return reader, writer


async def received(reader: asyncio.StreamReader, pause: float) -> int:
    total = 0
    try:
        while total < SIZE and (chunk := await reader.read(1 << 20)):
            total += len(chunk)
            await asyncio.sleep(pause)
    except ConnectionError:
        pass
    return total


async def test_a_peer_that_leaves_its_answer_unread_is_cut_off(world: World) -> None:
    h01 = world.member("h01")
    async with served(world) as address:
        reader, writer = await ask_for_adapter(world, h01, address)
        await asyncio.sleep(2.5)
        assert 0 < await received(reader, 0) < SIZE
        writer.close()


async def test_a_peer_that_reads_steadily_gets_all(world: World) -> None:
    h01 = world.member("h01")
    async with served(world) as address:
        reader, writer = await ask_for_adapter(world, h01, address)
        begun = time.monotonic()
        assert await received(reader, 0.006) == SIZE
        # Longer than the time for one buffer.
        assert time.monotonic() - begun > Quick.unread_seconds
        writer.close()


async def status_of(address: tuple[str, int]) -> int:
    reader, writer = await asyncio.open_connection(*address)
    writer.write(b"GET /healthz HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    head = await reader.readline()
    writer.close()
    return int(head.split()[1])


async def test_too_many_connections_are_503_until_idle_ones_end(world: World) -> None:
    async with served(world, connections=5) as address:
        idle = [await asyncio.open_connection(*address) for _ in range(8)]
        assert await status_of(address) == 503
        await asyncio.sleep(0.8)
        assert await status_of(address) == 200
        for _, writer in idle:
            writer.close()


def test_a_peer_that_never_speaks_tls_is_cut_off(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(deadlines, "_HANDSHAKE_SECONDS", 0.3)
    authority = Authority(folder)
    authority.create("net", int(time.time()), None)
    files = authority.server_files(["127.0.0.1"], int(time.time()), None)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(files.certificate, files.key)

    async def silent() -> bytes:
        server = await asyncio.get_running_loop().create_server(
            asyncio.Protocol, "127.0.0.1", 0, ssl=context
        )
        async with server:
            reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            answer = await asyncio.wait_for(reader.read(), 5)
            writer.close()
        return answer

    with asyncio.Runner(loop_factory=DeadlineLoop) as runner:
        assert runner.run(silent()) == b""
