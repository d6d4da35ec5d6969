"""The time, injected wherever it matters."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime

Clock = Callable[[], int]
"""Seconds since 1970."""


def system_clock() -> int:
    """The machine's time."""
    return int(time.time())


def utc(seconds: int) -> str:
    """A time for people, to the minute."""
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")
