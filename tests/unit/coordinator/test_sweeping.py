"""What crashes leave behind goes; what somebody still needs stays."""

from __future__ import annotations

import os
import time
from contextlib import closing
from pathlib import Path

import pytest

from coordinator import sweeping
from coordinator.errors import TooManyUploads
from coordinator.rounds import Request
from coordinator.store import sqlite
from coordinator.sweeping import Sweeper, Swept, sweep
from federation.files import atomic_writer
from federation.tensors import write_tensors
from tests.unit.coordinator.hospital import problem
from tests.unit.coordinator.world import World

NOTHING = Swept(bodies=0, adapters=0, files=0, uploads=0, expired=0)


def age(path: Path, seconds: float) -> Path:
    os.utime(path, (time.time() - seconds,) * 2)
    return path


def crash_while_writing(path: Path) -> Path:
    """The temporary file that a killed ``atomic_writer`` leaves."""
    before = set(path.parent.iterdir())
    with atomic_writer(path) as file:
        file.write(b"half")
        file.flush()
        (left,) = set(path.parent.iterdir()) - before
        content = left.read_bytes()
    path.unlink()
    left.write_bytes(content)
    return left


def test_a_crashed_writers_files_go_once_they_are_old(world: World) -> None:
    folders = (world.paths.home, world.paths.keys, world.paths.tls)
    old = [age(crash_while_writing(folder / "some.pem"), 7200) for folder in folders]
    young = crash_while_writing(world.paths.keys / "some.pem")
    foreign = world.paths.home / ".DS_Store"
    foreign.write_bytes(b"")
    age(foreign, 10**6)
    assert sweep(world.coordinator, world.paths).files == len(old)
    assert not any(path.exists() for path in old)
    assert young.exists()
    assert foreign.exists()


def test_copies_of_migrations_are_kept_for_a_month(world: World) -> None:
    old, new = (world.paths.home / f"coordinator.000{i}.sqlite" for i in (1, 2))
    for path, days in ((old, 31), (new, 29)):
        path.write_bytes(b"copy")
        age(path, days * 86_400)
    assert sweep(world.coordinator, world.paths).files == 1
    assert (old.exists(), new.exists()) == (False, True)
    assert world.paths.database.exists()


def test_adapters_that_no_round_names_go_once_they_are_old(world: World) -> None:
    h01 = world.member("h01")
    world.open()
    h01.upload(h01.seal(1))
    row = world.advance(1)
    needed = sorted(world.paths.adapters.iterdir())
    assert len(needed) == 2
    # An aggregation that was killed before its row was written, and one before its renaming.
    orphan, young = (world.paths.adapters / f"{c * 64}.safetensors" for c in "ab")
    for path in (orphan, young):
        with path.open("wb") as file:
            write_tensors(file, {}, ())
    half = world.paths.adapters / ".new-abc12345"
    half.write_bytes(b"half")
    for path in (orphan, half, *needed):
        age(path, 7200)
    assert sweep(world.coordinator, world.paths).adapters == 2
    assert sorted(world.paths.adapters.iterdir()) == sorted([*needed, young])
    assert row.adapter_sha256 is not None


def test_bodies_without_an_upload_go_and_others_stay(world: World) -> None:
    h01, h02 = world.member("h01"), world.member("h02")
    world.open()
    h01.upload(h01.seal(1))
    half = h02.seal(1)
    h02.announce(half)
    h02.part(half, 0, half.body[:100])
    orphan = world.paths.uploads / ("0" * 32)
    orphan.write_bytes(b"body of a row that was never written")
    assert sweep(world.coordinator, world.paths) == Swept(
        bodies=1, adapters=0, files=0, uploads=0, expired=0
    )
    assert not orphan.exists()
    # A hospital that was away for hours goes on where it was.
    world.clock.now += 20 * 3600
    assert sweep(world.coordinator, world.paths).bodies == 0
    assert h02.part(half, 100, half.body[100:]).status_code == 204
    assert h02.receipt(h02.commit(half)).accepted


def test_unfinished_uploads_of_a_finished_round_are_given_up(world: World) -> None:
    h01 = world.member("h01")
    world.open()
    update = h01.seal(1)
    h01.announce(update)
    h01.part(update, 0, update.body[:100])
    world.advance(1, Request.ABORT)
    assert sweep(world.coordinator, world.paths).uploads == 1
    (row,) = world.coordinator.store.uploads.of_round(1)
    assert row.state == "abandoned"
    assert problem(h01.part(update, 100, update.body[100:]))[0] == 410
    assert list(world.paths.uploads.iterdir()) == []


def test_expired_invites_and_nonces_are_forgotten(world: World) -> None:
    h01 = world.member("h01")
    invite = world.invite("h02")
    late = world.hospital("h02")
    h01.current()
    world.clock.now += 2 * 86_400
    sweep(world.coordinator, world.paths)
    assert "expired" in problem(late.enrol(invite))[2]
    world.clock.now += 8 * 86_400
    assert sweep(world.coordinator, world.paths).expired == 2
    assert "not valid" in problem(late.enrol(invite))[2]
    with world.coordinator.store.database.read() as connection:
        assert connection.exec_driver_sql("SELECT nonce FROM nonces").scalar_one() == ""
    assert sweep(world.coordinator, world.paths) == NOTHING


def test_the_thread_sweeps_at_once_and_outlives_a_disk_that_fails(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeping, "_INTERVAL_SECONDS", 0.01)
    elsewhere = world.paths.uploads.rename(world.paths.home / "elsewhere")
    sweeper = Sweeper(world.coordinator, world.paths)
    sweeper.start()
    wait_for_event(world, "sweep_failed")
    elsewhere.rename(world.paths.uploads)
    (world.paths.uploads / ("0" * 32)).write_bytes(b"orphan")
    wait_for_event(world, "swept")
    sweeper.stop(5)
    assert not sweeper.is_alive()


def wait_for_event(world: World, name: str) -> None:
    for _ in range(500):
        if any(event == name for event, _ in world.events):
            return
        time.sleep(0.01)
    raise AssertionError(name)


def test_stalled_announcements_make_room_by_themselves(world: World) -> None:
    h01 = world.member("h01")
    world.open()
    for _ in range(2):
        assert h01.announce(h01.seal(1)).status_code == 201
    refused = h01.announce(h01.seal(1))
    assert problem(refused)[0] == TooManyUploads.status
    assert refused.headers["retry-after"] == "600"
    world.clock.now += int(refused.headers["retry-after"])
    assert h01.announce(h01.seal(1)).status_code == 201


@pytest.mark.skipif(sqlite.journal_mode() != "WAL", reason="a journal keeps nothing")
def test_a_secret_that_a_reader_kept_in_the_log_is_gone_after_the_next_sweep(world: World) -> None:
    h01 = world.member("h01")
    opened = world.open().wrapped_seed
    assert opened is not None
    h01.upload(h01.seal(1))

    def in_files() -> bool:
        return opened in b"".join(p.read_bytes() for p in world.paths.home.glob("*.sqlite*"))

    with closing(sqlite.connect(world.paths.database)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM rounds").fetchall()
        assert world.advance(1).wrapped_seed is None
        assert in_files()
    sweep(world.coordinator, world.paths)
    assert not in_files()
