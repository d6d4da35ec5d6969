"""A recorded round, cut off at any of its writes: the disk images, and what they must hold."""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from coordinator.store.sqlite import library as sqlite3
from tests.chaos.federation import HOSPITALS, Broken, Federation, Stages, state, succeeded, until
from tests.chaos.finishing import answers, examine, finish
from tests.chaos.interposer import Op, Plan
from tests.chaos.replay import Change, Disk, read_record, site

Site = tuple[str, str, str]
_ROUND = "rounds/0001"
_ADAPTERS = ("adapters/global/*/", "adapters/parents/*/", "rounds/*/adapter/")
_SEEDS = 12
_DISTANCES = (1, 2, 4, 8, 16, 32, 64, 128)
_OF_EACH = 16


@dataclass(frozen=True)
class Recording:
    """Round 1 from its opening to its adapter at hospital a, as changes to three disks."""

    before: Path
    federation: Federation
    changes: list[Change]
    acknowledged: list[dict[str, Any]]
    """The coordinator's answers in order, and ``opened`` when `round open` had ended."""

    def sites(self) -> list[Site]:
        """Every fsync there is."""
        return sorted({site(c) for c in self.changes if c.op is Op.SYNC})

    def image(self, cut: int, owner: str, seed: int, target: Path, without: Site | None) -> None:
        """Lay out the disks after ``cut`` changes, that of ``owner`` after losing its power."""
        disk = Disk(self.before)
        for change in self.changes[:cut]:
            disk.apply(change, synced=without is None or site(change) != without)
        disk.write(target, owner, seed)

    def answered(self, cut: int) -> list[dict[str, Any]]:
        """What had been acknowledged by then."""
        if cut >= len(self.changes):
            return self.acknowledged
        end = self.changes[cut].nanoseconds
        return [a for a in self.acknowledged if a["at"] < end]


def record(stages: Stages, folder: Path) -> Recording:
    """Run round 1 undisturbed, each change to a disk written down."""
    made = stages.joined.copy(folder / "recorded")
    shutil.copytree(made.disk, folder / "before")
    plan = Plan(made.disk, record=folder / "log")

    def ended(name: str, *arguments: str) -> None:
        succeeded(made.start(name, *arguments, plan=plan))

    succeeded(stages.open_round(made, plan))
    opened = {"opened": True, "at": time.monotonic_ns(), "path": "", "status": 0}
    server = made.serve(plan)
    until(lambda: '"serving"' in server.err, "the server")
    for hospital in reversed(HOSPITALS):
        ended(hospital, "train", "--round", "1", "--json")
    until(lambda: state(made) == "published", "the round to be published")
    ended("a", "sync", "--no-evaluate")
    server.stop()
    changes = read_record(folder / "log", made.disk)
    return Recording(folder / "before", made, changes, [opened, *answers(made)])


def examine_image(recording: Recording, cut: int, owner: str, disk: Path) -> None:
    """Raise Broken unless the disk of ``owner`` holds all that it had promised."""
    if owner == "coordinator":
        _examine_coordinator(disk, recording.answered(cut))
    else:
        _examine_hospital(disk, owner, recording.changes[:cut])


def _examine_coordinator(disk: Path, answered: list[dict[str, Any]]) -> None:
    home = disk / "coordinator"
    with closing(_database(home)) as database:
        rounds = {row["number"]: row for row in database.execute("SELECT * FROM rounds")}
        uploads = {row["upload_id"]: row for row in database.execute("SELECT * FROM uploads")}
        nonces = database.execute("SELECT hospital, count(*) n FROM nonces GROUP BY 1").fetchall()
    for row in rounds.values():
        parent = json.loads(json.loads(row["descriptor"])["body"])["parent_adapter_sha256"]
        for digest in filter(None, (parent, row["adapter_sha256"])):
            _check_digest(home / "adapters" / f"{digest}.safetensors", digest)
    for upload in uploads.values():
        _check_body(disk, upload, rounds[1]["state"])
    remembered = {row["hospital"]: row["n"] for row in nonces}
    for hospital in HOSPITALS:
        served = sum(a.get("hospital") == hospital for a in answered)
        if remembered.get(hospital, 0) < served:
            raise Broken(f"{hospital} could replay one of {served} requests")
    for answer in answered:
        _check_answer(answer, rounds, uploads)


def _database(home: Path) -> Any:  # noqa: ANN401
    database = sqlite3.connect(home / "coordinator.sqlite")
    database.row_factory = sqlite3.Row
    try:
        said = database.execute("PRAGMA integrity_check").fetchone()[0]
    except sqlite3.DatabaseError as error:
        said = str(error)
    if said != "ok":
        # Closed later, it would remove the log of the next image at this path.
        database.close()
        raise Broken(f"the database: {said}")
    return database


def _check_digest(path: Path, digest: str) -> None:
    if not path.exists() or hashlib.sha256(path.read_bytes()).hexdigest() != digest:
        raise Broken(f"{path.name} is missing or damaged")


def _check_body(disk: Path, upload: sqlite3.Row, state: str) -> None:
    if state == "published" or upload["offset"] == 0:
        return
    path = disk / "coordinator" / "uploads" / upload["upload_id"]
    sent = disk / upload["hospital"] / _ROUND / "outbox" / "body"
    n = upload["offset"]
    if not path.exists() or path.read_bytes()[:n] != sent.read_bytes()[:n]:
        raise Broken(f"{n} durable bytes of {upload['hospital']}'s body are not there")


