"""A hospital follows its coordinator to new keys, and nobody else; over TCP, by real services."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from appliance.audit.auditor import Auditor
from appliance.audit.held import held_successions
from appliance.audit.history import History
from appliance.rounds.descriptor import fetch_round
from appliance.rounds.extension import Deadline
from appliance.rounds.global_adapter import fetch_record, kept_record
from appliance.rounds.outbox import Outbox
from appliance.trust import Trust, load_trust
from coordinator.extending import extend_by_hand
from coordinator.succession import rotate
from federation.canonical import Message
from federation.errors import AuditError, IdentityError, StorageError, TransportError
from federation.log import Checkpoint
from federation.messages import Receipt, RoundDescriptor
from federation.signing import Identity, Purpose, SignedDocument, fingerprint
from federation.succession import SignedSuccession, Succession, SuccessionChain
from tests.unit.appliance.answering import Asked, Reply
from tests.unit.appliance.desk import Desk, open_desk
from tests.unit.appliance.filling import fill
from tests.unit.appliance.line import Joined, joined

CHAIN = "/v1/coordinator-keys"


@dataclass
class Site:
    """Hospital "a" in round 1, and a line on which answers can be replaced by path."""

    a: Joined
    folder: Path
    said: list[str] = field(default_factory=list)
    forged: dict[str, Message] = field(default_factory=dict)

    @property
    def trust(self) -> Trust:
        return replace(self.a.trust, say=self.said.append)

    def rotate(self) -> Identity:
        """New keys; the former ones, as a thief of an old disk has them."""
        former = self.a.world.coordinator.identity
        rotate(self.a.world.coordinator, self.a.world.admin)
        return former

    def learn(self) -> None:
        self.trust.learn(self.a.client)

    def chain(self) -> SuccessionChain:
        return self.a.world.coordinator.store.successions.chain()

    def asked(self) -> int:
        return sum(request.path == CHAIN for request in self.a.line.asked)


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with joined(tmp_path) as a:
        a.world.member("b")
        a.world.open(quorum=1)
        made = Site(a, tmp_path / "rounds" / "0001")

        def replaced(request: Asked) -> Reply | None:
            found = made.forged.get(request.path)
            return Reply(200, found.to_json()) if found else None

        a.line.trouble = replaced
        yield made


def test_it_follows_and_says_so_and_keeps_it(site: Site) -> None:
    first = fingerprint(site.trust.newest)
    fetch_round(site.a.client, 1, site.folder, site.trust, site.a.hospital.identity.public())
    assert site.asked() == 0
    site.rotate()
    deadline = Deadline(
        site.a.client,
        site.trust,
        fetch_round(site.a.client, 1, site.folder, site.trust, site.a.hospital.identity.public()),
        site.folder,
    )
    extend_by_hand(site.a.world.coordinator, 1, 30)
    deadline.learn()
    assert site.asked() == 1
    newest = site.trust.newest
    assert newest == site.a.world.coordinator.identity.public()
    (said,) = site.said
    assert "signed by the administrator" in said
    assert f"fingerprint {fingerprint(newest)}, before {first}." in said
    # It is on disk: the next process knows, and asks no more.
    fresh = Trust(site.a.trust.enrolment, site.a.trust.file)
    assert fresh.known_keys == (site.a.trust.enrolment.coordinator, newest)
    deadline.learn()
    assert site.asked() == 1


def test_a_round_under_way_goes_on_and_what_is_held_stays_believed(site: Site) -> None:
    own = site.a.hospital.identity
    outbox = Outbox(site.folder / "outbox", site.trust, own)
    fill(outbox, site.a.client, site.trust, own, site.folder)
    verified = fetch_round(site.a.client, 1, site.folder, site.trust, own.public())
    history = History(site.folder.parent.parent / "audit")
    auditor = Auditor(site.a.client, site.trust, history)
    auditor.observe()
    site.rotate()
    site.rotate()
    world = site.a.world
    receipt = outbox.deliver(site.a.client, lambda: world.clock() + 60, lambda _: None, world.clock)
    assert receipt.accepted
    assert len(site.trust.known_keys) == 3
    site.rotate()
    # The receipt is of the keys before the newest, the descriptor of the first.
    assert outbox.receipt() == receipt
    assert fetch_round(site.a.client, 1, site.folder, site.trust, own.public()) == verified
    world.advance(1)
    world.clock.now += 100_000
    world.advance(1)
    record = fetch_record(site.a.client, site.trust, 1, verified.sha256, site.folder)
    assert record.outcome == "published"
    assert kept_record(site.folder, site.trust) == record
    site.rotate()
    assert kept_record(site.folder, site.trust) == record
    auditor.observe()
    assert len(site.trust.known_keys) == 5


def test_what_a_stolen_former_key_signs_is_worth_nothing_any_more(site: Site) -> None:
    """Whatever date it bears, and also for a round that was opened before."""
    honest = site.a.hospital.document(1)
    former = site.rotate()
    site.learn()
    descriptor = RoundDescriptor.model_validate_json(honest.body)
    changed = descriptor.model_copy(update={"quorum": 2})
    for forged in (honest, SignedDocument.sign(changed, former, "descriptor")):
        site.forged["/v1/rounds/1"] = forged
        with pytest.raises(IdentityError, match="signature of this descriptor is not valid"):
            fetch_round(
                site.a.client, 1, site.folder, site.trust, site.a.hospital.identity.public()
            )
    assert not site.folder.exists()


def test_what_is_asked_for_again_must_be_by_the_newest_keys(site: Site) -> None:
    """A document of the former keys, slipped in once their successors were learned."""
    old = site.a.hospital.document(1)
    site.rotate()
    broken = old.model_copy(update={"body": old.body + " "})
    answers = iter([broken, old])

    def trouble(request: Asked) -> Reply | None:
        return Reply(200, next(answers).to_json()) if request.path == "/v1/rounds/1" else None

    site.a.line.trouble = trouble
    own = site.a.hospital.identity.public()
    with pytest.raises(IdentityError, match="signature of this descriptor is not valid"):
        fetch_round(site.a.client, 1, site.folder, site.trust, own)
    assert site.trust.newest == site.a.world.coordinator.identity.public()
    assert not site.folder.exists()


def test_a_succession_that_only_this_hospital_was_shown_is_found(site: Site) -> None:
    """Rightly signed, but not in the log that all others see."""
    former = site.a.world.coordinator.identity
    site.forged[CHAIN] = forge(site, site.a.world.admin, former)
    site.learn()
    site.forged.clear()
    held = held_successions(site.trust)
    history = History(site.folder.parent.parent / "audit")
    document = site.a.client.log_checkpoint()
    seen = document.open(Checkpoint, former.public(), "checkpoint")
    auditor = Auditor(site.a.client, site.trust, history)
    digest, _ = auditor.read(seen, held)
    with pytest.raises(AuditError, match="does not hold 1 of the 1") as caught:
        auditor.prove(held, digest, document, seen)
    assert site.trust.file.name in str(caught.value)


def forge(site: Site, admin: Identity, former: Identity, **changes: object) -> SuccessionChain:
    """A succession to a thief's keys."""
    links = site.chain().links
    succession = Succession(
        federation="demo-net",
        number=len(links) + 1,
        former=former.public(),
        new=Identity.generate().public(),
        at=1,
    ).model_copy(update=changes)
    forged = SignedSuccession.make(succession, admin, former)
    return SuccessionChain(links=(*links, forged))


