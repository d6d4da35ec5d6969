"""Bringing a disturbed round to its end as an operator would, and asking for every promise."""

from __future__ import annotations

import json
import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

from coordinator.store.sqlite import library as sqlite3
from tests.chaos.federation import (
    HOSPITALS,
    Broken,
    Federation,
    Stages,
    body,
    global_adapter,
    round_file,
    until,
)
from tests.chaos.programs import Program

_ATTEMPTS = 12
_SECONDS = 300.0
_MAY_PASS = (5, 7, 9, -9)
"""Exit codes after which a person runs the same command again: the round is not there yet, no
connection, a disk that refused; and a kill."""

_SERVER_ENDS = (-9, 9)
"""How a server may end while the round is not over: killed, or its disk refused at the start."""

ANSWERS = {200, 201, 204, 404, 409, 503, 507}
"""404: a record that is not there yet. 409: a part that is known. 503, 507: try again."""


def finish(federation: Federation, server: Program | None, training: Program | None = None) -> None:
    """Run whatever is not running until round 1 is published and ``a`` and ``b`` have it.

    Raises Broken when that takes minutes, or a command ends as no command may.
    """
    keeper = _Server(federation, server)
    end = time.monotonic() + _SECONDS
    try:
        for hospital in HOSPITALS:
            if round_file(federation, hospital, "outbox/receipt.json").exists() and not training:
                continue
            _repeat(federation, keeper, hospital, ("train", "--round", "1", "--json"), training)
            training = None
        until(
            lambda: keeper.alive() and _state(federation) == "published",
            "the round to be published",
            end - time.monotonic(),
        )
        for hospital in HOSPITALS:
            sync = ("sync", "--no-evaluate", "--json")
            _repeat(federation, keeper, hospital, sync, None)
    finally:
        keeper.stop()


class _Server:
    """A coordinator that is started again whenever it has ended."""

    def __init__(self, federation: Federation, program: Program | None) -> None:
        self._federation = federation
        self._program = program or federation.serve()

    def alive(self) -> bool:
        if not self._program.running:
            code = self._program.wait(0)
            if code not in _SERVER_ENDS:
                raise Broken(f"the coordinator ended with {code}: {self._program.err}")
            self._program = self._federation.serve()
        return True

    def stop(self) -> None:
        self._program.stop()


def _repeat(
    federation: Federation,
    keeper: _Server,
    hospital: str,
    arguments: tuple[str, ...],
    program: Program | None,
) -> None:
    metadata = round_file(federation, hospital, "training_metadata.json")
    trained = None
    for _ in range(_ATTEMPTS):
        program = program or federation.start(hospital, *arguments)
        end = time.monotonic() + _SECONDS
        while (code := program.wait(0.02)) is None:
            keeper.alive()
            if time.monotonic() > end:
                program.kill()
                last = program.events()[-3:]
                raise Broken(f"{hospital} {arguments[0]} hangs: {program.err} {last}")
        before, trained = trained, metadata.read_bytes() if metadata.exists() else None
        if before not in (None, trained):
            raise Broken(f"{hospital} repeated a finished training")
        if code == 0:
            return
        if code not in _MAY_PASS or "Traceback" in program.err:
            raise Broken(f"{hospital} {arguments[0]} ended with {code}: {program.err}")
        keeper.alive()
        program = None
        time.sleep(0.05)
    raise Broken(f"{hospital} {arguments[0]} never succeeds")


def _state(federation: Federation) -> str:
    path = federation.home("coordinator") / "coordinator.sqlite"
    with closing(sqlite3.connect(path)) as database:
        found = database.execute("SELECT state FROM rounds WHERE number = 1").fetchone()
    return str(found[0]) if found else "none"


def answers(federation: Federation) -> list[dict[str, Any]]:
    """Every answer that an appliance saw, in order; a line cut off by a kill is left out."""
    if not federation.answers.exists():
        return []
    lines = federation.answers.read_text().splitlines()
    return [json.loads(line) for line in lines if line.endswith("}")]


def receipts(federation: Federation) -> dict[str, dict[str, Any]]:
    """The accepted receipts that any appliance saw or has on its disk, by upload id.

    Raises Broken when the coordinator gave two different ones for the same upload.
    """
    seen: dict[str, str] = {}
    texts = [a["content"] for a in answers(federation) if a.get("content") and a["status"] == 200]
    for hospital in HOSPITALS:
        file = round_file(federation, hospital, "outbox/receipt.json")
        if file.exists():
            texts.append(file.read_text())
    for text in texts:
        said = json.loads(text)["body"]
        upload = json.loads(said)["upload_id"]
        if seen.setdefault(upload, said) != said:
            raise Broken(f"two receipts for the upload {upload}")
    found = {upload: json.loads(said) for upload, said in seen.items()}
    return {upload: receipt for upload, receipt in found.items() if receipt["accepted"]}


def examine(federation: Federation, stages: Stages) -> None:
    """Raise Broken unless the finished round keeps every promise.

    Each acknowledged update is in the signed record exactly once, nothing else is; the adapter's
    bytes are those of an undisturbed round, at the coordinator and at the hospitals; no answer was
    one that a coordinator never gives; the database is sound and no body is left over.
    """
    record = body(round_file(federation, "a", "record.json"))
    counted = Counter(c["upload_id"] for c in record["contributions"])
    hospitals = sorted(c["hospital"] for c in record["contributions"])
    if hospitals != sorted(HOSPITALS) or record["outcome"] != "published":
        raise Broken(f"the record counts {hospitals} and says {record['outcome']}")
    acknowledged = receipts(federation)
    if dict.fromkeys(acknowledged, 1) != dict(counted):
        raise Broken(f"acknowledged {sorted(acknowledged)}, counted {dict(counted)}")
    _check_bytes(federation, stages, record["adapter_sha256"])
    strange = [a for a in answers(federation) if not _foreseen(a)]
    if strange:
        raise Broken(f"the coordinator answered {strange[0]}")
    _check_home(federation.home("coordinator"))


def _foreseen(answer: dict[str, Any]) -> bool:
    late_heartbeat = answer["status"] == 410 and answer["path"].endswith("/progress")
    return late_heartbeat or answer["status"] in ANSWERS


def _check_bytes(federation: Federation, stages: Stages, digest: str) -> None:
    published = federation.home("coordinator") / "adapters" / f"{digest}.safetensors"
    copies = [published, *(global_adapter(federation, hospital) for hospital in HOSPITALS)]
    for copy in copies:
        if copy.read_bytes() != stages.undisturbed:
            raise Broken(f"{copy} differs from the undisturbed round's")


def _check_home(home: Path) -> None:
    with closing(sqlite3.connect(home / "coordinator.sqlite")) as database:
        said = database.execute("PRAGMA integrity_check").fetchone()[0]
    if said != "ok":
        raise Broken(f"the database: {said}")
    if left := list((home / "uploads").iterdir()):
        raise Broken(f"left over: {left}")


def check_transfers(runs: list[Program]) -> None:
    """Raise Broken when a part that was acknowledged had to be sent again."""
    durable = -1
    for run in runs:
        for event in run.events():
            if event.get("event") == "Transfer" and event["direction"] == "sent":
                if event["done"] < durable:
                    raise Broken(f"{event['done']} bytes durable after {durable} were")
                durable = event["done"]
