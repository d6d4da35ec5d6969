"""An upgrade as operators meet it: commands refuse, ``migrate`` or ``serve`` migrates, once."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from coordinator.store import migrations
from tests.unit.coordinator import test_serve
from tests.unit.coordinator.test_serve import COORDINATOR, Home, free_port


@pytest.fixture
def home(folder: Path) -> Iterator[Home]:
    made = Home(folder / "home", free_port(), folder / "events.log")
    made.command("init", "--federation", "demo-net", "--port", str(made.port))
    yield made
    for process in made.processes:
        process.kill()
        process.wait()


@pytest.fixture
def newer(folder: Path) -> list[str]:
    """The same program, one revision later."""
    versions = folder / "migrations"
    shutil.copytree(migrations.FOLDER, versions, ignore=shutil.ignore_patterns("__pycache__"))
    after = migrations.head()
    number = f"{int(after) + 1:04d}"
    (versions / "versions" / f"{number}_test.py").write_text(
        "import sqlalchemy as sa\nfrom alembic import op\n"
        f"revision, down_revision = '{number}', '{after}'\n"
        "def upgrade():\n    op.add_column('rounds', sa.Column('later', sa.Text))\n"
    )
    script = (
        "from pathlib import Path; from coordinator.store import migrations;"
        f"migrations.FOLDER = Path({str(versions)!r});"
        "from coordinator.cli import main; main()"
    )
    return [sys.executable, "-c", script]


def run(program: list[str], home: Home, *arguments: str) -> tuple[int, dict[str, Any]]:
    done = subprocess.run(
        [*program, "--home", str(home.folder), *arguments, "--json"],
        capture_output=True,
        text=True,
        check=False,
    )
    found: dict[str, Any] = json.loads(done.stdout or done.stderr)
    return done.returncode, found


def test_migrate_keeps_a_copy_and_is_needed_once(home: Home, newer: list[str]) -> None:
    code, problem = run(newer, home, "status")
    assert code == 9
    assert "`coordinator migrate`" in problem["hint"]
    code, done = run(newer, home, "migrate")
    assert (code, done["migrated"]) == (0, True)
    copy = Path(done["copy"])
    assert copy.stat().st_mode & 0o777 == 0o600
    assert run(newer, home, "status")[0] == 0
    assert run(newer, home, "migrate") == (0, {"migrated": False})
    # Back to the older program: it says so, and takes the copy.
    code, problem = run(COORDINATOR, home, "status")
    assert code == 9
    assert "version that wrote it" in problem["hint"]
    copy.replace(home.folder / "coordinator.sqlite")
    assert run(COORDINATOR, home, "status")[0] == 0


def test_serve_migrates_by_itself_and_keeps_others_out(
    home: Home, newer: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(test_serve, "COORDINATOR", newer)
    home.serve()
    events = [json.loads(line) for line in home.log.read_text().splitlines()]
    assert [event["event"] for event in events][:2] == ["migrated", "serving"]
    assert Path(events[0]["copy"]).is_file()
    code, problem = run(newer, home, "migrate")
    assert code == 9
    assert "already serves" in problem["message"]
