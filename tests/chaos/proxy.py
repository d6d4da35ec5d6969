"""A line between hospitals and coordinator that breaks, waits, repeats and mixes up requests.

It ends TLS with the coordinator's own certificate, so that it can act on whole requests: cut one
off inside, lose its answer, hold it back, send it again on another connection, or deliver it after
later ones.
"""

from __future__ import annotations

import asyncio
import random
import ssl
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

_LONGEST_DELAY = 0.2
_BROKEN = (ConnectionError, asyncio.IncompleteReadError, ssl.SSLError, TimeoutError)


@dataclass(frozen=True)
class Message:
    """A request or an answer as it was read; ``target`` is its first line."""

    head: bytes
    body: bytes

    @property
    def bytes(self) -> bytes:
        """All of it."""
        return self.head + self.body

    @property
    def words(self) -> list[str]:
        """The first line's words."""
        return self.head.split(b"\r\n", 1)[0].decode().split()


@dataclass
class Trouble:
    """How often what happens to a request; ``cuts`` is how many connections it may break.

    ``of_transfers`` and ``of_others`` are the shares of broken requests.
    """

    seed: int
    cuts: int
    of_transfers: float = 0.5
    of_others: float = 0.1
    delay: float = 0.1
    repeat: float = 0.1
    _stream: random.Random = field(init=False)

    def __post_init__(self) -> None:
        self._stream = random.Random(self.seed)

    def choose(self, method: str, path: str) -> str:
        """What happens to the next request."""
        kinds = {"delay": self.delay, "repeat": self.repeat}
        if self.cuts > 0:
            transfer = method == "PATCH" or path.startswith("/v1/adapters/")
            each = (self.of_transfers if transfer else self.of_others) / 5
            kinds |= {"lose request": 2 * each, "lose answer": 2 * each, "reorder": each}
        kinds["pass"] = 1 - sum(kinds.values())
        return self._stream.choices(list(kinds), list(kinds.values()))[0]

    def part(self, n: int) -> int:
        """Fewer than ``n`` bytes."""
        return self._stream.randrange(n)

    def pause(self) -> float:
        """Some seconds."""
        return self._stream.uniform(0, _LONGEST_DELAY)


@dataclass
class Proxy:
    """Listens at ``port`` while ``running``; counts what it saw and did."""

    tls: Path
    target: int
    trouble: Trouble
    port: int = 0
    done: Counter[str] = field(default_factory=Counter)
    parts: Counter[str] = field(default_factory=Counter)
    """PATCH requests that arrived here, by upload."""
    upload_cuts: int = 0
    """Cuts of requests that carry a part of an upload."""
    received: int = 0
    """Bytes of adapters that were passed on."""
    download_cuts: int = 0
    repeated: Counter[str] = field(default_factory=Counter)
    """The statuses of answers to repeated requests."""
    _held: list[Message] = field(default_factory=list)

    @contextmanager
    def running(self) -> Iterator[Proxy]:
        """Serve from a thread of its own."""
        loop = asyncio.new_event_loop()
        thread = threading.Thread(target=loop.run_forever, name="proxy", daemon=True)
        thread.start()
        try:
            started = asyncio.run_coroutine_threadsafe(self._start(), loop)
            self.port = started.result(10)
            yield self
        finally:
            loop.call_soon_threadsafe(loop.stop)
            thread.join()

    async def _start(self) -> int:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.tls / "server.crt", self.tls / "server.key")
        self._upstream = ssl.create_default_context(cafile=str(self.tls / "ca.crt"))
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=context)
        port: int = server.sockets[0].getsockname()[1]
        return port

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(*_BROKEN):
            while True:
                request = await _read(reader)
                if not await self._handle(request, writer):
                    break
        # What was written is delivered first: the next thing that the client sees is the end.
        writer.close()

    async def _handle(self, request: Message, writer: asyncio.StreamWriter) -> bool:
        """Act on one request; False when the client's connection is to be broken."""
        method, path = request.words[:2]
        what = self.trouble.choose(method, path)
        if method == "PATCH":
            self.parts[path.split("/")[3]] += 1
        if what in ("lose request", "lose answer", "reorder"):
            self.trouble.cuts -= 1
            self.upload_cuts += method == "PATCH"
        self.done[what] += 1
        match what:
            case "lose request":
                await self._send(request.bytes[: self.trouble.part(len(request.bytes))])
                return False
            case "reorder":
                self._held.append(request)
                return False
            case "delay":
                await asyncio.sleep(self.trouble.pause())
        answer = await self._ask(request)
        if what == "repeat":
            self.repeated[(await self._ask(request)).words[1]] += 1
        sent = answer.bytes
        if what == "lose answer":
            sent = sent[: self.trouble.part(len(sent))]
        if path.startswith("/v1/adapters/"):
            self.received += max(0, len(sent) - len(answer.head))
            self.download_cuts += what == "lose answer"
        writer.write(sent)
        await writer.drain()
        for late in self._held:
            self.done["delivered late"] += 1
            await self._ask(late)
        self._held.clear()
        return what != "lose answer"

    async def _ask(self, request: Message) -> Message:
        reader, writer = await self._connect()
        try:
            writer.write(request.bytes)
            await writer.drain()
            return await _read(reader, method=request.words[0])
        finally:
            writer.transport.abort()

    async def _send(self, data: bytes) -> None:
        """Deliver the beginning of a request, and break the connection."""
        _, writer = await self._connect()
        writer.write(data)
        await writer.drain()
        writer.close()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(
            "127.0.0.1", self.target, ssl=self._upstream, server_hostname="127.0.0.1", limit=1 << 24
        )


async def _read(reader: asyncio.StreamReader, method: str = "") -> Message:
    head = await reader.readuntil(b"\r\n\r\n")
    length = 0
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length" and method != "HEAD":
            length = int(value)
    return Message(head, await reader.readexactly(length))
