"""The Python half of ``interpose.c``: built, loaded, and asked at every call what to do."""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from enum import IntEnum
from functools import cache
from pathlib import Path
from types import FrameType

_SOURCE = Path(__file__).with_name("interpose.c")
_OURS = ("appliance.", "coordinator.", "federation.", "backends.")
_PLUMBING = {
    "federation.files",
    "federation.tensors",
    "coordinator.store.database",
    "coordinator.store.sqlite",
}
"""Modules that write on behalf of others: a step is named for who asked."""

_DECIDE = ctypes.CFUNCTYPE(
    ctypes.c_int, ctypes.c_int, ctypes.c_char_p, ctypes.c_char_p, ctypes.POINTER(ctypes.c_int)
)


class Op(IntEnum):
    """What is done to the disk, or an answer sent."""

    WRITE = 0
    TRUNCATE = 1
    SYNC = 2
    RENAME = 3
    UNLINK = 4
    CREATE = 5
    MKDIR = 6
    RMDIR = 7
    SEND = 8


class Kill(IntEnum):
    """Where a process is killed: before a call, after it, or after half of a write."""

    BEFORE = 1
    AFTER = 2
    HALF = 3


@dataclass(frozen=True, order=True)
class Point:
    """The ``nth`` call (from 1) that a step of a program makes."""

    step: str
    nth: int
    op: Op


@dataclass(frozen=True)
class Fault:
    """What happens at a point: the process is killed, or calls fail with an errno.

    A failing disk fails the one call; with ``seconds``, all calls from there on for so long.
    """

    step: str
    nth: int
    kill: Kill | None = None
    errno: int = 0
    seconds: float = 0.0


@dataclass(frozen=True)
class Plan:
    """What the calls below ``root`` meet. With ``trace`` they are written there, in order."""

    root: Path
    fault: Fault | None = None
    trace: Path | None = None
    record: Path | None = None


def available() -> bool:
    """Whether this machine can build and preload the interposer."""
    return sys.platform == "linux" and shutil.which("cc") is not None


@cache
def library() -> Path:
    """The shared library, built once for each text of its source."""
    name = f"fedmed-interpose-{hashlib.sha256(_SOURCE.read_bytes()).hexdigest()[:16]}.so"
    built = Path(tempfile.gettempdir()) / name
    if not built.exists():
        own = built.with_suffix(f".{os.getpid()}")
        command = ["cc", "-O1", "-shared", "-fPIC", "-o", str(own), str(_SOURCE), "-ldl"]
        subprocess.run(command, check=True)
        own.replace(built)
    return built


def _step(op: int, frame: FrameType | None) -> str:
    if op == Op.SEND:
        return "answer sent"
    while frame is not None:
        module = frame.f_globals.get("__name__", "")
        if module.startswith(_OURS) and module not in _PLUMBING:
            return f"{module}:{frame.f_code.co_name}"
        frame = frame.f_back
    return "library"


class Interposer:
    """Carries a plan out in this process, which was started with the library preloaded."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._counts: Counter[str] = Counter()
        self._sites: dict[str, int] = {}
        self._failing_until: float | None = None
        self._trace = -1 if plan.trace is None else _append(plan.trace)
        self._names = -1
        log = -1
        if plan.record is not None:
            plan.record.mkdir(parents=True, exist_ok=True)
            log = _append(plan.record / f"{os.getpid()}.log")
            self._names = _append(plan.record / f"{os.getpid()}.sites")
        self._callback = _DECIDE(self._decide)
        self._library = ctypes.CDLL(str(library()))
        self._library.chaos_arm(self._callback, os.fsencode(plan.root), log)

    def disarm(self) -> None:
        """Let every call go on from now on."""
        self._library.chaos_disarm()

    def _decide(self, op: int, path: bytes, other: bytes, site: ctypes._Pointer) -> int:  # type: ignore[type-arg]
        step = _step(op, sys._getframe(1))
        self._counts[step] += 1
        if self._trace >= 0:
            os.write(self._trace, f"{step}\t{self._counts[step]}\t{op}\n".encode())
        if self._names >= 0:
            site[0] = self._site(step)
        fault = self._plan.fault
        if fault is None:
            return 0
        here = (step, self._counts[step]) == (fault.step, fault.nth)
        if here and fault.kill is not None:
            # Half of anything but a write is nothing of it.
            half = fault.kill is Kill.HALF
            return Kill.BEFORE if half and op != Op.WRITE else fault.kill
        if here:
            self._failing_until = time.monotonic() + fault.seconds
            return 0 if op == Op.SEND else -fault.errno
        if self._failing_until is None or op in (Op.SEND, Op.UNLINK, Op.RMDIR, Op.TRUNCATE):
            return 0
        return -fault.errno if time.monotonic() < self._failing_until else 0

    def _site(self, step: str) -> int:
        if step not in self._sites:
            self._sites[step] = len(self._sites)
            os.write(self._names, f"{step}\n".encode())
        return self._sites[step]


def _append(path: Path) -> int:
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)


def read_trace(path: Path) -> list[Point]:
    """The calls that a plan's trace holds, in order."""
    points = []
    for line in path.read_text().splitlines():
        step, nth, op = line.split("\t")
        points.append(Point(step, int(nth), Op(int(op))))
    return points
