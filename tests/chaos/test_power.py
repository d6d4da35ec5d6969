"""The short version of the row ``power``: some cut points, and some fsyncs taken out."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.chaos.federation import Stages
from tests.chaos.powercut import Recording, Site, bites, examine_image, record, survives
from tests.chaos.replay import Disk
from tests.chaos.rows.power import unneeded

pytestmark = pytest.mark.timeout(600)

NEEDED: tuple[Site, ...] = (
    ("coordinator", "coordinator.blobs:append", "uploads/*"),
    ("coordinator", "coordinator.blobs:append", "uploads"),
    ("coordinator", "coordinator.blobs:put_adapter", "adapters/.new-*"),
    ("coordinator", "coordinator.blobs:put_adapter", "adapters"),
    ("coordinator", "coordinator.store.uploads:settle", "coordinator.sqlite-wal"),
    ("coordinator", "coordinator.store.uploads:add", "coordinator.sqlite-wal"),
    ("coordinator", "coordinator.store.uploads:advance", "coordinator.sqlite-wal"),
    ("coordinator", "coordinator.store.members:remember_nonce", "coordinator.sqlite-wal"),
    ("coordinator", "coordinator.store.rounds:add", "coordinator.sqlite-wal"),
    ("coordinator", "coordinator.closing:_forget", "coordinator.sqlite"),
    ("appliance", "appliance.client:adapter", "adapters/parents/.*.part"),
    ("appliance", "appliance.adapters:_replace", "rounds/0001"),
    ("appliance", "appliance.training:train", "rounds/0001"),
    ("appliance", "appliance.rounds.outbox:put", "rounds/0001"),
    ("appliance", "appliance.rounds.outbox:put", "rounds/0001/outbox/.body*"),
    ("appliance", "appliance.rounds.outbox:_deliver_once", "rounds/0001/outbox"),
)


@pytest.fixture(scope="module")
def recording(stages: Stages, folder: Path) -> Recording:
    return record(stages, folder / "recording")


def files(folder: Path) -> dict[str, bytes]:
    found = (p for p in folder.rglob("*") if p.is_file() and not p.name.endswith("-shm"))
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def test_the_record_has_everything_that_was_written(recording: Recording, folder: Path) -> None:
    disk = Disk(recording.before)
    for change in recording.changes:
        disk.apply(change)
    disk.write(folder / "replayed", None, 0)
    assert files(folder / "replayed") == files(recording.federation.disk)


def test_what_was_promised_is_there_after_a_power_cut(recording: Recording, folder: Path) -> None:
    for cut in range(1, len(recording.changes) + 1, 25):
        for owner in ("coordinator", "a", "b"):
            recording.image(cut, owner, cut, folder / "image", None)
            examine_image(recording, cut, owner, folder / "image")
            shutil.rmtree(folder / "image")


@pytest.mark.parametrize("share", [0.3, 0.8])
def test_the_programs_finish_the_round_after_a_power_cut(
    recording: Recording, stages: Stages, folder: Path, share: float
) -> None:
    cut = round(len(recording.changes) * share)
    owner = recording.changes[cut - 1].owner
    survives(recording, stages, cut, owner, folder / f"cut-{cut}")


@pytest.mark.parametrize("site", NEEDED, ids=" ".join)
def test_without_an_fsync_something_is_lost(recording: Recording, folder: Path, site: Site) -> None:
    assert site in recording.sites()
    assert unneeded(site) is None
    assert bites(recording, site, folder / "without")
