"""On every engine: killed at any moment and continued equals uninterrupted, bit for bit."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from backends import probes
from tests.unit.backends.train_from_checkpoint import PASSES, RECIPE_HERE

pytestmark = pytest.mark.timeout(300)
"""Importing an engine takes long on a busy machine."""

_STEPS = RECIPE_HERE.steps
assert _STEPS is not None
CHECKPOINTS = _STEPS * (PASSES + 1)
"""One after each forward pass and one after each step."""


class Processes:
    """Trains in a process of its own each time."""

    def __init__(self, driver: subprocess.Popen[str]) -> None:
        self._driver = driver

    def train(self, folder: Path, kill_after: int = 0) -> dict[str, Any]:
        """Exit code, and for a training that reached its end what it did."""
        folder.mkdir(exist_ok=True)
        assert self._driver.stdin is not None
        assert self._driver.stdout is not None
        self._driver.stdin.write(f"{folder} {kill_after}\n")
        self._driver.stdin.flush()
        found: dict[str, Any] = json.loads(self._driver.stdout.readline())
        return found

    def killed(self, folder: Path, kill_after: int) -> None:
        assert self.train(folder, kill_after) == {"code": -signal.SIGKILL}


@pytest.fixture(scope="module", params=[probe.backend for probe in probes() if probe.available])
def processes(request: pytest.FixtureRequest) -> Iterator[Processes]:
    with subprocess.Popen(
        [sys.executable, "-m", "tests.unit.backends.train_from_checkpoint", request.param],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as driver:
        yield Processes(driver)
        assert driver.stdin is not None
        driver.stdin.close()


@pytest.fixture(scope="module")
def whole(processes: Processes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A training that nothing interrupted."""
    folder = tmp_path_factory.mktemp("whole")
    done = processes.train(folder)
    assert (done["resumed"], done["said"], len(done["losses"])) == ([], [], _STEPS)
    return folder


def same(one: Path, other: Path) -> bool:
    """Whether both have the same losses, tokens and adapter, to the bit."""
    first, second = (json.loads((folder / "result.json").read_text()) for folder in (one, other))
    assert first["losses"] == second["losses"]
    assert first["n_tokens"] == second["n_tokens"]
    name = "adapter.safetensors"
    return (one / name).read_bytes() == (other / name).read_bytes()


def passes_of_newest(folder: Path) -> int:
    newest = max((folder / "checkpoints").glob("step-*"))
    with safe_open(newest, framework="np") as file:
        found: int = json.loads(file.metadata()["state"])["passes"]
        return found


def test_killed_after_every_checkpoint_and_continued_equals_uninterrupted(
    processes: Processes, whole: Path, tmp_path: Path
) -> None:
    inside_a_step = 0
    # Each process gets as far as one more checkpoint.
    for _ in range(CHECKPOINTS):
        processes.killed(tmp_path, 1)
        inside_a_step += 0 < passes_of_newest(tmp_path) < PASSES
        assert len(list((tmp_path / "checkpoints").iterdir())) <= 2
    assert inside_a_step == _STEPS
    done = processes.train(tmp_path)
    assert (done["resumed"], done["said"]) == ([_STEPS], [])
    assert same(tmp_path, whole)


# The chain above has every place on both engines; here one does for their common part.
@pytest.mark.parametrize("processes", ["cuda"], indirect=True)
@pytest.mark.parametrize("kill_after", range(1, CHECKPOINTS))
def test_killed_once_and_continued_equals_uninterrupted(
    processes: Processes, whole: Path, tmp_path: Path, kill_after: int
) -> None:
    processes.killed(tmp_path, kill_after)
    done = processes.train(tmp_path)
    assert (done["resumed"], done["said"]) == ([kill_after // (PASSES + 1)], [])
    assert same(tmp_path, whole)


@pytest.mark.parametrize("processes", ["cuda"], indirect=True)
@pytest.mark.parametrize(("n_damaged", "resumed"), [(1, [1]), (2, [])])
def test_a_damaged_checkpoint_costs_no_bit(
    processes: Processes, whole: Path, tmp_path: Path, n_damaged: int, resumed: list[int]
) -> None:
    processes.killed(tmp_path, 4)
    newest = sorted((tmp_path / "checkpoints").glob("step-*"), reverse=True)
    for path in newest[:n_damaged]:
        path.write_bytes(path.read_bytes()[:-10])
    done = processes.train(tmp_path)
    assert done["resumed"] == resumed
    assert len(done["said"]) == n_damaged
    assert same(tmp_path, whole)
