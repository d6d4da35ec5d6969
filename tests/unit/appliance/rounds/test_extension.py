"""The deadline as hospitals know it, against the coordinator's real application."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from appliance.rounds.descriptor import fetch_round
from appliance.rounds.extension import Deadline
from coordinator.extending import extend_by_hand
from coordinator.rounds import State
from federation.errors import IdentityError
from federation.messages import RoundExtension
from federation.signing import Identity, SignedDocument
from tests.unit.appliance.answering import Reply
from tests.unit.appliance.line import Line, joined
from tests.unit.coordinator.hospital import Hospital
from tests.unit.coordinator.world import World

MINUTE = 60


@dataclass
class Site:
    world: World
    hospital: Hospital
    line: Line
    deadline: Deadline

    @property
    def opened(self) -> int:
        return self.deadline.verified.descriptor.opened_at


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with joined(tmp_path) as a:
        a.world.member("b")
        a.world.open(deadline_minutes=60, extensions=2, extension_minutes=30)
        kept = tmp_path / "rounds" / "0001"
        verified = fetch_round(a.client, 1, kept, a.trust, a.hospital.identity.public())
        deadline = Deadline(a.client, a.trust, verified, kept)
        yield Site(a.world, a.hospital, a.line, deadline)


def test_an_extension_is_learned_and_kept(site: Site) -> None:
    site.deadline.learn()
    assert site.deadline.now() == site.opened + 60 * MINUTE
    extend_by_hand(site.world.coordinator, 1, 90)
    assert site.deadline.now() == site.opened + 60 * MINUTE
    site.deadline.learn()
    site.line.trouble = lambda _: Reply(503)
    assert site.deadline.now() == site.opened + 150 * MINUTE


def test_without_an_answer_the_extensions_that_may_come_are_waited_for(site: Site) -> None:
    assert site.deadline.latest() == site.opened + 120 * MINUTE
    site.world.clock.now += 60 * MINUTE
    site.world.advance(1)
    assert site.deadline.latest() == site.opened + 120 * MINUTE
    site.line.trouble = lambda _: Reply(503)
    site.world.clock.now += 30 * MINUTE
    assert site.world.advance(1).state is State.OPEN
    assert site.deadline.latest() == site.opened + 120 * MINUTE
    site.line.trouble = lambda _: None
    assert site.deadline.now() == site.opened + 90 * MINUTE
    assert site.deadline.latest() == site.deadline.now() == site.opened + 120 * MINUTE


@pytest.mark.parametrize(
    ("changes", "signer"),
    [
        ({"round": 2}, "coordinator"),
        ({"descriptor_sha256": "0" * 64}, "coordinator"),
        ({}, "other"),
    ],
)
def test_an_extension_of_another_round_or_signer_is_refused(
    site: Site, changes: dict[str, object], signer: str
) -> None:
    extend_by_hand(site.world.coordinator, 1, 90)
    row = site.world.coordinator.store.rounds.get(1)
    assert row is not None
    assert row.extension is not None
    honest = RoundExtension.model_validate_json(row.extension.body)
    own = site.world.coordinator.identity
    identity = own if signer == "coordinator" else Identity.generate()
    forged = SignedDocument.sign(honest.model_copy(update=changes), identity, "extension")
    site.line.trouble = lambda _: Reply(200, forged.to_json())
    for ask in (site.deadline.learn, site.deadline.latest):
        with pytest.raises(IdentityError):
            ask()
    assert site.deadline.now() == site.opened + 60 * MINUTE


def test_an_older_extension_does_not_take_back_a_newer_one(site: Site) -> None:
    world = site.world
    extend_by_hand(world.coordinator, 1, 10)
    row = world.coordinator.store.rounds.get(1)
    assert row is not None
    assert row.extension is not None
    older = row.extension.to_json()
    extend_by_hand(world.coordinator, 1, 90)
    site.deadline.learn()
    site.line.trouble = lambda _: Reply(200, older)
    site.deadline.learn()
    assert site.deadline.now() == site.opened + 160 * MINUTE
