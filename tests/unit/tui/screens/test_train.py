from __future__ import annotations

from dataclasses import replace

import pytest

from federation.errors import PolicyRefusal
from tests.unit.tui.making import SERVICES, STATUS, Training, shown, text_of, until
from tui.app import FedMedApp
from tui.screens.train import TrainPage
from tui.services import Services
from tui.widgets.figures import Figures
from tui.widgets.loss_curve import LossCurve
from tui.widgets.offer import offer
from tui.widgets.recent import Recent
from tui.widgets.run_log import RunLog
from tui.widgets.run_outcome import RunOutcome
from tui.widgets.run_status import RunStatus

SIZE = (100, 40)


class Opened:
    """The application on its training screen, the status read."""

    def __init__(self, services: Services) -> None:
        self.app = FedMedApp(services)
        self._running = self.app.run_test(size=SIZE)

    async def __aenter__(self) -> Opened:
        self.pilot = await self._running.__aenter__()
        await until(self.pilot, lambda: self.app.status is not None)
        await self.pilot.press("f3")
        return self

    async def __aexit__(self, *error: object) -> None:
        await self._running.__aexit__(*error)

    @property
    def page(self) -> TrainPage:
        assert isinstance(self.app.screen, TrainPage)
        return self.app.screen

    @property
    def state(self) -> str:
        return self.page.query_one(RunStatus).state

    def enabled(self) -> set[str]:
        """The keys of this screen that do something now."""
        bindings = self.page.active_bindings.values()
        return {one.binding.key for one in bindings if one.enabled} & set("tclgx")

    async def state_is(self, state: str) -> None:
        await until(self.pilot, lambda: self.state == state)


async def test_a_round_is_watched_from_start_to_delivery() -> None:
    training = Training(steps=6)
    async with Opened(replace(SERVICES, take_part=training)) as tui:
        assert "Round 3 is open: t takes part" in text_of(tui.page)
        await tui.pilot.press("t")
        await tui.state_is("done")
        curve = tui.page.query_one(LossCurve)
        assert curve.losses == pytest.approx([4 - n / 6 for n in range(1, 7)])
        assert curve.held_out == ((0, 3.29), (4, 3.2), (6, 3.098))
        figures = text_of(tui.page.query_one(Figures))
        assert "Loss\n3.000" in figures
        assert "3.290 → 3.098" in figures
        assert "Tokens/s\n178" in figures
        log = text_of(tui.page.query_one(RunLog))
        for line in ("evaluating before", "Trying again in 1 s.", "Round 3 finished."):
            assert line in log
        assert "Delivered\nround 3, receipt 0123456789ab…" in text_of(
            tui.page.query_one(RunOutcome)
        )
        await until(tui.pilot, lambda: not tui.app.job)
    assert training.runs == 1


async def test_a_training_moves_and_stops_and_another_one_starts() -> None:
    training = Training(steps=100_000, pause=0.005)
    async with Opened(replace(SERVICES, take_part=training)) as tui:
        curve, figures = tui.page.query_one(LossCurve), tui.page.query_one(Figures)
        assert tui.enabled() == set("tclg")
        await tui.pilot.press("t")
        await until(tui.pilot, lambda: bool(curve.losses))
        seen = len(curve.losses)
        await until(tui.pilot, lambda: len(curve.losses) > seen)
        assert "of 100000" in text_of(figures)
        assert ":" in text_of(figures).split("Time left\n")[1]
        assert tui.page.query_one(RunStatus).view.phase == "training"
        assert tui.enabled() == {"x"}
        await tui.pilot.press("t")
        assert training.runs == 1
        await tui.pilot.press("f2")
        await until(tui.pilot, lambda: tui.app.job.startswith("training "))
        assert tui.app.job in shown(tui.app)

        await tui.pilot.press("f3", "x")
        await tui.state_is("stopped")
        assert training.interrupted == 1
        assert "Round 3 stopped at step" in text_of(tui.page.query_one(RunStatus))
        assert not tui.page.query_one(RunOutcome).display
        assert tui.enabled() == set("tclg")

        training.steps, training.pause = 2, 0.0
        await tui.pilot.press("x", "t")
        await tui.state_is("done")
        assert len(curve.losses) == 2
    assert training.runs == 2


async def test_an_error_is_shown_with_its_hint_and_the_next_run_clears_it() -> None:
    refusing = True

    def take_part(number: int, sink: object) -> object:
        if refusing:
            raise PolicyRefusal(f"Policy forbids round {number}.", hint="See policy.toml.")
        return Training(1)(number, sink)

    async with Opened(replace(SERVICES, take_part=take_part)) as tui:
        await tui.pilot.press("t")
        await tui.state_is("failed")
        outcome = tui.page.query_one(RunOutcome)
        await until(tui.pilot, lambda: "See policy.toml." in text_of(outcome))
        assert "What happened\nPolicy forbids round 3." in text_of(outcome)
        assert outcome.border_title == "Error"
        assert "Traceback" not in shown(tui.app)
        refusing = False
        await tui.pilot.press("t")
        await tui.state_is("done")
        assert outcome.border_title == "Result"
        await tui.pilot.press("f2")
        recent = tui.app.screen.query_one(Recent)
        await until(tui.pilot, lambda: "Round 3 failed: Policy forbids" in text_of(recent))


async def test_a_check_shows_what_a_round_would_mean_and_fetching_why_there_is_nothing() -> None:
    async with Opened(SERVICES) as tui:
        await tui.pilot.press("c")
        await tui.state_is("done")
        outcome = tui.page.query_one(RunOutcome)
        await until(tui.pilot, lambda: "Leaves here" in text_of(outcome))
        assert "4.2 GB of 9.0 GB free" in text_of(outcome)
        assert not tui.page.query_one(LossCurve).display


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"round": None, "coordinator": "does not answer: no route."}, "does not answer: no route"),
        ({"round": 0}, "has not opened a round yet"),
        ({"round_state": "closed"}, "Round 3 is closed"),
        ({"delivered": True}, "this hospital has delivered"),
    ],
)
def test_the_offer_says_why_there_is_none(change: dict[str, object], text: str) -> None:
    assert text in offer(replace(STATUS, **change)).plain


async def test_without_a_known_round_nothing_starts() -> None:
    training = Training()
    status = replace(STATUS, round=None, coordinator="does not answer: no route.")
    async with Opened(replace(SERVICES, status=lambda: status, take_part=training)) as tui:
        await tui.pilot.press("t", "c")
        assert tui.state == "idle"
        assert "The coordinator does not answer" in text_of(tui.page)
    assert training.runs == 0
