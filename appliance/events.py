"""What a service tells whoever watches: command line, TUI, JSON lines, TensorBoard.

Every long step reports through these events only, so that each view shows the same thing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

from backends.base import EvalStep, Note, Resumed, TrainStep

__all__ = ["Event", "Note", "Phase", "PhaseName", "Sink", "Transfer", "as_record", "unseen"]

PhaseName = Literal[
    "checking", "downloading", "loading", "evaluating", "training", "sealing", "uploading", "done"
]


@dataclass(frozen=True)
class Phase:
    """A new part of the work begins."""

    name: PhaseName
    detail: str = ""


@dataclass(frozen=True)
class Transfer:
    """Bytes moved so far, of all."""

    direction: Literal["sent", "received"]
    done: int
    of: int


Event = Phase | Transfer | Note | Resumed | TrainStep | EvalStep
Sink = Callable[[Event], None]
"""Called with each event. An exception that it raises stops the work: that is how to stop."""


def unseen(_: Event) -> None:
    """The sink of a service whose own result says all that there is to say."""


def as_record(event: Event) -> dict[str, Any]:
    """The event as a JSON object, its class under ``event``."""
    return {"event": type(event).__name__, **dataclasses.asdict(event)}
