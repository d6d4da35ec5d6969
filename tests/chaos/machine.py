"""The life of rounds under faults, as a hypothesis state machine over the real application."""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from contextlib import suppress
from functools import lru_cache
from pathlib import Path

import httpx2
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from coordinator.closing import advance
from coordinator.enrolment import fingerprint
from coordinator.extending import extend_by_hand
from coordinator.rotation import approve_rotation
from coordinator.rounds import Request, State
from coordinator.store.round_row import RoundRow
from coordinator.succession import rotate as succeed
from federation.errors import FedMedError, InputError, RoundError
from federation.membership import Roster
from federation.messages import ProgressReport
from federation.rotation import RotationRequest
from federation.signing import Identity
from tests.chaos.consortium import NAMES, Consortium, Template, check
from tests.chaos.inprocess import Fault
from tests.unit.coordinator.hospital import Hospital, SealedUpdate

hospitals = st.sampled_from(NAMES)
faults = st.sampled_from([Fault.NONE, *Fault])
steps = st.integers(0, 255)
EVENTS = (
    "round_opened", "update_accepted", "round_closed", "round_aggregated", "round_published",
    "round_aborted", "round_extended", "rotation_asked",
)  # fmt: skip

counts: Counter[str] = Counter()
"""How often each thing was done, and seen to happen, in this process."""


@lru_cache(maxsize=1)
def _template() -> Template:
    memory = Path("/dev/shm")
    return Template.make(Path(tempfile.mkdtemp(dir=memory if memory.is_dir() else None)))


