"""Joining: what an invite may change, and what it may not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from appliance.enrolment import load_enrolment
from federation.errors import IdentityError, TransportError
from federation.signing import Identity, fingerprint
from tests.unit.appliance.answering import Reply
from tests.unit.appliance.desk import Desk, open_desk
from tests.unit.appliance.line import Line


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    with open_desk(tmp_path) as made:
        yield made


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
