"""What was measured of one side."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class RunOutcome:
    """Seconds of each round, and the server's peak resident memory in bytes, all its processes."""

    seconds: tuple[float, ...]
    server_bytes: int


@dataclass(frozen=True)
class KillOutcome:
    """What became of a round in which a process was killed and started again.

    ``delivered`` updates were aggregated; ``trainings`` were begun by both hospitals together.
    """

    completed: bool
    delivered: int
    trainings: int
    detail: str
