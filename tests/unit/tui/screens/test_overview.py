from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from appliance.context import Context
from appliance.doctor import Check
from appliance.enrolment import Enrolment
from appliance.paths import Paths
from federation.errors import IdentityError
from federation.files import write_atomically
from federation.signing import Identity, fingerprint
from tests.unit.tui.making import CHECKS, SERVICES, STATUS, shown, text_of, until
from tui.__main__ import wire
from tui.app import FedMedApp
from tui.widgets.adapters import Adapters
from tui.widgets.checks import Checks
from tui.widgets.federation import Federation
from tui.widgets.recent import Recent
from tui.widgets.rounds import Rounds

SIZE = (100, 30)


async def test_it_shows_where_this_hospital_stands() -> None:
    app = FedMedApp(SERVICES)
    async with app.run_test(size=SIZE) as pilot:
        await until(pilot, lambda: "1 problems, 1 warnings" in str(_checks(app).border_subtitle))
        await until(pilot, lambda: "Traffic" in text_of(app.screen.query_one(Federation)))
        text = text_of(app.screen.query_one(Federation))
        for part in (
            "north in gastro-net",
            "AAAA-BBBB-CCCC-DDDD-EEEE",
            "https://coordinator.example:8443 answers",
            "3 open, not delivered from here",
            "4.2 MB sent, 0.9 kB received",
        ):
            assert part in text
        assert "round 0, 1, 2\nlocal\nnone yet" in text_of(app.screen.query_one(Adapters))
        assert "The coordinator answers." in text_of(app.screen.query_one(Recent))
        cells = text_of(app.screen.query_one(Rounds)).splitlines()
        assert cells[:5] == ["Round", "Stage", "Before", "After", "Change"]
        assert cells[5:10] == ["2", "descriptor", "–", "–", "–"]
        assert cells[10:] == ["1", "delivered", "3.540", "2.950", "-0.590"]
        checks = text_of(_checks(app)).splitlines()
        assert checks[:3] == ["✗", "training data", "No training data has been imported."]
        assert checks[3] == "→ Import some."
        assert checks.index("!") < checks.index("✓")


async def test_r_reads_status_and_machine_again() -> None:
    status, checks = STATUS, CHECKS
    app = FedMedApp(
        replace(SERVICES, status=lambda: status, examine=lambda: checks), refresh_seconds=1000
    )
    async with app.run_test(size=SIZE) as pilot:
        await until(pilot, lambda: app.status is STATUS and "✗" in text_of(_checks(app)))
        status = replace(STATUS, round_state="published", delivered=True)
        checks = (Check("python", "ok", "3.11"),)
        await pilot.press("r")
        await until(pilot, lambda: "3 published, delivered from here" in shown(app))
        await until(pilot, lambda: "✗" not in text_of(_checks(app)))
        await until(pilot, lambda: "Round 3 is published." in text_of(app.screen))
        status = replace(STATUS, round=0, rounds=())
        await pilot.press("r")
        await until(pilot, lambda: "none yet: the coordinator opens the first one" in shown(app))
        await until(pilot, lambda: "No round yet." in text_of(app.screen.query_one(Rounds)))


async def test_an_error_is_shown_with_what_to_do_next() -> None:
    def status() -> None:
        raise IdentityError("The keys [b]cannot[/b] be read.", hint="Set FEDMED_PASSPHRASE.")

    app = FedMedApp(replace(SERVICES, status=status))
    async with app.run_test(size=SIZE) as pilot:
        await until(pilot, lambda: "Next step" in text_of(app.screen.query_one(Federation)))
        text = text_of(app.screen.query_one(Federation))
        assert "The keys [b]cannot[/b] be read." in text
        assert "Set FEDMED_PASSPHRASE." in text


@pytest.fixture
def home(tmp_path: Path) -> Paths:
    return Paths(tmp_path)


async def test_a_real_appliance_that_is_not_enrolled_learns_its_next_step(home: Paths) -> None:
    app = FedMedApp(wire(Context.open(home.home)))
    async with app.run_test(size=SIZE) as pilot:
        await until(pilot, lambda: "Next step" in text_of(app.screen.query_one(Federation)))
        text = text_of(app.screen.query_one(Federation))
        assert "Next step\nRun `appliance enrol INVITE`" in text
        await until(pilot, lambda: "disk encryption" in text_of(_checks(app)))
        assert "Adapters here" in str(app.screen.query_one(Adapters).border_title)


async def test_a_real_appliance_whose_coordinator_is_down_says_why(home: Paths) -> None:
    identity, coordinator = Identity.generate(), Identity.generate().public()
    identity.save(home.keys, None)
    enrolment = Enrolment(
        federation="gastro-net",
        hospital="north",
        url="https://127.0.0.1:1",
        coordinator=coordinator,
        admin=coordinator,
        ca_certificate=None,
    )
    write_atomically(home.enrolment, enrolment.to_json())
    app = FedMedApp(wire(Context.open(home.home)))
    async with app.run_test(size=SIZE) as pilot:
        panel = app.screen.query_one(Federation)
        await until(pilot, lambda: "does not answer" in text_of(panel))
        text = text_of(app.screen.query_one(Federation))
        assert "No answer from the coordinator at https://127.0.0.1:1" in text
        assert "not known while the coordinator does not answer" in text
        assert fingerprint(identity.public()) in text


def _checks(app: FedMedApp) -> Checks:
    return app.pages["overview"].query_one(Checks)
