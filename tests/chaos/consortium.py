"""Four hospitals and a coordinator in this process, and what has been promised to whom."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
from sqlalchemy import Connection, event

from coordinator.api import create_app
from coordinator.config import RoundSection, load_config
from coordinator.context import Coordinator, open_coordinator
from coordinator.enrolment import approve, revoke
from coordinator.opening import open_round
from coordinator.paths import Paths
from coordinator.rounds import FINAL, State
from coordinator.succession import present
from federation import merkle
from federation.adapter import tensor_name
from federation.canonical import file_sha256
from federation.membership import Invite
from federation.messages import LARGEST_UPLOAD, Receipt, RoundDescriptor
from federation.records import RoundRecord
from federation.signing import Identity, SignedDocument
from federation.succession import SuccessionChain
from federation.tensors import read_header, read_tensors
from tests.chaos.inprocess import Crash, Fault, InProcess, Network
from tests.unit.coordinator.hospital import Hospital, SealedUpdate
from tests.unit.coordinator.world import CARD, FakeClock, World

NAMES = ("h01", "h02", "h03", "h04")
_ELEMENT = tensor_name(CARD.linears[0].path, "A")
_OVER_EARLIER_ROUNDS = 4


@dataclass(frozen=True)
class Template:
    """A home with an approved roster, to be copied; made once in a process."""

    home: Path
    admin: Identity
    identities: dict[str, Identity]
    invites: dict[str, Invite]

    @classmethod
    def make(cls, folder: Path) -> Template:
        """Let every hospital enrol for real."""
        world = World.create(folder)
        members = [world.member(name) for name in NAMES]
        world.client.close()
        world.coordinator.store.database.close()
        return cls(
            world.paths.home,
            world.admin,
            {m.name: m.identity for m in members},
            {m.name: m.invite for m in members if m.invite},
        )


@dataclass
class Promises:
    """What the coordinator has answered, each answer to be kept whatever happens later."""

    offsets: dict[str, int] = field(default_factory=dict)
    receipts: dict[tuple[int, str], SignedDocument] = field(default_factory=dict)
    refused: dict[str, SignedDocument] = field(default_factory=dict)
    over: dict[int, State] = field(default_factory=dict)
    log: list[tuple[int, bytes]] = field(default_factory=list)


@dataclass
class Consortium:
    """The coordinator can be crashed and started again; ``promises`` outlive it."""

    folder: Path
    template: Template
    clock: FakeClock = field(default_factory=FakeClock)
    promises: Promises = field(default_factory=Promises)
    updates: dict[str, tuple[str, SealedUpdate]] = field(default_factory=dict)
    revoked: dict[int, set[str]] = field(default_factory=dict)
    crash_at: str = ""
    crash_before_commit: int = 0

    def __post_init__(self) -> None:
        shutil.copytree(self.template.home, self.folder / "home")
        self.paths = Paths(self.folder / "home")
        (self.folder / "card.json").write_bytes(CARD.to_json())
        self.coordinator = self._open()
        transport = InProcess(create_app(self.coordinator))
        self.network = Network(transport, self.restart, self._observe)
        self.client = httpx2.Client(transport=self.network, base_url="https://127.0.0.1:9443")
        self.hospitals = {
            name: Hospital(
                name, self.client, self.folder, self.clock, identity, self.template.invites[name]
            )
            for name, identity in self.template.identities.items()
        }

    def _open(self) -> Coordinator:
        ample = {"request_burst": 100_000, "stranger_burst": 100_000, "disk_reserve_mib": 0}
        config = load_config(self.paths.config, flags={"limits": ample})
        opened = open_coordinator(self.paths, config, clock=self.clock, emit=self._emit)
        event.listen(opened.store.database._engine, "commit", self._before_commit)
        return opened

    def _emit(self, name: str, **_: str | int | float | None) -> None:
        # Right after a change is durable, before anybody is told.
        if name == self.crash_at:
            self.crash_at = ""
            raise Crash

    def _before_commit(self, connection: Connection) -> None:
        if self.crash_before_commit and connection.get_execution_options().get("write"):
            self.crash_before_commit -= 1
            if not self.crash_before_commit:
                raise Crash

    def restart(self) -> None:
        """Forget all that is not on disk."""
        self.crash_at, self.crash_before_commit = "", 0
        self.coordinator.store.database.close()
        self.coordinator = self._open()
        self.network.inner.app = create_app(self.coordinator)

    def close(self) -> None:
        """Give everything back."""
        self.client.close()
        self.network.inner.close()
        self.coordinator.store.database.close()

    def locally(self, act: Callable[[Coordinator], object]) -> None:
        """Do what the administrator or the ticker does; a crash over it is survived."""
        try:
            act(self.coordinator)
        except Crash:
            self.restart()

    def follow(self) -> None:
        """Every hospital learns the coordinator's keys, from those that it knew on."""
        self.network.fault = Fault.NONE
        answer = self.client.get("/v1/coordinator-keys")
        chain = SuccessionChain.model_validate_json(answer.content)
        for hospital in self.hospitals.values():
            assert hospital.invite is not None
            known, admin = hospital.invite.coordinator, hospital.invite.admin
            keys = chain.since(known).keys("demo-net", admin, known)[-1]
            assert keys == self.coordinator.identity.public()
            hospital.invite = hospital.invite.model_copy(update={"coordinator": keys})

    def power(self, hospital: str, number: int) -> float:
        """What a hospital adds to the sum: a power of two of its own in four rounds."""
        place = NAMES.index(hospital) + len(NAMES) * (number % _OVER_EARLIER_ROUNDS)
        return float(1 << place)

    def open_round(self, quorum: int, extensions: int) -> None:
        """Open the next round for ten minutes."""
        section = RoundSection.model_validate(
            {
                "target_modules": "q_proj,v_proj", "rank": 2, "alpha": 4.0, "max_norm": 1e9,
                "quorum": quorum, "extensions": extensions, "deadline_minutes": 10,
                "extension_minutes": 5, "grace_minutes": 3,
                # Powers of two do look unlike each other, and are added exactly.
                "anomalies": "note", "codec": "fp32", "aggregator": "fedavg",
            },
            strict=False,
        )  # fmt: skip
        open_round(self.coordinator, section, base=self.folder / "card.json", fresh=False)

    def seal(self, hospital: Hospital, number: int) -> SealedUpdate:
        """An update whose only element that is not zero is the hospital's power."""
        document = self.coordinator.store.rounds.get(number)
        assert document is not None
        shapes = document.descriptor.adapter_schema.shapes(document.descriptor.factors)
        tensors = [(name, np.zeros(shape, dtype=np.float32)) for name, shape in shapes.items()]
        dict(tensors)[_ELEMENT][0, 0] = self.power(hospital.name, number)
        update = hospital.seal(number, tensors)
        self.updates[update.manifest.upload_id] = (hospital.name, update)
        return update

    def revoke(self, name: str) -> None:
        """Strike a hospital off; of an open round it is no part any more."""
        revoke(self.coordinator, self.template.admin, name)

    def rejoin(self, name: str) -> None:
        """Invite a revoked hospital anew, with new keys."""
        hospital = self.hospitals[name]
        hospital.identity = Identity.generate()
        invite = World.invite(self, name)  # type: ignore[arg-type]
        assert hospital.enrol(invite).status_code == 200
        approve(self.coordinator, self.template.admin, name)

    def _observe(self, request: httpx2.Request, response: httpx2.Response) -> None:
        """Note what an answer promises."""
        assert response.status_code < 500 or response.status_code == 507, response.text
        _, _, kind, *rest = request.url.path.split("/")
        if kind != "uploads":
            return
        upload_id = rest[0]
        if request.method == "PATCH" and response.status_code == 204:
            told = int(response.headers["upload-offset"])
            assert told <= LARGEST_UPLOAD
            self.promises.offsets[upload_id] = max(told, self.promises.offsets.get(upload_id, 0))
        if rest[1:] == ["commit"] and response.status_code == 200:
            document = SignedDocument.model_validate_json(response.content)
            self._promised_receipt(upload_id, document)

    def _promised_receipt(self, upload_id: str, document: SignedDocument) -> None:
        receipt = document.open(Receipt, self.coordinator.identity.public(), "receipt")
        assert receipt.accepted, receipt.reason
        key = (receipt.round, receipt.hospital)
        kept = self.promises.receipts.setdefault(key, document)
        assert kept.body == document.body, f"{key} has two receipts"
        assert receipt.upload_id == upload_id
        name, update = self.updates[upload_id]
        assert name == receipt.hospital
        assert update.request.body_sha256 == receipt.body_sha256


