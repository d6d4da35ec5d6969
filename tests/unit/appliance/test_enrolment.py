"""Joining: what an invite may change, and what it may not."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from appliance.config import NetworkSection
from appliance.enrolment import enrol, load_enrolment
from appliance.paths import Paths
from coordinator.certificates import Authority
from coordinator.enrolment import create_invite
from federation.errors import IdentityError, TransportError
from federation.messages import EnrolmentAnswer, Invite
from federation.signing import Identity, fingerprint
from tests.unit.appliance.answering import Reply, answering
from tests.unit.appliance.line import Line
from tests.unit.coordinator.world import World


@dataclass
class Desk:
    """A coordinator behind real TLS, and the home of a hospital that wants to join."""

    world: World
    line: Line
    paths: Paths
    invite: Invite
    other_authority: Authority

    def enrol(self, invite: Invite | None = None, **changes: object) -> EnrolmentAnswer:
        file = self.paths.home.parent / "invite.json"
        file.write_bytes((invite or self.invite).model_copy(update=changes).to_json())
        return enrol(file, self.paths, NetworkSection())


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    world = World.create(tmp_path / "coordinator")
    now = world.clock.now = int(time.time())
    authority, other = Authority(tmp_path / "ca"), Authority(tmp_path / "other")
    for one in (authority, other):
        one.create("demo-net", now, None)
    line = Line(world)
    with answering(line, authority.server_files(["127.0.0.1"], now, None)) as url:
        certificate = authority.certificate.read_text()
        invite = create_invite(
            world.coordinator, "a", url=url, ca_certificate=certificate, hours=24
        )
        yield Desk(world, line, Paths(tmp_path / "home"), invite, other)
    world.client.close()
    world.coordinator.store.database.close()


def test_enrolling_again_gives_the_same_answer(desk: Desk) -> None:
    first = desk.enrol()
    assert first.status == "waiting"
    assert desk.enrol() == first


@pytest.mark.parametrize("certificate", ["not a certificate", "-----BEGIN", "é"])
def test_an_invite_with_a_bad_ca_certificate_is_refused(desk: Desk, certificate: str) -> None:
    with pytest.raises(IdentityError, match="ca_certificate") as caught:
        desk.enrol(ca_certificate=certificate)
    assert "coordinator invite" in caught.value.hint
    assert not desk.paths.enrolment.exists()


@pytest.mark.parametrize("anchor", ["coordinator", "admin"])
def test_a_second_invite_cannot_replace_a_key(desk: Desk, anchor: str) -> None:
    desk.enrol()
    before = load_enrolment(desk.paths)
    other = Identity.generate().public()
    with pytest.raises(IdentityError) as caught:
        desk.enrol(**{anchor: other})
    for part in (fingerprint(other), fingerprint(getattr(before, anchor)), f"{anchor} key"):
        assert part in str(caught.value)
    assert "administrator" in caught.value.hint
    assert str(desk.paths.rounds) in caught.value.hint
    assert load_enrolment(desk.paths) == before


def test_a_second_invite_cannot_replace_the_ca(desk: Desk) -> None:
    desk.enrol()
    before = load_enrolment(desk.paths)
    for certificate in (desk.other_authority.certificate.read_text(), None):
        with pytest.raises(IdentityError, match="CA certificate"):
            desk.enrol(ca_certificate=certificate)
    assert load_enrolment(desk.paths) == before


def test_leaving_a_federation_names_all_that_belongs_to_it(desk: Desk) -> None:
    desk.enrol()
    with pytest.raises(IdentityError, match="already 'a' in 'demo-net'") as caught:
        desk.enrol(federation="other-net")
    for path in (
        desk.paths.enrolment,
        desk.paths.rounds,
        desk.paths.audit,
        desk.paths.adapters / "global",
    ):
        assert str(path) in caught.value.hint


def test_an_expired_invite_makes_no_keys(desk: Desk) -> None:
    with pytest.raises(IdentityError, match="expired"):
        desk.enrol(expires=1)
    assert not desk.paths.keys.exists()
    assert desk.line.asked == []


def test_a_lost_answer_is_fetched_after_the_invite_expired(desk: Desk) -> None:
    """The token was spent in time; only the answer did not arrive."""

    def lose(real: Line) -> Reply:
        (request,) = real.asked
        Line(desk.world)(request)
        return Reply(502)

    desk.line.trouble = lambda _: lose(desk.line)
    with pytest.raises(TransportError):
        desk.enrol()
    assert not desk.paths.enrolment.exists()
    desk.line.trouble = lambda _: None
    desk.world.clock.now += 100 * 3600
    assert desk.enrol(expires=1).status == "waiting"
    assert desk.paths.enrolment.exists()


def test_with_keys_the_coordinator_judges_an_unspent_invite(desk: Desk) -> None:
    Identity.generate().save(desk.paths.keys)
    desk.world.clock.now += 100 * 3600
    with pytest.raises(IdentityError, match="expired"):
        desk.enrol(expires=1)
