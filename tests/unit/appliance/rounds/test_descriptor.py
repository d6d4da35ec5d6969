"""A round is believed only when descriptor and roster verify, and the roster is no older one."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from appliance.client import CoordinatorClient
from appliance.enrolment import Enrolment
from appliance.rounds.descriptor import VerifiedRound, fetch_round
from appliance.trust import Trust
from federation.errors import IdentityError, StorageError
from federation.membership import Roster
from federation.messages import RoundDescriptor
from federation.signing import SignedDocument
from tests.unit.appliance.answering import Asked, Reply
from tests.unit.appliance.line import joined
from tests.unit.coordinator.hospital import Hospital
from tests.unit.coordinator.world import World


@dataclass
class Site:
    """A hospital, and a coordinator that may serve forged documents."""

    world: World
    hospital: Hospital
    client: CoordinatorClient
    rounds: Path
    forged: dict[str, SignedDocument] = field(default_factory=dict)

    def fetch(self, number: int) -> VerifiedRound:
        enrolment = Enrolment(
            federation="demo-net",
            hospital="a",
            url="https://127.0.0.1",
            coordinator=self.world.coordinator.identity.public(),
            admin=self.world.admin.public(),
            ca_certificate=None,
        )
        trust = Trust(enrolment, self.rounds.parent / "coordinator-keys.json")
        own = self.hospital.identity.public()
        return fetch_round(self.client, number, self.rounds / f"{number:04d}", trust, own)

    def forge(self, number: int, roster: Roster) -> None:
        """Serve a round that the coordinator signed, with any roster that the admin signed."""
        signed = SignedDocument.sign(roster, self.world.admin, "roster")
        honest = self.hospital.document(1)
        descriptor = RoundDescriptor.model_validate_json(honest.body).model_copy(
            update={"round": number, "roster_sha256": signed.body_sha256}
        )
        self.forged[f"/v1/rosters/{signed.body_sha256}"] = signed
        self.forged[f"/v1/rounds/{number}"] = SignedDocument.sign(
            descriptor, self.world.coordinator.identity, "descriptor"
        )


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with joined(tmp_path) as a:
        a.world.member("b")
        a.world.open()
        made = Site(a.world, a.hospital, a.client, tmp_path / "rounds")

        def serve_forged(request: Asked) -> Reply | None:
            found = made.forged.get(request.path)
            return Reply(200, found.to_json()) if found else None

        a.line.trouble = serve_forged
        yield made


def test_an_honest_round_is_kept_and_read_again(site: Site) -> None:
    first = site.fetch(1)
    assert first.roster.version == 2
    assert site.fetch(1) == first


def test_an_older_roster_is_refused_in_a_later_round(site: Site) -> None:
    newest = site.fetch(1).roster
    site.forge(2, newest.model_copy(update={"version": 1}))
    with pytest.raises(IdentityError, match="version 1 of the roster; round 1 had version 2") as e:
        site.fetch(2)
    assert "administrator" in e.value.hint
    assert not (site.rounds / "0002" / "descriptor.json").exists()


def test_an_earlier_round_may_have_an_earlier_roster(site: Site) -> None:
    newest = site.fetch(1).roster
    site.forge(5, newest.model_copy(update={"version": 7}))
    assert site.fetch(5).roster.version == 7
    assert site.fetch(1).roster.version == 2
    site.forge(6, newest.model_copy(update={"version": 6}))
    with pytest.raises(IdentityError, match="round 5 had version 7"):
        site.fetch(6)


def test_the_roster_must_be_of_this_federation(site: Site) -> None:
    site.forge(2, site.fetch(1).roster.model_copy(update={"federation": "other-net"}))
    with pytest.raises(IdentityError, match="roster is of federation 'other-net'"):
        site.fetch(2)


def test_a_damaged_memory_is_not_taken_for_none(site: Site) -> None:
    site.fetch(1)
    (site.rounds / "newest-roster.json").write_text("{")
    with pytest.raises(StorageError, match=r"newest-roster\.json"):
        site.fetch(1)
