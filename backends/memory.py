"""The machine's memory: what is free, what a training took, which plan needs least."""

from __future__ import annotations

import math
import os
from pathlib import Path

from backends.base import ForwardPlan


def peak_resident_bytes() -> int:
    """Largest resident size of this process since it began; 0 where the system does not say."""
    status = Path("/proc/self/status")
    if status.exists():
        # Not getrusage: on Linux that starts at the size of the program which started this one.
        line = next(x for x in status.read_text().splitlines() if x.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    try:
        import resource
    except ImportError:
        return 0
    # In bytes on macOS.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def ram_bytes() -> int:
    """The machine's memory; 0 where the system does not say."""
    if not hasattr(os, "sysconf"):
        return 0
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def free_bytes(system: Path = Path("/")) -> int:
    """What a new program could take without swapping, also inside a container.

    ``system`` is the root of /proc and /sys. Elsewhere than on Linux, three quarters of all.
    """
    memory = system / "proc" / "meminfo"
    if not memory.exists():
        return ram_bytes() * 3 // 4
    line = next(x for x in memory.read_text().splitlines() if x.startswith("MemAvailable:"))
    return int(min(int(line.split()[1]) * 1024, _left_in_container(system)))


def _left_in_container(system: Path) -> float:
    """Below the limit of control groups, version 2 or 1; what is cached in files counts as free."""
    groups = system / "sys" / "fs" / "cgroup"
    for limit, used, cached in (
        ("memory.max", "memory.current", "inactive_file"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file"),
    ):
        most = groups / limit
        if most.exists() and (text := most.read_text().strip()) != "max":
            statistics = most.with_name("memory.stat").read_text().splitlines()
            files = sum(int(x.split()[1]) for x in statistics if x.split()[0] == cached)
            return max(0, int(text) - int((groups / used).read_text()) + files)
    return math.inf


def tightest(one: ForwardPlan, other: ForwardPlan) -> ForwardPlan:
    """The plan that needs no more memory than either."""
    rows = [plan.rows for plan in (one, other) if plan.rows is not None]
    return ForwardPlan(
        tokens=min(one.tokens, other.tokens),
        rows=min(rows, default=None),
        recompute=one.recompute or other.recompute,
    )
