"""What uvicorn's connections lack: deadlines for TLS, request headers and unread answers."""

from __future__ import annotations

import asyncio
from asyncio.sslproto import SSLProtocol
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

_HANDSHAKE_SECONDS = 10.0
_GOODBYE_SECONDS = 5.0
_TLS_BUFFER = 64 << 10
"""What each connection holds from its start; asyncio's own is 256 KiB, which hundreds share."""

SSLProtocol.max_size = _TLS_BUFFER


class DeadlineLoop(asyncio.SelectorEventLoop):
    """An event loop whose TLS servers do not wait a minute for a silent peer."""

    async def create_server(self, *args: Any, **kwargs: Any) -> asyncio.Server:  # noqa: ANN401  asyncio's own
        """As asyncio's, with deadlines for the beginning and the end of TLS."""
        if kwargs.get("ssl"):
            kwargs["ssl_handshake_timeout"] = _HANDSHAKE_SECONDS
            kwargs["ssl_shutdown_timeout"] = _GOODBYE_SECONDS
        return await super().create_server(*args, **kwargs)


class DeadlineProtocol(H11Protocol):
    """Ends a connection whose peer does not send a request, or does not take an answer, in time.

    The time for a request's header runs from the connection, and from the first byte after a
    response; a trickle of bytes does not extend it. A peer that leaves an answer unread has
    ``unread_seconds`` for each buffer full. Bodies have their own limit, where they are read.
    """

    header_seconds = 20.0
    unread_seconds = 25.0

    _deadline: asyncio.TimerHandle | None = None
    _unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the clock."""
        super().connection_made(transport)
        self._arm()

    def data_received(self, data: bytes) -> None:
        """Start the clock unless a request is under way; stop it when one begins."""
        before = self.cycle
        if before is None or before.response_complete:
            self._arm()
        super().data_received(data)
        if self.cycle is not before:
            self._disarm()

    def pause_writing(self) -> None:
        """The peer does not take what is sent: start its clock."""
        super().pause_writing()
        if self._unread is None:
            self._unread = self.loop.call_later(self.unread_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        """It has taken what there was."""
        super().resume_writing()
        self._forget_unread()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop the clocks."""
        self._disarm()
        self._forget_unread()
        super().connection_lost(exc)

    def shutdown(self) -> None:
        """End an idle connection at once: a TLS client might not answer for half a minute."""
        idle = self.cycle is None or self.cycle.response_complete
        if idle and self.transport.get_write_buffer_size() == 0:
            self.transport.abort()
        else:
            super().shutdown()

    def _arm(self) -> None:
        if self._deadline is None:
            self._deadline = self.loop.call_later(self.header_seconds, self.transport.abort)

    def _disarm(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _forget_unread(self) -> None:
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None
