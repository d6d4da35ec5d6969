"""A whole federation in one process: a coordinator with an injected clock, and its hospitals."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from starlette.testclient import TestClient

from coordinator.api import create_app
from coordinator.closing import advance
from coordinator.config import FederationSection, RoundSection, ServerSection, load_config
from coordinator.context import Coordinator, open_coordinator
from coordinator.enrolment import approve, create_invite
from coordinator.home import ca_certificate, create_home
from coordinator.opening import open_round
from coordinator.paths import Paths
from coordinator.rounds import Request
from coordinator.store.round_row import RoundRow
from federation.adapter import ModuleShape
from federation.base_model import BaseModelCard
from federation.membership import Invite
from federation.signing import Identity
from tests.unit.coordinator.hospital import Hospital

CARD = BaseModelCard(
    name="tiny",
    sha256="ab" * 32,
    n_bytes=1000,
    linears=(
        ModuleShape(path="m.0.q_proj", inputs=6, outputs=4),
        ModuleShape(path="m.0.v_proj", inputs=6, outputs=2),
        ModuleShape(path="m.1.q_proj", inputs=6, outputs=4),
    ),
)


@dataclass
class FakeClock:
    """Seconds since 1970 that a test moves on."""

    now: int = 1_800_000_000

    def __call__(self) -> int:
        return self.now


@dataclass
class World:
    """A coordinator behind its real HTTP application."""

    paths: Paths
    clock: FakeClock
    coordinator: Coordinator
    admin: Identity
    client: TestClient
    events: list[tuple[str, dict[str, Any]]] = field(default_factory=list)

    @classmethod
    def create(cls, folder: Path) -> World:
        clock, paths = FakeClock(), Paths(folder / "home")
        made = create_home(
            paths, FederationSection(name="demo-net"), ServerSection(port=9443), clock=clock
        )
        events: list[tuple[str, dict[str, Any]]] = []

        def emit(event: str, **fields: str | int | float | None) -> None:
            events.append((event, fields))

        # Tests ask faster than any hospital does, and make small disks.
        ample = {"request_burst": 10_000, "stranger_burst": 10_000, "disk_reserve_mib": 0}
        config = load_config(paths.config, flags={"limits": ample})
        coordinator = open_coordinator(paths, config, clock=clock, emit=emit)
        client = TestClient(create_app(coordinator), base_url="https://127.0.0.1:9443")
        (folder / "card.json").write_bytes(CARD.to_json())
        return cls(paths, clock, coordinator, Identity.load(made.admin_key), client, events)

    @property
    def card(self) -> Path:
        return self.paths.home.parent / "card.json"

    def invite(self, name: str, hours: int = 24) -> Invite:
        return create_invite(
            self.coordinator,
            name,
            url="https://127.0.0.1:9443",
            ca_certificate=ca_certificate(self.paths, load_config(self.paths.config)),
            hours=hours,
        )

    def hospital(self, name: str) -> Hospital:
        """A hospital with keys, not enrolled."""
        folder = self.paths.home.parent
        return Hospital(name, self.client, folder, self.clock, Identity.generate())

    def member(self, name: str) -> Hospital:
        """A hospital that enrolled and was approved."""
        hospital = self.hospital(name)
        assert hospital.enrol(self.invite(name)).status_code == 200
        approve(self.coordinator, self.admin, name)
        return hospital

    def open(self, *, base: bool = True, fresh: bool = False, **settings: Any) -> RoundRow:  # noqa: ANN401
        """Open a round on the tiny card with rank 2; updates are exact unless asked otherwise."""
        shape = {"target_modules": "q_proj,v_proj", "rank": 2, "alpha": 4.0}
        merged = {**shape, "codec": "fp32", **settings}
        section = RoundSection.model_validate(merged, strict=False)
        return open_round(self.coordinator, section, base=self.card if base else None, fresh=fresh)

    def advance(self, number: int, request: Request = Request.NONE) -> RoundRow:
        return advance(self.coordinator, number, request)
