"""A member's new keys: what they need, when they hold, and the update of a running round."""

from __future__ import annotations

import httpx2
import pytest

from coordinator.enrolment import approve, revoke
from coordinator.rotation import approve_rotation, pending
from coordinator.rounds import State
from federation.errors import IdentityError, InputError, StorageError
from federation.membership import EnrolmentAnswer
from federation.rotation import KeyRotation, RotationRequest
from federation.signing import Identity, SignedDocument, fingerprint
from tests.unit.coordinator.hospital import Hospital, problem
from tests.unit.coordinator.world import World


def ask(hospital: Hospital, new: Identity, old: Identity | None = None) -> httpx2.Response:
    request = RotationRequest.make("demo-net", hospital.name, old or hospital.identity, new)
    return hospital.request("POST", "/v1/keys", request)


def signed_in(world: World, hospital: Hospital, new: Identity) -> None:
    seen = fingerprint(new.public())
    approve_rotation(world.coordinator, world.admin, hospital.name, expected=seen)


def knocks(hospital: Hospital, identity: Identity) -> int:
    """The status of a request signed by these keys."""
    as_is, hospital.identity = hospital.identity, identity
    status = hospital.request("GET", "/v1/rounds/current").status_code
    hospital.identity = as_is
    return status


@pytest.fixture
def h01(world: World) -> Hospital:
    return world.member("h01")


def test_new_keys_hold_when_the_administrator_has_signed_them(world: World, h01: Hospital) -> None:
    old, new = h01.identity, Identity.generate()
    answer = EnrolmentAnswer.model_validate_json(ask(h01, new).content)
    assert (answer.fingerprint, answer.status) == (fingerprint(new.public()), "waiting")
    assert (knocks(h01, old), knocks(h01, new)) == (200, 401)
    signed_in(world, h01, new)
    assert (knocks(h01, old), knocks(h01, new)) == (401, 200)
    h01.identity = new
    # The answer was lost: the same request, now by the new keys, learns that it is done.
    assert EnrolmentAnswer.model_validate_json(ask(h01, new, old).content).status == "approved"
    assert pending(world.coordinator, "h01") is None


def test_the_same_request_again_changes_nothing(world: World, h01: Hospital) -> None:
    new = Identity.generate()
    first, second = ask(h01, new), ask(h01, new)
    assert first.content == second.content
    assert [n for n, _ in world.events].count("rotation_asked") == 1
    newer = Identity.generate()
    world.clock.now += 600
    ask(h01, newer)
    found = pending(world.coordinator, "h01")
    assert found is not None
    assert found.identity == newer.public()
    with pytest.raises(IdentityError, match="asked for the keys"):
        signed_in(world, h01, new)


def test_ever_other_keys_do_not_fill_the_log(world: World, h01: Hospital) -> None:
    new = Identity.generate()
    assert ask(h01, new).status_code == 200
    size = world.coordinator.store.log.head().size
    world.clock.now += 60
    refused = ask(h01, Identity.generate())
    assert problem(refused)[:2] == (429, "transport")
    assert refused.headers["retry-after"] == "540"
    assert world.coordinator.store.log.head().size == size
    # The same keys again are no further entry, and are answered at once.
    assert ask(h01, new).status_code == 200
    world.clock.now += 540
    assert ask(h01, Identity.generate()).status_code == 200


def test_both_the_old_and_the_new_keys_must_sign(world: World, h01: Hospital) -> None:
    new, thief = Identity.generate(), Identity.generate()
    honest = RotationRequest.make("demo-net", "h01", h01.identity, new)
    stolen = honest.model_copy(
        update={"by_old": RotationRequest.make("demo-net", "h01", thief, new).by_old}
    )
    other_keys = RotationRequest.make("demo-net", "h01", h01.identity, thief)
    unheld = honest.model_copy(update={"by_old": other_keys.by_old})
    asked = KeyRotation.model_validate_json(honest.by_new.body)
    unproven = honest.model_copy(
        update={"by_new": SignedDocument.sign(asked, h01.identity, "rotation")}
    )
    foreign = RotationRequest.make("other-net", "h01", h01.identity, new)
    another = RotationRequest.make("demo-net", "h02", h01.identity, new)
    for request in (stolen, unheld, unproven, foreign, another):
        assert problem(h01.request("POST", "/v1/keys", request))[:2] == (401, "identity")
    assert pending(world.coordinator, "h01") is None


def test_an_enrolments_signature_is_no_rotations(world: World, h01: Hospital) -> None:
    new = Identity.generate()
    honest = RotationRequest.make("demo-net", "h01", h01.identity, new)
    asked = KeyRotation.model_validate_json(honest.by_new.body)
    request = honest.model_copy(update={"by_new": SignedDocument.sign(asked, new, "enrolment")})
    assert problem(h01.request("POST", "/v1/keys", request))[0] == 401


