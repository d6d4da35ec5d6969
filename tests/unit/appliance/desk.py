"""A coordinator behind real TLS, and a hospital that was invited."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from appliance.config import NetworkSection
from appliance.joining import enrol
from appliance.paths import Paths
from coordinator.certificates import Authority
from coordinator.enrolment import create_invite
from federation.membership import EnrolmentAnswer, Invite
from tests.unit.appliance.answering import answering
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


@contextmanager
def open_desk(tmp_path: Path) -> Iterator[Desk]:
    """Within ``tmp_path``; hospital ``a`` is invited."""
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
