"""The federation that the short versions start from, made once a test process."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.federation import Stages
from tests.chaos.interposer import available

_MEMORY = Path("/dev/shm")


@pytest.fixture(scope="session")
def folder() -> Iterator[Path]:
    """In memory where there is one: what the disk does is not what is measured."""
    memory = _MEMORY if _MEMORY.is_dir() else None
    with tempfile.TemporaryDirectory(dir=memory, prefix="fedmed-chaos-") as name:
        yield Path(name)


@pytest.fixture(scope="session")
def stages(folder: Path) -> Stages:
    if not available():
        pytest.skip("the interposer needs Linux and a C compiler")
    return Stages(folder)
