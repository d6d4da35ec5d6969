"""The record of one training: every event as a JSON line, the curves as TensorBoard events.

A training that goes on after a crash keeps the record of the steps that its checkpoint holds.
"""

from __future__ import annotations

import json
import shutil
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from appliance.events import Event, as_record
from backends.base import Resumed
from federation.files import make_folder, storage_errors


class RunLog:
    """A sink that writes ``metrics.jsonl`` and ``tensorboard/`` in a folder; a context manager."""

    def __init__(self, folder: Path) -> None:
        with storage_errors(folder):
            make_folder(folder)
            # Of a training that was killed; what this one goes on from is written once more.
            self._former = _records(folder / "metrics.jsonl")
            shutil.rmtree(folder / "tensorboard", ignore_errors=True)
            self._lines = (folder / "metrics.jsonl").open("w", encoding="utf-8")
            self._curves = _Curves(folder / "tensorboard")
        self._folder = folder

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with storage_errors(self._folder):
            self._lines.close()
            self._curves.close()

    def __call__(self, event: Event) -> None:
        """Write one event."""
        if isinstance(event, Resumed):
            self._keep_until(event.step)
        self._write({"time": round(time.time(), 3), **as_record(event)})

    def held_out(self, step: int, loss: float) -> None:
        """Write a held-out loss, in nats a completion token, after ``step`` optimizer steps."""
        self._write({"time": round(time.time(), 3), "event": "HeldOut", "step": step, "loss": loss})

    def _keep_until(self, step: int) -> None:
        for record in self._former:
            if record["event"] in ("TrainStep", "HeldOut") and 0 < record["step"] <= step:
                self._write(record)

    def _write(self, record: dict[str, Any]) -> None:
        with storage_errors(self._folder):
            self._lines.write(json.dumps(record) + "\n")
            self._lines.flush()
            if record["event"] == "TrainStep":
                for name in ("loss", "learning_rate", "grad_norm", "tokens_per_second"):
                    self._curves.add(f"train/{name}", record[name], record["step"])
            elif record["event"] == "HeldOut":
                self._curves.add("held_out/loss", record["loss"], record["step"])


class _Curves:
    """TensorBoard's event file, each value written at once.

    tensorboardX's SummaryWriter writes from a thread of its own, which a full disk ends with a
    traceback instead of an error.
    """

    def __init__(self, folder: Path) -> None:
        # Heavy, and wanted only while training.
        from tensorboardX.event_file_writer import EventsWriter
        from tensorboardX.proto.event_pb2 import Event as Entry
        from tensorboardX.summary import scalar

        self._entry, self._scalar = Entry, scalar
        make_folder(folder)
        self._writer = EventsWriter(str(folder / "events"))

    def add(self, name: str, value: float, step: int) -> None:
        """One point of a curve."""
        summary = self._scalar(name, value)
        self._writer.write_event(self._entry(wall_time=time.time(), step=step, summary=summary))
        self._writer.flush()

    def close(self) -> None:
        """Close the file."""
        self._writer.close()


def _records(path: Path) -> list[dict[str, Any]]:
    """The whole lines of a former record; the last may have been cut."""
    records: list[dict[str, Any]] = []
    if path.exists():
        for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
            with suppress(ValueError):
                records.append(json.loads(line))
    return records
