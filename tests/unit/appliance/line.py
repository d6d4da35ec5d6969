"""What lies between a hospital and the coordinator's real application."""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from appliance.client import CoordinatorClient
from appliance.enrolment import Enrolment
from appliance.trust import Trust
from tests.unit.appliance.answering import Asked, Reply, answering
from tests.unit.coordinator.hospital import Hospital
from tests.unit.coordinator.world import World


@dataclass
class Line:
    """What lies between a hospital and its coordinator; ``trouble`` may answer instead."""

    world: World
    trouble: Callable[[Asked], Reply | None] = lambda _: None
    asked: list[Asked] = field(default_factory=list)

    def __call__(self, request: Asked) -> Reply:
        self.asked.append(request)
        if (bad := self.trouble(request)) is not None:
            return bad
        passed = {k: v for k, v in request.headers.items() if k not in ("host", "connection")}
        answer = self.world.client.request(
            request.method, request.path, content=request.body, headers=passed
        )
        kept = ("upload-offset", "content-type", "retry-after")
        headers = {k: v for k, v in answer.headers.items() if k in kept}
        return Reply(answer.status_code, answer.content, headers)

    def count(self, method: str) -> int:
        return sum(request.method == method for request in self.asked)


@dataclass
class Joined:
    """Hospital "a" of a real coordinator, and its client at the other end of a line."""

    world: World
    hospital: Hospital
    line: Line
    client: CoordinatorClient
    trust: Trust


@contextmanager
def joined(folder: Path) -> Iterator[Joined]:
    """A coordinator in ``folder`` whose only member is "a"; no round is open yet."""
    world = World.create(folder / "coordinator")
    hospital = world.member("a")
    line = Line(world)
    with answering(line) as url:
        client = CoordinatorClient(
            url=url,
            hospital="a",
            key=hospital.identity.ed25519,
            verify=ssl.create_default_context(),
            clock=world.clock,
        )
        enrolment = Enrolment(
            federation="demo-net",
            hospital="a",
            url=url.replace("http:", "https:"),
            coordinator=world.coordinator.identity.public(),
            admin=world.admin.public(),
            ca_certificate=None,
        )
        with client:
            trust = Trust(enrolment, folder / "a" / "coordinator-keys.json")
            yield Joined(world, hospital, line, client, trust)
    world.client.close()
    world.coordinator.store.database.close()
