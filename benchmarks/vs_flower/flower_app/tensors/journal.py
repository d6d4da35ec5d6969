"""One JSON line an event, with the time, for the measuring program to read."""

import json
import os
import time
from pathlib import Path


def note(path: str, event: str, **fields: object) -> None:
    """Append one event."""
    line = json.dumps({"at": time.time(), "event": event, "pid": os.getpid(), **fields})
    with Path(path).open("a") as file:
        file.write(line + "\n")
