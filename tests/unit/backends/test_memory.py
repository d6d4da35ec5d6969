"""What is free, what a process took, and which plan needs least."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from backends.base import ForwardPlan
from backends.memory import free_bytes, ram_bytes, tightest


def system(root: Path, available_kb: int, **files: str) -> Path:
    """The parts of /proc and /sys that are looked at."""
    (root / "proc").mkdir()
    (root / "proc" / "meminfo").write_text(
        f"MemTotal: 999999 kB\nMemAvailable: {available_kb} kB\n"
    )
    for name, text in files.items():
        path = root / "sys" / "fs" / "cgroup" / name.replace("__", "/").replace("_dot_", ".")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_what_is_free_here_is_a_part_of_all() -> None:
    assert 0 < free_bytes() <= ram_bytes()


def test_without_a_limit_the_system_says(tmp_path: Path) -> None:
    assert free_bytes(system(tmp_path, 500, memory_dot_max="max\n")) == 500 * 1024


def test_a_container_has_less(tmp_path: Path) -> None:
    limits = {
        "memory_dot_max": "300000\n",
        "memory_dot_current": "120000\n",
        "memory_dot_stat": "anon 5\ninactive_file 20000\n",
    }
    assert free_bytes(system(tmp_path, 500, **limits)) == 200_000


def test_the_first_kind_of_control_groups_counts_too(tmp_path: Path) -> None:
    limits = {
        "memory__memory_dot_limit_in_bytes": "300000\n",
        "memory__memory_dot_usage_in_bytes": "320000\n",
        "memory__memory_dot_stat": "total_inactive_file 0\n",
    }
    assert free_bytes(system(tmp_path, 500, **limits)) == 0


def test_the_tightest_of_two_plans_needs_no_more_than_either() -> None:
    one, other = ForwardPlan(100, rows=None, recompute=True), ForwardPlan(50, rows=4)
    assert tightest(one, other) == tightest(other, one) == ForwardPlan(50, 4, recompute=True)
    assert tightest(one, one) == one


def test_the_peak_grows_by_what_is_touched() -> None:
    # In a fresh process: this one's peak may be far above what it holds now.
    code = (
        "from backends.memory import peak_resident_bytes as peak; import numpy as np;"
        "before = peak(); block = np.ones(64 << 17); print(peak() - before)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 60 << 20 < int(done.stdout) < 80 << 20