def test_a_succession_by_only_the_coordinators_key_is_refused(site: Site) -> None:
    thief = site.a.world.coordinator.identity
    site.forged[CHAIN] = forge(site, thief, thief)
    with pytest.raises(IdentityError, match="not signed by the administrator's key"):
        site.learn()
    # The administrator's key alone does not do either.
    site.forged[CHAIN] = forge(site, site.a.world.admin, Identity.generate())
    with pytest.raises(IdentityError, match="do not begin with the keys"):
        site.learn()
    site.forged[CHAIN] = forge(site, site.a.world.admin, thief, federation="other-net")
    with pytest.raises(IdentityError, match="in demo-net"):
        site.learn()
    assert not site.trust.file.exists()
    assert site.said == []


def test_an_older_chain_or_another_one_is_refused(site: Site) -> None:
    one = site.chain()
    site.rotate()
    two = site.chain()
    former = site.rotate()
    site.learn()
    kept = site.trust.file.read_bytes()
    for older in (one, two):
        site.forged[CHAIN] = older
        with pytest.raises(IdentityError, match="went back to keys that were replaced"):
            site.learn()
    other = forge(site, site.a.world.admin, former, number=2)
    site.forged[CHAIN] = SuccessionChain(links=(two.links[0], other.links[-1]))
    with pytest.raises(IdentityError, match="two successions number 2"):
        site.learn()
    assert site.trust.file.read_bytes() == kept


