"""A hospital's view of the coordinator's real log: what it proves, and every way it can lie."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from appliance.audit.auditor import Auditor, Digest
from appliance.audit.held import Held, held_documents
from appliance.audit.history import History
from appliance.audit.services import entries
from appliance.client import CoordinatorClient
from appliance.context import Context
from appliance.paths import Paths
from appliance.rounds.descriptor import fetch_round
from appliance.rounds.global_adapter import fetch_record
from appliance.trust import Trust
from coordinator import audit
from coordinator.store.sqlite import library as sqlite3
from federation import merkle
from federation.canonical import canonical_json
from federation.errors import AuditError, IdentityError, StorageError, TransportError
from federation.log import Checkpoint, Evidence, LogEntry
from federation.signing import Identity, SignedDocument
from tests.unit.appliance.answering import Asked, Reply
from tests.unit.appliance.line import Line, joined
from tests.unit.coordinator.hospital import Hospital
from tests.unit.coordinator.world import World

Forge = Callable[[list[str]], list[str]]


@dataclass
class Site:
    """Hospital "a" after round 1, beside "b", and what it sees of the log."""

    world: World
    hospital: Hospital
    line: Line
    trust: Trust
    client: CoordinatorClient
    rounds: Path
    slept: list[float] = field(default_factory=list)
    history: History = field(default_factory=lambda: History(Path()))

    @property
    def auditor(self) -> Auditor:
        return Auditor(self.client, self.trust, self.history, self.slept.append)

    @property
    def held(self) -> list[Held]:
        return held_documents(self.rounds)

    def verify(self) -> tuple[Digest, bool]:
        auditor, held = self.auditor, self.held
        document, new = auditor.observe()
        digest, replaced = auditor.read(new, held)
        auditor.prove(held, digest, document, new)
        return digest, replaced

    def entries(self) -> list[str]:
        log = self.world.coordinator.store.log
        return log.entries(0, log.head().size)

    def forge(self, change: Forge) -> None:
        """Write another log, with all its hashes, as whoever has the database and knows how."""
        texts = change(self.entries())
        tree, nodes = merkle.Tree(), []
        for text in texts:
            nodes += tree.append(merkle.leaf_hash(text.encode()))
        with closing(sqlite3.connect(self.world.paths.database)) as db:
            for table in ("log", "log_nodes", "checkpoints"):
                db.execute(f"DELETE FROM {table}")
            db.executemany("INSERT INTO log VALUES (?, ?)", list(enumerate(texts)))
            db.executemany("INSERT INTO log_nodes VALUES (?, ?, ?)", nodes)
            db.commit()

    def sign(self, size: int, root: str, *, federation: str = "demo-net") -> SignedDocument:
        message = Checkpoint(federation=federation, size=size, root_sha256=root, at=1)
        return SignedDocument.sign(message, self.world.coordinator.identity, "checkpoint")


def renumbered(entries: Sequence[str]) -> list[str]:
    """The entries with the numbers of their places."""
    return [
        canonical_json({**json.loads(text), "index": index}).decode()
        for index, text in enumerate(entries)
    ]


@pytest.fixture(scope="module")
def once(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("audit")
    rounds = folder / "rounds"
    with joined(folder) as here:
        world, a, client = here.world, here.hospital, here.client
        b = world.member("b")
        world.open()
        verified = fetch_round(client, 1, rounds / "0001", here.trust, a.identity.public())
        update = a.seal(1)
        a.upload(update)
        (rounds / "0001" / "outbox").mkdir()
        (rounds / "0001" / "outbox" / "receipt.json").write_bytes(a.commit(update).content)
        b.upload(b.seal(1))
        world.advance(1)
        fetch_record(client, here.trust, 1, verified.sha256, rounds / "0001")
        yield Site(world, a, here.line, here.trust, client, rounds)


@pytest.fixture
def site(once: Site, tmp_path: Path) -> Iterator[Site]:
    """The same coordinator for each test, and nothing seen of it yet."""
    once.history = History(tmp_path / "audit")
    once.line.trouble = lambda _: None
    once.slept.clear()
    with (
        closing(sqlite3.connect(":memory:")) as before,
        closing(sqlite3.connect(once.world.paths.database)) as db,
    ):
        db.backup(before)
        yield once
        before.backup(db)


def test_all_that_is_held_is_in_the_log(site: Site) -> None:
    digest, replaced = site.verify()
    assert not replaced
    assert sorted(item.path.name for item in site.held) == [
        "descriptor.json",
        "receipt.json",
        "record.json",
        "roster.json",
    ]
    assert digest.held.keys() == {item.sha256 for item in site.held}
    assert [(r.kind, r.hospital, r.round) for r in digest.receipts] == [("receipt", "a", 1)]
    assert list(site.history.entries()) == site.entries()


def test_a_kept_proof_stands_without_the_log(site: Site) -> None:
    site.verify()
    for item in site.held:
        found = site.history.folder / "proofs" / f"{item.sha256}.json"
        evidence = Evidence.model_validate_json(found.read_bytes())
        signer = site.trust.newest
        signed = evidence.checkpoint.open(Checkpoint, signer, "checkpoint")
        assert LogEntry.model_validate_json(evidence.entry).sha256 == item.sha256
        assert merkle.verify_inclusion(
            merkle.leaf_hash(evidence.entry.encode()),
            evidence.proof.index,
            signed.size,
            [bytes.fromhex(h) for h in evidence.proof.path],
            bytes.fromhex(signed.root_sha256),
        )


def test_a_log_that_grew_is_followed_by_what_is_new(site: Site) -> None:
    site.verify()
    before = site.history.last()
    site.world.invite("c")
    site.line.asked.clear()
    site.verify()
    assert site.history.last() != before
    size = len(site.entries())
    paths = [request.path.removeprefix("/v1/log/") for request in site.line.asked]
    assert paths == [
        "checkpoint",
        f"consistency?first={size - 1}&second={size}",
        f"entries?start={size - 1}&end={size}",
    ]


def replaced_word(old: str, new: str) -> Forge:
    return lambda entries: [text.replace(old, new) for text in entries]


LIES: dict[str, tuple[Forge, str]] = {
    "an entry rewritten": (
        replaced_word('"kind":"close"', '"kind":"abort"'),
        "are two signed roots",
    ),
    "rewritten and continued": (
        lambda e: renumbered([*replaced_word('"close"', '"abort"')(e), e[-1]]),
        "are not those that were signed before",
    ),
    "the end dropped": (lambda e: e[:-2], "shrank from"),
    "one dropped, others added": (
        lambda e: renumbered([*e[:3], *e[4:], e[-1], e[-1]]),
        "are not those that were signed before",
    ),
}


@pytest.mark.parametrize("name", LIES)
def test_a_rewritten_history_is_refused_and_both_checkpoints_kept(site: Site, name: str) -> None:
    site.verify()
    seen = site.history.last()
    change, reason = LIES[name]
    site.forge(change)
    for _ in range(2):
        with pytest.raises(AuditError, match=reason) as caught:
            site.auditor.observe()
    if "dropped" not in name:
        assert '"kind":"close"' in str(caught.value)
        assert '"kind":"abort"' in str(caught.value)
    assert site.history.last() == seen
    (kept,) = site.history.folder.glob("contradiction-*.json")
    for part in (str(kept), "checkpoint.json", "appliance audit compare", "audit accept"):
        assert part in caught.value.hint
    there = SignedDocument.model_validate_json(kept.read_bytes())
    there.open(Checkpoint, site.trust.newest, "checkpoint")
    assert seen is not None
    assert there.body != seen.body


def test_after_a_restored_backup_one_may_begin_anew(site: Site) -> None:
    site.verify()
    site.forge(lambda entries: entries[:-1])
    with pytest.raises(AuditError, match="shrank"):
        site.auditor.observe()
    moved = site.history.set_aside()
    assert moved is not None
    assert moved.name == "audit.1"
    assert list(moved.glob("contradiction-*.json"))
    site.auditor.observe()
    assert site.history.set_aside() == moved.with_name("audit.2")
    assert site.history.set_aside() is None


def test_a_log_without_a_held_receipt_is_refused(site: Site) -> None:
    receipt = next(text for text in site.entries() if '"receipt"' in text)
    site.forge(lambda entries: renumbered([text for text in entries if text != receipt]))
    with pytest.raises(AuditError, match="does not hold 1 of the 4") as caught:
        site.verify()
    assert str(site.rounds / "0001" / "outbox" / "receipt.json") in str(caught.value)


def test_an_entry_that_was_written_twice_is_refused(site: Site) -> None:
    site.forge(lambda entries: [*entries, entries[-1]])
    with pytest.raises(AuditError, match="not those of its signed checkpoint"):
        site.verify()


def test_a_receipt_that_is_only_in_the_log_is_told(site: Site) -> None:
    held = [item for item in site.held if item.path.name != "receipt.json"]
    _, new = site.auditor.observe()
    digest, _ = site.auditor.read(new, held)
    assert [r.sha256 in {item.sha256 for item in held} for r in digest.receipts] == [False]


@pytest.mark.parametrize("damage", ["", "x\n", "\udcff\udcfe\n", "swapped", "longer"])
def test_a_damaged_copy_accuses_nobody(site: Site, damage: str) -> None:
    site.verify()
    file = site.history.folder / "entries.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    changed = {"swapped": [lines[1], lines[0], *lines[2:]], "longer": [*lines, lines[0]]}
    file.write_text("".join(changed.get(damage, [damage])), errors="surrogateescape")
    _, replaced = site.verify()
    assert replaced == bool(damage)
    assert list(site.history.entries()) == site.entries()


def test_a_damaged_copy_is_not_shown(tmp_path: Path) -> None:
    context = Context(Paths(tmp_path))
    History(context.paths.audit).keep_entries(["x"])
    with pytest.raises(StorageError, match="Entry 0") as caught:
        list(entries(context))
    assert "audit verify" in caught.value.hint


def altering(path: str, change: Callable[[bytes], bytes], site: Site) -> Callable[[Asked], Reply]:
    """Answers calls of ``path`` with something else than the coordinator would."""
    honest = Line(site.world)

    def trouble(request: Asked) -> Reply:
        reply = honest(request)
        assert isinstance(reply.body, bytes)
        wrong = request.path.startswith(f"/v1/log/{path}")
        return Reply(reply.status, change(reply.body) if wrong else reply.body, reply.headers)

    return trouble


def without_entries(body: bytes) -> bytes:
    return canonical_json({**json.loads(body), "entries": []})


def without_path(body: bytes) -> bytes:
    return canonical_json({**json.loads(body), "path": []})


@pytest.mark.parametrize(
    ("path", "change", "reason"),
    [
        ("entries", lambda b: b.replace(b"close", b"abort"), "not those of its signed checkpoint"),
        ("entries", lambda b: b.replace(b"close", b"cease"), "not those of its signed checkpoint"),
        ("entries", without_entries, "does not send those from 0"),
        ("inclusion", without_path, "is not proven to be in it"),
        ("consistency", without_path, "are not those that were signed before"),
    ],
)
def test_answers_that_do_not_fit_the_checkpoint(
    site: Site, path: str, change: Callable[[bytes], bytes], reason: str
) -> None:
    if path == "consistency":
        site.verify()
        site.world.invite("c")
    site.line.trouble = altering(path, change, site)
    with pytest.raises(AuditError, match=reason):
        site.verify()
    assert not list(site.history.folder.glob("proofs/*")) or path == "consistency"


@pytest.mark.parametrize("path", ["checkpoint", "entries", "inclusion"])
def test_an_answer_that_is_no_message_is_refused(site: Site, path: str) -> None:
    site.line.trouble = altering(path, lambda _: b"{}", site)
    with pytest.raises(TransportError, match="not a"):
        site.verify()


def test_a_checkpoint_by_another_key_is_refused(site: Site) -> None:
    message = Checkpoint(federation="demo-net", size=3, root_sha256="0" * 64, at=1)
    forged = SignedDocument.sign(message, Identity.generate(), "checkpoint").to_json()
    site.line.trouble = altering("checkpoint", lambda _: forged, site)
    with pytest.raises(IdentityError, match="signature of this checkpoint"):
        site.auditor.observe()
    other = site.sign(3, "0" * 64, federation="other-net").to_json()
    site.line.trouble = altering("checkpoint", lambda _: other, site)
    with pytest.raises(AuditError, match="other-net"):
        site.auditor.observe()
    assert site.history.last() is None


def test_another_hospitals_checkpoint_is_of_the_same_log(site: Site) -> None:
    before = audit.checkpoint(site.world.coordinator)
    site.world.invite("c")
    site.verify()
    assert site.auditor.compare(before).size == len(site.entries()) - 1
    site.world.invite("d")
    later = audit.checkpoint(site.world.coordinator)
    assert site.auditor.compare(later).size == len(site.entries())


@pytest.mark.parametrize("difference", [-2, 0, 5])
def test_a_log_that_was_shown_to_another_hospital_only_is_found(
    site: Site, difference: int
) -> None:
    other = site.sign(len(site.entries()) + difference, "ab" * 32)
    with pytest.raises(AuditError, match="shown another log"):
        site.auditor.compare(other)
    (kept,) = site.history.folder.glob("contradiction-*.json")
    assert SignedDocument.model_validate_json(kept.read_bytes()) == other


def test_a_busy_coordinator_is_asked_again(site: Site) -> None:
    problem = {"type": "urn:fedmed:problem:round", "title": "x", "status": 429, "detail": "busy"}
    headers = {"Content-Type": "application/problem+json", "Retry-After": "7"}
    busy = [Reply(429, canonical_json(problem), headers)] * 2
    site.line.trouble = lambda r: busy.pop() if "entries" in r.path and busy else None
    site.verify()
    assert site.slept == [7, 7]


def test_damaged_files_are_named(site: Site) -> None:
    site.verify()
    file = site.history.folder / "checkpoint.json"
    file.write_text("{")
    with pytest.raises(StorageError, match=r"checkpoint\.json") as caught:
        site.auditor.observe()
    assert "audit accept" in caught.value.hint
