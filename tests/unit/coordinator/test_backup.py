"""Backup while serving, restore elsewhere, and a round that goes on from there."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from appliance.client import CoordinatorClient
from appliance.connection import tls_context
from appliance.enrolment import Enrolment
from appliance.rounds.descriptor import fetch_round
from appliance.rounds.outbox import Outbox
from appliance.trust import Trust
from coordinator.backup import BackupManifest, back_up, digest_file, read_manifest
from coordinator.config import load_config
from coordinator.context import open_coordinator
from coordinator.paths import Paths
from coordinator.restore import Restored, restore
from coordinator.succession import rotate
from coordinator.wrapping import WrappingKey
from federation.canonical import file_sha256, sha256
from federation.errors import ConfigError, FedMedError, IdentityError, InputError, StorageError
from federation.messages import EngineInfo, PayloadHeader, Receipt
from federation.signing import Identity, SignedDocument, fingerprint
from federation.tensors import write_tensors
from tests.unit.coordinator.hospital import Hospital, trained
from tests.unit.coordinator.quick_home import QuickHome
from tests.unit.coordinator.test_succession import PowerCut, cut_rename
from tests.unit.coordinator.world import World


@dataclass
class Appliance:
    """The appliance's own delivery: real client, real outbox, over TLS."""

    hospital: Hospital
    client: CoordinatorClient
    outbox: Outbox
    notes: list[object]

    @classmethod
    def of(cls, hospital: Hospital, folder: Path) -> Appliance:
        invite = hospital.invite
        assert invite is not None
        enrolment = Enrolment(
            federation=invite.federation,
            hospital=hospital.name,
            url=invite.url,
            coordinator=invite.coordinator,
            admin=invite.admin,
            ca_certificate=invite.ca_certificate,
        )
        client = CoordinatorClient(
            url=invite.url,
            hospital=hospital.name,
            key=hospital.identity.ed25519,
            verify=tls_context(invite.ca_certificate, ""),
        )
        place = folder / f"appliance-{hospital.name}"
        trust = Trust(enrolment, place / "coordinator-keys.json")
        outbox = Outbox(place / "outbox", trust, hospital.identity)
        verified = fetch_round(client, 1, place, trust, hospital.identity.public())
        descriptor = verified.descriptor
        adapter = place / "update.safetensors"
        with adapter.open("wb") as file:
            shapes = descriptor.adapter_schema.shapes()
            write_tensors(file, shapes, trained(descriptor, hospital.name))
        header = PayloadHeader(
            codec="fp32",
            rank=descriptor.adapter_schema.rank,
            factors=descriptor.factors,
            n_examples=10,
            metrics={},
            engine=EngineInfo(name="torch", version="2", quantisation="none"),
            plaintext_sha256=file_sha256(adapter),
        )
        outbox.put(verified, header, adapter)
        return cls(hospital, client, outbox, [])

    def deliver(self) -> Receipt:
        return self.outbox.deliver(self.client, lambda: time.time() + 60, self.notes.append)


@pytest.fixture
def home(folder: Path) -> Iterator[QuickHome]:
    made = QuickHome.make(folder)
    yield made
    made.end()


def test_a_round_goes_on_after_an_older_backup_was_restored(home: QuickHome, folder: Path) -> None:
    server = home.serve()
    hospitals = [home.join("h01"), home.join("h02")]
    home.open_round()
    h01, h02 = (Appliance.of(hospital, folder) for hospital in hospitals)
    made = home.command("backup", str(folder / "backup"))
    assert (made["round"], made["state"]) == (1, "open")
    lost = h01.deliver()
    assert lost.accepted
    server.kill()
    server.wait()

    # The machine is gone; the wrapping key was kept elsewhere.
    wrapping = folder / "safe.pem"
    shutil.copy(Paths(home.folder).wrapping_key, wrapping)
    shutil.rmtree(home.folder)
    told = ("--fingerprint", str(made["fingerprint"]))
    done = home.command("restore", str(folder / "backup"), *told, "--wrapping-key", str(wrapping))
    assert done["unfinished"] == 1
    home.serve()
    # It holds a receipt; the coordinator does not hold the update.
    again = h01.deliver()
    assert again.accepted
    assert again.upload_id == lost.upload_id
    assert any("lost this update" in str(note) for note in h01.notes)
    assert h02.deliver().accepted
    for _ in range(200):
        if hospitals[0].current().state == "published":
            break
        time.sleep(0.05)
    record = hospitals[0].record(1)
    assert [c.hospital for c in record.contributions] == ["h01", "h02"]
    adapter = hospitals[1].request("GET", f"/v1/adapters/{record.adapter_sha256}").content
    assert sha256(adapter) == record.adapter_sha256
    # Nothing is sent a third time.
    assert h01.deliver() == again


@pytest.fixture
def halfway(world: World) -> World:
    """A round with one update accepted and one half sent, after a round that was published."""
    h01, h02 = world.member("h01"), world.member("h02")
    world.open(quorum=1)
    h01.upload(h01.seal(1))
    h02.upload(h02.seal(1))
    world.advance(1)
    world.open()
    h01.upload(h01.seal(2))
    update = h02.seal(2)
    h02.announce(update)
    h02.part(update, 0, update.body[:300])
    return world