class Federation(RuleBasedStateMachine):
    """Every rule is one thing that happens; what it may not break is checked after each."""

    def __init__(self) -> None:
        super().__init__()
        home = _template().home.parent
        self.folder = Path(tempfile.mkdtemp(dir=home.parent, prefix="fedmed-machine-"))
        self.made = Consortium(self.folder, _template())
        self.pending: dict[str, SealedUpdate] = {}
        self.newest: RoundRow | None = None
        self.everybody = True
        self.latest = self.made.clock.now
        counts["runs"] += 1

    def teardown(self) -> None:
        """All rounds once more; leave nothing in memory."""
        last = self.newest.number if self.newest else 0
        self.made.restart()
        check(self.made, range(1, last + 1))
        self.made.close()
        shutil.rmtree(self.folder)

    @invariant()
    def nothing_is_lost_or_doubled(self) -> None:
        """Every promise is kept, as far as the disk tells."""
        counts["steps"] += 1
        known = set(self.made.promises.over)
        self.newest = self.made.coordinator.store.rounds.newest()
        self.everybody = all(self.member(name) for name in NAMES)
        last = self.newest.number if self.newest else 0
        check(self.made, range(max(1, last - 1), last + 1))
        for number in set(self.made.promises.over) - known:
            counts[f"round {self.made.promises.over[number]}"] += 1

    @property
    def open(self) -> bool:
        """Whether a round takes updates, by its state."""
        return self.newest is not None and self.newest.state is State.OPEN

    def member(self, name: str) -> bool:
        """Whether a hospital is on the roster."""
        text = self.made.coordinator.store.members.roster().body
        return Roster.model_validate_json(text).member(name) is not None

    def is_answered(self, answer: httpx2.Response, status: int) -> bool:
        """Whether it has the status, or is refused for a clock that was set back.

        The request's time may then be that of one whose nonce was forgotten.
        """
        set_back = self.made.clock.now < self.latest
        return answer.status_code == status or (set_back and answer.status_code == 401)

    def call(self, hospital: Hospital, fault: Fault, method: str, path: str, body: object = b"",
             **headers: str) -> httpx2.Response | None:  # fmt: skip
        """One request under a fault; None where no answer came."""
        self.made.network.fault = fault
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        try:
            response = hospital.request(method, path, body, headers=given)  # type: ignore[arg-type]
        except httpx2.TransportError:
            counts["lost"] += 1
            return None
        counts[f"{method} {response.status_code}"] += 1
        return response

    # A round

    @initialize(quorum=st.integers(1, 3))
    def begin(self, quorum: int) -> None:
        """A round is open."""
        self.made.open_round(quorum, 0)

    @precondition(lambda self: not self.open)
    @rule(quorum=st.integers(1, 3), extensions=st.integers(0, 1))
    def open_round(self, quorum: int, extensions: int) -> None:
        """The administrator opens a round; the crash of another may have left one unfinished."""
        counts["open"] += 1
        # Refused: of a round that a crash left unfinished, or for want of members.
        with suppress(RoundError, InputError):
            self.made.locally(lambda _: self.made.open_round(quorum, extensions))
        self.pending.clear()

    @precondition(lambda self: self.open)
    @rule(name=hospitals, fault=faults)
    def announce(self, name: str, fault: Fault) -> None:
        """A new update, or the one at hand again."""
        counts["announce"] += 1
        assert self.newest is not None
        if not self.member(name):
            return
        hospital = self.made.hospitals[name]
        if name not in self.pending:
            try:
                self.pending[name] = self.made.seal(hospital, self.newest.number)
            except httpx2.TransportError:
                counts["lost"] += 1
                return
        update = self.pending[name]
        self.call(
            hospital, fault, "POST", f"/v1/rounds/{update.manifest.round}/uploads", update.request
        )

    @precondition(lambda self: self.pending)
    @rule(name=hospitals, size=steps, skew=st.sampled_from([0, 0, 0, -7, 9]), fault=faults)
    def append(self, name: str, size: int, skew: int, fault: Fault) -> None:
        """Bytes at the offset that the coordinator told, or, by mistake, at another."""
        counts["append"] += 1
        if update := self.pending.get(name):
            told = self.made.promises.offsets.get(update.manifest.upload_id, 0)
            offset = max(0, told + skew)
            end = offset + 1 + size * len(update.body) // 255
            part = update.body[offset:end] or b"beyond the end"
            self.call(
                self.made.hospitals[name], fault, "PATCH", update.path, part,
                Upload_Offset=str(offset),
            )  # fmt: skip

    @precondition(lambda self: self.pending)
    @rule(name=hospitals, fault=faults)
    def commit(self, name: str, fault: Fault) -> None:
        """Ask for the receipt, whether or not all is there."""
        counts["commit"] += 1
        if update := self.pending.get(name):
            key = (update.manifest.round, name)
            promised = self.made.promises.receipts.get(key)
            answer = self.call(self.made.hospitals[name], fault, "POST", f"{update.path}/commit")
            if promised and answer is not None and self.member(name):
                mine = update.manifest.upload_id in promised.body
                given = self.is_answered(answer, 200)
                assert given or not mine, f"a receipt is not given again: {answer.status_code}"

    @precondition(lambda self: self.open)
    @rule(name=hospitals, first=faults, second=faults, skew=st.sampled_from([0, 9, -7]))
    def deliver(self, name: str, first: Fault, second: Fault, skew: int = 0) -> None:
        """A whole update, each request tried until it was answered."""
        counts["deliver"] += 1
        self.announce(name, first)
        self.announce(name, Fault.NONE)
        if update := self.pending.get(name):
            told = self.made.promises.offsets.get(update.manifest.upload_id, 0)
            if told < len(update.body):
                if skew:
                    self.append(name, 100, skew, Fault.NONE)
                for fault in (second, Fault.NONE):
                    self.append(name, 255, 0, fault)
            for fault in (second, Fault.NONE):
                self.commit(name, fault)

    @precondition(lambda self: self.open)
    @rule(fault=faults, asked=st.sampled_from([Request.NONE, Request.CLOSE]))
    def deliver_all(self, fault: Fault, asked: Request) -> None:
        """Everybody delivers and the round goes to its end."""
        counts["deliver all"] += 1
        for name in NAMES:
            self.deliver(name, Fault.NONE, fault)
        self.tick(asked)

    @precondition(lambda self: self.open)
    @rule(name=hospitals, fault=faults)
    def deliver_another(self, name: str, fault: Fault) -> None:
        """A second update of a hospital for the same round."""
        counts["deliver another"] += 1
        self.pending.pop(name, None)
        self.deliver(name, Fault.NONE, fault)

    @rule(name=hospitals, fault=faults)
    def beat(self, name: str, fault: Fault) -> None:
        """A sign of life; nobody who is not on the roster is listened to."""
        counts["heartbeat"] += 1
        number = self.newest.number if self.newest else 1
        report = ProgressReport(phase="training", step=1, of=2)
        answer = self.call(
            self.made.hospitals[name], fault, "POST", f"/v1/rounds/{number}/progress", report
        )
        if answer is not None and not self.member(name):
            assert self.is_answered(answer, 403)

    # The network and the machine

    @precondition(lambda self: self.made.network.history)
    @rule(place=st.integers(0, 10_000))
    def replay(self, place: int) -> None:
        """An attacker sends a recorded request again: it is refused whatever it was."""
        history = [s for s in self.made.network.history if s.status not in (0, 401)]
        if history:
            counts["replay"] += 1
            sent = history[place % len(history)]
            before = len(self.made.network.history)
            try:
                answer = self.made.network.carry(sent.request)
            except httpx2.TransportError:
                counts["lost"] += 1
                return
            del self.made.network.history[before:]
            assert answer.status_code == 401, f"a replay was answered: {answer.status_code}"

    @precondition(lambda self: self.made.network.late)
    @rule()
    def arrive_late(self) -> None:
        """What was delayed arrives now, after whatever came between."""
        counts["late"] += 1
        try:
            self.made.network.carry(self.made.network.late.pop(0))
        except httpx2.TransportError:
            counts["lost"] += 1

    @rule(name=hospitals, torn=st.binary(max_size=40))
    def restart(self, name: str, torn: bytes) -> None:
        """Power comes back; bytes of a part that was never acknowledged may be there."""
        counts["restart"] += 1
        update = self.pending.get(name)
        row = update and self.made.coordinator.store.uploads.get(update.manifest.upload_id)
        if row and row.state == "active" and row.offset < row.body_length:
            body = self.made.coordinator.blobs.body(row.upload_id)
            if body.exists():
                with body.open("ab") as file:
                    file.write(torn)
        self.made.restart()

    @rule(event=st.sampled_from(EVENTS), commits=st.integers(0, 6))
    def crash_soon(self, event: str, commits: int) -> None:
        """The process dies after the next such event, or before its n-th commit from now."""
        counts["crash armed"] += 1
        self.made.crash_at, self.made.crash_before_commit = event, commits

    @rule(seconds=st.sampled_from([1, 30, 200, 310, 400, -20, -200]))
    def step_clock(self, seconds: int) -> None:
        """Time goes on; or the clock is set."""
        counts["clock"] += 1
        self.made.clock.now += seconds
        self.latest = max(self.latest, self.made.clock.now)

    # The administrator

    @precondition(lambda self: self.open)
    @rule(minutes=st.integers(1, 5))
    def extend(self, minutes: int) -> None:
        """A later deadline."""
        counts["extend"] += 1
        assert self.newest is not None
        number = self.newest.number
        self.made.locally(lambda coordinator: extend_by_hand(coordinator, number, minutes))

    @rule(asked=st.sampled_from([Request.NONE, Request.NONE, Request.CLOSE, Request.ABORT]))
    def tick(self, asked: Request) -> None:
        """The ticker, or the administrator, moves the newest round on."""
        counts[f"tick {asked.value}"] += 1
        if (row := self.newest) is not None:
            self.made.locally(lambda coordinator: advance(coordinator, row.number, asked))

    @rule(name=hospitals, fault=faults)
    def rotate(self, name: str, fault: Fault) -> None:
        """New keys, which are needed from their approval on and of no use before."""
        counts["rotate"] += 1
        if not self.member(name):
            return
        hospital = self.made.hospitals[name]
        old, new = hospital.identity, Identity.generate()
        request = RotationRequest.make("demo-net", name, old, new)
        self.call(hospital, fault, "POST", "/v1/keys", request)
        try:
            self.made.locally(
                lambda coordinator: approve_rotation(
                    coordinator, self.made.template.admin, name, expected=fingerprint(new.public())
                )
            )
        except FedMedError:
            return
        entry = self.made.coordinator.roster().member(name)
        if entry is None or entry.identity != new.public():
            return
        counts["rotated"] += 1
        stale = self.call(hospital, Fault.NONE, "GET", "/v1/rounds/current")
        assert stale is None or stale.status_code == 401
        hospital.identity = new
        fresh = self.call(hospital, Fault.NONE, "GET", "/v1/rounds/current")
        assert fresh is None or self.is_answered(fresh, 200)

    @precondition(lambda self: self.open)
    @rule(cut=st.booleans())
    def rotate_coordinator(self, cut: bool) -> None:
        """New keys of the coordinator, to which hospitals follow from those that they know."""
        counts["rotate coordinator"] += 1
        if cut:
            self.made.crash_before_commit = 1
        before = self.made.coordinator.identity.public()
        self.made.locally(lambda coordinator: succeed(coordinator, self.made.template.admin))
        counts["coordinator rotated"] += self.made.coordinator.identity.public() != before
        self.made.follow()

    @precondition(lambda self: self.everybody)
    @rule(name=hospitals)
    def revoke(self, name: str) -> None:
        """It is refused at its next request."""
        counts["revoke"] += 1
        if not self.member(name):
            return
        if self.newest is not None and self.open:
            self.made.revoked.setdefault(self.newest.number, set()).add(name)
        self.made.locally(lambda _: self.made.revoke(name))
        if self.member(name):
            return
        refused = self.call(self.made.hospitals[name], Fault.NONE, "GET", "/v1/rounds/current")
        assert refused is None or self.is_answered(refused, 403)

    @precondition(lambda self: not self.everybody)
    @rule(name=hospitals)
    def rejoin(self, name: str) -> None:
        """A revoked hospital comes back with other keys, from the next round on."""
        if not self.member(name):
            counts["rejoin"] += 1
            self.made.crash_at, self.made.crash_before_commit = "", 0
            self.made.rejoin(name)
            self.pending.pop(name, None)