def check(consortium: Consortium, rounds: Iterable[int]) -> None:
    """Raise AssertionError unless every promise is kept, those in ``rounds`` and in the log."""
    for number in rounds:
        _check_uploads(consortium, number)
        _check_round(consortium, number)
    _check_log(consortium)


def _check_uploads(consortium: Consortium, number: int) -> None:
    rows = consortium.coordinator.store.uploads.of_round(number)
    row_of = {row.upload_id: row for row in rows}
    accepted = [row.hospital for row in rows if row.state == "accepted"]
    assert len(accepted) == len(set(accepted)), f"round {number}: two updates of one hospital"
    promises = consortium.promises
    round_row = consortium.coordinator.store.rounds.get(number)
    assert round_row is not None
    for (of_round, hospital), document in promises.receipts.items():
        if of_round == number:
            upload_id = json.loads(document.body)["upload_id"]
            kept = row_of[upload_id].signed_receipt()
            assert kept is not None
            # After a rotation other keys sign the same text.
            assert kept.body == document.body, (
                f"the receipt of {hospital} in round {number} is gone"
            )
            assert row_of[upload_id].state in ("accepted", "excluded")
    for row in rows:
        _, update = consortium.updates[row.upload_id]
        told = promises.offsets.get(row.upload_id, 0)
        assert told <= row.offset <= row.body_length
        if row.offset and row.state == "active" and round_row.state is State.OPEN:
            body = consortium.coordinator.blobs.body(row.upload_id).read_bytes()
            assert body[: row.offset] == update.body[: row.offset]


