"""How events look in a terminal: one progress bar with time left, or JSON lines."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)

from appliance.events import Event, Note, Phase, Sink, Transfer, as_record
from backends.base import EvalStep, Resumed, TrainStep


class _Bars:
    """Draws one bar for the present phase on standard error."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._task: TaskID | None = None

    def __call__(self, event: Event) -> None:
        match event:
            case Phase(name="done"):
                self._start(None)
                self._progress.console.print(event.detail or "done", markup=False)
            case Phase():
                self._start(f"{event.name} {event.detail}".strip())
            case Note():
                self._progress.console.print(event.text, markup=False)
            case Resumed():
                self._resume(event)
            case TrainStep():
                rate = f"loss {event.loss:.3f}  {event.tokens_per_second:.0f} tokens/s"
                self._update(event.step, event.of, rate)
            case EvalStep():
                self._update(event.done, event.of, f"loss {event.loss:.3f}")
            case Transfer():
                self._update(event.done, event.of, f"{event.direction} {event.done / 1e6:.1f} MB")

    def _start(self, text: str | None) -> None:
        if self._task is not None:
            self._progress.remove_task(self._task)
        self._task = None if text is None else self._progress.add_task(text, total=None, rate="")

    def _resume(self, event: Resumed) -> None:
        text = f"Going on after step {event.step} of {event.of}, from {event.checkpoint}."
        self._progress.console.print(text, markup=False)
        if self._task is not None:
            # Not an update: the time left would be reckoned as if these steps took no time.
            self._progress.reset(self._task, completed=event.step, total=event.of)

    def _update(self, done: int, of: int, rate: str) -> None:
        if self._task is not None:
            self._progress.update(self._task, completed=done, total=of, rate=rate)


def _json_line(event: Event) -> None:
    print(json.dumps(as_record(event)), flush=True)


@contextmanager
def watch(*, as_json: bool) -> Iterator[Sink]:
    """A sink for a command: JSON lines on standard output, or a bar on standard error."""
    if as_json:
        yield _json_line
        return
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TextColumn("{task.fields[rate]}", markup=False),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(file=sys.stderr), transient=True) as progress:
        yield _Bars(progress)