def test_keys_that_were_given_up_cannot_come_back(world: World, h01: Hospital) -> None:
    old, new = h01.identity, Identity.generate()
    ask(h01, new)
    signed_in(world, h01, new)
    h01.identity = new
    assert "had these keys before" in problem(ask(h01, old))[2]


def test_a_running_rounds_update_is_sealed_by_the_keys_of_its_roster(
    world: World, h01: Hospital
) -> None:
    """Sent by the new keys, signed by the old: a rotation costs no training."""
    world.member("h02")
    world.open()
    before, after = h01.seal(1), Identity.generate()
    ask(h01, after)
    signed_in(world, h01, after)
    old, h01.identity = h01.identity, after
    by_new = h01.seal(1)
    assert "signer is not that of round 1" in problem(h01.announce(by_new))[2]
    assert h01.upload(before).accepted
    h01.identity = old
    assert problem(h01.announce(before))[0] == 401
    assert world.advance(1).state is State.OPEN


def test_an_update_sealed_after_the_rotation_by_the_old_keys_counts_too(world: World) -> None:
    h01, h02 = world.member("h01"), world.member("h02")
    world.open()
    after = Identity.generate()
    ask(h01, after)
    signed_in(world, h01, after)
    sealing, h01.identity = h01.identity, after
    document = h01.document(1)
    h01.identity = sealing
    h01.document = lambda _: document  # type: ignore[method-assign]
    update = h01.seal(1)
    del h01.document  # type: ignore[method-assign]
    h01.identity = after
    assert h01.upload(update).accepted
    assert h02.upload(h02.seal(1)).accepted
    assert world.advance(1).state is State.PUBLISHED
    record = h01.record(1)
    assert [c.hospital for c in record.contributions] == ["h01", "h02"]
    world.open()
    assert h01.upload(h01.seal(2)).accepted


def test_a_hospital_invited_anew_is_not_the_one_that_was_revoked(world: World) -> None:
    h01, h02, _ = (world.member(name) for name in ("h01", "h02", "h03"))
    world.open()
    update, late = h01.seal(1), h02.seal(1)
    assert h01.upload(update).accepted
    revoke(world.coordinator, world.admin, "h01")
    h01.identity = Identity.generate()
    h01.enrol(world.invite("h01"))
    approve(world.coordinator, world.admin, "h01")
    assert h02.upload(late).accepted
    assert "joined after this round opened" in problem(h01.announce(h01.seal(1)))[2]
    world.clock.now += 24 * 3600
    # Its update of before was by keys that were revoked: quorum is not met without it.
    assert world.advance(1).state is State.ABORTED


def test_a_revoked_hospitals_rotation_is_void(world: World, h01: Hospital) -> None:
    ask(h01, Identity.generate())
    revoke(world.coordinator, world.admin, "h01")
    assert pending(world.coordinator, "h01") is None
    with pytest.raises(InputError, match="has not asked for new keys"):
        approve_rotation(world.coordinator, world.admin, "h01", expected="")
    assert problem(ask(h01, Identity.generate()))[0] == 403


def test_keys_that_changed_while_they_were_signed_in_are_not(
    world: World, h01: Hospital, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = Identity.generate()
    ask(h01, first)
    stale = pending(world.coordinator, "h01")
    world.clock.now += 600
    ask(h01, Identity.generate())
    monkeypatch.setattr("coordinator.rotation.pending", lambda *_: stale)
    version = world.coordinator.roster().version
    with pytest.raises(StorageError, match="other keys at the same time"):
        signed_in(world, h01, first)
    assert world.coordinator.roster().version == version


def test_a_revocation_amidst_an_upload_holds_for_the_next_part(world: World, h01: Hospital) -> None:
    world.member("h02")
    world.open()
    update = h01.seal(1)
    h01.announce(update)
    half = len(update.body) // 2
    assert h01.part(update, 0, update.body[:half]).status_code == 204
    revoke(world.coordinator, world.admin, "h01")
    assert problem(h01.part(update, half, update.body[half:]))[:2] == (403, "identity")
    assert problem(h01.commit(update))[:2] == (403, "identity")
    assert problem(h01.request("GET", "/v1/rounds/current"))[0] == 403


def test_the_log_names_the_asking_and_the_signing(world: World, h01: Hospital) -> None:
    new = Identity.generate()
    ask(h01, new)
    signed_in(world, h01, new)
    size = world.coordinator.store.log.head().size
    entries = world.coordinator.store.log.entries(0, size)
    assert sum('"kind":"rotation"' in entry for entry in entries) == 2
