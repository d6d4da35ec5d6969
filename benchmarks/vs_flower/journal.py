"""What happened when: one JSON line an event, written by every process that is measured."""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Journal:
    """A file of events that several processes append to."""

    path: Path

    def note(self, event: str, **fields: object) -> None:
        """Append one event with the time."""
        line = json.dumps({"at": time.time(), "event": event, "pid": os.getpid(), **fields})
        with self.path.open("a") as file:
            file.write(line + "\n")

    def events(self, name: str, **fields: object) -> list[dict[str, Any]]:
        """The events of one name so far, those with these fields."""
        if not self.path.exists():
            return []
        events = [json.loads(line) for line in self.path.read_text().splitlines()]
        wanted = {"event": name, **fields}
        return [event for event in events if wanted.items() <= event.items()]

    def wait(self, name: str, count: int, seconds: float) -> bool:
        """Wait until there are ``count`` events of this name; False when that takes too long."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if len(self.events(name)) >= count:
                return True
            time.sleep(0.1)
        return False