def back_up_to(world: World, name: str = "backup") -> Path:
    target = world.paths.home.parent / name
    back_up(world.coordinator, world.paths, target)
    return target


def manifest_of(world: World, target: Path) -> BackupManifest:
    return read_manifest(target, told(world))


def told(world: World) -> str:
    return fingerprint(world.coordinator.identity.public())


def restore_to(world: World, target: Path, paths: Paths, key: Path | None = None) -> Restored:
    key = key or world.paths.wrapping_key
    return restore(target, paths, key, fingerprint=told(world))


def restored(world: World) -> Paths:
    return Paths(world.paths.home.with_name("restored"))


def test_everything_but_the_wrapping_and_admin_keys_is_in_a_backup(halfway: World) -> None:
    target = back_up_to(halfway)
    held = {file.path for file in manifest_of(halfway, target).files}
    there = {
        path.relative_to(halfway.paths.home).as_posix()
        for path in halfway.paths.home.rglob("*")
        if path.is_file() and not path.name.endswith(("-journal", "-wal", "-shm", ".lock"))
    }
    assert there - held == {"keys/wrapping.pem", "admin/admin.pem"}
    assert held - there == set()
    for path in target.rglob("*"):
        assert path.stat().st_mode & 0o077 == 0
    wrapping = WrappingKey.load(halfway.paths.wrapping_key, None).key
    assert not any(wrapping in path.read_bytes() for path in target.rglob("*") if path.is_file())


def test_no_secret_that_somebody_left_in_the_home_is_in_a_backup(halfway: World) -> None:
    invite = halfway.paths.home / "h03.invite.json"
    invite.write_bytes(halfway.invite("h03").to_json())
    admin = halfway.paths.keys / "admin.pem"
    admin.write_bytes(halfway.paths.admin_key.read_bytes())
    held = {file.path for file in manifest_of(halfway, back_up_to(halfway)).files}
    assert not held & {"h03.invite.json", "keys/admin.pem"}


def test_a_restored_coordinator_is_as_it_was(halfway: World) -> None:
    target, paths = back_up_to(halfway), restored(halfway)
    done = restore_to(halfway, target, paths)
    assert done.unfinished == 2
    other = open_coordinator(paths, load_config(paths.config), clock=halfway.clock)
    ours = halfway.coordinator
    assert other.store.rounds.newest() == ours.store.rounds.newest()
    rows = other.store.uploads.of_round(2)
    assert rows == ours.store.uploads.of_round(2)
    assert {(row.state, row.offset) for row in rows} >= {("active", 300)}
    for row in rows:
        assert other.blobs.body(row.upload_id).stat().st_size == row.offset
    assert other.roster() == ours.roster()
    assert other.store.log.head() == ours.store.log.head()
    assert paths.wrapping_key.read_bytes() == halfway.paths.wrapping_key.read_bytes()
    other.store.database.close()


@pytest.mark.parametrize("where", ["coordinator.sqlite", "adapters", "uploads", "keys"])
def test_a_damaged_backup_is_refused(halfway: World, where: str) -> None:
    target, paths = back_up_to(halfway), restored(halfway)
    victim = target / where
    if victim.is_dir():
        victim = next(victim.iterdir())
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 1
    victim.write_bytes(data)
    with pytest.raises(StorageError, match=victim.name):
        restore_to(halfway, target, paths)
    assert not paths.home.exists()
    victim.unlink()
    with pytest.raises(StorageError, match="missing"):
        restore_to(halfway, target, paths)
    assert list(paths.home.parent.glob(".restored*")) == []


def test_what_a_restore_refuses(halfway: World, folder: Path) -> None:
    target, paths = back_up_to(halfway), restored(halfway)
    other = folder / "other"
    stranger = World.create(other)
    stranger.client.close()
    cases: list[tuple[type[FedMedError], str, Path, Paths, Path]] = [
        (IdentityError, "round 2", target, paths, stranger.paths.wrapping_key),
        (IdentityError, "cannot be read", target, paths, folder / "nowhere.pem"),
        (ConfigError, "not empty", target, halfway.paths, halfway.paths.wrapping_key),
        (InputError, "no backup", other, paths, halfway.paths.wrapping_key),
    ]
    for kind, message, source, home, key in cases:
        with pytest.raises(kind, match=message):
            restore_to(halfway, source, home, key)
    file = target / "manifest.json"
    signed = SignedDocument.model_validate_json(file.read_bytes())
    unsigned = signed.body.encode()
    later = json.dumps({**json.loads(signed.body), "revision": "9999"})
    own = halfway.coordinator.identity
    for body, kind, message in (
        (signed.body.replace('"keys/', '"../keys/'), InputError, "no backup"),
        (later, StorageError, "9999"),
    ):
        file.write_bytes(SignedDocument.sign_text(body, own, "backup").to_json())
        with pytest.raises(kind, match=message):
            restore_to(halfway, target, paths)
    file.write_bytes(unsigned)
    with pytest.raises(InputError, match="no backup"):
        restore_to(halfway, target, paths)
    assert not paths.home.exists()
    stranger.coordinator.store.database.close()