def _check_answer(
    answer: dict[str, Any], rounds: dict[int, sqlite3.Row], uploads: dict[str, sqlite3.Row]
) -> None:
    path, status = answer["path"], answer["status"]
    if answer.get("opened") and 1 not in rounds:
        raise Broken("the round that was opened is gone")
    if path.endswith("/record") and status == 200 and rounds[1]["state"] != "published":
        raise Broken("a record was given out of a round that is not published")
    if path.endswith("/uploads") and status in (200, 201):
        announced = {upload["hospital"] for upload in uploads.values()}
        if answer["hospital"] not in announced:
            raise Broken("an announced upload is gone")
    if not path.startswith("/v1/uploads/"):
        return
    upload = uploads.get(path.split("/")[3])
    if upload is None:
        raise Broken("an announced upload is gone")
    if status == 204 and upload["offset"] < int(answer["offset"]):
        raise Broken(f"{answer['offset']} bytes were durable, now {upload['offset']}")
    if path.endswith("/commit") and status == 200:
        said = json.loads(answer["content"])["body"]
        if not upload["receipt"] or json.loads(upload["receipt"])["body"] != said:
            raise Broken("an update with a receipt is gone")


def _examine_hospital(disk: Path, hospital: str, done: list[Change]) -> None:
    home = disk / hospital
    for path in _promised(hospital, done):
        if not (disk / path).exists():
            raise Broken(f"{path} was written and is gone")
    for file in home.rglob("*.json"):
        if not file.name.startswith(".") and not _parses(file):
            raise Broken(f"{file.relative_to(disk)} is damaged")
    for folder in [f for pattern in _ADAPTERS for f in home.glob(pattern)]:
        if not folder.name.startswith("."):
            _check_adapter(folder, disk)
    request = home / _ROUND / "outbox" / "request.json"
    if request.exists():
        announced = json.loads(request.read_text())
        _check_digest(request.with_name("body"), announced["body_sha256"])


def _check_adapter(folder: Path, disk: Path) -> None:
    for name in ("adapter_config.json", "fedmed-adapter.json"):
        if not (folder / name).exists():
            raise Broken(f"{folder.relative_to(disk)} is not whole: no {name}")
    card = json.loads((folder / "fedmed-adapter.json").read_text())
    _check_digest(folder / "adapter_model.safetensors", card["sha256"])


def _parses(file: Path) -> bool:
    try:
        json.loads(file.read_bytes())
    except ValueError:
        return False
    return True


def _promised(hospital: str, done: list[Change]) -> set[str]:
    """Files that were reported written, and not removed since.

    A step that replaces a file ends with an fsync of its folder: whatever comes after that, the
    next step or the coordinator, relies on the file.
    """
    moved: dict[str, str] = {}
    promised: set[str] = set()
    for change in done:
        path = str(change.path)
        if change.owner != hospital:
            continue
        if change.op in (Op.RENAME, Op.UNLINK, Op.RMDIR):
            promised = {p for p in promised if p != path and not p.startswith(f"{path}/")}
            moved = {folder: p for folder, p in moved.items() if p != path}
        if change.op is Op.RENAME and not change.other.name.startswith("."):
            moved[str(change.other.parent)] = str(change.other)
        if change.op is Op.SYNC and path in moved:
            promised.add(moved.pop(path))
    # What lies in a temporary folder is promised when that folder is in its place.
    return {p for p in promised if "/." not in p}


def bites(recording: Recording, without: Site, folder: Path) -> str | None:
    """What breaks at some cut point when every fsync of a site is taken out; None if nothing."""
    for index, owner in _following(recording, without):
        for seed in range(_SEEDS):
            disk = folder / f"{index}-{seed}"
            recording.image(index, owner, seed, disk, without)
            try:
                examine_image(recording, index, owner, disk)
            except Broken as error:
                return f"cut {index}, seed {seed}: {error}"
            finally:
                shutil.rmtree(disk)
    return None


def _following(recording: Recording, without: Site) -> Iterator[tuple[int, str]]:
    """Cut points after an fsync of the site at which its loss may be felt: near ones first."""
    changes = recording.changes
    missing = [i for i, c in enumerate(changes) if c.op is Op.SYNC and site(c) == without]
    some = missing[:: max(1, len(missing) // _OF_EACH)]
    for distance in _DISTANCES:
        for index in some:
            if index + distance <= len(changes):
                yield index + distance, changes[index].owner


def survives(recording: Recording, stages: Stages, cut: int, owner: str, folder: Path) -> None:
    """Start the programs on the disks after a power cut, and finish the round.

    Raises Broken when it does not end as the undisturbed one, or lacks what was acknowledged.
    """
    recording.image(cut, owner, cut, folder / "disk", None)
    made = Federation(folder, stages.joined.models)
    made.move_to(made.port)
    with made.answers.open("w") as file:
        for answer in recording.answered(cut):
            if "opened" not in answer:
                file.write(json.dumps(answer) + "\n")
    if state(made) == "none":
        succeeded(stages.open_round(made))
    finish(made, None)
    examine(made, stages)
    shutil.rmtree(folder)
