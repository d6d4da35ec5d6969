"""What lies between a hospital and the coordinator's real application."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from tests.unit.appliance.answering import Asked, Reply
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
