"""The time, injected wherever it matters."""

from __future__ import annotations

import time
from collections.abc import Callable

Clock = Callable[[], int]
"""Seconds since 1970."""


def system_clock() -> int:
    """The machine's time."""
    return int(time.time())
