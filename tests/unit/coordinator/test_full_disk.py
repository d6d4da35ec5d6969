"""A disk that is full in the middle of an upload: 507, and the upload continues afterwards."""

from __future__ import annotations

import os
import resource
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from itertools import pairwise

import httpx2
import pytest
from sqlalchemy import Connection, event

from coordinator.backup import back_up
from coordinator.enrolment import approve, revoke
from coordinator.rounds import Request, State
from coordinator.store.database import Database
from coordinator.succession import rotate
from federation.adapter import ModuleShape
from federation.errors import StorageError
from federation.messages import ProgressReport
from tests.unit.coordinator.hospital import Hospital, SealedUpdate, problem
from tests.unit.coordinator.world import CARD, World

MIB = 1 << 20


@pytest.fixture
def h01(world: World) -> Hospital:
    """A member of a round whose updates have about half a megabyte."""
    linears = tuple(ModuleShape(path=f"m.{i}.q_proj", inputs=4096, outputs=4096) for i in range(2))
    world.card.write_bytes(CARD.model_copy(update={"linears": linears}).to_json())
    hospital = world.member("h01")
    world.open(target_modules="q_proj", rank=8)
    return hospital


@contextmanager
def small_disk(world: World) -> Iterator[None]:
    """A real file system of 1 MiB where the uploads lie."""
    folder = str(world.paths.uploads)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True
    )
    if mounted.returncode:
        pytest.skip("mounting a small disk needs root")
    try:
        yield
    finally:
        subprocess.run(["umount", folder], check=True)


def halves(update: SealedUpdate) -> tuple[bytes, bytes]:
    middle = len(update.body) // 2
    return update.body[:middle], update.body[middle:]


def test_a_full_disk_is_507_and_the_upload_continues(world: World, h01: Hospital) -> None:
    with small_disk(world):
        update = h01.seal(1)
        first, second = halves(update)
        assert h01.announce(update).status_code == 201
        assert h01.part(update, 0, first).status_code == 204
        ballast = world.paths.uploads / "ballast"
        ballast.write_bytes(bytes(MIB - len(first) - 100_000))
        response = h01.part(update, len(first), second)
        assert problem(response)[:2] == (507, "storage")
        # What the refused part had taken is given back.
        assert world.coordinator.blobs.body(update.manifest.upload_id).stat().st_size == len(first)
        assert h01.request("HEAD", update.path).headers["upload-offset"] == str(len(first))
        ballast.unlink()
        assert h01.part(update, len(first), second).status_code == 204
        assert h01.receipt(h01.commit(update)).accepted


def test_an_upload_the_disk_has_no_room_for_is_refused_when_announced(
    world: World, h01: Hospital
) -> None:
    with small_disk(world):
        ballast = world.paths.uploads / "ballast"
        ballast.write_bytes(bytes(MIB - 300_000))
        update = h01.seal(1)
        assert problem(h01.announce(update))[:2] == (507, "storage")
        ballast.unlink()
        assert h01.upload(update).accepted
        # What is announced counts, though nothing of it has come.
    with pytest.raises(StorageError, match="MiB left"):
        world.coordinator.blobs.require_space(1 << 60)


def test_a_file_size_limit_is_507_too(world: World, h01: Hospital) -> None:
    update = h01.seal(1)
    first, second = halves(update)
    h01.announce(update)
    h01.part(update, 0, first)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(update.body) - 1000, hard))
    try:
        response = h01.part(update, len(first), second)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert problem(response)[:2] == (507, "storage")
    assert h01.part(update, len(first), second).status_code == 204
    assert h01.receipt(h01.commit(update)).accepted


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_is_not_writable_is_507(world: World, h01: Hospital) -> None:
    update = h01.seal(1)
    h01.announce(update)
    world.paths.uploads.chmod(0o500)
    try:
        assert problem(h01.part(update, 0, update.body))[:2] == (507, "storage")
    finally:
        world.paths.uploads.chmod(0o700)


def test_of_two_announcements_at_once_only_one_gets_the_last_room(
    world: World, h01: Hospital, monkeypatch: pytest.MonkeyPatch
) -> None:
    h02 = world.member("h02")
    world.advance(1, Request.ABORT)
    world.open(target_modules="q_proj", rank=8)
    updates = [h01.seal(2), h02.seal(2)]
    (length,) = {len(update.body) for update in updates}
    blobs = world.coordinator.blobs
    # Room for one and a half beside the reserve.
    free = blobs.free_bytes()
    blobs.reserve = free - length * 3 // 2
    monkeypatch.setattr(blobs, "free_bytes", lambda: free)
    with ThreadPoolExecutor(2) as pool:
        answers = list(
            pool.map(lambda pair: pair[0].announce(pair[1]), zip((h01, h02), updates, strict=True))
        )
    assert sorted(answer.status_code for answer in answers) == [201, 507]