def _check_round(consortium: Consortium, number: int) -> None:
    row = consortium.coordinator.store.rounds.get(number)
    assert row is not None
    before = consortium.promises.over.get(number)
    assert before in (None, row.state), f"round {number} went from {before} to {row.state}"
    if row.state not in FINAL or before:
        return
    consortium.promises.over[number] = row.state
    assert row.record is not None
    assert row.wrapped_seed is None
    served = present(consortium.coordinator, row.record, "record")
    record = served.open(RoundRecord, consortium.coordinator.identity.public(), "record")
    if row.state is State.ABORTED:
        assert record.adapter_sha256 == record.parent_adapter_sha256
        return
    counted = [c.hospital for c in record.contributions]
    assert len(counted) == len(set(counted)) >= row.descriptor.quorum
    revoked = consortium.revoked.get(number, set())
    promised = {h for n, h in consortium.promises.receipts if n == number}
    assert promised - revoked <= set(counted), f"round {number} lost an acknowledged update"
    assert _summed(consortium, row.descriptor, record) == sum(
        consortium.power(hospital, number) for hospital in counted
    )


def _summed(consortium: Consortium, descriptor: RoundDescriptor, record: RoundRecord) -> float:
    path = consortium.coordinator.blobs.adapter(record.adapter_sha256)
    assert file_sha256(path) == record.adapter_sha256
    with path.open("rb") as file:
        tensors: dict[str, Any] = dict(read_tensors(file, read_header(file)))
    assert tensors.keys() == descriptor.adapter_schema.shapes().keys()
    others = sum(float(np.abs(t).sum()) for name, t in tensors.items() if name != _ELEMENT)
    assert others == 0
    # The mean of float32 powers of two, times their number.
    return float(round(float(tensors[_ELEMENT][0, 0]) * len(record.contributions)))


def _check_log(consortium: Consortium) -> None:
    head = consortium.coordinator.store.log.head()
    told = consortium.promises.log
    if told and told[-1][0] != head.size:
        size, root = told[-1]
        path = consortium.coordinator.store.log.consistency(size, head.size)
        assert merkle.verify_consistency(size, head.size, root, head.root, path)
    elif told:
        assert told[-1][1] == head.root
    told[:] = [(head.size, head.root)]
