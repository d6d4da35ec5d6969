"""Invites, enrolment with proof of possession, approval by the admin key, revocation."""

from __future__ import annotations

import pytest

from coordinator.enrolment import approve, revoke
from federation.canonical import sha256
from federation.errors import IdentityError, InputError
from federation.membership import EnrolmentAnswer, EnrolmentRequest
from federation.signing import Identity, SignedDocument, fingerprint
from tests.unit.coordinator.hospital import JSON, problem
from tests.unit.coordinator.world import World


def test_enrolment_waits_until_the_admin_signs(world: World) -> None:
    h01 = world.hospital("h01")
    answer = EnrolmentAnswer.model_validate_json(h01.enrol(world.invite("h01")).content)
    assert answer.status == "waiting"
    assert answer.fingerprint == fingerprint(h01.identity.public())
    status, slug, detail = problem(h01.request("GET", "/v1/rounds/current"))
    assert (status, slug) == (403, "identity")
    assert "waits for approval" in detail
    roster = approve(world.coordinator, world.admin, "h01", expected=answer.fingerprint)
    assert (roster.version, [m.hospital for m in roster.members]) == (1, ["h01"])
    assert h01.current().state == "none"


def test_a_lost_answer_can_be_asked_for_again(world: World) -> None:
    h01 = world.hospital("h01")
    invite = world.invite("h01")
    first = h01.enrol(invite)
    assert h01.enrol(invite).content == first.content
    approve(world.coordinator, world.admin, "h01")
    world.clock.now += 48 * 3600
    assert EnrolmentAnswer.model_validate_json(h01.enrol(invite).content).status == "approved"


def test_the_token_is_not_in_the_database(world: World) -> None:
    invite = world.invite("h01")
    stored = b"".join(p.read_bytes() for p in world.paths.home.glob("coordinator.sqlite*"))
    assert invite.token.encode() not in stored
    assert sha256(invite.token.encode()).encode() in stored


def test_a_wrong_token_is_refused(world: World) -> None:
    response = world.hospital("h01").enrol(world.invite("h01"), token="x" * 43)
    assert problem(response)[:2] == (401, "identity")
    assert "not valid for h01" in problem(response)[2]


def test_a_token_for_another_hospital_or_federation_is_refused(world: World) -> None:
    invite = world.invite("h01")
    assert problem(world.hospital("h02").enrol(invite))[0] == 401
    assert problem(world.hospital("h01").enrol(invite, federation="other"))[0] == 401


def test_an_expired_token_is_refused(world: World) -> None:
    invite = world.invite("h01", hours=1)
    world.clock.now += 3601
    status, _, detail = problem(world.hospital("h01").enrol(invite))
    assert (status, detail) == (401, "The invite has expired.")


def test_a_token_serves_one_set_of_keys(world: World) -> None:
    invite = world.invite("h01")
    first, second = world.hospital("h01"), world.hospital("h01")
    assert first.enrol(invite).status_code == 200
    status, _, detail = problem(second.enrol(invite))
    assert (status, detail) == (401, "The invite was used already, with other keys.")
    # The thief has not replaced the first hospital's keys.
    approve(world.coordinator, world.admin, "h01", expected=fingerprint(first.identity.public()))
    assert first.current().state == "none"


def test_keys_without_proof_of_possession_are_refused(world: World) -> None:
    invite = world.invite("h01")
    victim, thief = Identity.generate(), Identity.generate()
    request = EnrolmentRequest(
        federation="demo-net", hospital="h01", token=invite.token, identity=victim.public()
    )
    forged = SignedDocument.sign(request, thief, "enrolment")
    response = world.client.post(
        "/v1/enrolments", content=forged.to_json(), headers={"Content-Type": JSON}
    )
    assert problem(response)[:2] == (401, "identity")
    # The token is not spent by it.
    assert world.hospital("h01").enrol(invite).status_code == 200


def test_a_document_of_another_purpose_is_no_enrolment(world: World) -> None:
    h01 = world.hospital("h01")
    invite = world.invite("h01")
    request = EnrolmentRequest(
        federation="demo-net", hospital="h01", token=invite.token, identity=h01.identity.public()
    )
    document = SignedDocument.sign(request, h01.identity, "receipt")
    response = world.client.post(
        "/v1/enrolments", content=document.to_json(), headers={"Content-Type": JSON}
    )
    assert problem(response)[0] == 401


def test_only_the_admin_key_approves(world: World) -> None:
    world.hospital("h01").enrol(world.invite("h01"))
    with pytest.raises(IdentityError, match="not the federation's admin key"):
        approve(world.coordinator, world.coordinator.identity, "h01")
    assert world.coordinator.roster().members == ()


def test_another_fingerprint_than_read_out_is_not_approved(world: World) -> None:
    world.hospital("h01").enrol(world.invite("h01"))
    other = fingerprint(Identity.generate().public())
    with pytest.raises(IdentityError, match=f"not {other}"):
        approve(world.coordinator, world.admin, "h01", expected=other)
    with pytest.raises(InputError, match="h02 has not enrolled"):
        approve(world.coordinator, world.admin, "h02")


def test_approving_twice_changes_nothing(world: World) -> None:
    world.member("h01")
    assert approve(world.coordinator, world.admin, "h01").version == 1


def test_revocation_is_effective_at_the_next_request(world: World) -> None:
    h01 = world.member("h01")
    revoke(world.coordinator, world.admin, "h01")
    status, _, detail = problem(h01.request("GET", "/v1/rounds/current"))
    assert (status, detail) == (403, "h01 was revoked and takes part no more.")
    with pytest.raises(InputError, match="not on the roster"):
        revoke(world.coordinator, world.admin, "h01")
    with pytest.raises(InputError, match="since it was revoked"):
        approve(world.coordinator, world.admin, "h01")


def test_a_revoked_hospital_can_come_back_with_new_keys(world: World) -> None:
    world.member("h01")
    with pytest.raises(InputError, match="on the roster already"):
        world.invite("h01")
    revoke(world.coordinator, world.admin, "h01")
    again = world.member("h01")
    assert again.current().state == "none"
    assert world.coordinator.roster().version == 3