@contextmanager
def disk_fails_from(database: Database, transaction: int) -> Iterator[list[int]]:
    """From the so-many-th writing transaction on, the system refuses every write to any file."""
    begun: list[int] = []
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)

    def count(connection: Connection) -> None:
        if connection.get_execution_options().get("write"):
            begun.append(1)
            if len(begun) == transaction:
                resource.setrlimit(resource.RLIMIT_FSIZE, (1, hard))

    event.listen(database._engine, "begin", count)
    try:
        yield begun
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        event.remove(database._engine, "begin", count)


WRITES: dict[str, Callable[[Hospital, SealedUpdate], httpx2.Response]] = {
    "announce": lambda h, update: h.announce(update),
    "part": lambda h, update: h.part(update, 0, update.body),
    "commit": lambda h, update: h.commit(update),
    "progress": lambda h, _: h.request(
        "POST", "/v1/rounds/1/progress", ProgressReport(phase="training", step=1, of=2)
    ),
}


@pytest.mark.parametrize("name", WRITES)
def test_no_write_is_acknowledged_that_the_disk_refused(
    world: World, h01: Hospital, name: str
) -> None:
    update = h01.seal(1)
    steps = ["announce", "part", "commit"]
    if name in steps:
        for step in steps[: steps.index(name)]:
            assert WRITES[step](h01, update).status_code < 300
        steps = steps[steps.index(name) + 1 :]
    failed = 0
    while True:
        with disk_fails_from(world.coordinator.store.database, failed + 1) as begun:
            answer = WRITES[name](h01, update)
        if answer.status_code < 300:
            break
        failed += 1
        assert problem(answer)[:2] == (507, "storage")
        assert len(begun) == failed
        assert not h01.current().delivered
    # The nonce's and its own: each refused once, then the same call succeeds.
    assert failed == 2
    for step in steps:
        assert WRITES[step](h01, update).status_code < 300
    assert [row.state for row in world.coordinator.store.uploads.of_round(1)] == ["accepted"]


COMMANDS: dict[str, Callable[[World], object]] = {
    "invite": lambda world: world.invite("h06"),
    "approve": lambda world: approve(world.coordinator, world.admin, "h05"),
    "revoke": lambda world: revoke(world.coordinator, world.admin, "h02"),
    "open": lambda world: world.open(target_modules="q_proj", rank=8),
    "backup": lambda world: back_up(
        world.coordinator, world.paths, world.paths.home.parent / "backup"
    ),
    "keys rotate": lambda world: rotate(world.coordinator, world.admin),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_that_the_disk_refuses_changes_nothing(world: World, name: str) -> None:
    h05 = world.hospital("h05")
    assert h05.enrol(world.invite("h05")).status_code == 200
    world.member("h02")
    store = world.coordinator.store

    def state() -> tuple[object, ...]:
        own = world.coordinator.identity.public()
        return world.coordinator.roster(), store.log.head(), store.rounds.newest(), own

    before = state()
    failed = 0
    while True:
        with disk_fails_from(store.database, failed + 1) as begun:
            if name == "backup":
                resource.setrlimit(
                    resource.RLIMIT_FSIZE, (1, resource.getrlimit(resource.RLIMIT_FSIZE)[1])
                )
            try:
                COMMANDS[name](world)
                break
            except StorageError:
                failed += 1
        assert len(begun) == (0 if name == "backup" else failed)
        assert state() == before
        if name == "backup":
            break
    assert failed >= 1
    assert not (world.paths.home.parent / "backup").exists()


def test_a_round_whose_every_step_fails_once_is_published(world: World, h01: Hospital) -> None:
    assert h01.upload(h01.seal(1)).accepted
    database, rounds = world.coordinator.store.database, world.coordinator.store.rounds
    # It is examined before it closes.
    states = (State.OPEN, State.OPEN, State.CLOSED, State.AGGREGATED, State.PUBLISHED)
    for before, after in pairwise(states):
        with disk_fails_from(database, 1), pytest.raises(StorageError):
            world.advance(1)
        newest = rounds.newest()
        assert newest is not None
        assert newest.state is before
        with disk_fails_from(database, 2), suppress(StorageError):
            world.advance(1)
        newest = rounds.newest()
        assert newest is not None
        assert newest.state is after
    (row,) = world.coordinator.store.uploads.of_round(1)
    assert row.state == "accepted"
    assert [c.hospital for c in h01.record(1).contributions] == ["h01"]