def test_a_file_that_was_exchanged_with_its_digest_is_refused(halfway: World) -> None:
    """Digests alone would not tell: whoever changes a file can write its digest too."""
    target, paths = back_up_to(halfway), restored(halfway)
    file, victim = target / "manifest.json", target / "admin.public.json"
    signed = SignedDocument.model_validate_json(file.read_bytes())
    manifest = BackupManifest.model_validate_json(signed.body)
    thief = Identity.generate()
    victim.write_bytes(thief.public().to_json())
    files = tuple(digest_file(target / f.path, f.path) for f in manifest.files)
    body = manifest.model_copy(update={"files": files})
    file.write_bytes(signed.model_copy(update={"body": body.to_json().decode()}).to_json())
    with pytest.raises(IdentityError, match=r"manifest\.json was altered"):
        restore_to(halfway, target, paths)
    for document in (
        SignedDocument.sign(body, thief, "backup"),
        SignedDocument.sign(manifest, halfway.coordinator.identity, "record"),
    ):
        file.write_bytes(document.to_json())
        with pytest.raises(IdentityError, match=r"manifest\.json was altered"):
            restore_to(halfway, target, paths)
    body = body.model_copy(update={"signer": thief.public()})
    file.write_bytes(SignedDocument.sign(body, thief, "backup").to_json())
    with pytest.raises(IdentityError, match=f"keys {fingerprint(thief.public())}, not") as caught:
        restore_to(halfway, target, paths)
    assert "appliance status" in caught.value.hint
    assert not paths.home.exists()


def test_a_backup_holds_the_keys_that_its_database_names(
    halfway: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also of a coordinator whose rotation was cut off before its last step."""
    first = told(halfway)
    early = back_up_to(halfway, "early")
    with monkeypatch.context() as patch:
        cut_rename(patch, after=False)
        with pytest.raises(PowerCut):
            rotate(halfway.coordinator, halfway.admin)
    assert told(halfway) != first
    target, paths = back_up_to(halfway), restored(halfway)
    restore_to(halfway, target, paths)
    other = open_coordinator(paths, load_config(paths.config), clock=halfway.clock)
    assert other.identity.public() == halfway.coordinator.identity.public()
    other.store.database.close()
    # One from before is by keys that no hospital believes any more.
    with pytest.raises(IdentityError, match=f"the keys {first}, not") as caught:
        restore_to(halfway, early, Paths(paths.home.with_name("again")))
    assert "before a rotation" in caught.value.hint


def test_without_the_wrapping_key_a_round_can_only_be_aborted(
    halfway: World, capsys: pytest.CaptureFixture[str]
) -> None:
    from coordinator.cli import cli
    from federation.terminal import run

    target, paths = back_up_to(halfway), restored(halfway)
    arguments = ["restore", str(target), "--home", str(paths.home)]
    assert run(cli, arguments) == 2
    assert "--fingerprint" in capsys.readouterr().err
    arguments += ["--fingerprint", told(halfway).lower()]
    assert run(cli, arguments) == 2
    assert "--without-wrapping-key" in capsys.readouterr().err
    arguments.append("--without-wrapping-key")
    assert run(cli, arguments) == 0
    assert "round close --abort" in capsys.readouterr().out
    assert run(cli, ["--home", str(paths.home), "round", "close", "--abort"]) == 0
    other = open_coordinator(paths, load_config(paths.config))
    newest = other.store.rounds.newest()
    assert newest is not None
    assert newest.state == "aborted"
    other.store.database.close()


def test_a_backup_never_replaces_another(halfway: World) -> None:
    back_up_to(halfway)
    with pytest.raises(InputError, match="exists already"):
        back_up_to(halfway)
    # What a killed backup left is no hindrance.
    (halfway.paths.home.parent / ".later.new").mkdir()
    assert manifest_of(halfway, back_up_to(halfway, "later")).round == 2


def test_a_round_that_ends_meanwhile_is_copied_as_ended(
    halfway: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    from coordinator import backup
    from coordinator.rounds import Request

    copied = backup.copy_sqlite
    calls: list[Path] = []

    def then_the_round_ends(source: Path, target: Path) -> None:
        copied(source, target)
        if not calls:
            halfway.advance(2, Request.ABORT)
        calls.append(target)

    monkeypatch.setattr(backup, "copy_sqlite", then_the_round_ends)
    manifest = manifest_of(halfway, back_up_to(halfway))
    assert (manifest.round, manifest.state, len(calls)) == (2, "aborted", 2)
    assert not any(file.path.startswith("uploads/") for file in manifest.files)


def test_a_backup_leaves_nothing_when_the_disk_refuses(halfway: World) -> None:
    target = halfway.paths.home.parent / "file" / "backup"
    target.parent.write_bytes(b"in the way")
    with pytest.raises(StorageError):
        back_up(halfway.coordinator, halfway.paths, target)