def test_documents_of_a_coordinator_that_went_back_are_refused(site: Site) -> None:
    """A restored backup from before the succession, or a thief with one."""
    former, old = site.a.world.coordinator.identity, site.a.hospital.document(1)
    site.rotate()
    site.learn()
    site.forged = {CHAIN: SuccessionChain(), "/v1/rounds/1": old}
    assert old.open(RoundDescriptor, former.public(), "descriptor")
    own = site.a.hospital.identity.public()
    with pytest.raises(IdentityError, match="went back to keys that were replaced"):
        fetch_round(site.a.client, 1, site.folder, site.trust, own)


def test_a_coordinator_that_cannot_tell_its_keys_leaves_it_at_the_signature(site: Site) -> None:
    old = site.a.hospital.document(1)
    site.forged["/v1/rounds/1"] = old.model_copy(update={"body": old.body + " "})
    by_path, own = site.a.line.trouble, site.a.hospital.identity.public()

    def fetch(told: Reply) -> None:
        site.a.line.trouble = lambda asked: told if asked.path == CHAIN else by_path(asked)
        fetch_round(site.a.client, 1, site.folder, site.trust, own)

    for told in (Reply(404), Reply(200, old.to_json())):
        with pytest.raises(IdentityError, match="signature of this descriptor"):
            fetch(told)
    with pytest.raises(TransportError) as caught:
        fetch(Reply(503))
    assert caught.value.retryable


def test_a_damaged_file_is_said_and_learned_anew(site: Site) -> None:
    site.rotate()
    site.learn()
    whole, newest = site.trust.file.read_bytes(), site.trust.newest
    for damaged in (whole[:-10], whole.replace(b'"number\\":1', b'"number\\":2')):
        assert damaged != whole
        site.trust.file.write_bytes(damaged)
        with pytest.raises(StorageError, match=r"coordinator-keys\.json is damaged") as caught:
            _ = site.trust.newest
        assert "Remove it" in caught.value.hint
    # Nobody who can write here alone makes a hospital believe other keys.
    other = forge(site, Identity.generate(), site.a.world.coordinator.identity)
    site.trust.file.write_bytes(other.to_json())
    with pytest.raises(StorageError, match="not signed by the administrator"):
        _ = site.trust.newest
    site.trust.file.unlink()
    site.learn()
    assert site.trust.newest == newest


def test_a_kept_document_of_no_key_of_the_chain_is_refused(site: Site) -> None:
    site.rotate()
    site.learn()
    purpose: Purpose = "receipt"
    message = Receipt(
        federation="demo-net",
        round=1,
        hospital="a",
        upload_id="0" * 32,
        body_sha256="0" * 64,
        accepted=True,
        reason="",
        received_at=1,
    )
    document = SignedDocument.sign(message, Identity.generate(), purpose)
    with pytest.raises(IdentityError):
        site.trust.open_held(document, Receipt, purpose)


def test_another_hospital_that_did_not_follow_yet_can_be_compared_with(
    site: Site, tmp_path: Path
) -> None:
    theirs = site.a.client.log_checkpoint()
    site.rotate()
    auditor = Auditor(site.a.client, site.trust, History(tmp_path / "audit"))
    assert auditor.compare(theirs).size < auditor.observe()[1].size
    forged = SignedDocument.sign_text(theirs.body, Identity.generate(), "checkpoint")
    with pytest.raises(IdentityError):
        auditor.compare(forged)
    site.forged["/v1/log/checkpoint"] = theirs
    with pytest.raises(IdentityError, match="checkpoint is not valid"):
        auditor.observe()


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    with open_desk(tmp_path) as made:
        yield made


def test_a_new_invite_names_the_keys_that_the_pinned_ones_led_to(desk: Desk) -> None:
    desk.enrol()
    pinned = desk.world.coordinator.identity.public()
    rotate(desk.world.coordinator, desk.world.admin)
    now = desk.world.coordinator.identity.public()
    # The token was spent with these keys: the same answer, after the chain was followed.
    assert desk.enrol(coordinator=now).status == "waiting"
    trust = load_trust(desk.paths)
    assert (trust.enrolment.coordinator, trust.newest) == (pinned, now)
    assert desk.enrol(coordinator=pinned).status == "waiting"
    with pytest.raises(IdentityError, match="another coordinator key") as caught:
        desk.enrol(coordinator=Identity.generate().public())
    assert str(desk.paths.coordinator_keys) in caught.value.hint
